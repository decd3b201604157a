# Two images: `serve` (the default; no torch) and `export` (torch and the engine builders). See docs/docker.md.
#
#   docker build -t zoetrope .
#   docker build -t zoetrope-export --target export .

# 26.10 or newer: older releases lack fixes that decoupled models and shared memory need.
ARG TRITON_RELEASE=26.10
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3 AS triton

FROM triton AS wheel
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip wheel --no-deps --wheel-dir /dist .

# The environment that Triton's stubs take. It sees nothing of the system's Python, whose packages are not ours
# to choose; pip stays outside of it, since the base has no ensurepip and a server needs no installer.
FROM triton AS runtime
ARG SERVE_EXTRAS=serve,tensorrt
# An engine runs on the TensorRT that built it: both images get this one.
ARG TENSORRT_VERSION=11.4.0.106
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/zoetrope \
    && echo "tensorrt==${TENSORRT_VERSION}" > /opt/zoetrope/constraints.txt \
    && python3 -m pip --python /opt/zoetrope/bin/python install \
        --constraint /opt/zoetrope/constraints.txt "$(echo /dist/*.whl)[${SERVE_EXTRAS}]"

FROM runtime AS export
ARG SERVE_EXTRAS=serve,tensorrt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/zoetrope/bin/python install \
        --constraint /opt/zoetrope/constraints.txt "$(echo /dist/*.whl)[${SERVE_EXTRAS},export]"
# AOTInductor compiles with g++, which the base lacks; the last line compiles a toy package with it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && /opt/zoetrope/bin/python -c "import torch; torch._inductor.aoti_compile_and_package(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), package_path='/opt/zoetrope/toy.pt2')" \
    && rm /opt/zoetrope/toy.pt2
# Any user may write: a new volume takes these modes over, whoever `docker run --user` names.
RUN install -d -m 1777 /cache /models
ENV PATH=/opt/zoetrope/bin:${PATH} \
    HOME=/tmp \
    XDG_CACHE_HOME=/cache \
    CUDA_HOME=/usr/local/cuda \
    ZOETROPE_HOST=0.0.0.0
ARG TRITON_RELEASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="zoetrope-export" \
      org.opencontainers.image.description="Builds engines and a Triton model repository from an SVD checkpoint" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3"
USER 1000:1000
WORKDIR /tmp
HEALTHCHECK NONE
STOPSIGNAL SIGTERM
ENTRYPOINT ["zoetrope", "export"]
CMD ["--help"]

FROM runtime AS serve
RUN /opt/zoetrope/bin/python -c "import sys, importlib.util, numpy, zoetrope_server.commands, zoetrope_server.service; sys.exit(importlib.util.find_spec('torch') and 'torch is installed')"
ENV PATH=/opt/zoetrope/bin:${PATH} \
    HOME=/tmp \
    ZOETROPE_HOST=0.0.0.0
ARG TRITON_RELEASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="zoetrope" \
      org.opencontainers.image.description="Image-to-video inference server on NVIDIA Triton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3"
USER 1000:1000
WORKDIR /tmp
EXPOSE 8001 8002 8003
# As long as `--start-timeout-s` the models may load; after that three failures make the container unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python3", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8003/readyz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["zoetrope", "serve"]
CMD ["/models"]

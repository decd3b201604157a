# Serves a model repository with NVIDIA's Triton image; the stages of today run on the CPU.
#
#   docker build -t zoetrope .
#   docker run --shm-size 1g -p 8001:8001 -v "$PWD/out/repository:/models:ro" zoetrope
#
# The base decides Triton's version: 26.10 or newer has the fixes that decoupled models and shared memory need.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.10-py3
FROM ${TRITON_IMAGE}

COPY . /opt/zoetrope
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir '/opt/zoetrope[server]' \
    && rm -rf /opt/zoetrope
ENV PATH=/opt/venv/bin:${PATH}

USER 1000
EXPOSE 8000 8001 8002 8003
HEALTHCHECK --start-period=120s CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8003/readyz')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["zoetrope", "serve"]
CMD ["/models", "--host", "0.0.0.0"]

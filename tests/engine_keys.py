"""A key of an engine, and another value for each part of it."""

from zoetrope_server.engines.sidecar import EngineKey

KEY = EngineKey(
    stage="unet",
    library="tensorrt",
    library_version="11.4.0.13",
    target="sm90",
    gpu="NVIDIA H200",
    driver="570.1",
    precision="fp16",
    graph="a" * 64,
    weights="b" * 64,
    profiles=({"B": (1, 1, 4), "K": (1, 2, 2)},),
    options={"workspace": "8"},
)
OTHER = {
    "stage": "vae_decoder",
    "library": "tensorrt_rtx",
    "library_version": "11.5.0.1",
    "target": "sm89",
    "gpu": "NVIDIA L4",
    "driver": "580.2",
    "precision": "fp32",
    "graph": "c" * 64,
    "weights": "d" * 64,
    "profiles": ({"B": (1, 1, 2), "K": (1, 2, 2)},),
    "options": {"workspace": "4"},
}

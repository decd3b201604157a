"""Runs of the load lab that were written by hand."""

from zoetrope_bench.load import records
from zoetrope_bench.load.records import Log, Record

PARAMETERS = {
    "url": "127.0.0.1:8001",
    "loop": "open",
    "arrivals": "poisson",
    "segments": [],
    "classes": {},
    "warmup_s": 0.0,
    "duration_s": 100.0,
    "lag_bound_s": 0.01,
    "seed": 0,
}


def served(index, intended, latency, **more):
    fields = {"sent": intended, "first_response": intended + 0.1, "ended": intended + latency, "code": "done"}
    return Record(
        index=index, intended=intended, **{"request_class": "all", "status": "OK", **fields, **more}
    )


def written(path, entries, samples=(), parameters=PARAMETERS, end=True):
    with path.open("w") as file:
        log = Log(file)
        log.run(parameters, {"cores": 2}, "2026-01-01T00:00:00+00:00")
        for entry in entries:
            log.request(entry)
        for sample in samples:
            log.sample(sample)
        if end:
            log.end(parameters["duration_s"], interrupted=False)
    return records.read(path)


METRICS_PAGE = """\
# HELP nv_inference_count Number of inferences performed
# TYPE nv_inference_count counter
nv_inference_count{model="unet",version="1"} %d
nv_inference_count{model="vae_decoder",version="1"} 9
# TYPE nv_inference_exec_count counter
nv_inference_exec_count{model="unet",version="1"} %d
# TYPE zoetrope_waiting_requests gauge
zoetrope_waiting_requests %d
# TYPE zoetrope_queue_seconds histogram
zoetrope_queue_seconds_bucket{le="0.01"} 3
nv_gpu_utilization{gpu_uuid="x"} 0.1
"""

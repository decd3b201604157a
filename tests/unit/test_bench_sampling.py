"""The benches of samplers and of batches: what they make of what they measured."""

import pytest

pytest.importorskip("onnxruntime")

from zoetrope_bench import batching, samplers  # noqa: E402
from zoetrope_core.request import GenerateRequest  # noqa: E402
from zoetrope_core.specs import UNET  # noqa: E402


@pytest.mark.parametrize(
    ("gains", "largest"),
    [
        ({1: 1.0, 2: 0.99, 4: 0.93, 8: 0.92}, 1),
        ({1: 1.0, 2: 1.12, 4: 1.18, 8: 1.17}, 2),
        ({1: 1.0, 2: 1.05, 4: 1.2, 8: 1.5}, 8),
        ({1: 1.0}, 1),
    ],
)
def test_the_largest_batch_that_pays(gains, largest):
    assert batching.largest_worthwhile(gains) == largest


def test_the_gain_is_videos_a_second(monkeypatch):
    from fakes import MANIFEST

    now = [0.0]

    class Engine:
        """A call takes one second, whatever the batch; the first of each shape takes long."""

        def __init__(self):
            self.seen = set()

        def run(self, inputs):
            shape = inputs["latents"].shape
            assert set(inputs) == {spec.name for spec in UNET.inputs}
            now[0] += 1.0 if shape in self.seen else 50.0
            self.seen.add(shape)
            return {}

    monkeypatch.setattr(batching.time, "perf_counter", lambda: now[0])
    assert batching.measure(Engine(), MANIFEST, (1, 2, 4), rounds=3) == {1: 1.0, 2: 2.0, 4: 4.0}


def test_all_requests_of_the_samplers_are_requests():
    for request in samplers.REQUESTS.values():
        GenerateRequest.from_dict(dict(request))


def test_a_line_of_the_samplers():
    row = {"request": "euler ays 10", "seconds": 4.44, "denoise_seconds": 2.6, "db_to_many_steps": 37.84}
    assert samplers.line(row | {"db_to_default": 42.2}) == "| euler ays 10 | 4.4 | 2.6 | 42.2 | 37.8 |"
    assert samplers.line(row | {"db_to_default": None}) == "| euler ays 10 | 4.4 | 2.6 |  | 37.8 |"

"""An exported repository's engines on the stand-in: graphs, shapes that take turns, and what goes wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evidence import ran
from stand_in import fixtures

pytest.importorskip("torch")
pytest.importorskip("tensorrt_rtx")

from zoetrope_core.manifest import Manifest  # noqa: E402
from zoetrope_core.specs import STAGES, VAE_DECODER  # noqa: E402
from zoetrope_server.batching import example_inputs, served_shapes  # noqa: E402
from zoetrope_server.engines import EngineError, open_engine  # noqa: E402
from zoetrope_server.engines.sidecar import Sidecar, find_engine  # noqa: E402

exported = fixtures.exported
stand_in = fixtures.stand_in


@pytest.fixture(scope="module")
def repository(exported):
    return exported


@pytest.fixture(scope="module")
def manifest(repository):
    return Manifest.load(repository)


@pytest.fixture
def opened(stand_in, repository):
    return lambda name: open_engine(
        repository / name / "1", STAGES[name], engine="tensorrt", precision="fp16"
    )


def drawn(inputs, seed):
    draw = np.random.default_rng(seed)
    return {name: draw.uniform(0.1, 1.0, array.shape).astype(np.float32) for name, array in inputs.items()}


def test_the_export_ran_the_engines_and_compared_a_video(repository):
    report = json.loads((repository / "parity.json").read_text())
    assert report["passed"] and report["pipeline"]["passed"]
    assert {each["stage"]: each["precision"] for each in report["stages"]} == {
        "image_encoder": "tf32",
        "vae_encoder": "tf32",
        "unet": "fp16",
        "vae_decoder": "fp16",
    }
    assert {each["computed_by"] for each in report["stages"]} == {"engine"}


def test_keys_are_bound_to_the_gpu_that_cuda_has(repository):
    for name in STAGES:
        key = Sidecar.load(find_engine(repository / name / "1", name)).key
        assert (key.library, key.target, key.gpu) == ("tensorrt", "sm90", "NVIDIA H200")


@pytest.mark.parametrize("name", STAGES)
def test_shapes_that_take_turns_replay_what_was_recorded(stand_in, opened, manifest, name):
    """Every shape that serving meets, three runs each; then results are those of an engine without graphs."""
    engine, shapes = opened(name), list(served_shapes(STAGES[name], manifest))
    for inputs in shapes:
        for _ in range(3):
            engine.run(inputs)
    before = stand_in.replays
    results = {}
    for turn in range(2):
        for number, inputs in enumerate(shapes):
            results[turn, number] = engine.run(drawn(inputs, turn))
    assert stand_in.replays - before == 2 * len(shapes), "warmed up, no request waits for a graph"
    fresh = opened(name)
    for (turn, number), outputs in results.items():
        expected = fresh.run(drawn(shapes[number], turn))
        for key, value in expected.items():
            assert outputs[key].dtype == value.dtype and np.array_equal(outputs[key], value), (turn, number)
    ran("stand-in", engine="tensorrt", precision="fp16", stages=[name])


def test_videos_of_a_batch_and_rows_are_computed_apart(opened, manifest):
    engine, stage = opened("unet"), STAGES["unet"]
    singles = [drawn(example_inputs(stage, manifest), seed) for seed in range(2)]
    both = {name: np.concatenate([each[name] for each in singles]) for name in singles[0]}
    together = engine.run(both)["denoised"]
    for index, inputs in enumerate(singles):
        np.testing.assert_allclose(together[index], engine.run(inputs)["denoised"][0], rtol=0.05, atol=0.05)
    one_row = engine.run(drawn(example_inputs(stage, manifest, rows=1), 0))
    assert one_row["denoised"].shape == singles[0]["latents"].shape


def test_a_remainder_chunk_runs_between_whole_ones(opened, manifest):
    engine = opened("vae_decoder")
    lengths = []
    for length in (3, 2, 3, 2, 3, 2, 1):
        inputs = example_inputs(VAE_DECODER, replace(manifest, decode_chunk_size=length))
        lengths.append(engine.run(inputs)["frames"].shape[1])
    assert lengths == [3, 2, 3, 2, 3, 2, 1]


def test_a_shape_that_no_profile_takes_is_said_before_the_library_is_asked(stand_in, opened, manifest):
    wide = replace(manifest, sizes=((32, 24),))
    with pytest.raises(EngineError, match="no profile of the engine takes .*h=16"):
        opened("unet").run(example_inputs(STAGES["unet"], wide))
    assert stand_in.enqueues == 0


def test_an_enqueue_that_fails_is_an_error_and_the_next_one_works(stand_in, opened, manifest):
    engine, inputs = opened("vae_encoder"), example_inputs(STAGES["vae_encoder"], manifest)
    stand_in.fault = ("enqueue", 1)
    with pytest.raises(EngineError, match="the engine failed on .*no kernel image"):
        engine.run(inputs)
    assert np.isfinite(engine.run(inputs)["latents"]).all()


def test_an_error_that_only_the_recorder_knows_is_an_error(stand_in, opened, manifest):
    """An enqueue that returned True had computed garbage."""
    engine, inputs = opened("vae_encoder"), example_inputs(STAGES["vae_encoder"], manifest)
    stand_in.fault = ("record", 1)
    with pytest.raises(EngineError, match="a kernel could not be compiled"):
        engine.run(inputs)
    engine.run(inputs)


def test_work_that_hits_an_illegal_address_is_an_error_with_cuda_s_words(stand_in, opened, manifest):
    engine, inputs = opened("vae_encoder"), example_inputs(STAGES["vae_encoder"], manifest)
    stand_in.fault = ("launch", 2)
    engine.run(inputs)
    for _ in range(2):
        with pytest.raises(EngineError, match="an illegal memory access was encountered"):
            engine.run(inputs)


def test_a_failed_capture_leaves_no_error_behind(stand_in, opened, manifest, caplog):
    """The next call that looks at CUDA's last error would take it for its own."""
    engine, inputs = opened("vae_encoder"), example_inputs(STAGES["vae_encoder"], manifest)
    engine.run(inputs)
    stand_in.fault = ("capture", 3)
    expected = engine.run(inputs)
    assert "no CUDA graph" in caplog.text
    assert stand_in.last == 0
    assert np.array_equal(engine.run(inputs)["latents"], expected["latents"])


def test_graphs_of_captures_are_given_back(stand_in, opened, manifest):
    engine, inputs = opened("vae_encoder"), example_inputs(STAGES["vae_encoder"], manifest)
    for _ in range(4):
        engine.run(inputs)
    assert len(stand_in.graphs) == 1, "the instantiated one"


def test_a_gpu_without_memory_for_the_largest_shapes_is_said_at_once(stand_in, opened, repository):
    """When the engine is opened, not when the first large request comes."""
    file = find_engine(repository / "unet" / "1", "unet")
    stand_in.capacity = file.stat().st_size + 1000
    with pytest.raises(EngineError, match="out of memory"):
        opened("unet")


def test_an_engine_that_does_not_fit_is_said_with_the_library_s_words(stand_in, opened):
    stand_in.capacity = 1000
    with pytest.raises(EngineError, match="refuses unet-fp16-sm90.*1000 are free"):
        opened("unet")


def test_an_engine_of_another_gpu_is_refused_before_it_is_loaded(stand_in, opened):
    """CUDA's first device counts, which nvidia-smi need not name first."""
    stand_in.name, stand_in.major, stand_in.minor = "NVIDIA L4", 8, 9
    with pytest.raises(EngineError, match="target is sm90, here sm89; gpu is NVIDIA H200, here NVIDIA L4"):
        opened("unet")
    assert stand_in.blocks == {}


def test_an_old_driver_is_said_with_the_one_that_is_needed(stand_in, opened, monkeypatch):
    import cuda.bindings.runtime as cuda

    old = cuda.cudaError_t.cudaErrorInsufficientDriver
    monkeypatch.setattr(cuda, "cudaStreamCreate", lambda: (old, None))
    with pytest.raises(EngineError, match="driver version is insufficient.*driver 580 or newer"):
        opened("unet")


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_an_export_at_the_profiles_of_svd_xt_passes_its_gate(stand_in, tmp_path):
    """A tiny network at 25 frames of 1024x576: the gate runs the engine at the one shape that it takes.

    Its first levels have no attention: the scores of one head are 17 GB in ONNX Runtime.
    """
    import typer
    from small_checkpoints import SMALLEST
    from typer.testing import CliRunner

    from zoetrope_export import commands
    from zoetrope_export.random_checkpoint import write_random_checkpoint

    app = typer.Typer()
    app.command()(commands.export)
    levels = {"unet_channels": (32,) * 4, "unet_heads": (1,) * 4, "vae_channels": (32,) * 4}
    write_random_checkpoint(replace(SMALLEST, num_frames=25, unet_plain=2, **levels), tmp_path / "checkpoint")
    stand_in.capacity = 64 << 30
    words = [tmp_path / "checkpoint", "--engine", "tensorrt", "--precision", "fp16", "--no-verify", "--force"]
    words += ["--size", "576x1024", "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert (report["size"], report["num_frames"], report["passed"]) == ([576, 1024], 25, True)
    assert {each["computed_by"] for each in report["stages"]} == {"engine"}
    assert Manifest.load(tmp_path / "out").max_batch_size == 1
    ran("stand-in", engine="tensorrt", precision="fp16", shapes="SVD-XT", stages=STAGES)

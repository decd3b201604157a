"""Checkpoints: their facts, and what is said about those that cannot be exported."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from zoetrope_export.architectures import ARCHITECTURES, Architecture  # noqa: E402
from zoetrope_export.checkpoint import open_checkpoint  # noqa: E402
from zoetrope_export.errors import ExportError  # noqa: E402
from zoetrope_export.random_checkpoint import write_random_checkpoint  # noqa: E402

SMALL = Architecture(
    unet_channels=(32, 64, 32),
    unet_heads=(1, 2, 1),
    embedding_dim=32,
    num_frames=6,
    vae_channels=(32, 32),
    scaling_factor=0.25,
    clip_width=32,
    clip_layers=1,
    clip_heads=1,
    clip_patch=112,
    sigma_max=80.0,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original")
    write_random_checkpoint(SMALL, directory)
    return directory


@pytest.fixture
def directory(original, tmp_path):
    """The checkpoint with configurations of its own and the weights of the original."""
    for path in original.rglob("*"):
        target = tmp_path / "mine" / path.relative_to(original)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            target.write_text(path.read_text())
        elif path.is_file():
            target.symlink_to(path)
    return tmp_path / "mine"


def edit(path, **values):
    data = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in data.items() if value != "absent"}))


def manifest(checkpoint, **changes):
    options = {
        "engine": "openvino",
        "precision": "bf16",
        "sizes": ((16, 24),),
        "num_frames": (6,),
        "decode_chunk_size": 3,
        "max_batch_size": 4,
    }
    return checkpoint.manifest(**(options | changes))


def test_facts(directory):
    facts = manifest(open_checkpoint(directory))
    assert facts.checkpoint == "mine"
    assert (facts.latent_channels, facts.embedding_dim, facts.clip_size) == (4, 32, 224)
    assert (facts.vae_scale_factor, facts.scaling_factor) == (2, 0.25)
    assert (facts.sigma_min, facts.sigma_max, facts.rho) == (0.002, 80.0, 7.0)
    assert facts.clip_mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert facts.clip_std == pytest.approx((0.26862954, 0.26130258, 0.27577711))
    assert open_checkpoint(directory).num_frames == 6
    assert manifest(open_checkpoint(directory), name="other").checkpoint == "other"


def test_components_are_fp32_and_in_evaluation_mode(directory):
    checkpoint = open_checkpoint(directory)
    for model in (checkpoint.unet(), checkpoint.vae(), checkpoint.image_encoder()):
        assert not model.training
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_grid_is_the_vae_factor_times_the_unets(directory):
    checkpoint = open_checkpoint(directory)
    assert checkpoint.grid == 8
    for size in ((20, 24), (24, 20), (0, 8), (-8, 8)):
        with pytest.raises(ExportError, match=r"multiples of 8 \(VAE factor 2 times 4 for 3 UNet levels\)"):
            manifest(checkpoint, sizes=((8, 8), size))


def test_sigmas_that_the_scheduler_does_not_name_are_computed_as_diffusers_does(directory, caplog):
    path = directory / "scheduler" / "scheduler_config.json"
    edit(path, sigma_min=None, sigma_max=None)
    facts = manifest(open_checkpoint(directory))
    scheduler = diffusers.EulerDiscreteScheduler.from_pretrained(directory / "scheduler")
    scheduler.set_timesteps(25)
    assert facts.sigma_max == pytest.approx(float(scheduler.sigmas[0]))
    assert facts.sigma_min == pytest.approx(float(scheduler.sigmas[-2]))
    assert "no sigma_min and sigma_max" in caplog.text


def test_values_that_a_configuration_leaves_out_are_the_librarys(directory):
    edit(directory / "image_encoder" / "config.json", image_size="absent")
    edit(directory / "scheduler" / "scheduler_config.json", final_sigmas_type="absent")
    assert manifest(open_checkpoint(directory)).clip_size == 224


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "is a FluxPipeline"),
        ("image_encoder/config.json", {"image_size": 336}, "input of 336 pixels; the pipeline gives 224"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type is 'epsilon'"),
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": False}, "use_karras_sigmas is False"),
        ("scheduler/scheduler_config.json", {"timestep_type": "discrete"}, "timestep_type is 'discrete'"),
        ("scheduler/scheduler_config.json", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ("unet/config.json", {"in_channels": 9}, "9 channels in and 4 out"),
        ("unet/config.json", {"out_channels": 8}, "8 channels in and 8 out"),
        ("unet/config.json", {"addition_time_embed_dim": 8}, "time ids are not three"),
        ("unet/config.json", {"cross_attention_dim": 64}, "the image embedding has 32"),
        ("feature_extractor/preprocessor_config.json", {"image_mean": "absent"}, "image_mean"),
        ("feature_extractor/preprocessor_config.json", {"image_std": [1.0]}, "image_std"),
    ],
)
def test_a_checkpoint_that_is_not_svds_is_refused(directory, file, values, message):
    edit(directory / file, **values)
    with pytest.raises(ExportError, match=message):
        open_checkpoint(directory)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("model_index.json", "is no diffusers checkpoint"),
        ("scheduler/scheduler_config.json", "there is no .*scheduler_config.json"),
        ("unet/config.json", "there is no .*config.json"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(directory, remove, message):
    (directory / remove).unlink()
    with pytest.raises(ExportError, match=message):
        open_checkpoint(directory)


def test_a_missing_component_is_named(directory):
    (directory / "vae").rename(directory / "hidden")
    with pytest.raises(ExportError, match="it has no vae"):
        open_checkpoint(directory)


def test_json_that_is_none_is_refused(directory):
    for text, message in (("{", "is not JSON"), ("[]", "is not a JSON object")):
        (directory / "unet" / "config.json").write_text(text)
        with pytest.raises(ExportError, match=message):
            open_checkpoint(directory)


def test_weights_that_are_missing_are_named(directory):
    (directory / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ExportError, match="unet of .* cannot be loaded"):
        open_checkpoint(directory).unet()


def test_half_precision_files_alone_are_enough(directory):
    for path in directory.rglob("*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    checkpoint = open_checkpoint(directory)
    for model in (checkpoint.unet(), checkpoint.vae(), checkpoint.image_encoder()):
        assert next(model.parameters()).dtype == torch.float32


def test_neither_a_folder_nor_an_id_is_refused(tmp_path):
    with pytest.raises(ExportError, match="neither a folder nor a checkpoint"):
        open_checkpoint(str(tmp_path / "no" / "such" / "folder"))


def test_the_same_seed_gives_the_same_weights(original, tmp_path):
    for seed, same in ((0, True), (1, False)):
        write_random_checkpoint(SMALL, tmp_path / str(seed), seed=seed)
        ours, theirs = (
            open_checkpoint(each).unet().state_dict() for each in (tmp_path / str(seed), original)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in ours) is same


def test_a_random_checkpoint_loads_as_a_pipeline(original):
    pipeline = diffusers.StableVideoDiffusionPipeline.from_pretrained(original)
    index = json.loads((original / "model_index.json").read_text())
    assert index["feature_extractor"] == ["transformers", "CLIPImageProcessor"]
    assert np.isclose(pipeline.vae.config.scaling_factor, 0.25)


def test_the_published_architectures_are_those_of_diffusers():
    """The defaults of diffusers' UNet are SVD's."""
    from zoetrope_export.random_checkpoint import random_unet, random_vae

    with torch.device("meta"):
        default = diffusers.UNetSpatioTemporalConditionModel()
        for name, frames in (("svd", 14), ("svd-xt", 25)):
            unet = random_unet(ARCHITECTURES[name])
            count = sum(parameter.numel() for parameter in unet.parameters())
            assert count == sum(parameter.numel() for parameter in default.parameters()) == 1_524_623_082
            assert unet.config.num_frames == frames
        vae = sum(parameter.numel() for parameter in random_vae(ARCHITECTURES["svd"]).parameters())
        assert 97_000_000 < vae < 98_000_000


@pytest.mark.parametrize(
    ("sample_size", "trained"), [(96, (576, 1024)), (128, None), (None, None), ([9, 9], None)]
)
def test_the_trained_size_is_known_of_published_checkpoints_or_told(directory, sample_size, trained):
    edit(directory / "unet" / "config.json", sample_size=sample_size)
    checkpoint = open_checkpoint(directory)
    assert manifest(checkpoint).trained_size == trained
    assert manifest(checkpoint, trained_size=(32, 48)).trained_size == (32, 48)
    assert manifest(checkpoint).trained_frames == 6 and manifest(checkpoint).grid == checkpoint.grid

"""The rewrites change nothing but the operations."""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers.models.resnet import AlphaBlender  # noqa: E402

from zoetrope_export.architectures import Architecture  # noqa: E402
from zoetrope_export.random_checkpoint import initialised, random_unet, random_vae  # noqa: E402
from zoetrope_export.rewrites import TemporalConv2d, rewrite_decoder, rewrite_unet  # noqa: E402
from zoetrope_export.stage_modules import Unet, VaeDecoder  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHITECTURES = {
    "two levels": Architecture(
        unet_channels=(32, 64), unet_heads=(1, 2), unet_layers=2, vae_channels=(32, 64)
    ),
    "three levels": Architecture(unet_channels=(64, 96, 64), unet_heads=(2, 3, 1), vae_channels=(32, 32, 64)),
}
FRAMES = 5


@pytest.fixture(scope="module", params=ARCHITECTURES.values(), ids=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def unets(architecture):
    plain = initialised(random_unet(architecture), "unet", 0)
    return Unet(plain), Unet(rewrite_unet(copy.deepcopy(plain), max_frames=2 * FRAMES))


def unet_inputs(batch, rows, architecture):
    draw = torch.Generator().manual_seed(batch * 10 + rows)
    channels, embedding = architecture.latent_channels, architecture.embedding_dim
    latents = torch.randn(batch, FRAMES, channels, 8, 12, generator=draw)
    image_latents = torch.randn(batch, rows, channels, 8, 12, generator=draw)
    image_embeds = torch.randn(batch, rows, embedding, generator=draw)
    sigma = torch.rand(batch, 1, generator=draw) * 9 + 0.1
    weights = torch.rand(batch, rows, FRAMES, generator=draw)
    time_ids = torch.tensor([[6.0, 127.0, 0.02], [24.0, 3.0, 0.5], [0.0, 255.0, 0.0]])[:batch]
    return latents, sigma, image_latents, image_embeds, time_ids, weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3])
@torch.inference_mode()
def test_the_unet_computes_the_same(unets, architecture, batch, rows):
    plain, rewritten = unets
    inputs = unet_inputs(batch, rows, architecture)
    expected, actual = plain(*inputs), rewritten(*inputs)
    assert expected.std() > 0.1
    assert (expected - actual).abs().max() < 3e-5 * expected.abs().max()


@torch.inference_mode()
def test_nothing_that_is_the_same_in_every_step_is_computed_in_it(unets):
    """The embedding of the frame numbers is a table of the most frames, whatever the number of frames."""
    plain, rewritten = unets
    assert any("time_pos_embed" in name for name, _ in plain.named_modules())
    assert not any("time_pos_embed" in name for name, _ in rewritten.named_modules())
    tables = [buffer for name, buffer in rewritten.named_buffers() if name.endswith("positions")]
    assert tables
    assert {table.shape[1] for table in tables} == {2 * FRAMES}


@pytest.mark.parametrize("frames", [1, 2, 5])
@torch.inference_mode()
def test_the_decoder_computes_the_same(architecture, frames):
    plain = initialised(random_vae(architecture), "vae", 0)
    latents = torch.randn(frames, 4, 8, 12, generator=torch.Generator().manual_seed(0)) * 5
    expected = plain.decode(latents, num_frames=frames).sample
    rewritten = rewrite_decoder(copy.deepcopy(plain))
    actual = rewritten.decode(latents, num_frames=frames).sample
    assert (expected - actual).abs().max() < 1e-5
    levels, finite = VaeDecoder(rewritten)(latents[None])
    assert finite.all()
    assert levels.shape == (1, frames, *actual.shape[2:], 3)


def test_nothing_of_what_is_rewritten_is_left(unets, architecture):
    _, rewritten = unets
    names = [name for name, _ in rewritten.named_modules()]
    kinds = {type(module).__name__ for module in rewritten.modules()}
    assert "Conv3d" not in kinds
    assert "TransformerSpatioTemporalModel" not in kinds
    assert not any("norm2" in name for name in names if ".spatial." in name or ".temporal." in name)
    assert not any("to_q" in name or "to_k" in name for name in names if "cross" in name)
    assert {m.merge_strategy for m in rewritten.modules() if isinstance(m, AlphaBlender)} == {"learned"}
    decoder = rewrite_decoder(random_vae(architecture))
    assert not any(isinstance(module, torch.nn.Conv3d) for module in decoder.modules())
    assert isinstance(decoder.decoder.time_conv_out, TemporalConv2d)


@torch.inference_mode()
def test_the_cross_attention_is_computed_once_a_row(unets, architecture):
    _, rewritten = unets
    seen = []
    for name, module in rewritten.named_modules():
        if name.endswith("cross"):
            module.register_forward_hook(lambda _, given, made: seen.append((given[0].shape, made.shape)))
    rewritten(*unet_inputs(2, 2, architecture))
    assert seen
    for given, made in seen:
        assert given == (4, 1, 1, architecture.embedding_dim)
        assert made[:3] == (4, 1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 1, 1), "padding": 0},
        {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), "stride": (2, 1, 1)},
    ],
)
def test_other_convolutions_are_refused(options):
    with pytest.raises(ValueError, match="not a temporal convolution"):
        TemporalConv2d(torch.nn.Conv3d(4, 4, **options))

"""Image transforms against diffusers' SVD pipeline and CLIP's image processor."""

import numpy as np
import pytest

from zoetrope_core.image import for_clip, for_vae

torch = pytest.importorskip("torch")
processors = pytest.importorskip("diffusers.image_processor")
pipeline = pytest.importorskip("diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion")
transformers = pytest.importorskip("transformers")

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [
    (576, 1024),  # SVD's own
    (1024, 576),
    (224, 224),  # as it is
    (225, 223),
    (256, 256),
    (320, 512),
    (448, 448),
    (449, 671),
    (100, 300),  # larger one way, smaller the other
    (64, 64),
    (33, 47),
    (7, 9),
]


def picture(height, width, seed=0):
    """Noise, edges and a gradient: every frequency has something to get wrong."""
    random = np.random.default_rng(seed)
    frame = np.linspace(0, 255, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    frame = frame + random.normal(0, 40, (height, width, 3))
    frame[: height // 2, : width // 3] = (250, 5, 120)
    return frame.clip(0, 255).astype(np.uint8)


def tensor_of(frame):
    return torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32) / 255.0)


def by_diffusers(frame, size):
    """What `_encode_image` gives the CLIP encoder, in its words."""
    image = tensor_of(frame) * 2.0 - 1.0
    image = pipeline._resize_with_antialiasing(image, (size, size))
    image = (image + 1.0) / 2.0
    extractor = transformers.CLIPImageProcessor(image_mean=MEAN, image_std=STD)
    return extractor(
        images=image,
        do_normalize=True,
        do_center_crop=False,
        do_resize=False,
        do_rescale=False,
        return_tensors="pt",
    ).pixel_values.numpy()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_clip_input_is_diffusers(size):
    frame = picture(*size)
    ours, reference = for_clip(frame, 224, MEAN, STD), by_diffusers(frame, 224)
    assert (ours.shape, ours.dtype) == (reference.shape, np.float32)
    assert np.abs(ours - reference).max() < 1e-4


@pytest.mark.parametrize("side", [16, 32, 33, 336])
@pytest.mark.parametrize("size", [(576, 1024), (65, 49), (20, 30)], ids=str)
def test_another_side_of_the_clip_input(size, side):
    frame = picture(*size)
    assert np.abs(for_clip(frame, side, MEAN, STD) - by_diffusers(frame, side)).max() < 1e-4


@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_the_comparison_notices_a_resize_without_antialiasing(size):
    frame = picture(*size)
    plain = torch.nn.functional.interpolate(
        tensor_of(frame), (224, 224), mode="bicubic", align_corners=True
    ).numpy()
    normalised = (plain - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    difference = np.abs(normalised - by_diffusers(frame, 224)).max()
    assert difference > 1e-2 or size == (224, 224)


@pytest.mark.parametrize("size", [(64, 128), (24, 40)], ids=str)
def test_the_vae_input_is_diffusers(size):
    from PIL import Image

    frame = picture(*size)
    processor = (
        processors.VideoProcessor if hasattr(processors, "VideoProcessor") else processors.VaeImageProcessor
    )
    reference = processor(do_resize=True, vae_scale_factor=8).preprocess(
        Image.fromarray(frame), height=size[0], width=size[1]
    )
    assert np.abs(for_vae(frame) - reference.numpy()).max() < 1e-6

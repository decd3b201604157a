"""What a video is measured by: fidelity, motion, coherence, flicker, sharpness.

Videos are u8 [F,H,W,3]. The flow is OpenCV's DIS, not the network's own idea of it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
Flow = NDArray[np.float32]


def psnr(one: Frames, other: Frames) -> float:
    """Peak signal-to-noise ratio in dB of two u8 arrays; 99 when they are equal."""
    error = float(np.mean((one.astype(np.float32) - other.astype(np.float32)) ** 2))
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def grey(video: Frames) -> list[Frames]:
    """Each frame as u8 [H,W]."""
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]


def flows(video: Frames) -> Flow:
    """From each frame but the first back to the one before it: f32 [F-1,H,W,2] pixels."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    frames = grey(video)
    pairs = zip(frames[1:], frames[:-1], strict=True)
    return np.stack([estimator.calc(after, before, None) for after, before in pairs])


def motion(flow: Flow) -> float:
    """Mean flow in pixels a frame."""
    return float(np.linalg.norm(flow, axis=-1).mean())


def predictions(video: Frames, flow: Flow) -> list[float]:
    """PSNR in dB of each frame but the first, predicted from the one before it along the flow."""
    y, x = np.mgrid[: video.shape[1], : video.shape[2]].astype(np.float32)
    moved = [
        cv2.remap(
            before, x + step[..., 0], y + step[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for before, step in zip(video[:-1], flow, strict=True)
    ]
    return [psnr(made, after) for made, after in zip(moved, video[1:], strict=True)]


def flicker(video: Frames) -> float:
    """Jitter of the mean luminance in percent: how far each frame is from the mean of its neighbours."""
    levels = np.array([frame.mean() for frame in grey(video)])
    return float(100 * np.abs(levels[1:-1] - (levels[:-2] + levels[2:]) / 2).mean() / max(levels.mean(), 1.0))


def sharpness(frame: Frames) -> float:
    """Variance of the Laplacian of the luminance: falls when detail smears."""
    return float(cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def sharpness_kept(video: Frames) -> float:
    """The last frame's sharpness relative to the first's."""
    return sharpness(video[-1]) / max(sharpness(video[0]), 1e-6)


def difference(one: Frames, other: Frames) -> float:
    """Mean absolute difference of two videos, in levels of 255."""
    return float(np.abs(one.astype(np.int16) - other).mean())

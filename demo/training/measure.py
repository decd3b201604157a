"""What a video is measured by: fidelity, motion, coherence, flicker, independent motion.

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


def independence(flow: Flow) -> float:
    """The share of the flow that the best-fitting homography of each frame pair does not explain, 0..1."""
    left, whole = 0.0, 0.0
    y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float32)
    start = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    for step in flow:
        end = start + step.reshape(-1, 1, 2)
        matrix, _ = cv2.findHomography(start[::7], end[::7], 0)
        left += float(np.linalg.norm(cv2.perspectiveTransform(start, matrix) - end, axis=-1).mean())
        whole += float(np.linalg.norm(step, axis=-1).mean())
    return left / max(whole, 1e-6)


def difference(one: Flow, other: Flow) -> float:
    """Mean distance of two flows, relative to the larger mean flow: 0 for the same motion."""
    distance = float(np.linalg.norm(one - other, axis=-1).mean())
    return distance / max(motion(one), motion(other), 1e-6)

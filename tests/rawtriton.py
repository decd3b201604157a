"""What the e2e tests ask of a server through Triton's own client, and how they compare frames."""

import threading
import time
from pathlib import Path

import numpy as np
from footprint import control_of
from tritonclient import grpc as triton
from waiting import wait_until

from zoetrope_client import Client, Frames
from zoetrope_core.contract import pack_request, unpack_response
from zoetrope_core.request import GenerateRequest

PHOTO = Path(__file__).parents[1] / "demo" / "photo.jpg"


def counts(server, model="unet"):
    """Inferences and executions of a model so far, by Triton's own statistics."""
    with triton.InferenceServerClient(server.url) as connection:
        (stats,) = connection.get_inference_statistics(model).model_stats
    return stats.inference_count, stats.execution_count


def settled(server, model="unet"):
    """The inferences of a model once the server is idle and no call of a cancelled request goes on."""
    control = control_of(server)
    wait_until(lambda: control.status().idle, 20)

    def at_rest():
        before = counts(server, model)[0]
        time.sleep(0.3)  # longer than a call; Triton counts it when it ends
        return counts(server, model)[0] == before

    wait_until(at_rest, 20)
    return counts(server, model)[0]


def raw_inputs(**fields):
    tensors = pack_request(PHOTO.read_bytes(), GenerateRequest(**fields))
    inputs = []
    for name, tensor in tensors.items():
        inputs.append(triton.InferInput(name, [1], "BYTES"))
        inputs[-1].set_data_from_numpy(tensor)
    return inputs


def parts(result):
    tensors = {name: result.as_numpy(name) for name in ("event", "video")}
    return unpack_response({name: tensor for name, tensor in tensors.items() if tensor is not None})


def frames_of(events):
    return np.concatenate([event.array for event in events if isinstance(event, Frames)])


def psnr(a, b):
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def streamed(client, **fields):
    """The frames of a video, as the engine decoded them."""
    return frames_of(list(client.stream(PHOTO, stream_frames=True, **fields)))


def together(url, count, **fields):
    """Videos of `count` equal-shaped requests that start at once; the first has the given fields."""
    results = [None] * count
    barrier = threading.Barrier(count)

    def work(index):
        with Client(url) as client:
            barrier.wait(10)
            results[index] = streamed(client, **{**fields, "seed": fields["seed"] + index})

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results

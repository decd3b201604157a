"""What Chromium shows of a file: pixels of its frames, sent back by a page over a server on loopback."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_PAGE = """<!doctype html><script>
const event = (target, good) => new Promise((resolve, reject) => {
  target.addEventListener(good, resolve, {once: true});
  target.addEventListener("error", () => reject(new Error(target.error?.message || "error")), {once: true});
});
async function show(name, file) {
  const canvas = document.createElement("canvas"), pen = () => canvas.getContext("2d");
  const send = async (frame, source, width, height) => {
    [canvas.width, canvas.height] = [width, height];
    pen().drawImage(source, 0, 0);
    const body = pen().getImageData(0, 0, width, height).data;
    await fetch(`/shown?name=${name}&frame=${frame}&width=${width}&height=${height}`, {method: "POST", body});
  };
  if (file.type.startsWith("image/")) {
    const decoder = new ImageDecoder({data: (await fetch(file.url)).body, type: file.type});
    await decoder.completed;
    for (const frame of file.frames) {
      const {image} = await decoder.decode({frameIndex: frame});
      await send(frame, image, image.displayWidth, image.displayHeight);
    }
    return decoder.tracks.selectedTrack.frameCount;
  }
  const video = document.createElement("video");
  video.muted = true;
  video.src = file.url;
  await event(video, "loadeddata");
  for (const frame of file.frames) {
    // `seeked` may come before the frame is there to be drawn.
    const presented = new Promise((resolve) => video.requestVideoFrameCallback(resolve));
    video.currentTime = (frame + 0.5) / file.fps;
    await Promise.all([event(video, "seeked"), presented]);
    await send(frame, video, video.videoWidth, video.videoHeight);
  }
  return video.duration;
}
(async () => {
  const files = await (await fetch("/files")).json();
  for (const [name, file] of Object.entries(files)) {
    let said;
    try { said = {length: await show(name, file)}; } catch (error) { said = {error: String(error)}; }
    await fetch(`/end?name=${name}`, {method: "POST", body: JSON.stringify(said)});
  }
  await fetch("/over", {method: "POST"});
})();
</script>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to show: its bytes, MIME type and frame rate, and the numbers of the frames to send back."""

    data: bytes
    type: str
    fps: int
    frames: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Shown:
    """What came back: frames u8 [H, W, 3] by number; seconds of a video or frames of an image; an error."""

    frames: dict[int, np.ndarray]
    length: float | None = None
    error: str | None = None


def shown(files: Mapping[str, File], profile: Path, seconds: float = 60) -> dict[str, Shown]:
    """Opens each file in one headless Chromium; raises queue.Empty when it has not finished in time."""
    found = {name: Shown(frames={}) for name in files}
    over: queue.Queue[None] = queue.Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(files, found, over))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    colours = "--force-color-profile=srgb"
    command = [str(CHROMIUM), *flags, colours, f"--user-data-dir={profile}"]
    environment = {**os.environ, "HOME": str(profile)}
    with (profile.with_suffix(".log")).open("wb") as log:
        browser = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.server_port}/"], stdout=log, stderr=log, env=environment
        )
    try:
        over.get(timeout=seconds)
    finally:
        browser.terminate()
        browser.wait(30)
        server.shutdown()
        server.server_close()
    return found


def _handler(  # noqa: C901
    files: Mapping[str, File], found: dict[str, Shown], over: queue.Queue[None]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if self.path == "/files":
                listed = {
                    name: {"url": f"/file/{name}", "type": each.type, "fps": each.fps, "frames": each.frames}
                    for name, each in files.items()
                }
                self._answer(json.dumps(listed).encode(), "application/json")
            elif name in files:
                self._answer(files[name].data, files[name].type)
            else:
                self._answer(_PAGE.encode(), "text/html")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path, _, query = self.path.partition("?")
            fields = dict(pair.split("=") for pair in query.split("&") if pair)
            if path == "/shown":
                shape = (int(fields["height"]), int(fields["width"]), 4)
                pixels = np.frombuffer(body, np.uint8).reshape(shape)
                found[fields["name"]].frames[int(fields["frame"])] = pixels[..., :3]
            elif path == "/end":
                said = json.loads(body)
                found[fields["name"]].length, found[fields["name"]].error = (
                    said.get("length"),
                    said.get("error"),
                )
            else:
                over.put(None)
            self._answer(b"", "text/plain")

        def _answer(self, body: bytes, kind: str) -> None:
            """The body, or the part of it that a player asks for: without parts it cannot seek."""
            start, end = 0, len(body)
            if asked := self.headers.get("Range"):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last) + 1, len(body)) if last else len(body)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            self.end_headers()
            self.wfile.write(body[start:end])

        def log_message(self, *_: Any) -> None:
            pass

    return Handler

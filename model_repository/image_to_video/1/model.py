"""The entry model `image_to_video`: a stream of events, frames and the video for each request."""

import asyncio
from pathlib import Path

from zoetrope_server.triton.orchestrator import Orchestrator


class TritonPythonModel:
    """Hands requests to the orchestrator; `execute` is a coroutine, so requests run side by side."""

    def initialize(self, args):
        """Opens the orchestrator for the repository that this model lies in."""
        self._orchestrator = Orchestrator(Path(args["model_repository"]).parent)

    async def execute(self, requests):
        """Serves the requests; each one's stream is ended by the orchestrator."""
        await asyncio.gather(*(self._orchestrator.serve(request) for request in requests))

    def finalize(self):
        """Ends workers and threads."""
        self._orchestrator.close()

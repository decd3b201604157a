"""The entry model `image_to_video_unary`: one request, one response with the video and the `done` event."""

from zoetrope_server.triton.unary import UnaryModel


class TritonPythonModel:
    """Forwards each request to `image_to_video`."""

    def initialize(self, args):
        """Opens the forwarder."""
        self._model = UnaryModel()

    def execute(self, requests):
        """One response for each request."""
        return [self._model.serve(request) for request in requests]

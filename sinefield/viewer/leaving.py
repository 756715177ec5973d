"""A page that is left lets go of the viewer at once.

Browsers keep a page that was left, asleep, to show it again on the way back. viser's page holds its connection in a
worker, and Chromium keeps that open in there and answers the server's pings for it: pictures would be made for minutes
for a page that nobody sees, and on the way back it would have no connection.
"""

from typing import Any

SCRIPT = """
if (!window.endsWhenLeft) {
  const workers = window.endsWhenLeft = new Set(), post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (...message) { workers.add(this); return post.apply(this, message); };
  addEventListener("pagehide", () => workers.forEach((worker) => worker.terminate()));
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
"""
"""Ends the workers that the page has talked to since; a page that comes back from its sleep starts anew."""


def end_when_left(client: Any) -> None:
    """Have a page close its connection when it is left.

    Arguments:
        client: a `viser.ClientHandle`; its messages are not public, so viser's version is bounded in setup.cfg.
    """
    from viser import _messages

    page = client._websock_connection
    page.queue_message(_messages.RunJavascriptMessage(source=SCRIPT))
    # The angle of view that it has: the page says in answer where its camera is, through the worker.
    page.queue_message(_messages.SetCameraFovMessage(client.camera.fov))

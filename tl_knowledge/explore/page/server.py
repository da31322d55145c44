"""Where the page is served: this machine only, to its own page only.

Any site that a browser has open may send requests to ``127.0.0.1``. So a request under another name (a site that had its own name point here), or
one that another site's page sends, is refused; and the page itself may load and reach nothing but this server.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable

from flask import Flask, Response, request
from werkzeug.serving import BaseWSGIServer, make_server

from tl_knowledge.errors import InputError

__all__ = ["IDENTITY", "LOCAL", "answer_only", "guard", "local_server", "local_socket"]

LOCAL = "127.0.0.1"
IDENTITY = "X-Explorer-Model"
"""In what header a page says whose it is."""


def local_socket(port: int) -> socket.socket:
    """A port of this machine, for programs of this machine only.

    Args:
        port: 0 takes any that is free.

    Raises:
        InputError: the port is in use, or may not be used.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a port stays taken for a minute after the last server
    try:
        held.bind((LOCAL, port))
        held.listen()
    except OSError as error:
        held.close()
        reason = error.strerror or str(error)
        raise InputError(f"port {port} of this machine cannot be used ({reason}); pass another --port, or 0 for any that is free.") from error
    return held


def local_server(served: Flask, held: socket.socket) -> BaseWSGIServer:
    """A server with a thread for every request, on a socket of `local_socket`; ``serve_forever`` starts it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return make_server(LOCAL, held.getsockname()[1], served, threaded=True, fd=held.fileno())


def guard(served: Flask, port: int, *, scripts: Iterable[str] = ()) -> None:
    """Refuse requests that are not the page's own, and let the page reach this server only.

    Args:
        port: that the server has.
        scripts: hashes of the programs that stand in the page itself.
    """
    names = {f"{name}:{port}" for name in (LOCAL, "localhost")}
    names |= {LOCAL, "localhost"} if port == 80 else set()
    origins = {f"http://{name}" for name in names}
    policy = (
        f"default-src 'self'; script-src 'self' {' '.join(scripts)}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    )

    @served.before_request
    def refuse_others() -> Response | None:  # pyright: ignore[reportUnusedFunction]
        if request.host not in names:
            return _refused(f"This page is served as http://{LOCAL}:{port} only.")
        if request.headers.get("Origin", f"http://{LOCAL}:{port}") not in origins:
            return _refused("Another site's page sent this request.")
        return None

    @served.after_request
    def protect(response: Response) -> Response:  # pyright: ignore[reportUnusedFunction]
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def answer_only(served: Flask, identity: str) -> None:
    """Refuse pages of another model: one that is still open when another explorer has taken the port would show its numbers under the old name.

    Args:
        identity: of the model.
    """

    @served.before_request
    def refuse_old_pages() -> Response | None:  # pyright: ignore[reportUnusedFunction]
        if request.method == "POST" and request.headers.get(IDENTITY) != identity:
            return _refused("Another model answers here now; load the page again.", status=409)
        return None


def _refused(reason: str, status: int = 403) -> Response:
    return Response(reason + "\n", status=status, mimetype="text/plain")

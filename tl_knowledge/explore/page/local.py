"""A port of this machine, and the page on it once the model is there."""

from __future__ import annotations

import socket
from types import TracebackType

from werkzeug.serving import BaseWSGIServer

from tl_knowledge.explore.page.app import explorer_app
from tl_knowledge.explore.page.server import LOCAL, guard, local_server, local_socket
from tl_knowledge.explore.session import ExplorerSession

__all__ = ["LocalPage"]


class LocalPage:
    """The explorer's page on a port that is held from the start, so that nobody waits for a model and hears then that the port is taken.

    Attributes:
        address: of the page.
    """

    def __init__(self, held: socket.socket) -> None:
        self._held = held
        self._server: BaseWSGIServer | None = None
        self._session: ExplorerSession | None = None
        self._served = False
        self.address = f"http://{LOCAL}:{held.getsockname()[1]}/"

    @classmethod
    def at(cls, port: int) -> LocalPage:
        """A page on a port; 0 takes any that is free.

        Raises:
            InputError: as `local_socket`.
        """
        return cls(local_socket(port))

    def show(self, session: ExplorerSession) -> None:
        """Make the page of a session, which ends with this page."""
        self._session = session
        app = explorer_app(self._session)
        served = app.server
        guard(served, self._held.getsockname()[1], scripts=app.csp_hashes())
        self._server = local_server(served, self._held)

    def serve(self) -> None:
        """Answer until Ctrl+C, or until `close` in another thread.

        Raises:
            RuntimeError: there is nothing to show yet.
        """
        if self._server is None:
            raise RuntimeError("there is no model on the page; call show() first.")
        self._served = True
        try:
            self._server.serve_forever()
        except KeyboardInterrupt:
            return

    def close(self) -> None:
        """Stop answering and working."""
        if self._server is not None and self._served:  # before that there is no loop that could end
            self._server.shutdown()
        if self._session is not None:
            self._session.close()
        self._held.close()

    def __enter__(self) -> LocalPage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

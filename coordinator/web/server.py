"""gunicorn around the app: the settings are ours, so that there is one place for them.

Threads are made when needed: one that sleeps for each open stream of events, and ``THREADS`` beside those.
"""

import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from coordinator.config import CoordinatorSettings
from coordinator.web.app import create_app
from coordinator.web.service import Service

THREADS = 8
TIMEOUT_SECONDS = 60
STOP_SECONDS = 10
"""How long requests that are under way may still take when the server is told to end; streams end at once."""
IDLE_CONNECTIONS = 1000
"""Connections of a process that wait for their next request."""
OPEN_FILES = 16_384
HANG_UP_SECONDS = 2.0


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        threads = THREADS + self._settings.streams
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.web_workers,
            "worker_class": _Worker,
            "threads": threads,
            "worker_connections": threads + IDLE_CONNECTIONS,
            "timeout": TIMEOUT_SECONDS,
            "graceful_timeout": STOP_SECONDS,
            "control_socket_disable": True,
            "proc_name": "coterie-coordinator",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        return create_app(self._settings)


class _Worker(ThreadWorker):  # type: ignore[misc]
    """Ends its streams as soon as it is told to end: a stream never ends by itself, and its thread is waited for."""

    def handle(self, conn: Any) -> Any:
        """The library waits for a client to hang up on the thread that accepts connections; here, on the request's."""
        kept = super().handle(conn)
        if kept is False:
            _let_hang_up(conn.sock)
        return kept

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end_streams()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        self._end_streams()
        super().handle_quit(sig, frame)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._end_streams()

    def _end_streams(self) -> None:
        here: Service = self.wsgi.extensions["coterie"]
        here.feed.end()


def _let_hang_up(client: socket.socket) -> None:
    """Give the client time to read its answer to the end (RFC 9112, section 9.6); nobody waits for it after that."""
    deadline = time.monotonic() + HANG_UP_SECONDS
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            if not client.recv(1 << 12):
                break
    with suppress(OSError):
        client.shutdown(socket.SHUT_RD)


def serve(settings: CoordinatorSettings) -> None:
    """Serve until a signal ends it. The app is made in each worker, after the fork."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES if most < 0 else min(OPEN_FILES, most), most))
    _Server(settings).run()

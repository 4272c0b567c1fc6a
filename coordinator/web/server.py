"""gunicorn around the app: the settings are ours, so that there is one place for them."""

from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from coordinator.config import CoordinatorSettings
from coordinator.web.app import create_app

THREADS = 8
TIMEOUT_SECONDS = 60


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.web_workers,
            "worker_class": "gthread",
            "threads": THREADS,
            "timeout": TIMEOUT_SECONDS,
            "proc_name": "coterie-coordinator",
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        return create_app(self._settings)


def serve(settings: CoordinatorSettings) -> None:
    """Serve until a signal ends it. The app is made in each worker, after the fork."""
    _Server(settings).run()

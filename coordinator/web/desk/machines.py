"""Which members' machines are connected, as the SuperLink knows it; nobody's step of training, which none reports."""

import threading
import time
from collections.abc import Callable, Mapping

from coordinator.config import CoordinatorSettings
from coordinator.wiring import superlink_control
from protocol.errors import CoterieError

REMEMBER_SECONDS = 4.0


class Machines:
    """The SuperLink's answer, for some seconds. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._online: Mapping[str, bool] | None = None

    def online(self, settings: CoordinatorSettings) -> Mapping[str, bool] | None:
        """Node id → whether it is connected; None when the SuperLink does not answer."""
        with self._lock:
            if self._clock() - self._asked >= REMEMBER_SECONDS:
                try:
                    self._online = {str(one): on for one, on in superlink_control(settings).presence().items()}
                except (CoterieError, OSError):
                    self._online = None
                self._asked = self._clock()
            return self._online

"""Which members' machines are connected, as the SuperLink knows it; nobody's step of training, which none reports."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from coordinator.config import CoordinatorSettings
from coordinator.wiring import superlink_control
from protocol.errors import CoterieError

REMEMBER_SECONDS = 4.0


class Seen(NamedTuple):
    """Whether a machine is connected, and since when that is so (Unix seconds); None where it never was."""

    online: bool
    since: int | None


class Machines:
    """The SuperLink's answer, for some seconds. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._seen: Mapping[str, Seen] | None = None

    def seen(self, settings: CoordinatorSettings) -> Mapping[str, Seen] | None:
        """Node id → how it was seen; None when the SuperLink does not answer."""
        with self._lock:
            if self._clock() - self._asked >= REMEMBER_SECONDS:
                try:
                    self._seen = {
                        str(one): Seen(*told) for one, told in superlink_control(settings).last_seen().items()
                    }
                except (CoterieError, OSError):
                    self._seen = None
                self._asked = self._clock()
            return self._seen

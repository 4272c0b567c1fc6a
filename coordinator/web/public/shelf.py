"""What the public pages keep in memory: parsed releases, and pages as they were last composed.

Nothing here is the truth: an empty shelf gives the same pages, later.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")
MAKERS = 16
"""How many values of one shelf may be made at once."""


class Shelf(Generic[Value]):
    """A bounded store, safe between threads; what was not asked for the longest goes first."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()
        self._making = [threading.Lock() for _ in range(MAKERS)]

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: Value) -> Value:
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return value

    def get_or(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept under ``key``, else what ``make`` gives; whoever asks for the same meanwhile waits for it.

        ``make`` asks nothing of this shelf.
        """
        if (found := self.get(key)) is not None:
            return found
        with self._making[hash(key) % MAKERS]:
            found = self.get(key)
            return found if found is not None else self.put(key, make())

"""What a task is to the rest of the client: a kind and a body in, a body out. No transport here."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

Value = bytes | str | int | float
Body = dict[str, Value]

INSTALLED_HANDLER = "client.node.work:handler_for"


class TaskHandler(Protocol):
    """Does what the coordinator asks, with code that is installed here."""

    def handle(self, kind: str, body: Body) -> Body:
        """Do one task and return what goes back to the coordinator.

        ``kind`` is ``train``, ``score`` or ``mask``. The same task may come again (after a restart of either side), so
        an answer that was once given must be kept and given again. A ``CoterieError`` reaches the coordinator as its
        one sentence; of any other exception only the type does.
        """
        ...


def load_handler(reference: str, home: Path) -> TaskHandler:
    """The handler of the member whose folder is ``home``; ``reference`` is ``module:function``."""
    module, _, function = reference.partition(":")
    return cast(TaskHandler, getattr(import_module(module), function)(home))

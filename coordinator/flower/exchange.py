"""What a round is to the transport: the task of the moment, who wants it, and where replies go. No ``flwr`` here."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, Protocol, cast

Value = bytes | str | int | float
Body = dict[str, Value]


@dataclass(frozen=True)
class Task:
    """What every connected node should do now. ``task_id`` is unique within the round."""

    kind: Literal["train", "score", "mask"]
    task_id: str
    body: Body = field(repr=False)


class Exchange(Protocol):
    """One round as the relay sees it. Called from a single thread of a process of its own.

    Everything here is asked about twice a second: keep the task's body in memory while it is the same. A body may come
    to name more members under the same ``task_id``; nobody who has the task is given it again for that.
    An exception other than ``CoterieError`` ends the run; a new run goes on where the database stands.
    """

    interval: float
    """Seconds between two looks at the round and at the nodes (0.5 is good)."""

    def next_task(self) -> Task | None:
        """The task of the moment; ``None`` while there is nothing to do."""
        ...

    def wanted(self, node_id: int, task: Task) -> bool:
        """Whether this node should (still) answer: false once its answer is stored or it has no part in the round."""
        ...

    def own_part(self, node_id: int, task: Task) -> Body:
        """What this node is told beside the task's body; empty where all are told the same."""
        ...

    def asked(self, task: Task, node_id: int) -> None:
        """Note that the task has gone out to this node."""
        ...

    def receive(self, task: Task, node_id: int, reply: Body) -> None:
        """Store a reply durably; from then on ``wanted`` is false. Raises ``CoterieError`` to refuse it."""
        ...

    def failed(self, task: Task, node_id: int, reason: str) -> None:
        """Note that a node could not do the task, in its own words, or that its reply was refused."""
        ...

    def finished(self) -> bool:
        """Whether the round needs the nodes no longer; then the run ends."""
        ...


def load_exchange(reference: str, round_id: str) -> Exchange:
    """The exchange of one round; ``reference`` is ``module:function``, called with the round's id."""
    module, _, function = reference.partition(":")
    return cast(Exchange, getattr(import_module(module), function)(round_id))

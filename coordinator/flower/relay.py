"""The loop of a run: every wanted task reaches every connected node, every reply reaches the exchange.

Pure but for its two ports: ``Line`` (the nodes) and ``Exchange`` (the round). Nodes may come late, drop out and
come back. What a node was given and has not answered is forgotten when it was started anew, because a SuperNode
keeps its work in memory; it is then given the task again.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from coordinator.flower.exchange import Body, Exchange, Task
from protocol.errors import CoterieError

RETRY_AFTER = 30.0
"""Seconds before a node whose answer failed or was refused is asked again, if it is still wanted."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """What came back for one delivery: a body, or the reason why there is none."""

    delivery: str
    body: Body | None
    reason: str = ""
    lost: bool = False
    """The node went away before it answered: nobody's failure, ask again when it is back."""


class Line(Protocol):
    """The nodes, as the transport shows them."""

    def connected(self) -> dict[int, str]:
        """Node id → a mark that changes whenever the node starts anew."""
        ...

    def send(self, task: Task, parts: Mapping[int, Body]) -> dict[str, int]:
        """Give the task to these nodes, each with its own part beside it; delivery id → node id."""
        ...

    def replies(self, deliveries: Collection[str]) -> Iterable[Reply]:
        """What has come in for these deliveries since the last call."""
        ...


@dataclass(frozen=True)
class _Delivery:
    task: Task
    node_id: int
    mark: str


def relay(
    line: Line,
    exchange: Exchange,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run until the exchange is finished. A reply counts only when ``exchange.receive`` has returned."""
    open_deliveries: dict[str, _Delivery] = {}
    resting: dict[tuple[int, str], float] = {}
    while not exchange.finished():
        for reply in line.replies(open_deliveries.keys()):
            delivery = open_deliveries.pop(reply.delivery)
            if not reply.lost and not _hand_over(exchange, delivery, reply):
                resting[delivery.node_id, delivery.task.task_id] = clock() + RETRY_AFTER
        task = exchange.next_task()
        if task is not None:
            _give_out(line, exchange, task, open_deliveries, resting, clock())
        sleep(exchange.interval)


def _hand_over(exchange: Exchange, delivery: _Delivery, reply: Reply) -> bool:
    """Whether the exchange has what it wants of this node; if not, it has been told why."""
    if not exchange.wanted(delivery.node_id, delivery.task):
        return True  # an earlier delivery of the same task was answered already
    reason = reply.reason
    if reply.body is not None:
        try:
            exchange.receive(delivery.task, delivery.node_id, reply.body)
        except CoterieError as refusal:
            reason = str(refusal)
        else:
            return True
    log.warning("node %s failed task %s: %s", delivery.node_id, delivery.task.task_id, reason)
    exchange.failed(delivery.task, delivery.node_id, reason)
    return False


def _give_out(
    line: Line,
    exchange: Exchange,
    task: Task,
    open_deliveries: dict[str, _Delivery],
    resting: dict[tuple[int, str], float],
    now: float,
) -> None:
    marks = line.connected()
    at_work = {
        d.node_id
        for d in open_deliveries.values()
        if d.task.task_id == task.task_id and marks.get(d.node_id, d.mark) == d.mark
    }
    chosen = [
        node_id
        for node_id in marks
        if node_id not in at_work
        and resting.get((node_id, task.task_id), now) <= now
        and exchange.wanted(node_id, task)
    ]
    if not chosen:
        return
    for delivery, node_id in line.send(task, {node_id: exchange.own_part(node_id, task) for node_id in chosen}).items():
        open_deliveries[delivery] = _Delivery(task, node_id, marks[node_id])
        exchange.asked(task, node_id)

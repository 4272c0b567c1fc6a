"""The relay's rules, with nodes and a round that exist in memory only."""

from collections.abc import Collection, Iterable, Mapping
from itertools import count

from coordinator.flower.exchange import Body, Task
from coordinator.flower.relay import RETRY_AFTER, Reply, relay
from protocol.errors import ContributionRefused

TRAIN = Task("train", "t1", {"steps": 3})


class Round:
    """Wants an answer of every node in ``members``; finished after ``turns`` looks."""

    interval = 1.0

    def __init__(self, members: set[int], turns: int) -> None:
        self.members = members
        self.turns = turns
        self.stored: dict[int, Body] = {}
        self.failures: list[tuple[int, str]] = []
        self.refuse: set[int] = set()
        self.addressed: set[int] = set()
        self.told: list[int] = []

    def next_task(self) -> Task | None:
        return TRAIN

    def wanted(self, node_id: int, task: Task) -> bool:
        return node_id in self.members and node_id not in self.stored

    def own_part(self, node_id: int, task: Task) -> Body:
        return {"for": node_id} if node_id in self.addressed else {}

    def asked(self, task: Task, node_id: int) -> None:
        self.told.append(node_id)

    def receive(self, task: Task, node_id: int, reply: Body) -> None:
        if node_id in self.refuse:
            raise ContributionRefused("The delta is not finite.")
        self.stored[node_id] = reply

    def failed(self, task: Task, node_id: int, reason: str) -> None:
        self.failures.append((node_id, reason))

    def finished(self) -> bool:
        self.turns -= 1
        return self.turns < 0


class Nodes:
    """Nodes that answer in the turn after they were asked, unless they are silent, failing or lost."""

    def __init__(self, turns: list[dict[int, str]]) -> None:
        self.turns = turns
        self.asked: list[int] = []
        self.told: dict[int, Body] = {}
        self.answers: dict[int, Reply | None] = {}
        self._numbers = count()
        self._waiting: dict[str, int] = {}
        self.time = 0.0

    def connected(self) -> dict[int, str]:
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]

    def send(self, task: Task, parts: Mapping[int, Body]) -> dict[str, int]:
        sent = {str(next(self._numbers)): node_id for node_id in parts}
        self.asked += parts
        self.told |= parts
        self._waiting |= sent
        return sent

    def replies(self, deliveries: Collection[str]) -> Iterable[Reply]:
        for delivery in list(deliveries):
            node_id = self._waiting[delivery]
            answer = self.answers.get(node_id, Reply("", {"delta": b"1"}))
            if answer is not None:
                yield Reply(delivery, answer.body, answer.reason, answer.lost)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def run(self, exchange: Round) -> None:
        relay(self, exchange, clock=lambda: self.time, sleep=self.sleep)


def test_every_wanted_node_is_asked_once_and_its_answer_stored() -> None:
    nodes, a_round = Nodes([{1: "x", 2: "x", 3: "x"}]), Round({1, 2}, turns=4)
    nodes.run(a_round)
    assert sorted(nodes.asked) == sorted(a_round.told) == [1, 2]
    assert a_round.stored == {1: {"delta": b"1"}, 2: {"delta": b"1"}}


def test_a_node_is_told_what_is_for_it_alone_and_nobody_else_is() -> None:
    nodes, a_round = Nodes([{1: "x", 2: "x"}]), Round({1, 2}, turns=4)
    a_round.addressed = {2}
    nodes.run(a_round)
    assert nodes.told == {1: {}, 2: {"for": 2}}


def test_a_node_that_connects_later_is_asked_then() -> None:
    nodes, a_round = Nodes([{1: "x"}, {1: "x"}, {1: "x", 2: "x"}]), Round({1, 2}, turns=6)
    nodes.run(a_round)
    assert nodes.asked == [1, 2]
    assert set(a_round.stored) == {1, 2}


def test_a_silent_node_is_not_asked_twice_until_it_starts_anew() -> None:
    nodes, a_round = Nodes([{1: "x"}] * 3 + [{}] + [{1: "y"}] * 3), Round({1}, turns=8)
    nodes.answers[1] = None
    nodes.run(a_round)
    assert nodes.asked == [1, 1]


def test_a_lost_delivery_is_nobodys_failure_and_is_sent_again() -> None:
    nodes, a_round = Nodes([{1: "x"}]), Round({1}, turns=3)
    nodes.answers[1] = Reply("", None, "unavailable", lost=True)
    nodes.run(a_round)
    assert nodes.asked == [1, 1, 1]
    assert a_round.failures == []


def test_a_failure_is_told_and_asked_again_only_after_a_rest() -> None:
    nodes, a_round = Nodes([{1: "x"}]), Round({1}, turns=int(RETRY_AFTER) + 3)
    nodes.answers[1] = Reply("", None, "Out of memory.")
    nodes.run(a_round)
    assert nodes.asked == [1, 1]
    assert a_round.failures == [(1, "Out of memory."), (1, "Out of memory.")]


def test_a_refused_answer_ends_neither_the_run_nor_the_others() -> None:
    nodes, a_round = Nodes([{1: "x", 2: "x"}]), Round({1, 2}, turns=4)
    a_round.refuse = {1}
    nodes.run(a_round)
    assert set(a_round.stored) == {2}
    assert a_round.failures == [(1, "The delta is not finite.")]


def test_a_second_answer_to_the_same_task_is_dropped() -> None:
    nodes, a_round = Nodes([{1: "x"}] * 2 + [{1: "y"}]), Round({1}, turns=4)
    nodes.answers[1] = None
    nodes.run(a_round)
    assert nodes.asked == [1, 1]
    del nodes.answers[1]
    a_round.turns, taken = 3, []
    a_round.receive = lambda task, node_id, reply: taken.append(node_id) or a_round.stored.update({1: reply})
    nodes.asked.clear()
    nodes.run(a_round)
    assert taken == [1]

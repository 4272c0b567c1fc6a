"""A Flower run that ends before its round does is started again, with growing pauses, and told of once."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from postgres_parts import database_in
from private_parts import AT, POLICY, SECRET_PLAN
from round_parts import PLAN
from steered_parts import SteeredRound

from coordinator.config import CoordinatorSettings
from coordinator.rounds.transitions import RoundState
from coordinator.rounds.worker import RUN_CHECK_SECONDS, RUN_PAUSE_SECONDS, STABLE_SECONDS, RunTries, Worker
from protocol.acts import PauseRound


@dataclass
class RunsFake:
    """NOT a SuperLink: no run is ever started; it counts what it is asked for and answers with set statuses."""

    statuses: dict[int, str] = field(default_factory=dict)

    def start_run(self, round_id: str) -> int:
        self.statuses[len(self.statuses) + 1] = "running"
        return len(self.statuses)

    def runs(self) -> Mapping[int, str]:
        return dict(self.statuses)

    def end(self, how: str) -> None:
        self.statuses[len(self.statuses)] = how


class Looking:
    """A worker over the round's own database, whose clock is set by hand; it never comes to ask a chain."""

    def __init__(self, here: SteeredRound) -> None:
        (here.folder / "policy.json").write_bytes(POLICY.canonical())
        settings = CoordinatorSettings(
            rpc_url="http://127.0.0.1:9",
            policy=here.folder / "policy.json",
            base=here.folder / "base",
            base_name="small",
            data=here.folder,
            database_url=database_in(here.folder),
        )
        self.runs, self.now = RunsFake(), 1000.0
        self.worker = Worker(settings, lambda: self.runs, lambda: self.now)
        self.round_id = here.round_id

    def after(self, seconds: float) -> int:
        """How many runs there have been by then."""
        self.now += seconds
        self.worker.advance(self.round_id)
        return len(self.runs.statuses)


@pytest.fixture
def steered(tmp_path: Path) -> Iterator[SteeredRound]:
    running = SteeredRound(tmp_path, PLAN, count=2, now=int(time.time()))
    yield running
    running.database.close()


@pytest.fixture
def waiting(steered: SteeredRound) -> Looking:
    return Looking(steered)


@pytest.mark.parametrize("how", ["failed", "stopped", "completed"])
def test_a_run_that_ended_is_started_again_for_those_still_missing_and_told_of_once(
    waiting: Looking, steered: SteeredRound, how: str
) -> None:
    assert waiting.after(0) == 1 and steered.told("round.run-again") == []
    steered.contribute(0)
    waiting.runs.end(how)
    assert waiting.after(1) == 1, "not at once"
    assert waiting.after(RUN_CHECK_SECONDS) == 2
    for _ in range(3):
        waiting.runs.end(how)
        waiting.after(RUN_PAUSE_SECONDS)
    assert len(waiting.runs.statuses) == 5
    [told] = steered.told("round.run-again")
    assert (told.body["status"], told.body["missing"]) == (how, 1)
    assert steered.exchange.wanted(1, steered.task()) and not steered.exchange.wanted(0, steered.task())


def test_a_superlink_that_forgot_the_run_gets_another(waiting: Looking) -> None:
    waiting.after(0)
    waiting.runs.statuses = {7: "running"}
    assert waiting.after(RUN_CHECK_SECONDS) == 2


def test_the_waits_grow_and_have_an_end_and_a_run_that_lasted_is_forgiven() -> None:
    tries, now, waits = RunTries(), 0.0, []
    for _ in range(12):
        tries = tries.started(now, again=True)
        waits.append(tries.next_look - now)
        now = tries.next_look
    assert waits == sorted(waits) and waits[0] == 2 * RUN_CHECK_SECONDS and waits[-1] == RUN_PAUSE_SECONDS
    assert tries.under_way(tries.since + STABLE_SECONDS).in_vain == 0
    assert tries.under_way(tries.since + 1).in_vain == 12


def test_a_paused_round_starts_no_run(waiting: Looking, steered: SteeredRound) -> None:
    order = steered.order(PauseRound, reason="Wait.")
    steered.steering.pause(order, "0x", AT)
    assert waiting.after(RUN_PAUSE_SECONDS) == 0


def test_every_exchange_of_a_secret_sum_has_a_run(tmp_path: Path) -> None:
    steered = SteeredRound(tmp_path, SECRET_PLAN, count=4, now=int(time.time()))
    looking = Looking(steered)
    assert looking.after(0) == 1
    steered.answer(0, 1, 2, 3)
    assert steered.state == RoundState.SHARING
    looking.runs.end("failed")
    assert looking.after(RUN_CHECK_SECONDS) == 2
    steered.database.close()

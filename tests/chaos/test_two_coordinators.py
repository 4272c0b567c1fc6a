"""Two processes on one database take the same steps at the same moments: each is taken once, and the log is one chain.

Then two real workers: one works, the other stands by and goes on when the first is killed; on a file it ends.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NoReturn

import pytest
from eth_account import Account
from postgres_parts import Postgres, database_in
from private_parts import AT, BASE, NOUNS, POLICY
from release_parts import manifest_of
from round_parts import PLAN, contribution_for, scores_for, write_small_base

from contracts_abi.model import Token
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.identity.grants import SignedGrant, store_grant
from coordinator.rounds import events
from coordinator.rounds.checks import adapted_layers
from coordinator.rounds.ledger import Ledger, Part
from coordinator.rounds.transitions import ALLOWED, RoundState
from coordinator.rounds.worker import Worker
from coordinator.watching.lapses import Lapse
from deploy.devchain.anvil import ANVIL_KEYS
from processes.children import PARENT
from protocol import node_key
from protocol.acts import CancelRound
from protocol.contribution import Candidate, ScoreTask, candidates_hash
from protocol.errors import Conflict, CoterieError, NotFound, Unreachable
from protocol.grant import Grant, StartRound, sign
from protocol.policy import judge

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ADMIN, *MEMBERS = ANVIL_KEYS[:4]
ROUNDS = 3
CANDIDATES = (Candidate(name="regression", sha256="c" * 64),)


@dataclass
class Story:
    """What both do: rounds from the order to a release, then a contribution that ends, and its removal."""

    url: str
    folder: Path

    def __post_init__(self) -> None:
        self.database = Database(self.url)
        self.ledger = Ledger(self.database, POLICY, self.folder / "contributions", 60.0, time.time)
        self.layers = adapted_layers(self.folder / "base")

    def begin(self) -> None:
        """Once, before the race: the members and their grants."""
        for number, wallet in enumerate(MEMBERS):
            node_key.create(self.key(number))
            with self.database.writing() as session:
                signed = SignedGrant(grant=self.grant(number), signature=sign(self.grant(number), wallet))
                store_grant(session, signed, number, AT, 1)

    def key(self, number: int) -> Path:
        return self.folder / f"node-{number}.pem"

    def grant(self, number: int) -> Grant:
        return Grant(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            member=Account.from_key(MEMBERS[number]).address,
            purpose=POLICY.purpose,
            tokens=(Token(chain_id=31337, contract=NOUNS, token_id=number),),
            node_key=node_key.public_of(self.key(number)),
            policy_hash=POLICY.digest(),
            base_hash=BASE,
            expires=2_000_000_000,
        )

    def order(self, nonce: str) -> StartRound:
        return StartRound(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            admin=Account.from_key(ADMIN).address,
            plan=PLAN,
            policy_hash=POLICY.digest(),
            base_hash=BASE,
            nonce=nonce,
            expires=2_000_000_000,
        )

    def open(self, nonce: str) -> None:
        grants = [self.grant(number) for number in range(len(MEMBERS))]
        parts = [Part(grant, tuple(judge(POLICY, token, None) for token in grant.tokens)) for grant in grants]
        order = self.order(nonce)
        self.ledger.open_training(order, sign(order, ADMIN), AT, parts)

    def contribute(self, number: int) -> None:
        round_id = self.active()
        task = self.ledger.train_task(round_id)
        one = contribution_for(task, self.grant(number).grant_id, self.key(number), number)
        self.ledger.receive(round_id, self.grant(number).node_key, one, self.layers)

    def active(self) -> str:
        """The one round that has not ended."""
        found = self.ledger.active()
        if not found:
            raise NotFound("The other process has ended the round.")
        (round_id,) = found
        return round_id

    @property
    def state(self) -> str:
        return self.ledger.facts(self.active()).state

    def step(self) -> None:
        round_id = self.active()
        self.ledger.take_step(round_id)

    def merge(self) -> None:
        round_id = self.active()
        live = [one.contribution_id for one in self.ledger.live_contributions(round_id)]
        self.ledger.set_candidates(round_id, live, candidates_hash(CANDIDATES))

    def score(self, number: int) -> None:
        round_id = self.active()
        task = ScoreTask(round_id=round_id, candidates=CANDIDATES, gains=PLAN.gains, seed=0, base_hash=BASE)
        signed = scores_for(task, self.grant(number).grant_id, self.key(number), (0.5, 0.4))
        self.ledger.receive_scores(round_id, self.grant(number).node_key, signed, CANDIDATES)

    def publish(self) -> None:
        round_id = self.active()
        manifest = manifest_of().model_copy(update={"round_id": round_id, "parent": self.ledger.latest_cid()})
        self.ledger.publish(round_id, f"cid-of-{round_id}", manifest)

    def sell(self) -> None:
        """What is live of the first member's ends."""
        gone = [one for one in self.ledger.watched() if one.member == self.grant(0).member]
        lapses = [Lapse(one.contribution_id, one.member, None, "It was sold.") for one in gone]
        self.ledger.end_contributions(lapses, AT)

    def cancel(self) -> None:
        round_id = self.active()
        fields = {"dao": POLICY.dao, "chain_id": POLICY.chain_id, "nonce": f"end of {round_id}"[:32]}
        act = CancelRound(
            **fields, expires=2_000_000_000, admin=Account.from_key(ADMIN).address, round_id=round_id, reason="Enough."
        )
        self.ledger.cancel(act, sign(act, ADMIN), AT)

    def moments(self, seed: int) -> Iterator[list[Callable[[], None]]]:
        """What is done at the same moment; each of the two in an order of its own."""
        everyone = list(range(len(MEMBERS)))
        own = random.Random(seed)
        for number in range(ROUNDS):
            nonce = f"order number {number}"
            yield [lambda nonce=nonce: self.open(nonce)]  # type: ignore[misc]
            yield [self.step]
            yield [lambda n=n: self.contribute(n) for n in own.sample(everyone, 3)]  # type: ignore[misc]
            yield from self._to_release(own, everyone)
            yield [self.sell]
            yield from self._to_release(own, everyone)
        yield [lambda: self.open("the last order")]
        yield own.sample([self.cancel, self.step], 2)

    def _to_release(self, own: random.Random, everyone: list[int]) -> Iterator[list[Callable[[], None]]]:
        yield [self.step]
        yield [self.merge]
        yield [lambda n=n: self.score(n) for n in own.sample(everyone, 3)]  # type: ignore[misc]
        yield [self.step]
        yield [self.publish]


def race(url: str, folder: Path, seed: int, both: Barrier) -> None:
    """One of the two processes."""
    story = Story(url, folder)
    for acts in story.moments(seed):
        both.wait(30)
        for act in acts:
            try:
                act()
            except CoterieError as refused:  # the other was first
                print(seed, repr(refused), file=sys.stderr)
        both.wait(30)


@pytest.mark.usefixtures("each_database")
def test_two_processes_that_take_the_same_steps_take_each_once(tmp_path: Path) -> None:
    url = database_in(tmp_path)
    write_small_base(tmp_path / "base")
    story = Story(url, tmp_path)
    story.begin()
    story.database.close()  # no connection is shared
    fork = multiprocessing.get_context("fork")
    both = fork.Barrier(2)
    racing = [fork.Process(target=race, args=(url, tmp_path, seed, both)) for seed in range(2)]
    for one in racing:
        one.start()
    for one in racing:
        one.join(60)
        assert one.exitcode == 0
    with story.database.reading() as session:
        told = events.after(session, 0, 10_000)
        assert events.checked(session) == (len(told), None)
    story.database.close()
    kinds = Counter(one.body["kind"] for one in told)
    assert kinds == {
        "grant.given": len(MEMBERS),
        "round.opened": 2 * ROUNDS + 1,
        "round.training": kinds["round.training"],
        "contribution.received": 3 * ROUNDS,
        "round.merging": ROUNDS,
        "round.scoring": 2 * ROUNDS,
        "scores.received": 5 * ROUNDS,
        "round.publishing": 2 * ROUNDS,
        "round.published": 2 * ROUNDS,
        "release.published": 2 * ROUNDS,
        "contribution.died": ROUNDS,
        "round.cancelled": 1,
    }
    assert kinds["round.training"] in (ROUNDS, ROUNDS + 1), "the last round was cancelled before or after that step"
    for round_id in {one.body["round_id"] for one in told if one.body["kind"] == "round.opened"}:
        states = [
            RoundState(one.body["state"])
            for one in told
            if one.body.get("round_id") == round_id and "state" in one.body
        ]
        assert all(after in ALLOWED[before] for before, after in pairwise(states)), states


# Workers --------------------------------------------------------------------------------------------------------------


AT_WORK, STANDS_BY = "this is the one worker", "this one stands by"


class Working:
    """The real command, in a process of its own."""

    def __init__(self, config: Path, log: Path, url: str) -> None:
        self.log = log
        environment = {name: value for name, value in os.environ.items() if name != PARENT}
        environment["COTERIE_COORDINATOR_DATABASE_URL"] = url
        with log.open("wb") as said:
            command = [sys.executable, "-m", "coordinator", "worker", "--config", str(config)]
            self.process = subprocess.Popen(command, stderr=said, stdout=said, cwd=ROOT, env=environment)

    @property
    def said(self) -> str:
        return self.log.read_text()


def until(true: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_small_base(tmp_path / "base")
    (tmp_path / "policy.json").write_bytes(POLICY.canonical())
    (tmp_path / "coordinator.toml").write_text(
        'rpc_url = "http://127.0.0.1:9"\npolicy = "policy.json"\nbase = "base"\nbase_name = "small"\n'
    )
    return tmp_path / "coordinator.toml"


@contextmanager
def two_workers(config: Path, folder: Path, url: str) -> Iterator[list[Working]]:
    both = [Working(config, folder / f"{name}.log", url) for name in ("one", "other")]
    try:
        yield both
    finally:
        for one in both:
            one.process.kill()
            one.process.wait()


def test_a_worker_that_stands_by_goes_on_when_the_first_is_killed(
    config: Path, tmp_path: Path, postgres: Postgres
) -> None:
    with postgres.new() as url, two_workers(config, tmp_path, url) as both:
        story = Story(url, tmp_path)
        story.begin()
        until(lambda: any(AT_WORK in one.said for one in both), lambda: both[0].said)
        first, second = sorted(both, key=lambda one: AT_WORK not in one.said)
        until(lambda: STANDS_BY in second.said, lambda: second.said)
        story.open("the first order")
        until(lambda: story.state == RoundState.TRAINING, lambda: first.said)
        assert "round_id" not in second.said
        first.process.kill()
        for number in range(len(MEMBERS)):
            story.contribute(number)
        until(lambda: story.state != RoundState.TRAINING, lambda: second.said)
        assert AT_WORK in second.said
        second.process.terminate()
        assert second.process.wait(20) == 0
        story.database.close()


def test_a_second_worker_of_a_file_ends_with_a_sentence(config: Path, tmp_path: Path) -> None:
    settings = CoordinatorSettings.load(config)
    settings.data.mkdir()
    with (settings.data / "worker.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the kernel's lock is between open files: as if by another process
        with pytest.raises(Conflict, match=r"Another worker has .*\. Run one worker a data folder\."):
            Worker(settings, runs=nowhere).run(threading.Event())


def nowhere() -> NoReturn:
    raise Unreachable("There is no SuperLink here.")

"""One bad contribution never spoils a round: whatever Mallory sends, the others' contributions are merged without it.

The ledger, the database, the checks and the merge are the real ones; the replies are handed over as Flower's are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from eth_account import Account
from postgres_parts import database_in
from round_parts import PLAN, SHAPES, adapter_for, contribution_for, reply_of, signed, statistics_for, write_small_base

from contracts_abi.model import Snapshot, Token
from coordinator.database import Database
from coordinator.flower.exchange import Body, Task
from coordinator.identity.grants import SignedGrant, store_grant
from coordinator.rounds.checks import adapted_layers
from coordinator.rounds.exchange import RoundExchange
from coordinator.rounds.ledger import Ledger, Part
from coordinator.rounds.secret import SecretSums
from coordinator.rounds.transitions import RoundState, Step
from deploy.devchain.anvil import ANVIL_KEYS
from merging.merge import MergeInput, merge
from protocol import node_key
from protocol.adapter import Factors, Sketch, dump_adapter
from protocol.canonical import sha256
from protocol.contribution import Contribution, TrainTask
from protocol.errors import BadInput, ContributionRefused, CoterieError
from protocol.grant import Grant, StartRound, sign
from protocol.policy import AdminRole, CollectionRule, Policy, Weights, judge

NOUNS, NOW = "0x" + "11" * 20, 1_795_000_000
POLICY = Policy(
    dao="Nouns",
    purpose="Train one model.",
    chain_id=31337,
    admin=AdminRole(contract=NOUNS),
    collections=(CollectionRule(contract=NOUNS, name="Nouns", licence="CC0"),),
    weights=Weights.PER_TOKEN,
)
AT = Snapshot(chain_id=31337, number=1, hash=f"0x{1:064x}", timestamp=NOW)
ALICE, BOB, CAROL, MALLORY = ANVIL_KEYS[1:5]
HONEST = (ALICE, BOB, CAROL)
TOKENS = 3
QUERY = next(name for name in SHAPES if name.endswith("to_q"))


@dataclass
class Round:
    """A round under way, with four members."""

    folder: Path
    grants: dict[str, Grant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = Database(database_in(self.folder))
        self.ledger = Ledger(self.database, POLICY, self.folder / "contributions", 60.0, lambda: NOW)
        base = write_small_base(self.folder / "base")
        for number, key in enumerate((*HONEST, MALLORY)):
            self._join(key, number)
        order = StartRound(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            admin=Account.from_key(ANVIL_KEYS[0]).address,
            plan=PLAN,
            policy_hash=POLICY.digest(),
            base_hash="b" * 64,
            nonce="a first order",
            expires=2_000_000_000,
        )
        parts = [Part(one, tuple(judge(POLICY, token, None) for token in one.tokens)) for one in self.grants.values()]
        self.round_id = self.ledger.open_training(order, sign(order, ANVIL_KEYS[0]), AT, parts)
        self.ledger.move(self.round_id, Step(RoundState.TRAINING, "All is set."))
        secret = SecretSums(self.database, POLICY, self.folder / "contributions", lambda: NOW)
        layers, candidates = adapted_layers(base), self.folder / "candidates"
        self.exchange = RoundExchange(self.ledger, secret, self.round_id, layers, candidates)

    def _join(self, key: str, number: int) -> None:
        node_key.create(self.key(key))
        grant = Grant(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            member=Account.from_key(key).address,
            purpose=POLICY.purpose,
            tokens=tuple(Token(chain_id=31337, contract=NOUNS, token_id=10 * number + n) for n in range(TOKENS)),
            node_key=node_key.public_of(self.key(key)),
            policy_hash=POLICY.digest(),
            base_hash="b" * 64,
            expires=NOW + 1000,
        )
        with self.database.writing() as session:
            store_grant(session, SignedGrant(grant=grant, signature=sign(grant, key)), number, AT, NOW)
        self.grants[key] = grant

    def key(self, key: str) -> Path:
        return self.folder / key[-8:]

    @property
    def task(self) -> TrainTask:
        return self.ledger.train_task(self.round_id)

    def made(self, key: str, seed: int = 0, **parts: object) -> Contribution:
        return contribution_for(self.task, self.grants[key].grant_id, self.key(key), seed, **parts)  # type: ignore[arg-type]

    def send(self, key: str, reply: Body) -> None:
        number = list(self.grants).index(key)
        self.exchange.receive(Task("train", "train", {}), number, reply)

    def live(self) -> set[str]:
        return {one.grant.member for one in self.ledger.live_contributions(self.round_id)}

    def members(self, *keys: str) -> set[str]:
        return {self.grants[key].member for key in keys}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Round]:
    running = Round(tmp_path)
    yield running
    running.database.close()


def adapter_with(change: Callable[[Factors], Factors]) -> dict[str, Factors]:
    """An ordinary adapter but for one layer."""
    return {name: change(f) if name == QUERY else f for name, f in adapter_for(9).items()}


def not_a_number(here: Round) -> Body:
    return reply_of(here.made(MALLORY, adapter=adapter_with(lambda f: Factors(f.a * np.nan, f.b))))


def infinite(here: Round) -> Body:
    return reply_of(here.made(MALLORY, adapter=adapter_with(lambda f: Factors(f.a, np.full_like(f.b, -np.inf)))))


def broadcasting(here: Round) -> Body:
    return reply_of(here.made(MALLORY, adapter=adapter_with(lambda f: Factors(f.a, f.b[:1]))))


def zero(here: Round) -> Body:
    adapter = {name: Factors(f.a, 0 * f.b, f.kernel) for name, f in adapter_for(9).items()}
    return reply_of(here.made(MALLORY, adapter=adapter))


def too_large_to_sum(here: Round) -> Body:
    one = here.made(MALLORY, adapter=adapter_with(lambda f: Factors(f.a * 0 + 6e4, f.b * 0 + 6e4)))
    return reply_of(one)


def statistics_of(change: Callable[[Sketch], Sketch]) -> Callable[[Round], Body]:
    def make(here: Round) -> Body:
        return reply_of(here.made(MALLORY, statistics={g: change(s) for g, s in statistics_for(9).items()}))

    return make


huge_statistics = statistics_of(lambda s: Sketch(s.factor * 100, s.diagonal))
empty_statistics = statistics_of(lambda s: Sketch(s.factor * 0, s.diagonal * 0))
infinite_statistics = statistics_of(lambda s: Sketch(s.factor * np.inf, s.diagonal))
wide_statistics = statistics_of(lambda s: Sketch(np.pad(s.factor, ((0, 0), (0, 7))), s.diagonal))


def copied(here: Round) -> Body:
    """Alice's adapter under Mallory's name, signed by Mallory."""
    return reply_of(here.made(MALLORY, adapter=adapter_for(HONEST.index(ALICE))))


def in_alices_name(here: Round) -> Body:
    return reply_of(here.made(ALICE, seed=9))


def with_bytes(adapter: bytes) -> Callable[[Round], Body]:
    def make(here: Round) -> Body:
        one = here.made(MALLORY)
        header = one.header.model_copy(update={"adapter_sha256": sha256(adapter)})
        return reply_of(signed(replace(one, header=header, adapter=adapter), here.key(MALLORY)))

    return make


no_safetensors = with_bytes(b"\x80\x04 a pickle")
nested = with_bytes((1 << 20).to_bytes(8, "little") + b"[" * (1 << 20))


def with_header(**training: object) -> Callable[[Round], Body]:
    """The header as Mallory writes it, beside what its own program would send."""

    def make(here: Round) -> Body:
        reply = reply_of(here.made(MALLORY))
        header = json.loads(reply["header"])  # type: ignore[arg-type]
        header["training"] |= training
        return {**reply, "header": json.dumps(header).encode()}

    return make


no_number_told = with_header(seconds=float("nan"))
no_whole_number_told = with_header(steps=10**30)
unsigned_boast = with_header(steps=10**6)


def nothing(here: Round) -> Body:
    return {"header": b"{}"}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (not_a_number, "not finite"),
        (infinite, "not finite"),
        (broadcasting, "other shapes"),
        (zero, "changes nothing"),
        (too_large_to_sum, "too large"),
        (huge_statistics, "trace"),
        (empty_statistics, "trace"),
        (infinite_statistics, "not finite"),
        (wide_statistics, "have rank 9; the limit is 4"),
        (copied, "Another member has contributed this very adapter"),
        (in_alices_name, "for another grant"),
        (no_safetensors, "longer than the file"),
        (nested, "no JSON"),
        (no_number_told, "cannot be hashed"),
        (no_whole_number_told, "cannot be hashed"),
        (unsigned_boast, "signature"),
        (nothing, "header is wrong"),
    ],
)
def test_a_bad_contribution_is_told_of_and_the_others_are_merged(
    here: Round, make: Callable[[Round], Body], reason: str
) -> None:
    here.send(ALICE, reply_of(here.made(ALICE, HONEST.index(ALICE))))
    with pytest.raises((ContributionRefused, BadInput), match=reason):
        here.send(MALLORY, make(here))
    for seed, key in enumerate(HONEST):
        here.send(key, reply_of(here.made(key, seed)))
    live = here.ledger.live_contributions(here.round_id)
    assert {one.grant.member for one in live} == here.members(*HONEST)
    inputs = [
        MergeInput(contribution_id=o.contribution_id, weight=o.weight, adapter=o.adapter, statistics=o.statistics)
        for o in live
    ]
    assert all(account.weight > 0 for account in merge(inputs, PLAN).accounts.values())


def test_what_a_member_says_of_its_training_changes_no_weight(here: Round) -> None:
    """Ten thousand steps and nine thousand seconds, duly signed: the weight is the number of admitted tokens."""
    one = here.made(MALLORY, 9)
    training = one.header.training.model_copy(update={"steps": 10**9, "seconds": 9e9, "last_loss": -1.0})
    boast = replace(one, header=one.header.model_copy(update={"training": training}))
    here.send(MALLORY, reply_of(signed(boast, here.key(MALLORY))))
    here.send(ALICE, reply_of(here.made(ALICE, 1)))
    assert {one.weight for one in here.ledger.live_contributions(here.round_id)} == {TOKENS}


def test_the_first_of_two_copies_counts_and_its_owner_may_send_it_again(here: Round) -> None:
    alices = reply_of(here.made(ALICE, 1))
    here.send(ALICE, alices)
    with pytest.raises(ContributionRefused, match="very adapter"):
        here.send(MALLORY, reply_of(here.made(MALLORY, 1)))
    here.send(ALICE, alices)
    assert here.live() == here.members(ALICE)


@pytest.mark.usefixtures("each_database")
def test_a_hundred_random_bodies_end_in_refusals_only(here: Round) -> None:
    rng = np.random.default_rng(0)
    good = reply_of(here.made(MALLORY, 9))
    for _ in range(100):
        name = str(rng.choice(["header", "signature", "adapter", "statistics"]))
        value = good[name] if isinstance(good[name], bytes) else str(good[name]).encode()
        broken = bytearray(value)  # type: ignore[arg-type]
        for at in rng.integers(0, len(broken), 3):
            broken[at] = rng.integers(256)
        body = bytes(broken) if isinstance(good[name], bytes) else broken.decode("latin-1")
        with pytest.raises(CoterieError):
            here.send(MALLORY, {**good, name: body})
    here.send(ALICE, reply_of(here.made(ALICE, 1)))
    assert here.live() == here.members(ALICE)
    assert dump_adapter(adapter_for(1)) == (next(iter((here.folder / "contributions").glob("*/adapter*"))).read_bytes())

"""A round in a private mode, ledger, exchange and members' node side real; only the training is left out.

Members' updates are drawn, and a clock is set by hand, so that exchanges end when a test says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from eth_account import Account
from postgres_parts import database_in
from round_parts import PLAN, write_small_base

from client.node import secret as member_side
from contracts_abi.model import Snapshot, Token
from coordinator.database import Database
from coordinator.flower.exchange import Body, Task
from coordinator.identity.grants import SignedGrant, store_grant
from coordinator.rounds.checks import adapted_layers, fixed_factors
from coordinator.rounds.exchange import RoundExchange
from coordinator.rounds.ledger import Ledger
from coordinator.rounds.parts import Part
from coordinator.rounds.secret import SecretSums
from coordinator.rounds.transitions import RoundState, next_step
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import node_key
from protocol.canonical import sha256
from protocol.contribution import Contribution, ContributionHeader, TokenUse, TrainTask
from protocol.grant import Grant, RoundPlan, StartRound, sign
from protocol.masking import MaskTask
from protocol.modes import FloatArray, Mode
from protocol.policy import AdminRole, CollectionRule, Policy, Weights, judge
from protocol.update import dump_update

NOUNS, BASE, BEGAN = "0x" + "11" * 20, "b" * 64, 1_795_000_000
POLICY = Policy(
    dao="Nouns",
    purpose="Train one model.",
    chain_id=31337,
    admin=AdminRole(contract=NOUNS),
    collections=(CollectionRule(contract=NOUNS, name="Nouns", licence="CC0"),),
    weights=Weights.PER_TOKEN,
    modes=(Mode.OPEN, Mode.SECAGG, Mode.DP),
)
AT = Snapshot(chain_id=31337, number=1, hash=f"0x{1:064x}", timestamp=BEGAN)
SECRET_PLAN = PLAN.model_copy(update={"mode": Mode.SECAGG, "clip": 4.0, "exchange_seconds": 60, "quorum": 3})
NOISED_PLAN = PLAN.model_copy(update={"mode": Mode.DP, "clip": 4.0, "noise": 2.0, "gain": 1.5, "quorum": 2})


@dataclass
class Member:
    """A wallet, its node's key and folder, and what it would have trained."""

    wallet: str
    home: Path
    grant: Grant
    update: FloatArray

    @property
    def key(self) -> Path:
        return self.home / "node.pem"

    def sign(self, message: bytes) -> str:
        return node_key.sign(self.key, message)


@dataclass
class PrivateRound:
    """One coordinator with a database of its own, and members 0, 1, 2, …; member i owns i + 1 tokens."""

    folder: Path
    plan: RoundPlan
    count: int = 4
    policy: Policy = POLICY
    now: int = BEGAN
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(database_in(self.folder))
        contributions = self.folder / "contributions"
        self.ledger = Ledger(self.database, self.policy, contributions, 60.0, lambda: self.now)
        self.secret = SecretSums(self.database, self.policy, contributions, lambda: self.now)
        self.layers = adapted_layers(write_small_base(self.folder / "base"))
        self.factors = fixed_factors(self.layers, BASE, self.plan)
        for number in range(self.count):
            self._join(number)
        self.round_id = self.open("a first order")

    def open(self, nonce: str) -> str:
        """Another round by the same plan, its training under way."""
        order = StartRound(
            dao=self.policy.dao,
            chain_id=self.policy.chain_id,
            admin=Account.from_key(ANVIL_KEYS[0]).address,
            plan=self.plan,
            policy_hash=self.policy.digest(),
            base_hash=BASE,
            nonce=nonce,
            expires=self.now + 3600,
        )
        parts = [Part(m.grant, tuple(judge(self.policy, t, None) for t in m.grant.tokens)) for m in self.members]
        self.round_id = self.ledger.open_training(order, sign(order, ANVIL_KEYS[0]), AT, parts)
        if self.plan.mode is Mode.SECAGG:
            self.secret.begin(self.round_id, self.layers)
        self.exchange = RoundExchange(self.ledger, self.secret, self.round_id, self.layers, self.folder / "candidates")
        self.go()
        return self.round_id

    def _join(self, number: int) -> None:
        home, wallet = self.folder / f"member-{number}", ANVIL_KEYS[1 + number]
        home.mkdir()
        node_key.create(home / "node.pem")
        grant = Grant(
            dao=self.policy.dao,
            chain_id=self.policy.chain_id,
            member=Account.from_key(wallet).address,
            purpose=self.policy.purpose,
            tokens=tuple(Token(chain_id=31337, contract=NOUNS, token_id=10 * number + n) for n in range(number + 1)),
            node_key=node_key.public_of(home / "node.pem"),
            policy_hash=self.policy.digest(),
            base_hash=BASE,
            expires=BEGAN + 10**6,
        )
        with self.database.writing() as session:
            store_grant(session, SignedGrant(grant=grant, signature=sign(grant, wallet)), number, AT, BEGAN)
        update = np.random.default_rng(number).normal(0, 0.2, self.factors.size)
        self.members.append(Member(wallet, home, grant, update))

    @property
    def state(self) -> RoundState:
        return self.ledger.facts(self.round_id).state

    def go(self) -> RoundState:
        """Every step that is due, as the worker takes them."""
        while step := next_step(self.ledger.standing(self.round_id)):
            self.ledger.move(self.round_id, step)
        return self.state

    def wait(self, seconds: int) -> RoundState:
        self.now += seconds
        return self.go()

    def task(self) -> Task:
        task = self.exchange.next_task()
        assert task, f"a round that is {self.state} asks nothing"
        return task

    def reply(self, number: int, task: Task | None = None) -> Body:
        """What the member's node says to the task of the moment."""
        task = task or self.task()
        body, member = task.body | self.exchange.own_part(number, task), self.members[number]
        if task.kind == "mask":
            return self._masked(member, body)
        if self.plan.mode is Mode.DP:
            return self.noised_reply(number)
        return member_side.advertise(member.home, member_side.opening(body), member.grant.node_key, member.sign)

    def _masked(self, member: Member, body: Body) -> Body:
        asked = MaskTask.model_validate_json(body["task"])  # type: ignore[arg-type]
        said = member_side.exchange(member.home, asked, body, lambda: member.update, member.sign)
        if asked.exchange != "input":
            return said
        header = self.header(member, sha256(said["adapter"]))  # type: ignore[arg-type]
        return said | {"header": header.canonical(), "signature": member.sign(header.canonical())}

    def noised_reply(self, number: int, update: FloatArray | None = None) -> Body:
        member = self.members[number]
        sent = dump_update(member.update if update is None else update)
        header = self.header(member, sha256(sent))
        return {"header": header.canonical(), "signature": member.sign(header.canonical()), "adapter": sent}

    def contribution(self, number: int) -> Contribution:
        reply = self.noised_reply(number)
        header = ContributionHeader.model_validate_json(reply["header"])  # type: ignore[arg-type]
        return Contribution(header, str(reply["signature"]), reply["adapter"])  # type: ignore[arg-type]

    def header(self, member: Member, sent: str) -> ContributionHeader:
        task: TrainTask = self.ledger.train_task(self.round_id)
        uses = tuple(
            TokenUse(token=t, media_sha256=sha256(str(t).encode()), caption=f"noun {t.token_id}", held_out=False)
            for t in member.grant.tokens
        )
        return ContributionHeader(
            round_id=self.round_id,
            grant_id=member.grant.grant_id,
            node_key=member.grant.node_key,
            plan_hash=task.plan.digest(),
            policy_hash=task.policy_hash,
            base_hash=task.base_hash,
            tokens=uses,
            adapter_sha256=sent,
        )

    def answer(self, *numbers: int) -> RoundState:
        """These members answer the task of the moment, and the round goes on where it can."""
        task = self.task()
        for number in numbers:
            assert self.exchange.wanted(number, task), f"member {number} is not asked"
            self.exchange.receive(task, number, self.reply(number, task))
            assert not self.exchange.wanted(number, task), f"member {number} is asked again"
        return self.go()

    def plain_mean(self, *numbers: int) -> FloatArray:
        """What a secret sum of these must come to, in the open."""
        weights = [self.policy.weight_of(len(self.members[n].grant.tokens)) for n in numbers]
        parts = [w * self.plan.grid.whole(self.members[n].update) for n, w in zip(numbers, weights, strict=True)]
        return self.plan.grid.value(np.sum(parts, axis=0)) / sum(weights)

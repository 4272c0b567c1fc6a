"""A round with everything that admins and members can do to it; only training, merging and publishing are left out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from eth_account import Account
from private_parts import AT, NOUNS, Member, PrivateRound
from round_parts import adapter_for, contribution_for
from sqlalchemy import select

from contracts_abi.model import Token
from coordinator.database import ContributionRow
from coordinator.identity.grants import SignedGrant, store_grant
from coordinator.rounds import events
from coordinator.rounds.events import Event
from coordinator.rounds.latecomers import Latecomers
from coordinator.rounds.steering import Steering
from coordinator.rounds.transitions import RoundState
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import node_key
from protocol.acts import AdminAct
from protocol.canonical import sha256
from protocol.contribution import (
    Candidate,
    Contribution,
    ScoreReport,
    SignedScoreReport,
    TrainTask,
    candidates_hash,
)
from protocol.grant import Grant, RoundPlan, sign
from protocol.policy import judge

ADMIN = Account.from_key(ANVIL_KEYS[0]).address
AnyAct = TypeVar("AnyAct", bound=AdminAct)


@dataclass(frozen=True)
class NoManifest:
    """Not a manifest: what the ledger reads off one when it notes a release."""

    plan: RoundPlan
    parent: str | None
    contributions: tuple[Grant, ...]

    def canonical(self) -> bytes:
        return b"{}"


@dataclass
class SteeredRound(PrivateRound):
    """Members 0, 1, 2, … are nodes 0, 1, 2, …; a wallet that grants anew keeps its node or gets another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steering = Steering(self.database, self.policy, lambda: self.now)
        self.asked_about: list[str] = []
        self._nonces, self._seeds = count(), count(1)

    @property
    def latecomers(self) -> Latecomers:
        """As of a worker that has just been started."""

        def judged(grant: Grant, at: object) -> tuple[object, ...]:
            assert at == AT
            self.asked_about.append(grant.grant_id)
            return tuple(judge(self.policy, token, None) for token in grant.tokens)

        return Latecomers(self.database, self.policy, judged, lambda: self.now)  # type: ignore[arg-type]

    def order(self, kind: type[AnyAct], **particulars: object) -> AnyAct:
        head = {"dao": "Nouns", "chain_id": 31337, "nonce": f"nonce-{next(self._nonces):04}", "expires": self.now + 600}
        if "contribution_id" not in particulars:
            particulars.setdefault("round_id", self.round_id)
        return kind.model_validate(head | {"admin": ADMIN} | particulars)

    def late(self, number: int) -> Member:
        """Member ``number`` grants now, and the worker looks."""
        self._join(number)
        self.latecomers.step()
        return self.members[-1]

    def grants_anew(
        self, number: int, *, tokens: tuple[int, ...] = (), node: int | None = None, contract: str = NOUNS
    ) -> Grant:
        """The wallet of member ``number`` signs another grant, for the same machine or for ``node``."""
        before = self.members[number]
        named = (
            {"tokens": tuple(Token(chain_id=31337, contract=contract, token_id=one) for one in tokens)}
            if tokens
            else {}
        )
        if node is not None:
            node_key.create(self.folder / f"node-{node}.pem")
            named["node_key"] = node_key.public_of(self.folder / f"node-{node}.pem")
        grant = before.grant.model_copy(update={"expires": before.grant.expires + 1 + next(self._nonces), **named})
        signed = SignedGrant(grant=grant, signature=sign(grant, before.wallet))
        with self.database.writing() as session:
            store_grant(session, signed, number if node is None else node, AT, self.now)
        self.latecomers.step()
        return grant

    def made(self, number: int, grant: Grant | None = None, task: TrainTask | None = None) -> Contribution:
        """What the member's machine has trained under its grant."""
        member = self.members[number]
        told = task or self.ledger.train_task(self.round_id)
        seed, under = next(self._seeds), grant or member.grant
        return contribution_for(told, under.grant_id, member.key, seed, adapter_for(seed), tokens=under.tokens)

    def contribute(self, number: int, grant: Grant | None = None) -> str:
        """The machine answers, and the answer is acknowledged; the contribution's id."""
        made = self.made(number, grant)
        self.ledger.receive(self.round_id, made.header.node_key, made, self.layers)
        return made.contribution_id

    @property
    def candidate(self) -> Candidate:
        """What a merge of what is live now would be called here; nothing is merged."""
        live = [one.contribution_id for one in self.ledger.live_contributions(self.round_id)]
        return Candidate(name="mean", sha256=sha256(repr(live).encode()))

    def merge(self) -> RoundState:
        """As the worker does in merging."""
        live = [one.contribution_id for one in self.ledger.live_contributions(self.round_id)]
        self.ledger.set_candidates(self.round_id, live, candidates_hash([self.candidate]))
        return self.go()

    def score(self, number: int) -> None:
        """Member ``number`` scores what is live, which is what was merged."""
        member = self.members[number]
        report = ScoreReport(
            round_id=self.round_id,
            grant_id=member.grant.grant_id,
            node_key=member.grant.node_key,
            candidates_hash=candidates_hash([self.candidate]),
            losses=((0.2, 0.1),),
            images=1,
        )
        signed = SignedScoreReport(report=report, signature=member.sign(report.canonical()))
        self.ledger.receive_scores(self.round_id, member.grant.node_key, signed, [self.candidate])

    def publish(self) -> None:
        """As the worker does in publishing, with a paper that is no manifest."""
        live = self.ledger.live_contributions(self.round_id)
        paper = NoManifest(self.plan, self.ledger.latest_cid(), tuple(one.grant for one in live))
        self.ledger.publish(self.round_id, f"cid-{self.round_id}", paper)  # type: ignore[arg-type]

    def merged(self) -> frozenset[str]:
        return self.ledger.standing(self.round_id).merged

    def states(self) -> dict[str, str]:
        """Contribution → state."""
        with self.database.reading() as session:
            return {one.contribution_id: one.state for one in session.scalars(select(ContributionRow))}

    def told(self, kind: str) -> list[Event]:
        with self.database.reading() as session:
            return [one for one in events.after(session, 0, 10_000) if one.body["kind"] == kind]

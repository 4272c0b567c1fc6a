"""A coordinator's database as it is after years: members with grants, and a long line of releases.

The rows are what the ledger leaves behind, and every document in them is real: grants and headers are signed, manifests
name their contributions and verdicts. Tensors are not there: no page reads them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eth_account import Account
from pydantic import JsonValue
from sqlalchemy import insert

from contracts_abi.model import Snapshot, Token
from coordinator.database import (
    ContributionRow,
    Database,
    GrantRow,
    ReleaseRow,
    RoundGrantRow,
    RoundRow,
    RoundTokenRow,
)
from coordinator.rounds import events
from protocol import node_key
from protocol.canonical import sha256
from protocol.contribution import ContributionHeader, StatisticsRecipe, TokenUse, Training
from protocol.grant import Grant, RoundPlan, sign
from protocol.manifest import BaseReference, GainScore, Manifest, Merge, MergedContribution, Removal
from protocol.policy import AdminRole, CollectionRule, Policy, judge
from protocol.unixfs import build_directory

DAY = 86_400
BEGAN = 1_700_000_000
TOKENS_EACH = 3
NOUNS, PERSONAL = "0x" + "1" * 40, "0x" + "2" * 40
POLICY = Policy(
    dao="Bench DAO",
    purpose="Find out how many people a coordinator can serve.",
    chain_id=31337,
    admin=AdminRole(contract=NOUNS),
    collections=(
        CollectionRule(contract=NOUNS, name="Nouns", licence="CC0", evidence="nouns.wtf says so"),
        CollectionRule(contract=PERSONAL, name="Personal Nouns"),
    ),
)
PLAN = RoundPlan()


@dataclass(frozen=True)
class Size:
    """How much there is. A release is of ``contributors`` members; from one to the next some come and some go."""

    members: int = 1000
    releases: int = 200
    contributors: int = 40

    def window(self, number: int) -> range:
        """The members whose contributions are in release ``number`` (from 0)."""
        first = number * (self.members - self.contributors) // max(1, self.releases - 1)
        return range(first, first + self.contributors)


def key_of(member: int) -> str:
    """The wallet's key of a member, hex: everybody's to know, like the DAO itself."""
    return sha256(f"bench member {member}".encode())


def fill(database: Database, base_hash: str, folder: Path, size: Size) -> None:
    """Write everything, in one transaction. ``folder`` is for node keys; it may go afterwards."""
    people = [_Person(member, base_hash, folder) for member in range(size.members)]
    with database.writing() as session:
        for person in people:
            at = BEGAN + person.member
            grant = person.grant
            session.execute(insert(GrantRow), [person.grant_row(at)])
            facts: dict[str, JsonValue] = {
                "grant_id": grant.grant_id,
                "member": grant.member,
                "tokens": [str(t) for t in grant.tokens],
            }
            events.append(session, at, "grant.given", f"{grant.member} granted {TOKENS_EACH} tokens.", **facts)
        parent: str | None = None
        for number in range(size.releases):
            before = size.window(number - 1) if number else range(0)
            for table, rows, told in _round(number, people, size.window(number), before, base_hash, parent):
                session.execute(insert(table), rows)
                for kind, message, told_facts in told:
                    events.append(session, BEGAN + (number + 1) * DAY, kind, message, **told_facts)
                if table is ReleaseRow:
                    parent = str(rows[0]["cid"])


class _Person:
    """A member with a wallet, a node key, a grant, and the one contribution made under it."""

    def __init__(self, member: int, base_hash: str, folder: Path) -> None:
        self.member = member
        wallet = Account.from_key(key_of(member))
        key = folder / f"{member}.pem"
        node_key.create(key)
        ids = range(member * TOKENS_EACH, (member + 1) * TOKENS_EACH)
        self.tokens = tuple(Token(chain_id=POLICY.chain_id, contract=NOUNS, token_id=one) for one in ids)
        self.grant = Grant(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            member=wallet.address,
            purpose=POLICY.purpose,
            tokens=self.tokens,
            node_key=node_key.public_of(key),
            policy_hash=POLICY.digest(),
            base_hash=base_hash,
            expires=BEGAN + 20 * 365 * DAY,
        )
        self.signature = sign(self.grant, key_of(member))
        self._key = key
        self.merged: MergedContribution | None = None

    def grant_row(self, at: int) -> dict[str, object]:
        return {
            "grant_id": self.grant.grant_id,
            "member": self.grant.member,
            "node_key": self.grant.node_key,
            "node_id": str(self.member + 1),
            "document": self.grant.canonical().decode(),
            "signature": self.signature,
            "snapshot": _block(0).model_dump_json(),
            "expires": self.grant.expires,
            "given_at": at,
            "replaced": False,
        }

    def contribution(self, number: int, share: float) -> MergedContribution:
        """In round ``number``, or as it was made in an earlier one."""
        if self.merged is None:
            self.merged = self._contributed(number)
        return self.merged.model_copy(update={"share": share})

    def _contributed(self, number: int) -> MergedContribution:
        uses = tuple(
            TokenUse(
                token=one,
                media_sha256=sha256(str(one).encode()),
                caption=f"a noun with head {one.token_id % 254} and red square glasses on a cool background",
                held_out=place == 0,
            )
            for place, one in enumerate(self.tokens)
        )
        header = ContributionHeader(
            round_id=_round_id(number),
            grant_id=self.grant.grant_id,
            node_key=self.grant.node_key,
            plan_hash=PLAN.digest(),
            policy_hash=self.grant.policy_hash,
            base_hash=self.grant.base_hash,
            tokens=uses,
            adapter_sha256=sha256(b"adapter" + self.grant.canonical()),
            statistics_sha256=sha256(b"statistics" + self.grant.canonical()),
            recipe=StatisticsRecipe(pictures=16, sampling_steps=20, noise_levels=8, seed=0, rank=8),
            training=Training(steps=240, seconds=93.5, device="cpu", first_loss=0.41, last_loss=0.17),
        )
        return MergedContribution(
            contribution_id=header.digest()[:16],
            member=self.grant.member,
            grant=self.grant,
            grant_signature=self.signature,
            signed_at=_block(number),
            header=header,
            signature=node_key.sign(self._key, header.canonical()),
            weight=TOKENS_EACH,
            share=0.0,
            rank=PLAN.rank,
            norm=1.23456789,
            influence=0.0123,
            licences=("CC0",),
            snapshot=_block(number),
            admitted=TOKENS_EACH,
            verdicts=tuple(judge(POLICY, one, None) for one in self.tokens),
            received_at=BEGAN + number * DAY + self.member,
        )


_Told = Sequence[tuple[str, str, Mapping[str, str]]]
_Rows = tuple[type, list[dict[str, object]], _Told]


def _round(
    number: int, people: Sequence[_Person], now: range, before: range, base_hash: str, parent: str | None
) -> Iterator[_Rows]:
    """One round's rows, table by table in the order of their references, and what the log says of them."""
    round_id, block = _round_id(number), _block(number)
    merged = tuple(people[one].contribution(number, 1 / len(now)) for one in now)
    new = [people[one] for one in now if one not in before]
    gone = [people[one] for one in before if one not in now]
    manifest = _manifest(number, merged, gone, base_hash, parent)
    document = manifest.canonical()
    root, _ = build_directory({"manifest.json": document})
    opened = BEGAN + (number + 1) * DAY - 3600
    row: dict[str, object] = {
        "round_id": round_id,
        "number": number + 1,
        "kind": "training",
        "state": "published",
        "epoch": 1,
        "plan": PLAN.canonical().decode(),
        "policy_hash": POLICY.digest(),
        "base_hash": base_hash,
        "snapshot": block.model_dump_json(),
        "opened_at": opened,
        "deadline": opened + 3000,
        "merged": json.dumps(sorted(one.contribution_id for one in merged)),
        "cid": str(root),
    }
    yield RoundRow, [row], [("round.opened", f"Round {number + 1} opened.", {"round_id": round_id})]
    parts: list[dict[str, object]] = [
        {"round_id": round_id, "grant_id": one.grant.grant_id, "expected": True, "reason": None} for one in new
    ]
    yield RoundGrantRow, parts, ()
    tokens: list[dict[str, object]] = [
        {"round_id": round_id, "grant_id": person.grant.grant_id, "token": str(one), "allow": v.allow, "verdict": text}
        for person in new
        for one in (*person.tokens, _personal(person.member))
        for v in [judge(POLICY, one, None)]
        for text in [v.canonical().decode()]
    ]
    yield RoundTokenRow, tokens, ()
    yield ContributionRow, [_contribution_row(person, round_id) for person in new], _received(new, round_id)
    release: dict[str, object] = {
        "number": number + 1,
        "cid": str(root),
        "round_id": round_id,
        "kind": "training",
        "parent": parent,
        "manifest": document.decode(),
        "published_at": opened + 3600,
    }
    said = f"Release {number + 1} is published: {root}."
    yield ReleaseRow, [release], [("release.published", said, {"round_id": round_id, "cid": str(root)})]


def _received(people: Sequence[_Person], round_id: str) -> _Told:
    return [
        ("contribution.received", f"{person.grant.member} contributed.", {"round_id": round_id}) for person in people
    ]


def _contribution_row(person: _Person, round_id: str) -> dict[str, object]:
    merged = person.merged
    if merged is None:
        raise LookupError(f"Member {person.member} has contributed nothing.")
    return {
        "contribution_id": merged.contribution_id,
        "round_id": round_id,
        "grant_id": person.grant.grant_id,
        "member": person.grant.member,
        "header": merged.header.canonical().decode(),
        "signature": merged.signature,
        "size": 2_400_000,
        "received_at": merged.received_at,
        "state": "live",
    }


def _manifest(
    number: int, merged: tuple[MergedContribution, ...], gone: Sequence[_Person], base_hash: str, parent: str | None
) -> Manifest:
    return Manifest(
        dao=POLICY.dao,
        round_id=_round_id(number),
        kind="training",
        epoch=1,
        parent=parent,
        base=BaseReference(name="bench base", hash=base_hash),
        policy_hash=POLICY.digest(),
        snapshot=_block(number),
        plan=PLAN,
        contributions=merged,
        exclusions=tuple(judge(POLICY, _personal(one), None) for one in range(10)),
        removals=tuple(_removal(one, number) for one in gone if one.merged),
        merge=Merge(
            regularisation=1e-4,
            rank=8,
            tail=0.01,
            commitment=sha256(_round_id(number).encode()),
            gain=1.0,
            scores=(GainScore(gain=0.0, loss=0.45), GainScore(gain=1.0, loss=0.18)),
            scored_by=len(merged),
        ),
        licence="CC0",
        duties=(),
        files={f"{name}.safetensors": sha256(f"{name} {number}".encode()) for name in ("adapter", "kohya")},
    )


def _removal(person: _Person, number: int) -> Removal:
    if person.merged is None:
        raise LookupError(f"Member {person.member} has contributed nothing.")
    return Removal(
        contribution_id=person.merged.contribution_id,
        member=person.grant.member,
        token=person.tokens[0],
        block=_block(number),
        reason=f"{person.tokens[0]} was sold, and its licence ended with that.",
    )


def _personal(token_id: int) -> Token:
    return Token(chain_id=POLICY.chain_id, contract=PERSONAL, token_id=token_id)


def _round_id(number: int) -> str:
    return sha256(f"round {number}".encode())[:16]


def _block(number: int) -> Snapshot:
    return Snapshot(
        chain_id=POLICY.chain_id, number=1000 + number, hash=f"0x{number + 1:064x}", timestamp=BEGAN + number * DAY
    )

"""A DAO whose pages can be read: the real Flask app over a real database that the real ledger has filled."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from flask.testing import FlaskClient
from PIL import Image

from contracts_abi.model import LicenceSignal, Snapshot, Token
from contracts_abi.ownership.holding import Holding
from coordinator.config import CoordinatorSettings
from coordinator.identity.grants import SignedGrant, store_grant
from coordinator.rounds.checks import Layer
from coordinator.rounds.ledger import Ledger, LiveContribution, Part
from coordinator.rounds.transitions import next_step
from coordinator.watching.lapses import lapsed
from coordinator.web.app import create_app
from coordinator.web.service import Service
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import grant as typed
from protocol import node_key
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics
from protocol.canonical import sha256
from protocol.contribution import (
    Candidate,
    Contribution,
    ContributionHeader,
    ScoreReport,
    SignedScoreReport,
    StatisticsRecipe,
    TokenUse,
    Training,
    candidates_hash,
)
from protocol.grant import WARRANT, Grant, RoundPlan, StartRound
from protocol.manifest import BaseReference, GainScore, Manifest, Merge, MergedContribution
from protocol.policy import AdminRole, CollectionRule, Policy, Verdict, judge
from protocol.policy.duties import union

NOW = 1_795_000_000
URI = "http://127.0.0.1:8000"
NOUNS, COMMERCIAL, PERSONAL = ("0x" + digit * 40 for digit in "123")
SIGNALS = {
    COMMERCIAL: LicenceSignal(name="COMMERCIAL", uri="ar://x"),
    PERSONAL: LicenceSignal(name="PERSONAL", uri="ar://y"),
}
POLICY = Policy(
    dao="Nouns & friends",
    purpose="Train one image model of our own.",
    chain_id=31337,
    admin=AdminRole(contract=NOUNS),
    collections=(
        CollectionRule(contract=NOUNS, name="Nouns", licence="CC0", evidence="nouns.wtf says so"),
        CollectionRule(contract=COMMERCIAL, name="Commercial Nouns"),
        CollectionRule(contract=PERSONAL, name="Personal Nouns"),
    ),
    accept_holder_warrant=True,
)
CANDIDATES = (Candidate(name="regression mean", sha256="ab" * 32),)
PLAN = RoundPlan(rank=2, statistics_rank=2, gains=(0.0, 1.0), quorum=2, deadline_seconds=600)
LAYER, GROUP = "mid.attn1.to_q", "mid.attn1.input"
LAYERS = {LAYER: Layer(4, 4)}


def token(contract: str, token_id: int) -> Token:
    return Token(chain_id=31337, contract=contract, token_id=token_id)


def snapshot(number: int) -> Snapshot:
    return Snapshot(chain_id=31337, number=number, hash=f"0x{number:064x}", timestamp=NOW)


def sheet(columns: int = 8) -> bytes:
    """A sample sheet with so many pictures in each row."""
    out = io.BytesIO()
    Image.new("RGB", (columns * 128, 256), "teal").save(out, "PNG")
    return out.getvalue()


@dataclass
class Dao:
    """A DAO whose story is told by calling the ledger as API, exchange and worker do."""

    folder: Path
    samples: bytes = field(default_factory=sheet)
    now: int = NOW

    def __post_init__(self) -> None:
        (self.folder / "base").mkdir(parents=True)
        (self.folder / "base" / "model_index.json").write_text("{}")
        (self.folder / "policy.json").write_bytes(POLICY.canonical())
        settings = CoordinatorSettings(
            data=self.folder / "data",
            rpc_url="http://127.0.0.1:9",
            policy=self.folder / "policy.json",
            base=self.folder / "base",
            base_name="nouns32",
            uri=URI,
        )
        self.app = create_app(settings)
        self.service = Service(settings, clock=lambda: self.now)
        self.app.extensions["coterie"] = self.service
        self.members: dict[str, Grant] = {}

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def join(self, key: str, tokens: tuple[Token, ...]) -> str:
        """A member's grant; its wallet."""
        wallet = typed.Account.from_key(key).address
        node_key.create(self.folder / wallet)
        grant = Grant(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            member=wallet,
            purpose=POLICY.purpose,
            tokens=tokens,
            warrant=WARRANT,
            node_key=node_key.public_of(self.folder / wallet),
            policy_hash=POLICY.digest(),
            base_hash=self.service.base_hash,
            expires=self.now + 10_000,
        )
        with self.service.database.writing() as session:
            signed = SignedGrant(grant=grant, signature=typed.sign(grant, key))
            store_grant(session, signed, len(self.members) + 1, snapshot(100), self.now)
        self.members[wallet] = grant
        return wallet

    def start_round(self, denied: tuple[Token, ...] = ()) -> str:
        """An admin's order, taken to training."""
        order = StartRound(
            dao=POLICY.dao,
            chain_id=POLICY.chain_id,
            admin=typed.Account.from_key(ANVIL_KEYS[0]).address,
            plan=PLAN,
            policy_hash=POLICY.digest(),
            base_hash=self.service.base_hash,
            nonce=f"order-{self.now}",
            expires=self.now + 600,
        )
        parts = [
            Part(grant, tuple(map(self.verdict, (*grant.tokens, *(denied if i == 0 else ())))))
            for i, grant in enumerate(self.members.values())
        ]
        round_id = self.ledger.open_training(order, typed.sign(order, ANVIL_KEYS[0]), snapshot(101), parts)
        self.step(round_id)
        return round_id

    def verdict(self, one: Token) -> Verdict:
        return judge(POLICY, one, SIGNALS.get(one.contract))

    def step(self, round_id: str) -> None:
        step = next_step(self.ledger.standing(round_id))
        assert step
        self.ledger.move(round_id, step)

    def contribute(self, round_id: str, wallet: str) -> None:
        grant = self.members[wallet]
        seed = int(wallet[-4:], 16)
        values = np.random.default_rng(seed).normal(size=(2, 4))
        adapter = dump_adapter({LAYER: Factors(values, values.T)})
        statistics = dump_statistics({GROUP: Sketch(np.zeros((4, 1)), np.full(4, 0.25))})
        uses = tuple(
            TokenUse(token=t, media_sha256=sha256(str(t).encode()), caption=f"head {t.token_id}", held_out=not i)
            for i, t in enumerate(grant.tokens)
        )
        header = ContributionHeader(
            round_id=round_id,
            grant_id=grant.grant_id,
            node_key=grant.node_key,
            plan_hash=PLAN.digest(),
            policy_hash=grant.policy_hash,
            base_hash=grant.base_hash,
            tokens=uses,
            adapter_sha256=sha256(adapter),
            statistics_sha256=sha256(statistics),
            recipe=StatisticsRecipe(pictures=1, sampling_steps=1, noise_levels=1, seed=0, rank=2),
            training=Training(steps=1, seconds=1.0, device="cpu", first_loss=0.5, last_loss=0.2),
        )
        signature = node_key.sign(self.folder / wallet, header.canonical())
        self.ledger.receive(round_id, grant.node_key, Contribution(header, signature, adapter, statistics), LAYERS)

    def publish(self, round_id: str) -> str:
        """Merge, score and publish, with the manifest that says so; the release's CID."""
        live = self.ledger.live_contributions(round_id)
        self.ledger.set_candidates(round_id, [one.contribution_id for one in live], candidates_hash(CANDIDATES))
        for one in live:
            self.score(round_id, one)
        self.step(round_id)
        manifest = self.manifest(round_id, live)
        cid = str(self.service.store.put({"manifest.json": manifest.canonical(), "samples.png": self.samples}))
        self.ledger.publish(round_id, cid, manifest)
        return cid

    def score(self, round_id: str, one: LiveContribution) -> None:
        report = ScoreReport(
            round_id=round_id,
            grant_id=one.grant.grant_id,
            node_key=one.grant.node_key,
            candidates_hash=candidates_hash(CANDIDATES),
            losses=((0.452, 0.179),),
            images=1,
        )
        signature = node_key.sign(self.folder / one.grant.member, report.canonical())
        signed = SignedScoreReport(report=report, signature=signature)
        self.ledger.receive_scores(round_id, one.grant.node_key, signed, CANDIDATES)

    def manifest(self, round_id: str, live: list[LiveContribution]) -> Manifest:
        facts = self.ledger.facts(round_id)
        merged = tuple(
            MergedContribution(
                contribution_id=one.contribution_id,
                member=one.grant.member,
                grant=one.grant,
                grant_signature=one.grant_signature,
                header=one.header,
                signature=one.signature,
                weight=one.weight,
                share=one.weight / sum(each.weight for each in live),
                rank=2,
                norm=1.0,
                licences=tuple(sorted({v.licence for v in one.verdicts if v.licence})),
                verdicts=tuple(one.verdicts),
            )
            for one in live
        )
        return Manifest(
            dao=POLICY.dao,
            round_id=round_id,
            kind=facts.kind.value,
            epoch=facts.epoch,
            parent=self.ledger.latest_cid(),
            base=BaseReference(name="nouns32", hash=facts.base_hash),
            policy_hash=facts.policy_hash,
            snapshot=facts.snapshot,
            plan=facts.plan,
            contributions=merged,
            exclusions=self.ledger.exclusions(round_id),
            removals=self.ledger.removals() if facts.kind == "removal" else (),
            merge=Merge(
                regularisation=1e-4,
                rank=2,
                tail=0.0,
                commitment="cd" * 32,
                gain=1.0,
                scores=(GainScore(gain=0.0, loss=0.452), GainScore(gain=1.0, loss=0.179)),
                scored_by=len(live),
            ),
            licence=" AND ".join(sorted({name for one in merged for name in one.licences})),
            duties=union(*(v.duties for one in live for v in one.verdicts)),
            files={},
        )

    def page(self, path: str = "/") -> str:
        return self.client.get(path).get_data(as_text=True)


def two_members(dao: Dao) -> tuple[str, str]:
    alice = dao.join(ANVIL_KEYS[1], (token(NOUNS, 1), token(NOUNS, 2)))
    bob = dao.join(ANVIL_KEYS[2], (token(NOUNS, 3), token(COMMERCIAL, 4)))
    return alice, bob


def published(dao: Dao) -> tuple[str, str, str]:
    """A first release by two members; (alice, bob, CID)."""
    alice, bob = two_members(dao)
    round_id = dao.start_round(denied=(token(PERSONAL, 7), token(PERSONAL, 8)))
    for member in (alice, bob):
        dao.contribute(round_id, member)
    dao.step(round_id)
    return alice, bob, dao.publish(round_id)


def sold(dao: Dao, number: int = 164) -> str:
    """Bob's commercial token goes to someone else; the removal round's id."""
    held = {claim: Holding(False, "0x" + "9" * 40) for one in dao.ledger.watched() for claim in one.claims}
    lapses = lapsed(dao.ledger.watched(), held, snapshot(number))
    round_id = dao.ledger.end_contributions(lapses, snapshot(number))
    assert round_id
    return round_id


class Links(HTMLParser):
    """Every address that a browser or a reader could follow from the page, and what a strict CSP would block."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.blocked: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "srcset", "action", "data", "poster", "hx-get", "hx-sse:connect"):
                self.targets.append(value or "")
            if name == "style" or name.startswith("on"):
                self.blocked.append(f"{tag} {name}")
        named = {name for name, _ in attrs}
        if tag in ("style", "iframe", "object", "base") or (tag == "script" and "src" not in named):
            self.blocked.append(tag)

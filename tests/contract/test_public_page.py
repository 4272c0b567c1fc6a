"""The public page, from the real Flask app over a real database that the real ledger has filled."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
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


def sheet() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (1024, 256), "teal").save(out, "PNG")
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
            duties=(),
            files={},
        )

    def page(self) -> str:
        return self.client.get("/").get_data(as_text=True)


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    there = Dao(tmp_path)
    yield there
    there.service.database.close()


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
            if name in ("href", "src", "srcset", "action", "data", "poster"):
                self.targets.append(value or "")
            if name == "style" or name.startswith("on"):
                self.blocked.append(f"{tag} {name}")
        if tag in ("style", "script", "iframe", "form"):
            self.blocked.append(tag)


def test_before_the_first_round_the_page_says_how_to_take_part(dao: Dao) -> None:
    page = dao.page()
    assert "Nouns &amp; friends" in page
    assert "Nothing has been released yet" in page
    assert f"coterie join {URI}" in page
    assert "No round has been started yet" in page


def test_a_round_under_way_shows_how_many_contributions_are_in(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    dao.contribute(round_id, alice)
    page = dao.page()
    assert "members are training, each on their own machine; 1 of 2 contributions are in" in page
    assert re.search(r'aria-current="step">train<', page)
    assert "live, not merged yet" in page


def test_a_failed_round_tells_its_reason(dao: Dao) -> None:
    alice, _ = two_members(dao)
    round_id = dao.start_round()
    dao.contribute(round_id, alice)
    dao.now += 601
    dao.step(round_id)
    page = dao.page()
    assert "The newest round ended without a release." in page
    assert "The deadline has passed with 1 of 2 contributions. The quorum is 2." in page
    assert "Nothing has been released yet" in page


def test_a_published_release_shows_its_cid_its_pictures_and_who_is_in_it(dao: Dao) -> None:
    alice, _, cid = published(dao)
    page = dao.page()
    assert f"coterie pull {cid} --gateway {URI} --into collective" in re.sub("<[^>]+>", "", page)
    assert f'src="/ipfs/{cid}/samples.png"' in page
    assert "from 0.452 to 0.179" in page
    assert "CBE-COMMERCIAL AND CC0" in page
    assert page.count("50.0%") == 4  # two threads, two contributions
    assert alice in page and f"{alice[:6]}…{alice[-4:]}" in page
    assert "and 1 kept for scoring" in page
    assert "were checked and hang together" in page


def test_what_was_left_out_is_told_once_for_each_reason(dao: Dao) -> None:
    published(dao)
    page = dao.page()
    assert "Personal Nouns #7 #8" in page
    assert page.count("CBE-PERSONAL does not allow derivatives") == 1


def test_the_sample_sheet_comes_from_the_same_origin_as_a_picture(dao: Dao) -> None:
    *_, cid = published(dao)
    answer = dao.client.get(f"/ipfs/{cid}/samples.png")
    assert (answer.status_code, answer.content_type) == (200, "image/png")
    assert answer.data == dao.samples


def test_between_sale_and_removal_the_page_warns_of_the_release(dao: Dao) -> None:
    published(dao)
    sold(dao)
    page = dao.page()
    assert "Part of this release is no longer covered by its licence." in page
    assert "A removal round is under way" in page


def test_after_a_removal_the_history_says_who_went_and_why(dao: Dao) -> None:
    alice, bob, first = published(dao)
    second = dao.publish(sold(dao))
    page = dao.page()
    assert first != second
    assert page.index(second) < page.index(first)
    assert "Part of this release is no longer covered" not in page
    went = page[page.index('<span class="sign went">') :]
    assert f"{bob[:6]}…{bob[-4:]}" in went[:200]
    assert "ends for the seller with the transfer" in went[:600]
    assert "100.0%" in page  # alice's share now
    assert "holds what has been sold since" in page  # the first release
    assert alice in page


def test_text_from_the_chain_is_never_markup(dao: Dao) -> None:
    two_members(dao)
    with dao.service.database.writing() as session:
        from coordinator.rounds import events

        events.append(session, NOW, "test", "<script>alert(1)</script>")
    assert "<script" not in dao.page()


def test_a_log_that_was_changed_is_told(dao: Dao) -> None:
    published(dao)
    with dao.service.database.writing() as session:
        from coordinator.database import EventRow

        row = session.get_one(EventRow, 2)
        row.body = row.body.replace("granted", "was granted")
    page = dao.page()
    assert "do not hang together" in page
    assert "were checked and hang together" not in page


@pytest.mark.parametrize("state", ["none", "published", "removed"])
def test_the_page_asks_nothing_of_anyone_else(dao: Dao, state: str) -> None:
    if state != "none":
        published(dao)
    if state == "removed":
        dao.publish(sold(dao))
    answer = dao.client.get("/")
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    links = Links(answer.get_data(as_text=True))
    assert not links.blocked
    assert all(target.startswith(("/", "#")) and not target.startswith("//") for target in links.targets)


@pytest.mark.parametrize("state", ["none", "published", "removed"])
def test_every_link_on_the_page_leads_somewhere(dao: Dao, state: str) -> None:
    if state != "none":
        published(dao)
    if state == "removed":
        dao.publish(sold(dao))
    page = dao.page()
    for target in Links(page).targets:
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in page
        elif not target.startswith(("/api/v1/dao", "/ipfs/")):
            assert dao.client.get(target).status_code == 200, target


def test_the_style_sheet_loads_nothing_else(dao: Dao) -> None:
    css = dao.client.get("/static/page.css").get_data(as_text=True)
    assert "@import" not in css and "url(" not in css

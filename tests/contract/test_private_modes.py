"""Whole rounds in the private modes on a real chain, with real training: from the order to a release that is read back.

Only Flower's transport is left out: tasks and replies are handed over in this process (test_flower_link has it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import Chain
from eth_account import Account
from nft_parts import noun_uri

from bases import EMBEDDED_BASE
from client.node.work import handler_for
from client.wallet.grant import StoredGrant
from client.wallet.key import Wallet
from coordinator.config import CoordinatorSettings
from coordinator.database import Database, ReleaseRow
from coordinator.eligibility.verdicts import opening_verdicts
from coordinator.identity.grants import SignedGrant, store_grant
from coordinator.releases.store import CarStore
from coordinator.rounds.checks import adapted_layers
from coordinator.rounds.exchange import RoundExchange
from coordinator.rounds.ledger import Part
from coordinator.rounds.queries import round_row
from coordinator.rounds.transitions import RoundState
from coordinator.rounds.worker import Worker
from coordinator.wiring import ledger_of, secret_sums_of
from deploy.devchain.anvil import ANVIL_KEYS, CHAIN_ID
from deploy.devchain.deployment import Deployer, onchain_nouns
from protocol import node_key
from protocol.grant import WARRANT, Grant, RoundPlan, StartRound, sign
from protocol.manifest import Manifest
from protocol.modes import GIVES_UP, Mode
from protocol.policy import AdminRole, CollectionRule, Policy
from protocol.unixfs import Cid
from protocol.verification import check_papers, read_release

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn_here")]

PLAN = RoundPlan(rank=2, steps=2, batch=2, drift=0.0, gains=(0.0, 1.0), quorum=3, clip=1.0, noise=2.0)
EACH = 5


@dataclass
class RunsFake:
    """Not a SuperLink: the tests carry tasks and replies themselves."""

    started: int = 0

    def start_run(self, round_id: str) -> int:
        self.started += 1
        return self.started

    def runs(self) -> dict[int, str]:
        return {number + 1: "running" for number in range(self.started)}


@dataclass
class Dao:
    """Three members with five Nouns each, and a coordinator that is started anew for every look."""

    chain: Chain
    folder: Path
    wallets: dict[str, Deployer] = field(init=False)
    round_id: str = ""

    def __post_init__(self) -> None:
        chain = self.chain
        self.wallets = dict(zip(ANVIL_KEYS[1:4], (chain.alice, chain.bob, chain.carol), strict=True))
        self.nouns = chain.admin.deploy(onchain_nouns(), "Private Nouns", "PRIV", "ipfs://none/")
        owners = [wallet.address for wallet in self.wallets.values() for _ in range(EACH)]
        chain.admin.mint_with_uris(self.nouns, [(owner, noun_uri(n)) for n, owner in enumerate(owners)])
        self.snapshot = chain.snapshot()
        self.policy = Policy(
            dao="Private Nouns",
            purpose="One model.",
            chain_id=CHAIN_ID,
            admin=AdminRole(contract=self.nouns.address),
            collections=(CollectionRule(contract=self.nouns.address, name="Nouns", licence="CBE-COMMERCIAL"),),
            accept_holder_warrant=True,
            modes=(Mode.SECAGG, Mode.DP),
            epsilon_limit=3.0,
        )
        (self.folder / "policy.json").write_bytes(self.policy.canonical())
        (self.folder / "coordinator.toml").write_text(
            f'rpc_url = "{chain.url}"\npolicy = "policy.json"\nbase = "{EMBEDDED_BASE}"\nbase_name = "nouns32"\n'
            'uri = "https://nouns.example"\n'
        )
        self.settings = CoordinatorSettings.load(self.folder / "coordinator.toml")
        self.settings.data.mkdir()
        self.database = Database(self.settings.database)
        self.ledger = ledger_of(self.settings, self.database)
        self.runs = RunsFake()
        self.grants = [self._join(number, key) for number, key in enumerate(self.wallets)]

    def home(self, number: int) -> Path:
        return self.folder / f"member-{number}"

    def _join(self, number: int, key: str) -> Grant:
        self.home(number).mkdir()
        node_key.create(self.home(number) / "node.pem")
        grant = Grant(
            dao=self.policy.dao,
            chain_id=CHAIN_ID,
            member=Account.from_key(key).address,
            purpose=self.policy.purpose,
            tokens=tuple(self.chain.token(self.nouns, number * EACH + n) for n in range(EACH)),
            warrant=WARRANT,
            node_key=node_key.public_of(self.home(number) / "node.pem"),
            policy_hash=self.policy.digest(),
            base_hash=self.settings.base_hash,
            expires=4_000_000_000,
        )
        signature = Wallet.from_key(key).sign_grant(grant)
        StoredGrant(
            grant=grant, signature=signature, policy=self.policy, coordinator="https://nouns.example", gateways=()
        ).save(self.home(number))
        with self.database.writing() as session:
            store_grant(session, SignedGrant(grant=grant, signature=signature), number, self.snapshot, 1)
        return grant

    def open(self, plan: RoundPlan) -> None:
        order = StartRound(
            dao=self.policy.dao,
            chain_id=CHAIN_ID,
            admin=Account.from_key(ANVIL_KEYS[0]).address,
            plan=plan,
            policy_hash=self.policy.digest(),
            base_hash=self.settings.base_hash,
            nonce=f"order-{plan.mode}",
            expires=4_000_000_000,
        )
        rpc = self.chain.rpc
        parts = [Part(g, tuple(opening_verdicts(rpc, self.policy, g, self.snapshot))) for g in self.grants]
        self.round_id = self.ledger.open_training(order, sign(order, ANVIL_KEYS[0]), self.snapshot, parts)
        self.tick()

    def tick(self) -> RoundState:
        """A worker that has just been started looks once."""
        Worker(self.settings, lambda: self.runs).tick()
        return self.ledger.facts(self.round_id).state

    def ask(self, *numbers: int) -> list[dict[str, bytes | str | int | float]]:
        """The members with these numbers do the task of the moment; what they said."""
        layers = adapted_layers(self.settings.base)
        secret = secret_sums_of(self.settings, self.database)
        exchange = RoundExchange(self.ledger, secret, self.round_id, layers, self.settings.candidates)
        task = exchange.next_task()
        assert task
        said = []
        for number in numbers:
            body = task.body | exchange.own_part(number, task)
            said.append(handler_for(self.home(number)).handle(task.kind, body))
            assert "declined" not in said[-1], said[-1]["declined"]
            exchange.receive(task, number, said[-1])
        return said

    def manifest(self) -> Manifest:
        with self.database.reading() as session:
            newest = session.query(ReleaseRow).order_by(ReleaseRow.number.desc()).first()
        assert newest
        CarStore(self.settings.store).verify(Cid.parse(newest.cid))
        return Manifest.model_validate_json(newest.manifest)

    def card(self) -> str:
        return (self.settings.releases / self.round_id / "README.md").read_text()

    def reason(self) -> str:
        with self.database.reading() as session:
            return round_row(session, self.round_id).reason or ""


@pytest.fixture
def dao(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dao]:
    monkeypatch.setenv("COTERIE_RPC_URL", chain.url)
    monkeypatch.setenv("COTERIE_THREADS", "1")
    here = Dao(chain, tmp_path)
    yield here
    here.database.close()


def test_a_secret_sum_becomes_a_release_though_a_member_leaves_on_the_way(dao: Dao) -> None:
    dao.open(PLAN.model_copy(update={"mode": Mode.SECAGG, "quorum": 2}))
    keys = dao.ask(0, 1, 2)
    assert {tuple(said) for said in keys} == {("said",)}, "more than keys left a machine after training"
    assert dao.tick() == RoundState.SHARING
    dao.ask(0, 1, 2)
    assert dao.tick() == RoundState.MASKING
    masked = dao.ask(0, 1, 2)
    assert dao.tick() == RoundState.CONFIRMING
    dao.ask(0, 1, 2)
    assert dao.tick() == RoundState.UNMASKING
    dao.ask(0, 1)  # the third is silent from here on
    assert dao.tick() == RoundState.SCORING
    dao.ask(0, 1, 2)
    assert dao.tick() == RoundState.PUBLISHED

    manifest = dao.manifest()
    assert (manifest.merge.mode, manifest.merge.rule) == (Mode.SECAGG, "secret sum")
    assert manifest.merge.gives_up == GIVES_UP[Mode.SECAGG]
    assert len(manifest.contributions) == 3
    assert {(c.norm, c.influence, c.header.training) for c in manifest.contributions} == {(None, None, None)}
    for contribution in manifest.contributions:
        contribution.check()
    papers = check_papers(read_release(dao.settings.releases / dao.round_id))
    assert not [one for one in papers if one.outcome == "failed"], papers
    assert "the coordinator could read the sum alone" in dao.card()
    trained = [(dao.home(n) / "rounds" / dao.round_id / "update.bin").read_bytes()[32:] for n in range(3)]
    seen = b"".join(bytes(said["adapter"]) for said in masked)
    assert not any(part[:64] in seen for part in trained), "an update left its machine without masks"
    sent = [json.loads(line)["what"] for line in (dao.home(0) / "sent.jsonl").read_text().splitlines()]
    assert sent == ["said"] * 3 + ["adapter", "header", "signature"] + ["said"] * 2 + ["report"]


def test_a_noised_release_says_its_epsilon_and_a_removal_must_be_within_the_budget(dao: Dao) -> None:
    pytest.importorskip("opendp")
    dao.open(PLAN.model_copy(update={"mode": Mode.DP, "gain": 1.0}))
    dao.ask(0, 1, 2)
    assert dao.tick() == RoundState.PUBLISHED, "nobody is asked to score"

    manifest = dao.manifest()
    assert (manifest.merge.mode, manifest.merge.rule, manifest.merge.commitment) == (Mode.DP, "noised mean", None)
    assert (manifest.merge.scores, manifest.merge.gain) == ((), 1.0)
    spent = manifest.merge.privacy
    assert spent and spent.releases == 1 and 2.0 < spent.epsilon < 2.5
    assert f"ε = {spent.epsilon:.2f}" in dao.card()
    update = (dao.home(0) / "rounds" / dao.round_id / "update.bin").read_bytes()
    own = next(c for c in manifest.contributions if c.member == dao.grants[0].member)
    assert own.header.training is None and own.share == pytest.approx(1 / 3)
    assert np.isfinite(np.frombuffer(update[32:], "<f4")).all()

    dao.chain.carol.transfer(dao.nouns, dao.grants[2].tokens[0].token_id, dao.chain.buyer.address)
    dao.chain.anvil.finalize()
    dao.tick()
    dao.round_id = removal_of(dao)
    assert dao.ledger.facts(dao.round_id).state == RoundState.FAILED
    assert "would bring a member to ε = " in dao.reason() and "the policy allows 3" in dao.reason()


def removal_of(dao: Dao) -> str:
    from coordinator.database import RoundRow

    with dao.database.reading() as session:
        newest = session.query(RoundRow).order_by(RoundRow.number.desc()).first()
    assert newest and newest.kind == "removal"
    return str(newest.round_id)


def test_a_member_whose_policy_knows_no_such_mode_declines(dao: Dao) -> None:
    stored = next((dao.home(0) / "grants").glob("*.json"))
    granted = StoredGrant.model_validate_json(stored.read_bytes())
    open_only = granted.policy.model_copy(update={"modes": (Mode.OPEN,)})
    stored.write_bytes(granted.model_copy(update={"policy": open_only}).canonical())
    dao.open(PLAN.model_copy(update={"mode": Mode.DP}))
    with pytest.raises(AssertionError, match="has no dp rounds"):
        dao.ask(0)

"""What a node does with tasks: it trains within its grant only, answers the same twice, and keeps the pictures."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Chain
from nft_parts import noun_uri

from client.config import load_settings
from client.node.tasks import TaskHandler
from client.node.work import handler_for
from client.progress import ProgressTail
from client.wallet.grant import StoredGrant
from client.wallet.key import Wallet
from contracts_abi.model import Snapshot, Token
from deploy.devchain.anvil import ANVIL_KEYS, CHAIN_ID
from protocol import node_key
from protocol.adapter import load_statistics
from protocol.base import base_hash
from protocol.canonical import sha256
from protocol.contribution import Candidate, Contribution, ContributionHeader, ScoreTask, SignedScoreReport, TrainTask
from protocol.errors import BadInput, ContentMismatch
from protocol.grant import WARRANT, Grant, RoundPlan
from protocol.policy import AdminRole, CollectionRule, Policy

OTHER_HASH = "cd" * 32
PLAN = RoundPlan(rank=2, steps=2, batch=2, statistics_pictures=2, statistics_rank=4)
FAR_FUTURE = 4_000_000_000
NOUNS = "0x" + "11" * 20


@dataclass(frozen=True)
class Member:
    """A member's folder with one grant in it, and the tasks that a coordinator would send."""

    home: Path
    granted: StoredGrant
    snapshot: Snapshot

    @property
    def handler(self) -> TaskHandler:
        return handler_for(self.home)

    def train_task(self, **changed: object) -> TrainTask:
        grant = self.granted.grant
        task = TrainTask(
            round_id="round-1",
            dao=grant.dao,
            plan=PLAN,
            policy_hash=grant.policy_hash,
            base_hash=grant.base_hash,
            snapshot=self.snapshot,
            tokens={grant.grant_id: grant.tokens},
        )
        return task.model_copy(update=changed)

    def train(self, **changed: object) -> dict[str, bytes | str | int | float]:
        return self.handler.handle("train", {"task": self.train_task(**changed).canonical()})


def new_member(home: Path, base: str, contract: str, tokens: tuple[Token, ...], **granted: object) -> Member:
    """A member of a DAO whose policy admits ``contract`` by the licence that it declares itself, or as CC0."""
    node_key.create(home / "node.pem")
    declared = granted.pop("declared", False)
    policy = Policy(
        dao="Nouns on anvil",
        purpose="One model",
        chain_id=CHAIN_ID,
        admin=AdminRole(contract=contract),
        collections=(CollectionRule(contract=contract, name="Nouns", licence=None if declared else "CC0"),),
        accept_holder_warrant=True,
    )
    wallet = Wallet.from_key(ANVIL_KEYS[1])
    terms = {
        "dao": policy.dao,
        "chain_id": CHAIN_ID,
        "member": wallet.address,
        "purpose": policy.purpose,
        "tokens": tokens,
        "warrant": WARRANT if declared else "",
        "node_key": node_key.public_of(home / "node.pem"),
        "policy_hash": policy.digest(),
        "base_hash": base,
        "expires": FAR_FUTURE,
    }
    grant = Grant.model_validate({**terms, **granted})
    stored = StoredGrant(
        grant=grant, signature=wallet.sign_grant(grant), policy=policy, coordinator="http://127.0.0.1", gateways=()
    )
    stored.save(home)
    return Member(home, stored, Snapshot(chain_id=CHAIN_ID, number=1, hash="0x" + "00" * 32, timestamp=1))


@pytest.fixture
def small_base(tmp_path: Path) -> Path:
    """A base's outline: enough for its hash, not to train."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "model_index.json").write_text("{}")
    return base


@pytest.fixture
def member(tmp_path: Path, small_base: Path, monkeypatch: pytest.MonkeyPatch) -> Member:
    monkeypatch.setenv("COTERIE_BASE", str(small_base))
    home = tmp_path / "home"
    return new_member(home, base_hash(small_base), NOUNS, (Token(chain_id=CHAIN_ID, contract=NOUNS, token_id=1),))


def test_a_round_without_this_members_grant_is_declined(member: Member) -> None:
    assert member.train(tokens={"0123456789abcdef": ()}) == {
        "declined": "None of this member's grants is part of the round."
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"policy_hash": OTHER_HASH}, "another policy"),
        ({"base_hash": OTHER_HASH}, "another base"),
        ({"dao": "Someone else"}, "another DAO"),
    ],
)
def test_a_round_under_other_terms_than_granted_is_declined(
    member: Member, changed: dict[str, object], reason: str
) -> None:
    assert reason in str(member.train(**changed)["declined"])


def test_an_expired_grant_is_declined(tmp_path: Path, member: Member) -> None:
    base, tokens = member.granted.grant.base_hash, member.granted.grant.tokens
    expired = new_member(tmp_path / "expired", base, NOUNS, tokens, expires=1)
    assert "expired" in str(expired.train()["declined"])


def test_a_changed_base_on_this_machine_is_declined(member: Member, small_base: Path) -> None:
    (small_base / "model_index.json").write_text("[]")
    assert "another base model" in str(member.train()["declined"])


def test_another_nodes_grant_is_not_used(member: Member) -> None:
    (member.home / "node.pem").unlink()
    node_key.create(member.home / "node.pem")
    assert "declined" in member.train()


def test_a_round_cannot_name_a_folder_elsewhere(member: Member) -> None:
    with pytest.raises(BadInput, match="no plain name"):
        member.train(round_id="../../elsewhere")


def test_a_task_that_cannot_be_read_is_told_in_a_sentence(member: Member) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        member.handler.handle("train", {"task": b"{}"})
    with pytest.raises(BadInput, match="carries no task"):
        member.handler.handle("train", {})
    with pytest.raises(BadInput, match="knows no task called 'upload'"):
        member.handler.handle("upload", {})


def score_task(member: Member, candidate: bytes) -> ScoreTask:
    base, named = member.granted.grant.base_hash, Candidate(name="regression mean", sha256=sha256(candidate))
    return ScoreTask(round_id="round-1", candidates=(named,), gains=(0.0, 1.0), seed=1, base_hash=base)


def test_a_candidate_that_is_not_the_named_one_is_not_scored(member: Member) -> None:
    with pytest.raises(ContentMismatch):
        member.handler.handle("score", {"task": score_task(member, b"one").canonical(), "regression mean": b"other"})


def test_a_member_that_holds_nothing_out_declines_to_score(member: Member) -> None:
    reply = member.handler.handle("score", {"task": score_task(member, b"one").canonical(), "regression mean": b"one"})
    assert "holds no pictures out" in str(reply["declined"])


@pytest.mark.slow
def test_a_member_trains_on_its_own_nfts_once_and_scores_on_what_it_held_out(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_RPC_URL", chain.url)
    monkeypatch.setenv("COTERIE_THREADS", "1")
    first = chain.commercial.functions.totalSupply().call()
    uris = [*(noun_uri(n) for n in range(5)), "https://nouns.example/6"]
    chain.admin.mint_with_uris(chain.commercial, [(chain.alice.address, uri) for uri in uris])
    tokens = tuple(chain.token(chain.commercial, first + n) for n in range(6))
    home = tmp_path / "home"
    base = base_hash(load_settings(home).base)
    created = new_member(home, base, chain.commercial.address, tokens, declared=True)
    member = Member(home, created.granted, chain.snapshot())
    tail = ProgressTail(home)

    reply = member.train()

    header = ContributionHeader.model_validate_json(reply["header"])
    contribution = Contribution(header, str(reply["signature"]), bytes(reply["adapter"]), bytes(reply["statistics"]))
    contribution.check_integrity()
    load_statistics(contribution.statistics)
    assert [use.token for use in header.tokens] == list(tokens[:5])
    assert sum(use.held_out for use in header.tokens) == 1
    stages = [update.stage for update in tail.new()]
    assert list(dict.fromkeys(stages)) == ["pictures", "training", "statistics"]

    assert member.train() == reply
    assert tail.new() == []

    task = score_task(member, contribution.adapter)
    body = {"task": task.canonical(), "regression mean": contribution.adapter}
    scored = member.handler.handle("score", body)
    signed = SignedScoreReport.model_validate_json(scored["report"])
    signed.check_integrity()
    assert (signed.report.images, [len(losses) for losses in signed.report.losses]) == (1, [2])
    assert member.handler.handle("score", body) == scored

    sent = [json.loads(line) for line in (home / "sent.jsonl").read_text().splitlines()]
    assert [line["what"] for line in sent] == ["header", "signature", "adapter", "statistics"] * 2 + ["report"] * 2
    assert sent[2]["sha256"] == header.adapter_sha256


@pytest.mark.slow
def test_a_token_whose_licence_forbids_training_is_declined_whatever_the_coordinator_says(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_RPC_URL", chain.url)
    home, token = tmp_path / "home", chain.token(chain.personal, 0)
    base = base_hash(load_settings(home).base)
    created = new_member(home, base, chain.personal.address, (token,), declared=True)
    reply = Member(home, created.granted, chain.snapshot()).train()
    assert "does not allow derivatives" in str(reply["declined"])

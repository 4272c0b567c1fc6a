"""The wallet's side: opening it, signing in to one site only, and what is checked before a grant is signed."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import siwe
from eth_account import Account
from rich.console import Console

from client.coordinator_api import Base, Dao, SuperLink, problem_of
from client.wallet.consent import consent_panel, verdict_table
from client.wallet.grant import StoredGrant, build_grant, require_own_judgement, require_policy, stored_grants
from client.wallet.key import VARIABLE, Wallet, load_wallet
from client.wallet.sign_in import require_own_domain
from contracts_abi.model import LicenceSignal, Token
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import node_key
from protocol.errors import BadInput, NotAllowed
from protocol.grant import WARRANT, require_signer
from protocol.policy import AdminRole, CollectionRule, Facts, Policy, Verdict, judge
from protocol.sign_in import sign_in_message

NOUNS, APES = "0x" + "11" * 20, "0x" + "22" * 20
COMMERCIAL = LicenceSignal(name="COMMERCIAL", uri="ar://licence")
POLICY = Policy(
    dao="Nouns on anvil",
    purpose="One model of our Nouns",
    chain_id=31337,
    admin=AdminRole(contract=NOUNS),
    collections=(
        CollectionRule(contract=NOUNS, name="Nouns", licence="CC0"),
        CollectionRule(contract=APES, name="Apes"),
    ),
    accept_holder_warrant=True,
)
DAO = Dao(
    name=POLICY.dao,
    purpose=POLICY.purpose,
    chain_id=31337,
    domain="127.0.0.1:8000",
    uri="http://127.0.0.1:8000",
    policy=POLICY,
    policy_hash=POLICY.digest(),
    base=Base(name="nouns32", hash="ab" * 32),
    superlink=SuperLink(address="127.0.0.1:9092", root_certificate="pem"),
)


def token(contract: str, number: int) -> Token:
    return Token(chain_id=31337, contract=contract, token_id=number)


def verdicts(signal: LicenceSignal | None = COMMERCIAL) -> list[Verdict]:
    return [judge(POLICY, token(NOUNS, 2), None), judge(POLICY, token(APES, 1), signal)]


def no_password() -> str:
    raise AssertionError("no password should be asked for")


@pytest.fixture
def public_key(tmp_path: Path) -> str:
    node_key.create(tmp_path / "node.pem")
    return node_key.public_of(tmp_path / "node.pem")


def test_the_key_leaves_the_environment_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, ANVIL_KEYS[1])
    wallet = load_wallet(None, no_password)
    assert wallet.address == Account.from_key(ANVIL_KEYS[1]).address
    assert ANVIL_KEYS[1] not in repr(wallet)
    with pytest.raises(BadInput, match="no wallet"):
        load_wallet(None, no_password)


def test_a_keystore_opens_with_its_password_only(tmp_path: Path) -> None:
    keystore = tmp_path / "wallet.json"
    keystore.write_text(json.dumps(Account.encrypt(ANVIL_KEYS[2], "right", kdf="pbkdf2", iterations=1000)))
    assert load_wallet(keystore, lambda: "right").address == Account.from_key(ANVIL_KEYS[2]).address
    with pytest.raises(BadInput, match="password"):
        load_wallet(keystore, lambda: "wrong")


def test_a_wrong_key_is_refused_without_being_repeated() -> None:
    with pytest.raises(BadInput) as refused:
        Wallet.from_key("0x1234secret")
    assert "secret" not in str(refused.value)


def test_the_sign_in_message_verifies_at_the_coordinators_library() -> None:
    wallet, now = Wallet.from_key(ANVIL_KEYS[1]), datetime.now(UTC)
    text = sign_in_message(wallet.address, DAO.domain, DAO.uri, DAO.chain_id, "abcdefgh12345678", now)
    message = siwe.SiweMessage.from_message(text)
    assert message.prepare_message() == text
    message.verify(
        wallet.sign_text(text),
        domain=DAO.domain,
        uri=DAO.uri,
        chain_id=DAO.chain_id,
        nonce="abcdefgh12345678",
        strict=True,
    )


@pytest.mark.parametrize(
    ("domain", "uri"),
    [
        ("other.example", "https://other.example"),
        ("dao.example", "https://other.example"),
        ("dao.example", "http://dao.example"),
    ],
)
def test_a_coordinator_cannot_have_a_sign_in_to_another_site_signed(domain: str, uri: str) -> None:
    with pytest.raises(NotAllowed, match="nothing was signed"):
        require_own_domain("https://dao.example", domain, uri)


def test_a_policy_that_is_not_the_one_its_hash_names_is_noticed() -> None:
    require_policy(DAO)
    softer = POLICY.model_copy(update={"purpose": "something else"})
    with pytest.raises(NotAllowed, match="hash"):
        require_policy(DAO.model_copy(update={"policy": softer}))
    with pytest.raises(NotAllowed, match="another DAO"):
        require_policy(
            DAO.model_copy(
                update={
                    "policy": softer.model_copy(update={"dao": "another DAO"}),
                    "policy_hash": softer.model_copy(update={"dao": "another DAO"}).digest(),
                }
            )
        )


def test_honest_verdicts_pass_the_members_own_judgement() -> None:
    require_own_judgement(POLICY, verdicts(), {token(APES, 1): Facts(signals=(COMMERCIAL,))})
    require_own_judgement(POLICY, verdicts(), None)


def test_a_verdict_that_the_policy_does_not_give_is_noticed() -> None:
    allowed = verdicts()
    with pytest.raises(NotAllowed, match="by its policy it is denied"):
        personal = LicenceSignal(name="PERSONAL", uri="ar://x")
        require_own_judgement(POLICY, allowed, {token(APES, 1): Facts(signals=(personal,))})
    invented = allowed[0].model_copy(update={"token": token("0x" + "33" * 20, 5)})
    with pytest.raises(NotAllowed, match="does not name this collection"):
        require_own_judgement(POLICY, [invented], None)


def test_the_grant_is_over_the_admitted_tokens_and_warrants_only_where_needed(tmp_path: Path, public_key: str) -> None:
    wallet = Wallet.from_key(ANVIL_KEYS[1])
    grant = build_grant(DAO, wallet.address, verdicts(), public_key, 1_800_000_000)
    assert grant.tokens == (token(NOUNS, 2), token(APES, 1))
    assert grant.warrant == WARRANT
    assert build_grant(DAO, wallet.address, verdicts(None), public_key, 0).warrant == ""
    require_signer(grant, wallet.sign_grant(grant), wallet.address)


def test_too_few_admitted_tokens_make_no_grant(public_key: str) -> None:
    strict = DAO.model_copy(update={"policy": POLICY.model_copy(update={"minimum_tokens": 2})})
    with pytest.raises(NotAllowed, match="1 of this wallet's tokens"):
        build_grant(strict, NOUNS, verdicts(None), public_key, 0)


def test_a_stored_grant_is_found_again_the_longest_first(tmp_path: Path, public_key: str) -> None:
    wallet = Wallet.from_key(ANVIL_KEYS[1])
    kept = []
    for now in (1, 2):
        grant = build_grant(DAO, wallet.address, verdicts(), public_key, now)
        signed = StoredGrant(
            grant=grant, signature=wallet.sign_grant(grant), policy=POLICY, coordinator=DAO.uri, gateways=()
        )
        signed.save(tmp_path)
        kept.append(signed)
    assert stored_grants(tmp_path) == kept[::-1]


def test_a_member_sees_each_token_and_what_will_leave(public_key: str) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(verdict_table(verdicts(None)))
    console.print(consent_panel(build_grant(DAO, NOUNS, verdicts(), public_key, 0), POLICY))
    shown = console.export_text()
    for words in (
        "Nouns",
        "allowed",
        "Apes",
        "denied",
        "names a licence",
        "adapter delta",
        "Pictures",
        "sent.jsonl",
        "allow_https",
    ):
        assert words in shown


def test_a_member_sees_what_leaves_in_the_private_modes_that_the_policy_allows(public_key: str) -> None:
    console, private = Console(width=120, file=io.StringIO(), record=True), POLICY.model_copy(update={"modes": ("dp",)})
    console.print(consent_panel(build_grant(DAO, NOUNS, verdicts(), public_key, 0), private))
    shown = console.export_text()
    assert "in a dp round" in shown and "secagg" not in shown


def test_what_the_coordinator_refuses_is_the_same_error_here() -> None:
    told = {
        "title": "not allowed",
        "status": 403,
        "detail": "Nothing may be trained on.",
        "hint": "Use another wallet.",
    }
    for code in ("not-allowed", "a-code-of-a-newer-version"):
        error = problem_of(403, {**told, "code": code})
        assert isinstance(error, NotAllowed)
        assert (error.message, error.hint) == ("Nothing may be trained on.", "Use another wallet.")
    assert str(problem_of(500, "nonsense")) == "The coordinator answered 500."

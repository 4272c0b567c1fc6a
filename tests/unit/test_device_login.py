"""Device login: the codes, the rules for answers and guesses, and what the machine checks before it keeps a grant."""

import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from postgres_parts import database_in
from rich.console import Console

from client.coordinator_api import Base, Dao, DeviceAnswer, DeviceCode, SuperLink
from client.wallet.device import OwnChain, code_panel, granted_sentence, qr, require_granted_here, wait_for_grant
from client.wallet.grant import StoredGrant, standing_grant
from client.wallet.key import VARIABLE, at_hand
from contracts_abi.model import LicenceSignal, Token
from coordinator.database import Database, DeviceRow
from coordinator.identity import devices
from coordinator.identity.devices import Device
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import node_key
from protocol.errors import BadInput, Conflict, CoterieError, NotAllowed, NotFound, NotSignedIn, TooMany, Unreachable
from protocol.grant import WARRANT, Grant, sign
from protocol.policy import AdminRole, CollectionRule, Facts, Policy, judge
from protocol.typed_data import json_for_wallets

NOW = 1_795_000_000
NOUNS, APES = "0x" + "11" * 20, "0x" + "22" * 20
SILENT = LicenceSignal(name="COMMERCIAL", uri="ar://licence")
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
    domain="dao.example",
    uri="https://dao.example",
    policy=POLICY,
    policy_hash=POLICY.digest(),
    base=Base(name="nouns32", hash="ab" * 32),
    superlink=SuperLink(address="127.0.0.1:9092", root_certificate="pem"),
)
CODE = DeviceCode(
    device_code="secret",
    user_code="BCDF-GHJK",
    verification_uri="https://dao.example/device",
    verification_uri_complete="https://dao.example/device?code=BCDF-GHJK",
    expires_in=600,
    interval=3,
)
ALICE = Account.from_key(ANVIL_KEYS[1]).address
BIG = 2**255 + 12345


def token(contract: str, number: int) -> Token:
    return Token(chain_id=31337, contract=contract, token_id=number)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("key") / "node.pem"
    node_key.create(path)
    return node_key.public_of(path)


@pytest.fixture
def database(tmp_path: Path, each_database: str) -> Iterator[Database]:
    database = Database(database_in(tmp_path))
    yield database
    database.close()


def device(**changes: Any) -> Device:
    fields = {
        "user_code": "BCDFGHJK",
        "node_key": "02" + "0" * 96,
        "name": "gpu-box",
        "expires": NOW + 600,
        "interval": 3,
        "polled_at": None,
        "state": "pending",
        "grant_id": None,
    }
    return Device(**{**fields, **changes})


# Codes ----------------------------------------------------------------------------------------------------------------


def test_a_code_is_read_as_it_is_shown_however_it_is_typed() -> None:
    for _ in range(50):
        code = devices.new_user_code()
        assert devices.read_code(devices.shown(code)) == code
        assert devices.read_code(f" {code[:3].lower()} {code[3:].lower()}") == code


@pytest.mark.parametrize("typed", ["", "BCDF", "BCDF-GHJKL", "ABCD-EFGH", "1234-5678", "b" * 5000, "ВСDF-GHJK"])
def test_what_cannot_be_a_code_is_said_at_once(typed: str) -> None:
    with pytest.raises(BadInput, match="8 letters"):
        devices.read_code(typed)


def test_the_fingerprint_is_short_enough_to_compare_and_depends_on_the_whole_key(public: str) -> None:
    shown = node_key.fingerprint(public)
    assert len(shown) == 24 and shown.count("-") == 4
    other = public[:-1] + ("0" if public[-1] != "0" else "1")
    assert node_key.fingerprint(other) != shown


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "box\x1b[2J", "box\u202egnp", "two\nlines"])
def test_a_machines_name_that_could_mislead_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="printable"):
        devices.require_name(name)


def test_guesses_are_counted_by_what_one_customer_has() -> None:
    assert devices.source_of("203.0.113.9") == "203.0.113.9"
    assert devices.source_of("2001:db8:1:2:3:4:5:6") == devices.source_of("2001:db8:1:2::1")
    assert devices.source_of(None) == "unknown"


# Answers to a poll ----------------------------------------------------------------------------------------------------


def test_a_machine_that_polls_too_fast_is_slowed_down() -> None:
    assert devices.answer(device(), NOW).state == "pending"
    assert devices.answer(device(polled_at=NOW), NOW + 3).state == "pending"
    slower = devices.answer(device(polled_at=NOW), NOW + 2)
    assert (slower.state, slower.interval) == ("slow_down", 8)


def test_a_decision_is_told_until_the_code_expires() -> None:
    granted = device(state="granted", grant_id="g", polled_at=NOW)
    assert devices.answer(granted, NOW).state == devices.answer(granted, NOW).state == "done"
    assert devices.answer(device(state="denied"), NOW).state == "denied"
    assert devices.answer(granted, NOW + 600).state == "expired"
    assert devices.answer(device(), NOW + 600).state == "expired"


def test_a_code_takes_one_answer(database: Database, public: str) -> None:
    with database.writing() as session:
        secret, asked = devices.open_device(session, public, "gpu-box", "local", NOW)
        devices.decide(session, asked.user_code, None, NOW)
    with database.writing() as session:
        assert devices.poll(session, secret, NOW)[0].state == "denied"
        with pytest.raises(Conflict, match="used"):
            devices.decide(session, asked.user_code, None, NOW)
        with pytest.raises(NotFound, match="device code"):
            devices.poll(session, "another secret", NOW)
        with pytest.raises(NotFound, match="this code"):
            devices.decide(session, "ZZZZZZZZ", None, NOW)


def test_an_expired_code_takes_none_and_is_forgotten_later(database: Database, public: str) -> None:
    with database.writing() as session:
        _, asked = devices.open_device(session, public, "gpu-box", "local", NOW)
        with pytest.raises(Conflict, match="expired"):
            devices.decide(session, asked.user_code, None, NOW + 600)
        assert devices.find(session, asked.user_code)
        devices.open_device(session, public, "gpu-box", "local", NOW + 1200)
        assert devices.find(session, asked.user_code) is None


def test_the_secret_is_not_in_the_database(database: Database, public: str) -> None:
    with database.writing() as session:
        secret, _ = devices.open_device(session, public, "gpu-box", "local", NOW)
        (row,) = session.query(DeviceRow)
        assert secret not in [getattr(row, column.name) for column in DeviceRow.__table__.columns]


def test_wrong_codes_run_out_for_one_source_and_for_all(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.writing() as session:
        for _ in range(devices.WRONG_CODES_EACH):
            devices.require_guesses_left(session, "1.2.3.4", NOW)
            devices.note_wrong_code(session, "1.2.3.4", NOW)
        with pytest.raises(TooMany, match="where you are"):
            devices.require_guesses_left(session, "1.2.3.4", NOW)
        devices.require_guesses_left(session, "1.2.3.5", NOW)
        devices.require_guesses_left(session, "1.2.3.4", NOW + 600)
        monkeypatch.setattr(devices, "WRONG_CODES_IN_ALL", 10)
        with pytest.raises(TooMany, match="were tried"):
            devices.require_guesses_left(session, "1.2.3.5", NOW)


def test_one_source_cannot_have_many_machines_wait(database: Database, public: str) -> None:
    with database.writing() as session:
        for _ in range(devices.DEVICES_EACH):
            devices.open_device(session, public, "gpu-box", "1.2.3.4", NOW)
        with pytest.raises(TooMany, match="waiting"):
            devices.open_device(session, public, "gpu-box", "1.2.3.4", NOW)
        devices.open_device(session, public, "gpu-box", "1.2.3.5", NOW)


# What is proposed -----------------------------------------------------------------------------------------------------


def test_what_a_browser_wallet_parses_has_the_same_hash_and_no_number_that_it_would_round(public: str) -> None:
    grant = given(public, tokens=(token(NOUNS, BIG), token(NOUNS, 7)))
    text = json_for_wallets(grant.typed_data())
    parsed = json.loads(text, parse_int=float)  # as JavaScript does
    assert str(BIG) in parsed["message"]["tokens"]
    assert parsed["message"]["expires"] == str(grant.expires)
    assert parsed["domain"]["chainId"] == 31337
    parsed["domain"]["chainId"] = 31337
    assert encode_typed_data(full_message=parsed) == encode_typed_data(full_message=grant.typed_data())


def test_a_proposal_holds_what_was_chosen_and_nothing_that_is_denied(public: str) -> None:
    allowed, silent, denied = (
        judge(POLICY, token(NOUNS, 2), None),
        judge(POLICY, token(APES, 1), SILENT),
        judge(POLICY, token(APES, 3), None),
    )
    grant = devices.proposed(POLICY, "ab" * 32, ALICE, [silent, allowed], public, NOW)
    assert grant.tokens == (token(NOUNS, 2), token(APES, 1)) and grant.warrant == WARRANT
    assert devices.proposed(POLICY, "ab" * 32, ALICE, [allowed], public, NOW).warrant == ""
    with pytest.raises(NotAllowed, match="not admitted"):
        devices.proposed(POLICY, "ab" * 32, ALICE, [allowed, denied], public, NOW)
    with pytest.raises(NotAllowed, match="0 tokens are chosen"):
        devices.proposed(POLICY, "ab" * 32, ALICE, [], public, NOW)


# The machine's side ---------------------------------------------------------------------------------------------------


def given(public: str, **changes: Any) -> Grant:
    fields = {
        "dao": DAO.name,
        "chain_id": DAO.chain_id,
        "member": ALICE,
        "purpose": POLICY.purpose,
        "tokens": (token(NOUNS, 2),),
        "node_key": public,
        "policy_hash": DAO.policy_hash,
        "base_hash": DAO.base.hash,
        "expires": NOW + 3600,
    }
    return Grant(**{**fields, **changes})


class Coordinator:
    """Answers polls as a test wrote them, and a clock that pauses move."""

    def __init__(self, *answers: DeviceAnswer | CoterieError) -> None:
        self.answers = list(answers)
        self.pauses: list[float] = []

    def poll(self, device_code: str) -> DeviceAnswer:
        assert device_code == "secret"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CoterieError):
            raise answer
        return answer

    def wait(self) -> tuple[Grant, str]:
        return wait_for_grant(self.poll, CODE, self.pauses.append, lambda: sum(self.pauses))


def test_a_machine_waits_as_it_is_told_and_takes_the_grant(public: str) -> None:
    grant = given(public)
    here = Coordinator(
        DeviceAnswer(state="pending", interval=3),
        DeviceAnswer(state="slow_down", interval=8),
        DeviceAnswer(state="done", interval=8, grant=grant, signature="0x"),
    )
    assert here.wait() == (grant, "0x")
    assert here.pauses == [3, 3, 8]


def test_a_coordinator_that_is_away_for_a_while_is_asked_again(public: str) -> None:
    gone = Unreachable("gone")
    here = Coordinator(gone, gone, DeviceAnswer(state="done", interval=3, grant=given(public), signature="0x"))
    here.wait()
    assert here.pauses == [3, 6, 12]
    with pytest.raises(Unreachable):
        Coordinator(gone).wait()


def no_contract(account: str, digest: bytes, signature: bytes) -> bool:
    """A chain on which no wallet is a contract."""
    return False


@pytest.mark.parametrize(
    ("state", "kind", "why"),
    [
        ("denied", NotAllowed, "refused"),
        ("expired", NotSignedIn, "expired"),
        ("pending", NotSignedIn, "Nobody answered"),
    ],
)
def test_without_a_grant_the_machine_says_why(state: str, kind: type[CoterieError], why: str) -> None:
    with pytest.raises(kind, match=why) as told:
        Coordinator(DeviceAnswer(state=state, interval=30)).wait()
    assert "Join again" in told.value.hint


def test_an_honest_grant_is_taken_with_its_verdicts(public: str) -> None:
    grant = given(public, tokens=(token(NOUNS, 2), token(APES, 1)), warrant=WARRANT)
    chain = OwnChain({token(APES, 1): Facts(signals=(SILENT,))}, (), no_contract)
    verdicts = require_granted_here(DAO, grant, sign(grant, ANVIL_KEYS[1]), public, chain, NOW)
    assert [verdict.allow for verdict in verdicts] == [True, True]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"node_key": "03" + "1" * 96}, "another node key"),
        ({"dao": "Other"}, "another DAO"),
        ({"chain_id": 1, "tokens": (Token(chain_id=1, contract=NOUNS, token_id=2),)}, "another chain"),
        ({"purpose": "Anything"}, "another purpose"),
        ({"policy_hash": "0" * 64}, "another policy"),
        ({"base_hash": "0" * 64}, "another base"),
        ({"expires": NOW}, "within a year"),
        ({"expires": NOW + 400 * 24 * 3600}, "within a year"),
        ({"member": Account.from_key(ANVIL_KEYS[2]).address}, "not"),
        ({"tokens": ()}, "no token"),
        ({"tokens": (token(NOUNS, 2), token(NOUNS, 2))}, "one twice"),
        ({"tokens": (token(APES, 3),)}, "the policy denies"),
        ({"tokens": (token("0x" + "33" * 20, 3),)}, "the policy denies"),
        ({"warrant": WARRANT}, "warrants"),
    ],
)
def test_a_grant_that_is_not_for_this_machine_under_this_policy_is_not_kept(
    public: str, changes: dict[str, Any], why: str
) -> None:
    grant = given(public, **changes)
    with pytest.raises(NotAllowed, match=why):
        require_granted_here(DAO, grant, sign(grant, ANVIL_KEYS[1]), public, OwnChain({}, (), no_contract), NOW)


def test_a_grant_that_was_changed_after_signing_is_not_kept(public: str) -> None:
    signature = sign(given(public), ANVIL_KEYS[1])
    with pytest.raises(NotAllowed, match="changed after signing"):
        require_granted_here(
            DAO, given(public, tokens=(token(NOUNS, 3),)), signature, public, OwnChain({}, (), no_contract), NOW
        )


def test_a_grant_over_a_token_that_the_wallet_does_not_hold_is_not_kept(public: str) -> None:
    grant = given(public)
    chain = OwnChain({}, grant.tokens[:1], no_contract)
    with pytest.raises(NotAllowed, match="which is not"):
        require_granted_here(DAO, grant, sign(grant, ANVIL_KEYS[1]), public, chain, NOW)


def test_after_a_restart_the_grant_that_stands_is_found(public: str) -> None:
    def stored(grant: Grant) -> StoredGrant:
        return StoredGrant(grant=grant, signature="0x", policy=POLICY, coordinator=DAO.uri, gateways=())

    grant = given(public)
    assert standing_grant([stored(given(public, dao="Other")), stored(grant)], DAO, public, NOW) == grant
    assert standing_grant([stored(grant)], DAO, "03" + "1" * 96, NOW) is None
    assert standing_grant([stored(grant)], DAO, public, grant.expires) is None


def test_the_terminal_shows_what_the_page_shows(public: str) -> None:
    console = Console(width=80, file=io.StringIO(), record=True, force_terminal=True, color_system="standard")
    console.print(code_panel(CODE, public, "gpu-[bold]box"))
    console.print(granted_sentence(given(public)))
    shown = console.export_text()
    for words in ("BCDF-GHJK", node_key.fingerprint(public), "gpu-[bold]box", "10 minutes", ALICE):
        assert words in shown


def test_the_picture_is_the_link_in_black_on_white() -> None:
    text = qr(CODE.verification_uri_complete)
    lines = text.plain.split("\n")
    assert len({len(line) for line in lines}) == 1 and len(lines) <= 20
    assert set(text.plain) <= set(" ▀▄█\n")
    assert {str(span.style) for span in text.spans} == {"#000000 on #ffffff"}


def test_a_wallet_is_at_hand_by_file_or_by_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not at_hand(None)
    assert at_hand(Path("keystore.json"))
    monkeypatch.setenv(VARIABLE, secrets.token_hex(32))
    assert at_hand(None)

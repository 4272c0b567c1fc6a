"""The public vectors of EIP-4361, through the library's parser and through our own stricter rules."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import siwe
from eth_account import Account
from eth_account.messages import encode_defunct

from coordinator.database import Database
from coordinator.identity import sign_in
from coordinator.identity.sign_in import SignIn, SignInTerms
from protocol.errors import BadInput, NotSignedIn, Unreachable

VECTORS = Path(__file__).parents[1] / "vectors" / "siwe"
NAMES = {
    "chainId": "chain_id",
    "issuedAt": "issued_at",
    "expirationTime": "expiration_time",
    "notBefore": "not_before",
    "requestId": "request_id",
}
EVER = 10**11
"""Seconds: a window in which the vectors' own times of long ago are recent."""
SIGNED_BEFORE_IT_WAS_ISSUED = {"expired message"}
"""Verifies in 2020 what was issued in 2022. The library doesn't compare the two; we do, whatever the window."""


def vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=title) for title, case in vectors(name).items()]


def fields_of(case: dict[str, Any]) -> dict[str, Any]:
    return {
        NAMES.get(name, name): value for name, value in case.items() if name in {*siwe.SiweMessage.model_fields, *NAMES}
    }


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def verified(case: dict[str, Any]) -> SignIn:
    """The vector's message, at its own time and place, or where it says that it is checked for another."""
    text = siwe.SiweMessage(**fields_of(case)).prepare_message()
    terms = SignInTerms(case.get("domainBinding", case["domain"]), case["uri"], case["chainId"], EVER)
    now = seconds(case.get("time", "2026-01-01T00:00:00Z"))
    return sign_in.verify(text, case["signature"], terms, now)


@pytest.mark.parametrize("case", cases("parsing_positive"))
def test_what_is_a_message_is_read_as_it_is_meant(case: dict[str, Any]) -> None:
    message = sign_in.parse(case["message"])
    told = {name: getattr(message, name) for name in fields_of(case["fields"])}
    assert json.loads(json.dumps(told)) == fields_of(case["fields"])


@pytest.mark.parametrize("text", cases("parsing_negative"))
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        sign_in.parse(text)


@pytest.mark.parametrize("case", cases("parsing_negative_objects"))
def test_what_no_message_can_be_made_of_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        siwe.SiweMessage(**fields_of(case))


@pytest.mark.parametrize("title", vectors("verification_positive"))
def test_what_verifies_verifies_here(title: str) -> None:
    case = vectors("verification_positive")[title]
    if title in SIGNED_BEFORE_IT_WAS_ISSUED:
        with pytest.raises(NotSignedIn, match="issued within"):
            verified(case)
        return
    assert verified(case) == SignIn(wallet=case["address"], nonce=case["nonce"])


@pytest.mark.parametrize("title", vectors("verification_negative"))
def test_what_does_not_verify_opens_no_session_here(title: str, tmp_path: Path) -> None:
    case = vectors("verification_negative")[title]
    database = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
    with pytest.raises((NotSignedIn, BadInput, ValueError)), database.writing() as session:
        sign_in.open_session(session, verified(case), b"a key", "a secret", 0)
    database.close()


KEY = Account.from_key("0x" + "11" * 32)
TERMS = SignInTerms("dao.example", "https://dao.example", 31337)
NOW = seconds("2026-01-01T00:00:00Z")


def message(**changes: Any) -> str:
    fields = {
        "domain": "dao.example",
        "address": KEY.address,
        "uri": "https://dao.example",
        "version": "1",
        "chain_id": 31337,
        "nonce": "abcdefgh1234",
        "issued_at": "2026-01-01T00:00:00Z",
    }
    return str(siwe.SiweMessage(**{**fields, **changes}).prepare_message())


def signature_of(text: str) -> str:
    return "0x" + bytes(KEY.sign_message(encode_defunct(text=text)).signature).hex()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"expiration_time": "2025-12-31T23:59:59Z"}, "it has expired"),
        ({"not_before": "2026-01-01T00:00:01Z"}, "not valid yet"),
        ({"issued_at": "2025-12-31T23:49:59Z"}, "within the last 600 seconds"),
        ({"issued_at": "2026-01-01T00:01:01Z"}, "within the last 600 seconds"),
    ],
)
def test_a_message_counts_by_the_coordinators_clock(changes: dict[str, str], why: str) -> None:
    text = message(**changes)
    with pytest.raises(NotSignedIn, match=why):
        sign_in.verify(text, signature_of(text), TERMS, NOW)


def test_a_message_over_2_kb_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadInput, match="at most 2048 bytes"):
        sign_in.parse(message(statement="a" * 2000))


def test_a_key_s_signature_is_never_put_to_the_chain_and_no_answer_is_no_refusal() -> None:
    def silent(*question: object) -> bool:
        raise Unreachable("The chain does not answer.")

    text = message()
    assert sign_in.verify(text, signature_of(text), TERMS, NOW, silent).wallet == KEY.address
    with pytest.raises(Unreachable):
        sign_in.verify(text, signature_of("something else"), TERMS, NOW, silent)
    with pytest.raises(NotSignedIn, match="not the wallet's"):
        sign_in.verify(text, "no hex", TERMS, NOW, silent)

"""The policy's word on a token: default deny, the most specific rule first, and never without a reason."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts_abi.model import LicenceSignal, Token
from coordinator.config import CoordinatorSettings, load_policy
from protocol.errors import BadInput
from protocol.policy import LICENCES, AdminRole, CollectionRule, OnTransfer, Policy, TokenRule, judge

NOUNS, OTHERS = "0x" + "11" * 20, "0x" + "22" * 20
NOUN = Token(chain_id=1, contract=NOUNS, token_id=1)


def policy(licence: str | None = None, *, warrant: bool = False, tokens: tuple[TokenRule, ...] = ()) -> Policy:
    return Policy(
        dao="Nouns",
        purpose="One shared model.",
        chain_id=1,
        admin=AdminRole(contract=NOUNS),
        collections=(CollectionRule(contract=NOUNS, name="Nouns", licence=licence),),
        tokens=tokens,
        accept_holder_warrant=warrant,
    )


def signal(name: str) -> LicenceSignal:
    return LicenceSignal(name=name, uri="ar://licence")


def test_a_collection_that_the_policy_does_not_name_is_denied_whatever_it_declares() -> None:
    stranger = Token(chain_id=1, contract=OTHERS, token_id=1)
    verdict = judge(policy("CC0"), stranger, signal("PUBLIC"))
    assert (verdict.allow, verdict.rule) == (False, "default deny")


def test_a_collection_without_any_licence_is_denied() -> None:
    verdict = judge(policy(), NOUN, None)
    assert (verdict.allow, verdict.rule) == (False, "default deny")


def test_the_dao_s_word_on_a_token_goes_before_its_collection() -> None:
    rule = TokenRule(token=NOUN, allow=False, reason="The artist asked us not to.")
    verdict = judge(policy("CC0", tokens=(rule,)), NOUN, None)
    assert (verdict.allow, verdict.rule, verdict.reason) == (False, "token", "The artist asked us not to.")


def test_the_dao_s_licence_goes_before_what_the_contract_declares() -> None:
    verdict = judge(policy("CC0"), NOUN, signal("PERSONAL"))
    assert (verdict.allow, verdict.rule) == (True, "collection")


def test_cc0_needs_no_warrant_and_stays_after_a_sale() -> None:
    verdict = judge(policy("CC0"), NOUN, None)
    assert verdict.allow and not verdict.warrant
    assert verdict.on_transfer is OnTransfer.KEEP


def test_a_licence_that_is_silent_on_training_needs_the_warrant_and_a_policy_that_takes_it() -> None:
    assert not judge(policy(), NOUN, signal("COMMERCIAL")).allow
    verdict = judge(policy(warrant=True), NOUN, signal("COMMERCIAL"))
    assert verdict.allow and verdict.warrant
    assert verdict.on_transfer is OnTransfer.EXCLUDE
    assert "COMMERCIAL" in verdict.evidence


def test_a_licence_without_derivatives_is_denied_even_with_a_warrant() -> None:
    verdict = judge(policy(warrant=True), NOUN, signal("PERSONAL"))
    assert not verdict.allow and not verdict.warrant


def test_a_licence_that_nobody_knows_is_denied() -> None:
    assert not judge(policy("My own licence", warrant=True), NOUN, None).allow


@given(
    licence=st.one_of(st.none(), st.sampled_from(sorted(LICENCES)), st.text(max_size=20)),
    declared=st.one_of(st.none(), st.sampled_from(["PUBLIC", "EXCLUSIVE", "PERSONAL"]), st.text(max_size=20)),
    warrant=st.booleans(),
    number=st.integers(0, 2**256 - 1),
)
def test_every_verdict_has_a_reason_and_no_unknown_licence_admits(
    licence: str | None, declared: str | None, warrant: bool, number: int
) -> None:
    token = Token(chain_id=1, contract=NOUNS, token_id=number)
    verdict = judge(policy(licence, warrant=warrant), token, signal(declared) if declared is not None else None)
    assert verdict.reason
    if verdict.allow:
        assert verdict.licence in LICENCES and LICENCES[verdict.licence].derivatives
        assert warrant or not verdict.warrant


def test_a_policy_document_is_read_back_as_it_was_and_keeps_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(json.loads(policy("CC0").canonical()), indent=4))
    assert load_policy(file).digest() == policy("CC0").digest()


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "the document"), ('{"dao": "Nouns"}', "purpose"), ('{"surprise": 1}', "dao")],
)
def test_a_document_that_is_no_policy_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "policy.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=named):
        load_policy(file)


def test_settings_come_from_the_file_and_the_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text('rpc_url = "http://a"\npolicy = "p.json"\nbase = "/b"\nbase_name = "b"\nport = 8001\n')
    monkeypatch.setenv("COTERIE_COORDINATOR_RPC_URL", "http://b")
    settings = CoordinatorSettings.load(file)
    assert settings.rpc_url == "http://b"
    assert (settings.policy, settings.base, settings.data) == (tmp_path / "p.json", Path("/b"), tmp_path / "data")
    assert (settings.public_uri, settings.domain) == ("http://127.0.0.1:8001", "127.0.0.1:8001")


@pytest.mark.parametrize(("text", "named"), [("port = 0", "rpc_url|port"), ("surprise = 1", "."), ("=", "TOML")])
def test_wrong_settings_are_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "coordinator.toml"
    file.write_text(text)
    with pytest.raises(BadInput, match=named):
        CoordinatorSettings.load(file)
    with pytest.raises(BadInput, match="no settings file"):
        CoordinatorSettings.load(tmp_path / "none.toml")

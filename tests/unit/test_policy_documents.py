"""Policy files: the ready ones, the schema, the examples, and a sentence for everything that is none."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.eligibility.policies import keep, kept
from protocol.canonical import canonical, sha256
from protocol.errors import BadInput
from protocol.policy import AdminRole, CollectionRule, Policy, TokenRule, parse_policy
from protocol.policy.examples import failures_of, parse_examples
from protocol.policy.schema import policy_schema
from protocol.unixfs import build_directory

DOCS = Path(__file__).parents[2] / "docs"
READY = ("cc0-only", "holder-warrant")
NOUNS = "0x" + "11" * 20
TOKEN = f"eip155:1/erc721:{NOUNS}/1"
PLAIN: dict[str, Any] = {
    "version": 1,
    "dao": "Nouns",
    "purpose": "One shared model.",
    "chain_id": 1,
    "admin": {"contract": NOUNS},
    "collections": [{"contract": NOUNS, "name": "Nouns", "licence": "CC0"}],
}


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["policy", *words])
    return result.exit_code, result.output


# The ready policies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READY)
def test_a_ready_policy_comes_out_as_its_examples_say(name: str) -> None:
    status, said = run("test", str(DOCS / f"policies/{name}.json"), str(DOCS / f"policies/{name}.examples.json"))
    assert status == 0, said
    assert "examples come out as expected" in said


def test_every_policy_in_the_docs_folder_has_examples() -> None:
    files = {file.name for file in (DOCS / "policies").iterdir()}
    assert files == {f"{name}{end}" for name in READY for end in (".json", ".examples.json")}


def test_the_schema_in_the_docs_is_that_of_the_policy() -> None:
    status, said = run("schema")
    assert status == 0
    assert json.loads(said) == policy_schema()
    assert (DOCS / "policy.schema.json").read_text() == said


def test_the_schema_names_every_field_and_writes_tokens_and_amounts_as_they_are_written() -> None:
    schema = policy_schema()
    assert set(schema["properties"]) == set(Policy.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Token"]["type"] == "string"
    assert schema["$defs"]["HoldsErc20"]["required"][0] == "kind"


# Hashes ---------------------------------------------------------------------------------------------------------------


def test_a_policy_from_before_the_later_fields_keeps_its_hash() -> None:
    before = {
        **PLAIN,
        "admin": {"contract": NOUNS, "role": "0x" + "00" * 32},
        "collections": [{"contract": NOUNS, "name": "Nouns", "licence": "CC0", "evidence": ""}],
        "tokens": [{"token": TOKEN, "allow": False, "reason": "Not this one."}],
        "accept_holder_warrant": False,
        "minimum_tokens": 1,
        "weights": "equal",
        "weight_cap": 20,
        "robust": "none",
    }
    policy = parse_policy(json.dumps(before).encode())
    assert policy.canonical() == canonical(before)
    assert policy.digest() == sha256(canonical(before))


def test_a_later_field_that_is_used_is_part_of_the_hash() -> None:
    plain = parse_policy(json.dumps(PLAIN).encode())
    asking = parse_policy(json.dumps({**PLAIN, "minimum_holding_days": 30}).encode())
    assert asking.digest() != plain.digest()
    assert parse_policy(asking.canonical()) == asking
    assert b"membership" not in asking.canonical()


@pytest.mark.parametrize("name", READY)
def test_a_policy_reads_back_from_its_canonical_form(name: str) -> None:
    policy = parse_policy((DOCS / f"policies/{name}.json").read_bytes())
    assert parse_policy(policy.canonical()) == policy


def test_a_policy_s_cid_is_that_of_the_file_in_a_release(tmp_path: Path) -> None:
    file = DOCS / "policies/cc0-only.json"
    status, said = run("cid", str(file))
    assert status == 0
    _, blocks = build_directory({"policy.json": parse_policy(file.read_bytes()).canonical()})
    assert said.strip() in {str(block.cid) for block in blocks}


def test_a_policy_that_was_in_force_is_found_by_its_hash_and_a_changed_one_is_not(tmp_path: Path) -> None:
    policy = parse_policy(json.dumps(PLAIN).encode())
    keep(tmp_path / "policies", policy)
    keep(tmp_path / "policies", policy)
    assert kept(tmp_path / "policies", policy.digest()) == policy
    assert kept(tmp_path / "policies", "0" * 64) is None
    file = tmp_path / "policies" / f"{policy.digest()}.json"
    file.write_bytes(policy.model_copy(update={"purpose": "another"}).canonical())
    assert kept(tmp_path / "policies", policy.digest()) is None


# Files that are none --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"\xff", "the document is not UTF-8", "Save it as UTF-8"),
        (b"", "no JSON at line 1, column 1", "Mend it"),
        (b'{"dao": "Nouns",\n}', "no JSON at line 2", "Mend it"),
        (b"[]", "no JSON object", "begins with {"),
        (b"[" * 100_000, "nested too deep", "Mend it"),
        (b" " * (2**20 + 1), "more than 1048576 bytes", "Shorten it"),
        (b'{"dao": "a", "dao": "b"}', "dao is there twice", "Mend"),
        (b'{"chain_id": NaN}', "NaN is no number", "Mend"),
        (b'{"version": 2}', "version 2, and this program knows version 1", "Update Coterie"),
    ],
)
def test_bytes_that_are_no_policy_are_refused_with_a_sentence(data: bytes, message: str, hint: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_policy(data, "policy.json")
    assert message in refused.value.message and refused.value.message.startswith("policy.json")
    assert hint in refused.value.hint


def changed(**fields: Any) -> dict[str, Any]:
    return {**PLAIN, **fields}


def with_rule(**fields: Any) -> dict[str, Any]:
    return changed(collections=[{**PLAIN["collections"][0], **fields}])


DEEP: dict[str, Any] = {"kind": "list", "addresses": [NOUNS]}
for _ in range(4):
    DEEP = {"all": [DEEP]}
CUSTOM = {
    "name": "CC0",
    "derivatives": True,
    "mentions_training": True,
    "on_transfer": "keep",
    "source": "x",
    "evidence_sha256": "0" * 64,
}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({key: value for key, value in PLAIN.items() if key != "purpose"}, "purpose is missing"),
        (changed(chain_id="mainnet"), "chain_id: Input should be a valid integer"),
        (changed(minimum_token=2), "minimum_token means nothing. Did you mean minimum_tokens?"),
        (with_rule(license="CC0"), "collections.0.license means nothing. Did you mean licence?"),
        (changed(zzz=1), "zzz means nothing. Remove it"),
        (with_rule(contract="0x12"), "is not an Ethereum address"),
        (with_rule(allow=False), "the rule that keeps Nouns out gives no reason"),
        (with_rule(licence="BAYC", on_transfer="keep"), "BAYC, which says exclude on a sale"),
        (with_rule(duties=["share-alike: Mine"]), "names a licence that nobody knows"),
        (with_rule(duties=["share-alike"]), "does not say what"),
        (changed(tokens=[{"token": TOKEN.replace(":1/", ":5/"), "allow": True, "reason": "x"}]), "not on chain 1"),
        (changed(tokens=[{"token": "Noun 1", "allow": True, "reason": "x"}]), "CAIP-19"),
        (changed(licences=[CUSTOM]), "the licence CC0 is there already"),
        (changed(licences=[{**CUSTOM, "name": "A AND B"}]), "licences.0.name"),
        (changed(release_licence="CC-BY-ND-4.0"), "cannot be published under CC-BY-ND-4.0"),
        (changed(release_licence="Mine"), "cannot be published under Mine"),
        (changed(minimum_tokens=3, maximum_tokens=2), "nobody can have 3 tokens or more and 2 or fewer"),
        (changed(membership={"kind": "erc404", "contract": NOUNS}), "a requirement has all, any, or a kind"),
        (changed(membership={"kind": "view", "contract": NOUNS, "function": "a(uint256)"}), "function"),
        (changed(membership={"kind": "list", "addresses": []}), "addresses"),
        (changed(membership=DEEP), "nested more than 4 deep"),
        (
            changed(membership={"any": [{"kind": "erc20", "contract": NOUNS, "at_least": n} for n in range(65)]}),
            "more than 64 questions",
        ),
        (changed(membership={"kind": "erc20", "contract": NOUNS, "at_least": "1e18"}), "at_least"),
    ],
)
def test_a_policy_that_makes_no_sense_says_where(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(document))
    with pytest.raises(BadInput) as refused:
        parse_policy(file.read_bytes(), str(file))
    assert message in str(refused.value)
    status, said = run("hash", str(file))
    assert status == 1 and message[:20] in said.replace("\n", " ")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    status, said = run("hash", str(tmp_path / "none.json"))
    assert status == 1 and "There is no policy" in said
    status, said = run("hash", str(tmp_path))
    assert status == 1 and "cannot be read" in said
    status, said = run("test", str(DOCS / "policies/cc0-only.json"), str(tmp_path / "none.json"))
    assert status == 1 and "There are no examples" in said


# Examples -------------------------------------------------------------------------------------------------------------


def policy() -> Policy:
    return Policy(
        dao="Nouns",
        purpose="One shared model.",
        chain_id=1,
        admin=AdminRole(contract=NOUNS),
        collections=(CollectionRule(contract=NOUNS, name="Nouns", licence="CC-BY-4.0"),),
        tokens=(TokenRule(token=TOKEN.replace("/1", "/2"), allow=False, reason="Not this one."),),
        accept_holder_warrant=True,
        minimum_holding_days=30,
    )


def failures(**example: Any) -> list[str]:
    document = {"examples": [{"name": "An example", "token": TOKEN, **example}]}
    return failures_of(policy(), parse_examples(json.dumps(document).encode()))


def test_an_example_is_compared_by_what_it_names_only() -> None:
    assert failures(held_days=30, expect={"allow": True}) == []
    expected = {"allow": True, "licence": "CC-BY-4.0", "duties": ["attribution"], "warrant": True}
    assert failures(held_days=30, expect=expected) == []
    assert failures(held_days=29, expect={"allow": False, "rule": "holding time"}) == []
    assert failures(expect={"allow": False, "rule": "holding time"}) == []


def test_an_example_that_comes_out_differently_is_one_sentence_with_the_reason() -> None:
    [sentence] = failures(held_days=10, expect={"allow": True, "rule": "collection"})
    assert sentence == (
        "An example: expected allow, found deny; rule collection, found holding time. "
        "Its owner has had it for 10 days, and the policy asks for 30."
    )
    [sentence] = failures(held_days=30, expect={"allow": True, "duties": [], "on_transfer": "exclude"})
    assert "duties none, found attribution; on_transfer exclude, found keep" in sentence


def test_examples_that_fail_end_with_status_1(tmp_path: Path) -> None:
    examples = tmp_path / "examples.json"
    wrong = {"name": "Everything is in", "token": TOKEN, "expect": {"allow": True}}
    examples.write_text(json.dumps({"examples": [wrong]}))
    status, said = run("test", str(DOCS / "policies/cc0-only.json"), str(examples))
    assert status == 1
    assert "Everything is in: expected allow, found deny." in said
    assert "0 of 1 examples" in said


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"examples": []}, "examples"),
        ({"examples": [{"name": "x", "expect": {"allow": True}}]}, "is about no token and no wallet"),
        ({"examples": [{"name": "x", "token": TOKEN, "expects": {}}]}, "expect"),
    ],
)
def test_a_file_of_examples_that_is_none_says_where(document: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_examples(json.dumps(document).encode(), "examples.json")


# policy check ---------------------------------------------------------------------------------------------------------


def test_a_check_needs_a_wallet_and_a_chain_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COTERIE_COORDINATOR_RPC_URL", raising=False)
    file = str(DOCS / "policies/cc0-only.json")
    status, said = run("check", file, "--wallet", "vitalik.eth")
    assert status == 1 and "is no Ethereum address" in said
    status, said = run("check", file, "--wallet", NOUNS)
    assert status == 1 and "No chain node is named" in said

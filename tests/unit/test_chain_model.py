"""Tokens and their CAIP-19 names."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from contracts_abi.model import Snapshot, Token
from protocol.errors import BadInput

NOUNS = "0x9C8fF314C9Bc7F6e59A9d9225Fb22946427eDC03"
NAME = f"eip155:1/erc721:{NOUNS}/12"


@pytest.mark.parametrize(
    "name",
    [NAME, f"eip155:31337/erc721:{NOUNS}/0", f"eip155:1/erc721:{NOUNS}/{2**256 - 1}", f"eip155:1/erc1155:{NOUNS}/7"],
)
def test_a_token_is_written_as_it_was_read(name: str) -> None:
    assert str(Token.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        NAME.lower(),
        NAME.replace("/12", "/012"),
        NAME.replace("/12", "/-1"),
        NAME.replace("/12", f"/{2**256}"),
        NAME.replace("eip155:1", "eip155:01"),
        NAME.replace("eip155:1", "eip155:0"),
        NAME.replace("erc721", "erc20"),
        NAME + "\n",
        NAME.replace("12", "١٢"),
        "x" * 10_000,
    ],
)
def test_a_name_written_otherwise_is_refused(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        Token.parse(name)
    assert len(caught.value.message) < 300


def test_a_contract_in_any_case_is_the_same_token() -> None:
    token = Token(chain_id=1, contract=NOUNS.lower(), token_id=12)
    assert token == Token.parse(NAME)
    assert {token: "kept"}[Token.parse(NAME)] == "kept"


def test_a_contract_that_is_no_address_is_refused() -> None:
    with pytest.raises(ValidationError):
        Token(chain_id=1, contract="nouns.eth", token_id=12)


def test_tokens_are_ordered_by_chain_contract_and_number() -> None:
    tokens = [Token(chain_id=chain, contract=NOUNS, token_id=n) for chain, n in [(1, 2), (1, 10), (10, 0)]]
    assert sorted([tokens[2], tokens[1], tokens[0]]) == tokens
    assert tokens[0] <= tokens[1] < tokens[2]


class Listing(BaseModel):
    snapshot: Snapshot
    tokens: list[Token]


def test_a_document_with_tokens_survives_json() -> None:
    listing = Listing(
        snapshot=Snapshot(chain_id=1, number=5, hash="0x" + 64 * "a", timestamp=1), tokens=[Token.parse(NAME)]
    )
    assert listing.model_dump(mode="json")["tokens"] == [NAME]
    assert Listing.model_validate_json(listing.model_dump_json()) == listing


def test_a_document_with_a_wrong_name_is_refused_as_a_whole() -> None:
    with pytest.raises(ValidationError):
        Listing.model_validate({"snapshot": None, "tokens": ["eip155:1/erc721:0x12/1"]})

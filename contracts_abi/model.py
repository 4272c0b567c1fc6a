"""The chain's nouns as values: a block to ask at, a token, a licence that a contract announces."""

from __future__ import annotations

import re
from functools import total_ordering
from typing import Annotated, Any, Literal

from eth_utils.address import is_address, to_checksum_address
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

from protocol.errors import BadInput

_CAIP19 = re.compile(r"eip155:([1-9][0-9]{0,31})/(erc721|erc1155):(0x[0-9a-fA-F]{40})/(0|[1-9][0-9]{0,77})")


def _checksummed(address: str) -> str:
    if not is_address(address):
        raise ValueError(f"{address!r} is not an Ethereum address")
    return to_checksum_address(address)


Address = Annotated[str, AfterValidator(_checksummed)]
"""An Ethereum address, kept in its EIP-55 checksummed form."""


class Snapshot(BaseModel):
    """A finalized block: every ownership question of a round is asked at it.

    ``timestamp`` is the block's, in Unix seconds.
    """

    model_config = ConfigDict(frozen=True)

    chain_id: int = Field(gt=0)
    number: int = Field(ge=0)
    hash: str = Field(pattern=r"^0x[0-9a-f]{64}$")
    timestamp: int = Field(ge=0)


@total_ordering
class Token(BaseModel):
    """One ERC-721 token, or one id of an ERC-1155 contract; ordered by chain, contract, id and standard.

    Serialised as its CAIP-19 name, ``eip155:31337/erc721:0xAbc…/12``: ids have 256 bits, more than a JSON number
    keeps. Tokens older than the standards, as CryptoPunks, go by an ``erc721`` name. Invariant:
    ``str(Token.parse(s)) == s``.
    """

    model_config = ConfigDict(frozen=True)

    chain_id: int = Field(gt=0)
    contract: Address
    token_id: int = Field(ge=0, lt=2**256)
    standard: Literal["erc721", "erc1155"] = "erc721"

    @classmethod
    def parse(cls, name: str) -> Token:
        """The token called ``name`` in CAIP-19; raises BadInput unless it is written in the one canonical way."""
        try:
            return cls.model_validate(name)
        except ValueError as error:
            raise BadInput(
                f"{name[:200]!r} is not a token's name.",
                "Write eip155:<chain id>/erc721:<checksummed contract>/<decimal token id>, or erc1155 for erc721.",
            ) from error

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = _CAIP19.fullmatch(value)
        if not match:
            raise ValueError("not a CAIP-19 name of an ERC-721 or ERC-1155 token")
        chain_id, standard, contract, token_id = match.groups()
        if contract != to_checksum_address(contract):
            raise ValueError(f"the contract is written {to_checksum_address(contract)}")
        return {"chain_id": int(chain_id), "contract": contract, "token_id": int(token_id), "standard": standard}

    @model_serializer
    def __str__(self) -> str:
        return f"eip155:{self.chain_id}/{self.standard}:{self.contract}/{self.token_id}"

    @property
    def asset(self) -> tuple[int, str, int]:
        """What it is, however it is named: a rule on a token is about this."""
        return self.chain_id, self.contract, self.token_id

    def __lt__(self, other: Token) -> bool:
        if not isinstance(other, Token):
            return NotImplemented
        return self._order() < other._order()

    def _order(self) -> tuple[int, str, int, str]:
        return self.chain_id, self.contract.lower(), self.token_id, self.standard


class LicenceSignal(BaseModel):
    """A licence that a contract announces, by a16z's Can't Be Evil interface or by ERC-5218.

    By Can't Be Evil (ERC-165 id 0x649a51a8) for the whole contract: ``name`` is one of PUBLIC, EXCLUSIVE, COMMERCIAL,
    COMMERCIAL_NO_HATE, PERSONAL and PERSONAL_NO_HATE where the contract is honest. By ERC-5218 (0xac7b5ca9) for one
    token: its root licence has a URI and may have been revoked. All strings are the contract's own words and are not
    to be trusted further.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    uri: str
    standard: Literal["Can't Be Evil", "ERC-5218"] = "Can't Be Evil"
    active: bool = True
    """False for one that is revoked, or that a contract promises and does not name."""

"""What the policy says of holding in one collection. Pure values."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts_abi.model import Address


class Kind(StrEnum):
    """How a contract is asked who holds its tokens."""

    ERC721 = "erc721"
    ERC1155 = "erc1155"
    CRYPTOPUNKS = "cryptopunks"

    @property
    def standard(self) -> Literal["erc721", "erc1155"]:
        """How tokens of this kind are named."""
        return "erc1155" if self is Kind.ERC1155 else "erc721"


class Rentals(StrEnum):
    """What ERC-4907's ``userOf`` means for who holds a token."""

    IGNORED = "ignored"
    """The owner holds it, rented out or not; the renter never does."""
    DENIED = "denied"
    """While it is rented out it admits nobody."""
    RENTER_TOO = "renter-too"
    """Owner and renter both hold it; in one round it serves whichever of them granted it first."""


class Staking(BaseModel):
    """A contract that holds members' tokens for them, and the view function by which it names whose they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: Address
    function: Annotated[str, Field(pattern=r"^[A-Za-z_$][\w$]{0,63}\((?:address,uint256|uint256,address|uint256)\)$")]
    """Its ABI signature, as ``stakerOf(uint256)``; an address in it is filled with the collection's."""
    output: Annotated[int, Field(ge=0, le=15)] = 0
    """Which word of the answer, counted from 0, is the staker's address."""


class Ownership(BaseModel):
    """A collection's terms. The defaults are what most need: the kind is asked by ERC-165, only the owner holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind | None = None
    """None: ERC-1155 where the contract says so by ERC-165, CryptoPunks by their address, else ERC-721."""
    since: Annotated[int, Field(ge=0)] = 0
    """The block in which the contract was deployed: logs are read from there on."""
    staking: tuple[Staking, ...] = ()
    rentals: Rentals = Rentals.IGNORED
    accounts: bool = False
    """Whether a token in a member's ERC-6551 account is the member's."""

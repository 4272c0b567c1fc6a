"""ERC-721: a token has one owner, and ``ownerOf`` names it."""

from collections.abc import Iterator, Sequence

from contracts_abi.asking import address_of
from contracts_abi.ownership.question import Claim, Question


def questions(claims: Sequence[Claim]) -> Iterator[Question]:
    """One for each claim."""
    for claim in claims:
        call = (claim.token.contract, "ownerOf(uint256)", [claim.token.token_id])
        yield Question(call, (claim,), lambda answer: [address_of(answer)])

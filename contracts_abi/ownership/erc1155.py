"""ERC-1155: an id has as many units as it has, and whoever has one or more of them holds the id.

Two members with a unit each both hold it: the units are theirs, one apiece, so neither takes the other's place.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from contracts_abi.asking import decode
from contracts_abi.ownership.question import Claim, Question

IDS_A_CALL = 100


def questions(claims: Sequence[Claim]) -> Iterator[Question]:
    """``balanceOfBatch`` for each wallet in each contract: an id that reverts spoils no other wallet's."""
    by_wallet: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        by_wallet.setdefault((claim.token.contract, claim.wallet), []).append(claim)
    for (contract, wallet), same in by_wallet.items():
        for at in range(0, len(same), IDS_A_CALL):
            part = tuple(same[at : at + IDS_A_CALL])
            ids = [claim.token.token_id for claim in part]
            call = (contract, "balanceOfBatch(address[],uint256[])", [[wallet] * len(part), ids])
            yield Question(call, part, partial(_holders, part))


def _holders(claims: tuple[Claim, ...], answer: object) -> list[str | None]:
    balances = decode("uint256[]", answer)
    if balances is None or len(balances) != len(claims):
        return [None] * len(claims)
    return [claim.wallet if balance else None for claim, balance in zip(claims, balances, strict=True)]

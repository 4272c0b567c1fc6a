"""One token serves one member in one round. Pure."""

from collections.abc import Sequence

from contracts_abi.model import Address
from protocol.grant import Grant
from protocol.policy import Verdict


def each_token_once(offers: Sequence[tuple[Grant, Sequence[Verdict]]]) -> list[tuple[Verdict, ...]]:
    """The verdicts of each offer; a token that several grants offer is denied to all but the first of them.

    Two members may hold one token at the same block: an owner and a renter, where the policy admits both. Units of an
    ERC-1155 id are not one token: each member has units of their own.
    """
    taken: dict[tuple[int, str, int], Address] = {}
    found = []
    for grant, verdicts in offers:
        found.append(tuple(_once(verdict, grant, taken) for verdict in verdicts))
    return found


def _once(verdict: Verdict, grant: Grant, taken: dict[tuple[int, str, int], Address]) -> Verdict:
    if not verdict.allow or verdict.token not in grant.tokens or verdict.token.standard == "erc1155":
        return verdict
    first = taken.setdefault(verdict.token.asset, grant.member)
    if first == grant.member:
        return verdict
    reason = f"It serves {first} in this round, who granted it first; a token serves one member at a time."
    return verdict.model_copy(update={"allow": False, "rule": "default deny", "reason": reason, "warrant": False})

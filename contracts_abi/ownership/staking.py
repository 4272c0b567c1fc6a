"""Staked tokens: ``ownerOf`` names the staking contract, and a view function of that contract names the staker.

Only contracts that the policy lists are asked: whoever may write one could name anybody.
"""

from contracts_abi.asking import address_in, as_bytes
from contracts_abi.ownership.question import Claim, Question
from contracts_abi.ownership.terms import Staking


def question(claim: Claim, staking: Staking) -> Question:
    """Whose the claim's token is by the word of the contract that it is staked in."""
    token = claim.token
    kinds = staking.function[staking.function.index("(") + 1 : -1].split(",")
    arguments = [token.token_id if kind == "uint256" else token.contract for kind in kinds]
    return Question(
        (staking.contract, staking.function, arguments),
        (claim,),
        lambda answer: [address_in(as_bytes(answer) or b"", staking.output)],
    )

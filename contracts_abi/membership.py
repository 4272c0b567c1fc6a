"""What the chain answers to a policy's membership, at one pinned block, for all of a member's wallets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts_abi.asking import Call, ask, decode
from contracts_abi.licences import announces
from contracts_abi.model import Snapshot
from contracts_abi.rpc import Rpc
from protocol.policy.membership import (
    Answers,
    HoldsErc1155,
    HoldsSoulbound,
    Membership,
    Question,
    Standing,
    questions_of,
    standing_of,
)

ERC_5192 = bytes.fromhex("b45a3c0e")


def read_standing(rpc: Rpc, membership: Membership, wallets: Iterable[str], snapshot: Snapshot) -> Standing:
    """Whether whoever has ``wallets`` is a member at ``snapshot``."""
    own = tuple(dict.fromkeys(wallets))
    return standing_of(membership, own, read_holding(rpc, questions_of(membership), own, snapshot))


def read_holding(
    rpc: Rpc, questions: Sequence[Question], wallets: Sequence[str], snapshot: Snapshot
) -> dict[Question, int | None]:
    """The answer to each question about all ``wallets`` together: balances add up, of other answers the best counts.

    None where a contract gives no answer, or says that its tokens are soulbound and does not announce ERC-5192.
    """
    bound = announces(rpc, [one.contract for one in questions if isinstance(one, HoldsSoulbound)], ERC_5192, snapshot)
    said = ask(rpc, [_call(one, wallet) for one in questions for wallet in wallets], snapshot)
    found: dict[Question, int | None] = {}
    for at, question in enumerate(questions):
        answers = [_number(question, one) for one in said[at * len(wallets) : (at + 1) * len(wallets)]]
        known = [answer for answer in answers if answer is not None]
        together = max(known, default=0) if isinstance(question, Answers) else sum(known)
        trusted = bound[question.contract] if isinstance(question, HoldsSoulbound) else True
        found[question] = together if known and trusted else None
    return found


def _call(question: Question, wallet: str) -> Call:
    if isinstance(question, HoldsErc1155):
        return question.contract, "balanceOf(address,uint256)", [wallet, question.token_id]
    if isinstance(question, Answers):
        return question.contract, question.function, [wallet]
    return question.contract, "balanceOf(address)", [wallet]


def _number(question: Question, answer: object) -> int | None:
    if isinstance(question, Answers) and question.returns == "bool":
        word = decode("bool", answer)
        return None if word is None else int(word)
    number = decode("uint256", answer)
    return None if number is None else int(number)

"""Verdicts on a wallet's tokens at a snapshot, and on granted tokens again at a later one."""

from collections.abc import Iterable

from contracts_abi.facts import read_facts
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership.discovery import Sources, held_tokens
from contracts_abi.ownership.holding import Holding, holdings
from contracts_abi.ownership.question import Claim
from contracts_abi.readers import finalized_snapshot
from contracts_abi.rpc import Rpc
from coordinator.eligibility.vaults import with_vaults, with_vaults_rechecked
from protocol.errors import Unreachable
from protocol.grant import Grant
from protocol.policy import Policy, Verdict, judge, within_cap


def take_snapshot(rpc: Rpc, policy: Policy) -> Snapshot:
    """The newest finalized block of the policy's chain.

    Raises:
        Unreachable: the node does not answer, or is on another chain.
    """
    snapshot = finalized_snapshot(rpc)
    if snapshot.chain_id != policy.chain_id:
        raise Unreachable(
            f"{rpc.host} is on chain {snapshot.chain_id}, the policy on {policy.chain_id}.",
            "Set rpc_url to a node of the policy's chain.",
        )
    return snapshot


@with_vaults
def verdicts_for(
    rpc: Rpc, policy: Policy, wallet: Address, snapshot: Snapshot, sources: Sources | None = None
) -> list[Verdict]:
    """The verdict on every token that ``wallet`` holds in the policy's collections, sorted by token."""
    held = held_tokens(rpc, wallet, policy.ownership, snapshot, sources)
    verdicts = _judged(rpc, policy, held, wallet, snapshot)
    return within_cap(policy, (_as_held(v, held[v.token], snapshot) for v in verdicts))


@with_vaults_rechecked
def recheck(rpc: Rpc, policy: Policy, grant: Grant, snapshot: Snapshot) -> list[Verdict]:
    """The verdict on every granted token at ``snapshot``, sorted; one that changed hands is denied."""
    claims = {token: Claim(token, grant.member) for token in grant.tokens}
    held = holdings(rpc, claims.values(), policy.ownership, snapshot)
    verdicts = _judged(rpc, policy, grant.tokens, grant.member, snapshot)
    return within_cap(policy, (_as_held(v, held[claims[v.token]], snapshot) for v in verdicts))


def opening_verdicts(
    rpc: Rpc, policy: Policy, grant: Grant, snapshot: Snapshot, sources: Sources | None = None
) -> list[Verdict]:
    """What a round that opens at ``snapshot`` has to know of a grant, sorted by token.

    The granted tokens asked again, and with them what else the member owns that the policy denies, so that a
    release can say why it is not in.
    """
    granted = recheck(rpc, policy, grant, snapshot)
    asked = {v.token for v in granted}
    others = verdicts_for(rpc, policy, grant.member, snapshot, sources)
    return sorted(granted + [v for v in others if not v.allow and v.token not in asked], key=lambda v: v.token)


def denied_of(verdicts: Iterable[Verdict]) -> str:
    """Why not a single one was admitted, each reason once."""
    reasons = {f"{v.collection}: {v.reason}": None for v in verdicts if not v.allow}
    return " ".join(reasons) or "It owns no token of the policy's collections."


def _judged(rpc: Rpc, policy: Policy, tokens: Iterable[Token], wallet: Address, snapshot: Snapshot) -> list[Verdict]:
    facts = read_facts(rpc, policy, tokens, (wallet,), snapshot)
    return [judge(policy, token, known) for token, known in facts.items()]


def _as_held(verdict: Verdict, holding: Holding, snapshot: Snapshot) -> Verdict:
    if holding.holds and not holding.denied:
        return verdict
    if holding.holds:
        reason = f"At block {snapshot.number} {holding.denied}, and the policy admits no rented token."
    elif verdict.token.standard == "erc1155":
        reason = f"At block {snapshot.number} the member who granted it has no unit of it."
    else:
        now = f"belongs to {holding.owner}" if holding.owner else "belongs to nobody"
        reason = f"At block {snapshot.number} it {now}, not to the member who granted it."
    return verdict.model_copy(update={"allow": False, "rule": "default deny", "reason": reason, "warrant": False})

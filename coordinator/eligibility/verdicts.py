"""Verdicts on a wallet's tokens at a snapshot, and on granted tokens again at a later one."""

from collections.abc import Iterable

from contracts_abi.model import Address, LicenceSignal, Snapshot, Token
from contracts_abi.readers import finalized_snapshot, licence_signal, owners, tokens_of
from contracts_abi.rpc import Rpc
from coordinator.eligibility.vaults import with_vaults, with_vaults_rechecked
from protocol.errors import Unreachable
from protocol.grant import Grant
from protocol.policy import Policy, Verdict, judge


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
def verdicts_for(rpc: Rpc, policy: Policy, wallet: Address, snapshot: Snapshot) -> list[Verdict]:
    """The verdict on every token that ``wallet`` owns in the policy's collections, sorted by token."""
    tokens = [token for rule in policy.collections for token in tokens_of(rpc, rule.contract, wallet, snapshot)]
    return _judged(rpc, policy, tokens, snapshot)


@with_vaults_rechecked
def recheck(rpc: Rpc, policy: Policy, grant: Grant, snapshot: Snapshot) -> list[Verdict]:
    """The verdict on every granted token at ``snapshot``, sorted; one that changed hands is denied."""
    owned = owners(rpc, grant.tokens, snapshot)
    verdicts = _judged(rpc, policy, grant.tokens, snapshot)
    return [v if owned[v.token] == grant.member else _not_owned(v, owned[v.token], snapshot) for v in verdicts]


def opening_verdicts(rpc: Rpc, policy: Policy, grant: Grant, snapshot: Snapshot) -> list[Verdict]:
    """What a round that opens at ``snapshot`` has to know of a grant, sorted by token.

    The granted tokens asked again, and with them what else the member owns that the policy denies, so that a
    release can say why it is not in.
    """
    granted = recheck(rpc, policy, grant, snapshot)
    asked = {v.token for v in granted}
    others = verdicts_for(rpc, policy, grant.member, snapshot)
    return sorted(granted + [v for v in others if not v.allow and v.token not in asked], key=lambda v: v.token)


def denied_of(verdicts: Iterable[Verdict]) -> str:
    """Why not a single one was admitted, each reason once."""
    reasons = {f"{v.collection}: {v.reason}": None for v in verdicts if not v.allow}
    return " ".join(reasons) or "It owns no token of the policy's collections."


def _judged(rpc: Rpc, policy: Policy, tokens: Iterable[Token], snapshot: Snapshot) -> list[Verdict]:
    listed = sorted(set(tokens))
    signals: dict[str, LicenceSignal | None] = {
        contract: licence_signal(rpc, contract, snapshot) for contract in {token.contract for token in listed}
    }
    return [judge(policy, token, signals[token.contract]) for token in listed]


def _not_owned(verdict: Verdict, owner: str | None, snapshot: Snapshot) -> Verdict:
    now = f"belongs to {owner}" if owner else "belongs to nobody"
    reason = f"At block {snapshot.number} it {now}, not to the member who granted it."
    return verdict.model_copy(update={"allow": False, "rule": "default deny", "reason": reason, "warrant": False})

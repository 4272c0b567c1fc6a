"""Who may start rounds: asked of the chain at the time of the act."""

from contracts_abi.model import Address, Snapshot
from contracts_abi.readers import has_role
from contracts_abi.rpc import Rpc
from protocol.errors import NotAllowed
from protocol.policy import Policy


def require_admin(rpc: Rpc, policy: Policy, wallet: Address, snapshot: Snapshot) -> None:
    """Raises NotAllowed unless ``wallet`` holds the policy's AccessControl role at ``snapshot``."""
    if has_role(rpc, policy.admin.contract, bytes.fromhex(policy.admin.role[2:]), wallet, snapshot):
        return
    raise NotAllowed(
        f"{wallet} does not hold the admin role of {policy.dao} at block {snapshot.number}.",
        f"Sign with a wallet that {policy.admin.contract} gives the role to.",
    )

"""Who may start and cancel rounds and remove contributions: asked at the block of the act, by both sides."""

from contracts_abi.model import Address, Snapshot
from contracts_abi.readers import has_role, is_safe_owner
from contracts_abi.rpc import Rpc
from protocol.errors import NotAllowed
from protocol.policy import AdminRole, AdminSafe, AdminWallets, Policy


def require_admin(rpc: Rpc, policy: Policy, wallet: Address, snapshot: Snapshot) -> None:
    """Raises NotAllowed unless ``wallet`` is an admin by the policy, at ``snapshot`` where the chain says so."""
    match policy.admin:
        case AdminRole(contract=contract, role=role):
            if not has_role(rpc, contract, bytes.fromhex(role[2:]), wallet, snapshot):
                raise NotAllowed(
                    f"{wallet} does not hold the admin role of {policy.dao} at block {snapshot.number}.",
                    f"Sign with a wallet that {contract} gives the role to.",
                )
        case AdminSafe(safe=safe):
            if wallet != safe:
                raise NotAllowed(
                    f"{wallet} is not the Safe that acts for {policy.dao}.",
                    f"Have the owners of {safe} sign; the order names the Safe itself as its admin.",
                )
        case AdminWallets(wallets=wallets):
            if wallet not in wallets:
                raise NotAllowed(
                    f"{wallet} is none of the admins that the policy of {policy.dao} lists.",
                    f"Sign with one of {', '.join(wallets)}.",
                )


def admin_for(rpc: Rpc, policy: Policy, wallet: Address, snapshot: Snapshot) -> Address:
    """The admin that ``wallet`` is, or is an owner of: whom its orders would name, and what it may look at.

    An owner of the DAO's Safe gives no order alone. Raises NotAllowed when it is neither.
    """
    admin = policy.admin
    if isinstance(admin, AdminSafe) and wallet != admin.safe and is_safe_owner(rpc, admin.safe, wallet, snapshot):
        return admin.safe
    require_admin(rpc, policy, wallet, snapshot)
    return wallet

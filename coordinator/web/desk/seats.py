"""Who may look at the desk: asked of the chain as for an act, and remembered for some seconds."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from contracts_abi.admin import admin_for
from contracts_abi.model import Address
from contracts_abi.rpc import Rpc
from coordinator.eligibility.verdicts import take_snapshot
from protocol.errors import NotAllowed, Unreachable
from protocol.policy import AdminRole, AdminSafe, AdminWallets, Policy

REMEMBER_SECONDS = 15.0
SILENT_SECONDS = 600.0
"""While the chain is silent, who was an admin so short a time ago goes on looking: at what is wrong, above all."""
MOST_REMEMBERED = 1000


@dataclass(frozen=True)
class Seat:
    """A signed-in wallet, and whom its orders name as admin: itself, or the Safe that it owns with others."""

    wallet: Address
    admin: Address

    @property
    def signs(self) -> bool:
        """Whether this wallet's own signature is an admin's."""
        return self.wallet == self.admin


class Seats:
    """Answers of the chain, for ``REMEMBER_SECONDS``. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[Address, tuple[float, Seat | NotAllowed]] = {}

    def of(self, rpc: Callable[[], Rpc], policy: Policy, wallet: Address) -> Seat:
        """The seat of ``wallet``.

        Raises:
            NotAllowed: it is no admin.
            Unreachable: the chain does not answer, and has not called it an admin lately.
        """
        now = self._clock()
        with self._lock:
            asked, answer = self._known.get(wallet, (0.0, None))
        if answer is None or asked + REMEMBER_SECONDS <= now:
            try:
                answer = _ask(rpc(), policy, wallet)
            except Unreachable:
                if isinstance(answer, Seat) and now < asked + SILENT_SECONDS:
                    return answer
                raise
            with self._lock:
                if len(self._known) >= MOST_REMEMBERED:
                    self._known.clear()
                self._known[wallet] = (now, answer)
        if isinstance(answer, NotAllowed):
            raise NotAllowed(answer.message, answer.hint)
        return answer


def who_is_admin(policy: Policy) -> tuple[str, str]:
    """Who the policy says is admin, and how somebody becomes one: two sentences."""
    match policy.admin:
        case AdminRole(contract=contract, role=role):
            named = "the default admin role" if role == "0x" + "00" * 32 else f"the role {role}"
            return (
                f"Admins are the wallets to which the contract {contract} gives {named}.",
                "Whoever may grant that role there can make your wallet an admin; nothing has to be changed here.",
            )
        case AdminSafe(safe=safe):
            return (
                f"The admin is the contract wallet {safe}; its owners may look at this desk.",
                "Its owners can add your wallet to them; nothing has to be changed here.",
            )
        case AdminWallets(wallets=wallets):
            return (
                f"Admins are the wallets that the policy lists: {', '.join(wallets)}.",
                "A new policy can list your wallet; grants under the old one then have to be signed again.",
            )


def _ask(rpc: Rpc, policy: Policy, wallet: Address) -> Seat | NotAllowed:
    try:
        return Seat(wallet, admin_for(rpc, policy, wallet, take_snapshot(rpc, policy)))
    except NotAllowed as no:
        return no

"""The step that asks the chain about live contributions."""

from collections.abc import Callable

import structlog

from contracts_abi.delegation import delegated
from contracts_abi.model import Snapshot
from contracts_abi.readers import owners
from contracts_abi.rpc import Rpc
from coordinator.rounds.ledger import Ledger
from coordinator.watching.lapses import lapsed

log = structlog.get_logger(__name__)


class Watcher:
    """Asks once for every pair of finalized block and set of live contributions.

    What it remembers is only what it need not ask again: after a restart it asks once more.
    """

    def __init__(self, rpc: Rpc, ledger: Ledger, snapshot: Callable[[], Snapshot]) -> None:
        """``snapshot`` answers the newest finalized block."""
        self._rpc = rpc
        self._ledger = ledger
        self._snapshot = snapshot
        self._asked: tuple[str, frozenset[str]] | None = None

    def step(self) -> None:
        """Let contributions die whose tokens have moved. Raises Unreachable when the chain does not answer."""
        snapshot, watched = self._snapshot(), self._ledger.watched()
        question = (snapshot.hash, frozenset(one.contribution_id for one in watched))
        if question == self._asked:
            return
        bound = {verdict.token for one in watched for verdict in one.bound}
        owned = owners(self._rpc, bound, snapshot) if bound else {}
        lent = delegated(
            self._rpc, {(v.token, one.member): owned[v.token] for one in watched for v in one.bound}, snapshot
        )
        # A token in a vault that still delegates to the member is as good as the member's own.
        found = [
            lapse
            for one in watched
            for lapse in lapsed(
                [one], {**owned, **{t: one.member for t, member in lent if member == one.member}}, snapshot
            )
        ]
        if found:
            removal = self._ledger.end_contributions(found, snapshot)
            log.info("contributions died", ids=[one.contribution_id for one in found], removal_round=removal)
        self._asked = question

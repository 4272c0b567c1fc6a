"""The step that asks the chain about live contributions."""

from collections.abc import Callable, Mapping

import structlog

from contracts_abi.delegation import held_or_lent
from contracts_abi.model import Address, Snapshot
from contracts_abi.ownership.terms import Ownership
from contracts_abi.rpc import Rpc
from coordinator.rounds.ledger import Ledger
from coordinator.watching.forks import Forks
from coordinator.watching.lapses import lapsed

log = structlog.get_logger(__name__)


class Watcher:
    """Asks once for every pair of finalized block and set of live contributions.

    What it remembers is only what it need not ask again: after a restart it asks once more.
    """

    def __init__(
        self,
        rpc: Rpc,
        ledger: Ledger,
        snapshot: Callable[[], Snapshot],
        terms: Mapping[Address, Ownership],
        forks: Forks,
    ) -> None:
        """``snapshot`` answers the newest finalized block; ``terms`` are the policy's, by collection."""
        self._rpc = rpc
        self._ledger = ledger
        self._terms = terms
        self._forks = forks
        self._snapshot = snapshot
        self._asked: tuple[str, frozenset[str]] | None = None

    def step(self) -> None:
        """Let contributions die whose tokens have moved, after rounds on a fork were set right.

        Raises Unreachable when the chain does not answer.
        """
        snapshot = self._snapshot()
        self._forks.step(snapshot)
        watched = self._ledger.watched()
        question = (snapshot.hash, frozenset(one.contribution_id for one in watched))
        if question == self._asked:
            return
        claims = [claim for one in watched for claim in one.claims]
        found = lapsed(watched, held_or_lent(self._rpc, claims, self._terms, snapshot), snapshot) if claims else []
        if found:
            removal = self._ledger.end_contributions(found, snapshot)
            log.info("contributions died", ids=[one.contribution_id for one in found], removal_round=removal)
        self._asked = question

"""Rounds whose snapshot is no longer in the chain: their members' tokens are asked again at a new one."""

from collections.abc import Callable, Sequence

import structlog

from contracts_abi.asking import is_canonical
from contracts_abi.model import Snapshot
from contracts_abi.rpc import Rpc
from coordinator.rounds.ledger import Ledger
from coordinator.rounds.parts import Part
from protocol.grant import Grant
from protocol.policy import Verdict

log = structlog.get_logger(__name__)


class Forks:
    """Asks once for every pair of finalized block and rounds' snapshots. A removal round has nobody's tokens to ask."""

    def __init__(self, rpc: Rpc, ledger: Ledger, verdicts: Callable[[Grant, Snapshot], Sequence[Verdict]]) -> None:
        """``verdicts`` answers what a round that opens at a snapshot has to know of a grant."""
        self._rpc = rpc
        self._ledger = ledger
        self._verdicts = verdicts
        self._asked: tuple[str, frozenset[str]] | None = None

    def step(self, finalized: Snapshot) -> None:
        """Raises Unreachable when the chain does not answer."""
        taken = self._ledger.snapshots()
        question = (finalized.hash, frozenset(one.hash for one in taken.values()))
        if question == self._asked:
            return
        for round_id, snapshot in taken.items():
            if finalized.number < snapshot.number or is_canonical(self._rpc, snapshot):
                continue  # a node that lags behind says nothing
            grants = self._ledger.grants(round_id)
            parts = [Part(grant, tuple(self._verdicts(grant, finalized))) for grant in grants]
            self._ledger.ask_again(round_id, finalized, parts)
            log.warning("a snapshot was forked away", round_id=round_id, block=snapshot.number, now=finalized.number)
        self._asked = question

"""How alike contributions are: norms, ranks and cosines of their deltas in product space, from the stored files.

The same Gram matrix that the merge uses. Private modes keep no adapter that could be compared.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Address
from coordinator.database import ContributionRow
from coordinator.rounds.ledger import ADAPTER
from merging.gram import gram
from merging.robust import COPIED
from merging.stored import StoredAdapter
from protocol.errors import ContributionRefused

MOST = 40
"""Contributions that are compared: beyond this nobody reads the table, and a request has to be quick."""
MOST_BYTES = 400_000_000
"""Of the files that one comparison reads."""


@dataclass(frozen=True)
class Alike:
    """Contributions beside each other; ``cosines`` row by row, in their order."""

    ids: tuple[str, ...]
    members: tuple[Address, ...]
    norms: tuple[float, ...]
    ranks: tuple[int, ...]
    cosines: tuple[tuple[float, ...], ...]

    @property
    def copies(self) -> tuple[tuple[int, int], ...]:
        """Pairs, by place, that are one and the same delta."""
        return tuple(
            (i, j) for i, row in enumerate(self.cosines) for j, cosine in enumerate(row) if i < j and cosine >= COPIED
        )

    def nearest(self, place: int) -> tuple[int, float] | None:
        """Of the others, whoever is most alike, and how much."""
        others = [(cosine, at) for at, cosine in enumerate(self.cosines[place]) if at != place]
        if not others:
            return None
        cosine, at = max(others)
        return at, cosine


class Comparisons:
    """What was compared last: files do not change under their ids. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, ...], Alike] = {}

    def of(self, folder: Path, rows: Sequence[ContributionRow]) -> Alike | str:
        """The comparison, or why there is none, in a sentence. One at a time, because it takes memory."""
        ids = tuple(row.contribution_id for row in rows)
        if not ids:
            return "No contribution is here yet."
        if len(ids) > MOST:
            return f"There are {len(ids)} contributions; a comparison is made of {MOST} at most."
        if sum(row.size for row in rows) > MOST_BYTES:
            return f"The contributions are larger than {MOST_BYTES // 1_000_000} MB together, too much to compare here."
        with self._lock:
            if ids not in self._last:
                try:
                    self._last = {ids: compared(folder, rows)}
                except (OSError, ContributionRefused):
                    return "The contributions' files cannot be read."
            return self._last[ids]


def compared(folder: Path, rows: Sequence[ContributionRow]) -> Alike:
    """Raises OSError or ContributionRefused when a file is missing or no adapter."""
    adapters = [StoredAdapter(folder / row.contribution_id / ADAPTER) for row in rows]
    products = gram(adapters)
    norms = np.sqrt(np.clip(np.diag(products), 0.0, None))
    cosines = np.clip(products / np.maximum(np.outer(norms, norms), np.finfo(float).tiny), -1.0, 1.0)
    return Alike(
        ids=tuple(row.contribution_id for row in rows),
        members=tuple(row.member for row in rows),
        norms=tuple(float(one) for one in norms),
        ranks=tuple(max(adapter[layer].rank for layer in adapter) for adapter in adapters),
        cosines=tuple(tuple(float(one) for one in row) for row in cosines),
    )


def live_of(session: Session, round_id: str) -> Sequence[ContributionRow]:
    """The contributions of a round that are kept whole, in the order in which they came."""
    return session.scalars(
        select(ContributionRow)
        .where(ContributionRow.round_id == round_id, ContributionRow.state != "refused")
        .order_by(ContributionRow.received_at, ContributionRow.contribution_id)
    ).all()

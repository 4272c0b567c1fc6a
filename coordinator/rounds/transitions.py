"""The states of a round and when it moves from one to the next. Pure: the caller brings the clock and the facts."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from protocol.errors import Conflict


class RoundState(StrEnum):
    OPEN = "open"
    TRAINING = "training"
    MERGING = "merging"
    SCORING = "scoring"
    PUBLISHING = "publishing"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RoundKind(StrEnum):
    TRAINING = "training"
    REMOVAL = "removal"


_STOP = frozenset({RoundState.FAILED, RoundState.CANCELLED})
ALLOWED: Mapping[RoundState, frozenset[RoundState]] = {
    RoundState.OPEN: _STOP | {RoundState.TRAINING},
    RoundState.TRAINING: _STOP | {RoundState.MERGING},
    RoundState.MERGING: _STOP | {RoundState.SCORING},
    RoundState.SCORING: _STOP | {RoundState.MERGING, RoundState.PUBLISHING},
    RoundState.PUBLISHING: _STOP | {RoundState.MERGING, RoundState.PUBLISHED},
    RoundState.PUBLISHED: frozenset(),
    RoundState.FAILED: frozenset(),
    RoundState.CANCELLED: frozenset(),
}
"""Back to merging is the way when a merged contribution dies before its release is out."""

ENDED = frozenset(state for state, after in ALLOWED.items() if not after)
GATHERING = frozenset({RoundState.OPEN, RoundState.TRAINING})
"""States in which a round's contributions are not complete, so that no other round merges them."""

FIRST_STATE = {RoundKind.TRAINING: RoundState.OPEN, RoundKind.REMOVAL: RoundState.MERGING}


def require_allowed(before: RoundState, after: RoundState) -> None:
    """Raises Conflict for a move that no round makes."""
    if after not in ALLOWED[before]:
        raise Conflict(f"A round that is {before} does not become {after}.")


@dataclass(frozen=True)
class Standing:
    """Everything that a round's next step depends on. Times are Unix seconds."""

    kind: RoundKind
    state: RoundState
    now: float
    deadline: float
    quorum: int
    expected: frozenset[str] = frozenset()
    """Grants that are to contribute: admitted, and not declined or refused."""
    contributed: frozenset[str] = frozenset()
    """Grants whose contribution to this round is stored and live."""
    live: frozenset[str] = frozenset()
    """Contributions that a merge would take now."""
    merged: frozenset[str] = frozenset()
    """Contributions that the candidate is merged from."""
    needless: bool = False
    """A removal whose dead contributions are in the newest release no longer."""
    scorers: frozenset[str] = frozenset()
    """Node keys of the merged contributions, without those that declined."""
    scored: frozenset[str] = frozenset()
    """Node keys whose scores of the candidate are stored."""
    scoring_ends: float = 0.0


@dataclass(frozen=True)
class Step:
    """Where the round goes, and why in a sentence."""

    to: RoundState
    reason: str


def next_step(standing: Standing) -> Step | None:
    """The step that is due now. None: wait, or (in merging and publishing) the work of the state is to be done."""
    match standing.state:
        case RoundState.OPEN:
            return Step(RoundState.TRAINING, f"{len(standing.expected)} grants are to contribute.")
        case RoundState.TRAINING:
            return _after_training(standing)
        case RoundState.MERGING:
            return _before_merging(standing)
        case RoundState.SCORING:
            return _before_merging(standing) or _again(standing) or _after_scoring(standing)
        case RoundState.PUBLISHING:
            return _before_merging(standing) or _again(standing)
    return None


def _after_training(standing: Standing) -> Step | None:
    count = len(standing.contributed)
    if standing.expected <= standing.contributed:
        why = f"All contributions that were to come are here: {count}."
    elif standing.now >= standing.deadline:
        why = f"The deadline has passed with {count} of {len(standing.expected)} contributions."
    else:
        return None
    if count >= standing.quorum:
        return Step(RoundState.MERGING, why)
    return Step(RoundState.FAILED, f"{why} The quorum is {standing.quorum}.")


def _before_merging(standing: Standing) -> Step | None:
    if not standing.live:
        return Step(
            RoundState.FAILED,
            "No live contribution is left to merge; releases that hold dead ones are not replaced.",
        )
    if standing.needless:
        return Step(RoundState.CANCELLED, "The newest release already does without what was to be removed.")
    return None


def _again(standing: Standing) -> Step | None:
    if standing.live == standing.merged:
        return None
    return Step(RoundState.MERGING, "The live contributions have changed since the candidate was merged.")


def _after_scoring(standing: Standing) -> Step | None:
    if not standing.scorers:
        return Step(RoundState.FAILED, "No member can score the candidate, so its gain cannot be chosen.")
    count = f"{len(standing.scored)} of {len(standing.scorers)} members scored"
    if standing.scorers <= standing.scored:
        return Step(RoundState.PUBLISHING, f"{count}.")
    if standing.now < standing.scoring_ends:
        return None
    if standing.scored:
        return Step(RoundState.PUBLISHING, f"{count} in time.")
    if standing.kind is RoundKind.TRAINING and standing.now >= standing.deadline:
        return Step(RoundState.FAILED, "Nobody scored the candidate before the deadline.")
    return None

"""The states of a round and when it moves from one to the next. Pure: the caller brings the clock and the facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from protocol.counted import counted
from protocol.errors import Conflict


class RoundState(StrEnum):
    OPEN = "open"
    TRAINING = "training"
    SHARING = "sharing"
    MASKING = "masking"
    CONFIRMING = "confirming"
    UNMASKING = "unmasking"
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
    RoundState.TRAINING: _STOP | {RoundState.SHARING, RoundState.MERGING},
    RoundState.SHARING: _STOP | {RoundState.MASKING},
    RoundState.MASKING: _STOP | {RoundState.CONFIRMING},
    RoundState.CONFIRMING: _STOP | {RoundState.UNMASKING},
    RoundState.UNMASKING: _STOP | {RoundState.MERGING},
    RoundState.MERGING: _STOP | {RoundState.SCORING, RoundState.PUBLISHING},
    RoundState.SCORING: _STOP | {RoundState.MERGING, RoundState.PUBLISHING},
    RoundState.PUBLISHING: _STOP | {RoundState.MERGING, RoundState.PUBLISHED},
    RoundState.PUBLISHED: frozenset(),
    RoundState.FAILED: frozenset(),
    RoundState.CANCELLED: frozenset(),
}
"""Back to merging is the way when a merged contribution dies before its release is out.

The four states after training are the exchanges of a secret sum. A ``dp`` round goes from merging to publishing: scores
of its candidate would tell what the noise hides.
"""

ENDED = frozenset(state for state, after in ALLOWED.items() if not after)
EXCHANGES = (
    RoundState.TRAINING,
    RoundState.SHARING,
    RoundState.MASKING,
    RoundState.CONFIRMING,
    RoundState.UNMASKING,
)
"""Of a secret sum, in their order; keys are made when training is done."""
_COUNTED = EXCHANGES[:3]
"""Who answers in these may be in the sum; after them some may be silent, as the secret sum's own thresholds say."""
GATHERING = frozenset({RoundState.OPEN, *EXCHANGES})
"""States in which a round's contributions are not complete, so that no other round merges them."""

NAMED = 10
"""How many missing members a sentence names."""
FIRST_STATE = {RoundKind.TRAINING: RoundState.OPEN, RoundKind.REMOVAL: RoundState.MERGING}


def require_allowed(before: RoundState, after: RoundState) -> None:
    """Raises Conflict for a move that no round makes."""
    if after not in ALLOWED[before]:
        raise Conflict(f"A round that is {before} does not become {after}.")


@dataclass(frozen=True)
class Exchanged:
    """How an exchange of a secret sum stands: who is asked, who has answered (node keys), and until when."""

    asked: frozenset[str]
    answered: frozenset[str]
    ends: float
    enough: bool = False
    """Whether what has come is all that it takes; then nobody else is waited for."""


@dataclass(frozen=True)
class Absent:
    """A member whose contribution or answer is not there, and why, in words that follow the name."""

    member: str
    why: str


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
    exchanged: Exchanged | None = None
    """Of the present exchange; None in other modes than ``secagg``, and in other states."""
    paused: bool = False
    """Whether an admin has it stand still."""
    set_aside: frozenset[str] = frozenset()
    """Grants whose contribution an admin has set aside: not awaited, and not counted until it is accepted."""
    absent: tuple[Absent, ...] = ()
    """Who is missing while contributions or answers are gathered."""
    is_sealed: bool = False
    """Whether the merge is a secret sum, which cannot be taken apart."""


@dataclass(frozen=True)
class Step:
    """Where the round goes, and why in a sentence."""

    to: RoundState
    reason: str
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """For the event, beside the sentence."""


def next_step(standing: Standing) -> Step | None:
    """The step that is due now. None: wait, or (in merging and publishing) the work of the state is to be done."""
    if standing.paused:
        return None
    match standing.state:
        case RoundState.OPEN:
            return Step(RoundState.TRAINING, f"Waiting for {counted(len(standing.expected), 'contribution')}.")
        case _ if standing.exchanged:
            return _broken(standing) or _after_exchange(standing, standing.exchanged)
        case RoundState.TRAINING:
            return _after_training(standing)
        case RoundState.MERGING:
            return _before_merging(standing) or _broken(standing)
        case RoundState.SCORING:
            return _before_merging(standing) or _again(standing) or _after_scoring(standing)
        case RoundState.PUBLISHING:
            return _before_merging(standing) or _again(standing)
    return None


def _after_training(standing: Standing) -> Step | None:
    count = len(standing.contributed)
    if standing.expected <= standing.contributed | standing.set_aside:
        if count < standing.quorum and standing.set_aside and standing.now < standing.deadline:
            return None  # an admin may accept what was set aside
        why = f"All contributions that were to come are here: {count}."
    elif standing.now >= standing.deadline:
        why = f"The deadline has passed with {count} of {len(standing.expected)} contributions."
    else:
        return None
    if count >= standing.quorum:
        return Step(RoundState.MERGING, why)
    return _without_quorum(standing, why)


def _without_quorum(standing: Standing, why: str) -> Step:
    """The end of a round that too few gave something to: who was missing, and why."""
    named = ", ".join(f"{one.member} ({one.why})" for one in standing.absent[:NAMED])
    others = len(standing.absent) - NAMED
    missing = f" Missing: {named}{f' and {others} more' if others > 0 else ''}." if named else ""
    facts: dict[str, JsonValue] = {
        "quorum": standing.quorum,
        "missing": [{"member": one.member, "why": one.why} for one in standing.absent],
    }
    return Step(RoundState.FAILED, f"{why} The quorum is {standing.quorum}.{missing}", facts)


def _after_exchange(standing: Standing, exchanged: Exchanged) -> Step | None:
    """Whether so many answers open a sum is for the exchange itself to say, when it is closed."""
    why = f"{len(exchanged.answered)} of {len(exchanged.asked)} members have answered."
    if not (exchanged.enough or exchanged.asked <= exchanged.answered or exchanged.ends <= standing.now):
        return None
    if standing.state in _COUNTED and len(exchanged.answered) < standing.quorum:
        return _without_quorum(standing, why)
    after = (*EXCHANGES, RoundState.MERGING)[EXCHANGES.index(standing.state) + 1]
    return Step(after, why)


def _before_merging(standing: Standing) -> Step | None:
    if not standing.live:
        return Step(
            RoundState.FAILED,
            "No live contribution is left to merge; releases that hold dead ones are not replaced.",
        )
    if standing.needless:
        return Step(RoundState.CANCELLED, "The newest release already does without what was to be removed.")
    return None


def _broken(standing: Standing) -> Step | None:
    """A secret sum ends with the first contribution that does."""
    if not standing.is_sealed or not standing.merged or standing.live == standing.merged:
        return None
    return Step(
        RoundState.FAILED,
        "A contribution ended before its release was out, and a secret sum cannot be taken apart: start a new round.",
    )


def _again(standing: Standing) -> Step | None:
    if standing.live == standing.merged:
        return None
    why = "The live contributions have changed since the candidate was merged."
    return _broken(standing) or Step(RoundState.MERGING, why)


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

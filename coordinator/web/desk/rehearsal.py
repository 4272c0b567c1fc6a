"""A round that is not started: who would take part, with how many tokens, and what stands against it.

It asks what ``POST /api/v1/rounds`` would ask, of the same functions, and writes nothing.
"""

import statistics
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Address, Snapshot
from coordinator.database import ContributionRow, RoundRow
from coordinator.eligibility.verdicts import opening_verdicts, take_snapshot
from coordinator.identity import grants
from coordinator.rounds import budget, sums
from coordinator.rounds.checks import Layers, adapted_layers
from coordinator.rounds.parts import Part, once_each
from coordinator.rounds.queries import active_round, live_verdicts
from coordinator.rounds.transitions import RoundKind
from coordinator.web.desk.words import Together, together
from coordinator.web.service import Service
from protocol.contribution import ContributionHeader
from protocol.counted import counted
from protocol.errors import BadInput, Conflict, CoterieError
from protocol.grant import Grant, RoundPlan
from protocol.policy import Policy, ReleaseTerms, Verdict, release_terms

PAST_SHOWN = 20
"""Contributions from which the time of training is told."""
_BYTES = 2
"""Of a number in an adapter's file (fp16)."""


@dataclass(frozen=True)
class Offer:
    """One member who has granted, and what comes of it."""

    grant_id: str
    member: Address
    takes_part: bool
    granted: int
    admitted: int
    denied: tuple[Together, ...]


@dataclass(frozen=True)
class Rehearsal:
    """What would happen if the round were started now."""

    plan: RoundPlan
    snapshot: Snapshot
    offers: tuple[Offer, ...]
    minimum_tokens: int
    elsewhere: int
    """Members whose grant is for another policy or base, or has ended: they have to sign again."""
    terms: ReleaseTerms | None
    obstacles: tuple[tuple[str, str], ...]
    """(sentence, what to do) for each thing that keeps the round from starting."""
    bytes_each: int | None
    """Of a member's adapter; None where the base cannot be read."""
    seconds_each: float | None
    """Of training with the most tokens, by what it took before; None while nobody has trained on this base."""

    @property
    def taking_part(self) -> int:
        return sum(one.takes_part for one in self.offers)

    @property
    def tokens(self) -> int:
        return sum(one.admitted for one in self.offers if one.takes_part)

    @property
    def may_start(self) -> bool:
        return not self.obstacles


class Asked:
    """Verdicts of the newest finalized block that anybody asked for, by grant. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._block = ""
        self._found: dict[str, tuple[Verdict, ...]] = {}

    def of(self, block: str, key: str, ask: Callable[[], Sequence[Verdict]]) -> tuple[Verdict, ...]:
        with self._lock:
            if block != self._block:
                self._block, self._found = block, {}
            elif key in self._found:
                return self._found[key]
        answer = tuple(ask())
        with self._lock:
            if block == self._block:
                self._found[key] = answer
        return answer


def rehearse(here: Service, asked: Asked, plan: RoundPlan) -> Rehearsal:
    """Raises Unreachable when the chain does not answer."""
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    with here.database.reading() as session:
        live = grants.live_grants(session, here.policy.digest(), here.base_hash, here.now())
        others = grants.members_elsewhere(session, {one.member for one in live})

    def part_of(grant: Grant) -> Part:
        ask = partial(opening_verdicts, rpc, here.policy, grant, snapshot, here.sources)
        return Part(grant, asked.of(snapshot.hash, grant.digest(), ask))

    parts = once_each([part_of(grant) for grant in live])
    with here.database.reading() as session:
        return composed(session, here, plan, snapshot, parts, others)


def composed(
    session: Session, here: Service, plan: RoundPlan, snapshot: Snapshot, parts: Sequence[Part], elsewhere: int
) -> Rehearsal:
    """What would come of these parts; asks the database only."""
    enough = [part for part in parts if len(part.admitted) >= here.policy.minimum_tokens]
    most = max((len(part.admitted) for part in enough), default=0)
    terms, obstacles = None, list(_obstacles(session, here.policy, plan, enough))
    try:
        terms = _terms(session, here, enough)
    except Conflict as clash:
        obstacles.append((clash.message, clash.hint))
    return Rehearsal(
        plan=plan,
        snapshot=snapshot,
        offers=tuple(_offer(part, part in enough) for part in parts),
        minimum_tokens=here.policy.minimum_tokens,
        elsewhere=elsewhere,
        terms=terms,
        obstacles=tuple(obstacles),
        bytes_each=_bytes(here, plan),
        seconds_each=seconds_of_training(session, here.base_hash, plan.sized(most)),
    )


def _obstacles(session: Session, policy: Policy, plan: RoundPlan, enough: Sequence[Part]) -> Sequence[tuple[str, str]]:
    found = []

    def hold(*rules: Callable[[], None]) -> None:
        for rule in rules:
            try:
                rule()
            except CoterieError as error:
                found.append((error.message, error.hint))

    def no_other_round() -> None:
        if other := active_round(session, RoundKind.TRAINING):
            raise Conflict(f"Round {other.number} is under way.", "Wait until it has ended.")

    def quorum() -> None:
        if len(enough) < plan.quorum:
            raise Conflict(
                f"{counted(len(enough), 'member')} may take part at this block, and the quorum is {plan.quorum}.",
                "Wait for more members, or lower the quorum.",
            )

    members = {part.grant.member for part in enough}
    hold(
        no_other_round,
        lambda: policy.require_mode(plan.mode),
        quorum,
        lambda: sums.require_members(plan, len(enough)),
        lambda: budget.require(session, plan, members, policy.epsilon_limit),
    )
    return found


def _terms(session: Session, here: Service, enough: Sequence[Part]) -> ReleaseTerms | None:
    offered = [v for part in enough for v in part.offered]
    others = live_verdicts(session, here.base_hash, {part.grant.member for part in enough})
    return release_terms(here.policy, [*offered, *others]) if offered or others else None


def _offer(part: Part, takes_part: bool) -> Offer:
    return Offer(
        grant_id=part.grant.grant_id,
        member=part.grant.member,
        takes_part=takes_part,
        granted=len(part.grant.tokens),
        admitted=len(part.admitted),
        denied=together(one for one in part.verdicts if not one.allow),
    )


def _bytes(here: Service, plan: RoundPlan) -> int | None:
    try:
        return adapter_bytes(adapted_layers(here.settings.base), plan.rank)
    except (BadInput, OSError):
        return None


def adapter_bytes(layers: Layers, rank: int) -> int:
    """Of both factors of every layer, without the file's header."""
    return sum(rank * (one.d_out + one.d_in) for one in layers.values()) * _BYTES


def seconds_of_training(session: Session, base_hash: str, plan: RoundPlan) -> float | None:
    """The middle one of what a step took in the newest contributions on this base, for all steps of the plan as
    it is sized; None while nobody has trained on it."""
    headers = session.scalars(
        select(ContributionRow.header)
        .join(RoundRow, RoundRow.round_id == ContributionRow.round_id)
        .where(RoundRow.base_hash == base_hash, ContributionRow.state != "refused")
        .order_by(ContributionRow.received_at.desc())
        .limit(PAST_SHOWN)
    )
    trained = (ContributionHeader.model_validate_json(one).training for one in headers)
    paces = [one.seconds / one.steps for one in trained if one and one.steps]
    return statistics.median(paces) * plan.steps if paces else None

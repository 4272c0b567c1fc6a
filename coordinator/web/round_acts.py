"""An admin's acts on a round under way and on single contributions, over HTTP; signed orders like those in ``acts``."""

from coordinator.web.acts import ContributionPath, RoundPath, checked_by_admin
from coordinator.web.openapi import Answer, Request, Routes
from coordinator.web.service import Service, service
from protocol.acts import (
    AcceptContribution,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    ResumeRound,
)

round_acts = Routes("round_acts", __name__, tag="Acts", url_prefix="/api/v1")


class PauseRoundRequest(Request):
    pause_round: PauseRound
    signature: str


class ResumeRoundRequest(Request):
    resume_round: ResumeRound
    signature: str


class ExtendRoundRequest(Request):
    extend_round: ExtendRound
    signature: str


class PublishRoundRequest(Request):
    publish_round: PublishRound
    signature: str


class QuarantineContributionRequest(Request):
    quarantine_contribution: QuarantineContribution
    signature: str


class AcceptContributionRequest(Request):
    accept_contribution: AcceptContribution
    signature: str


class RoundThen(Answer):
    """How the round stands after the act."""

    round_id: str
    state: str
    deadline: int
    """Unix seconds."""
    paused_at: int | None
    """Unix seconds; the deadline waits while this is set."""


class ContributionThen(Answer):
    """How the contribution stands after the act."""

    contribution_id: str
    state: str
    """live or quarantined."""


@round_acts.post("/rounds/<round_id>/pause")
def pause_round(path: RoundPath, body: PauseRoundRequest) -> RoundThen:
    """Have a training round stand still. What its members send is kept; nobody is asked for anything new."""
    here, order = service(), body.pause_round
    here.steering.pause(order, body.signature, checked_by_admin(here, order, body.signature, path.round_id))
    return _round_then(here, path.round_id)


@round_acts.post("/rounds/<round_id>/resumption")
def resume_round(path: RoundPath, body: ResumeRoundRequest) -> RoundThen:
    """Have a paused round go on, its deadline later by the time that it was paused."""
    here, order = service(), body.resume_round
    here.steering.resume(order, body.signature, checked_by_admin(here, order, body.signature, path.round_id))
    return _round_then(here, path.round_id)


@round_acts.post("/rounds/<round_id>/extension")
def extend_round(path: RoundPath, body: ExtendRoundRequest) -> RoundThen:
    """Give a round in training a later deadline."""
    here, order = service(), body.extend_round
    here.steering.extend(order, body.signature, checked_by_admin(here, order, body.signature, path.round_id))
    return _round_then(here, path.round_id)


@round_acts.post("/rounds/<round_id>/publication")
def publish_round(path: RoundPath, body: PublishRoundRequest) -> RoundThen:
    """Wait for nobody else: merge at quorum what is here, or publish with the scores that are here."""
    here, order = service(), body.publish_round
    here.steering.publish(order, body.signature, checked_by_admin(here, order, body.signature, path.round_id))
    return _round_then(here, path.round_id)


@round_acts.post("/contributions/<contribution_id>/quarantine")
def quarantine_contribution(path: ContributionPath, body: QuarantineContributionRequest) -> ContributionThen:
    """Set a contribution aside that is in no release yet: it is not merged until it is accepted."""
    here, order = service(), body.quarantine_contribution
    here.steering.quarantine(order, body.signature, checked_by_admin(here, order, body.signature, path.contribution_id))
    return ContributionThen(contribution_id=path.contribution_id, state="quarantined")


@round_acts.post("/contributions/<contribution_id>/acceptance")
def accept_contribution(path: ContributionPath, body: AcceptContributionRequest) -> ContributionThen:
    """Accept a contribution that was set aside: it is merged like any other."""
    here, order = service(), body.accept_contribution
    here.steering.accept(order, body.signature, checked_by_admin(here, order, body.signature, path.contribution_id))
    return ContributionThen(contribution_id=path.contribution_id, state="live")


def _round_then(here: Service, round_id: str) -> RoundThen:
    facts = here.ledger.facts(round_id)
    return RoundThen(round_id=round_id, state=facts.state.value, deadline=facts.deadline, paused_at=facts.paused_at)

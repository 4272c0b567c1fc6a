"""The orders that an admin may give on a page: what each does, where it is sent, and what has to be said with it.

A button asks the wallet for one signature over exactly this; what a session alone could do is nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from coordinator.rounds.queries import KEPT
from coordinator.rounds.transitions import RoundKind, RoundState
from coordinator.web.desk.rounds import Judged, Standing
from coordinator.web.proposals import KINDS
from protocol.acts import (
    AcceptContribution,
    AdminAct,
    CancelRound,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    RemoveContribution,
    ResumeRound,
)

LONGER: tuple[tuple[int, str], ...] = (
    (30 * 60, "30 minutes"),
    (3600, "1 hour"),
    (6 * 3600, "6 hours"),
    (24 * 3600, "1 day"),
    (3 * 24 * 3600, "3 days"),
    (7 * 24 * 3600, "7 days"),
)
DONE = {
    "pause_round": "The round stands still.",
    "resume_round": "The round goes on.",
    "extend_round": "The round has its new deadline.",
    "publish_round": "The round waits for nobody else.",
    "cancel_round": "The round has ended.",
    "quarantine_contribution": "The contribution is set aside.",
    "accept_contribution": "The contribution counts again.",
    "remove_contribution": "The contribution has ended.",
    "start_round": "The round has started.",
    "check_pins": "The worker looks at every pin at its next tick.",
}
"""What is told after an order, by its name."""


@dataclass(frozen=True)
class OrderForm:
    """A form with one button."""

    kind: str
    path: str
    title: str
    button: str
    effect: str
    fields: dict[str, str]
    """What the order names beside what is typed."""
    asks_reason: bool = False
    deadlines: tuple[tuple[int, str], ...] = ()
    """(Unix seconds, in words) to choose from."""
    ends: bool = False
    """Whether it ends something for good."""


def of_round(standing: Standing, until: int | None) -> Iterator[OrderForm]:
    """What may be ordered of a round that stands so. ``until``: how late its deadline may be, by what is granted."""
    if standing.ended or standing.kind != RoundKind.TRAINING:
        return
    path, named = f"rounds/{standing.round_id}", {"round_id": standing.round_id}
    if standing.paused_at is not None:
        yield _form(ResumeRound, f"{path}/resumption", "Go on", "Resume the round", named)
    else:
        yield _form(PauseRound, f"{path}/pause", "Stand still", "Pause the round", named, asks_reason=True)
        begin = max(standing.deadline, standing.now)
        later = [(begin + more, words) for more, words in LONGER if until and begin + more <= until]
        if until and until > begin:
            later.append((until, "As long as a grant allows"))
        if standing.state == RoundState.TRAINING and later:
            yield _form(
                ExtendRound, f"{path}/extension", "Wait longer", "Extend the deadline", named, deadlines=tuple(later)
            )
        if standing.may_go_on:
            button = "Publish with what is here"
            yield _form(PublishRound, f"{path}/publication", "Wait for nobody else", button, named)
    title, button = "End it without a release", "Cancel the round"
    yield _form(CancelRound, f"{path}/cancellation", title, button, named, asks_reason=True, ends=True)


def of_contribution(one: Judged) -> Iterator[OrderForm]:
    """What may be ordered of a contribution that stands so."""
    path, named = f"contributions/{one.contribution_id}", {"contribution_id": one.contribution_id}
    if one.state == "quarantined":
        yield _form(AcceptContribution, f"{path}/acceptance", "Let it count", "Accept the contribution", named)
    elif one.state == "live" and not one.released:
        title, button = "Set it aside", "Quarantine the contribution"
        yield _form(QuarantineContribution, f"{path}/quarantine", title, button, named, asks_reason=True)
    if one.state in KEPT:
        title, button = "End it for good", "Remove the contribution"
        yield _form(RemoveContribution, f"{path}/removal", title, button, named, asks_reason=True, ends=True)


def _form(
    act: type[AdminAct],
    path: str,
    title: str,
    button: str,
    named: dict[str, str],
    *,
    asks_reason: bool = False,
    deadlines: tuple[tuple[int, str], ...] = (),
    ends: bool = False,
) -> OrderForm:
    return OrderForm(_NAMES[act], path, title, button, act.effect, named, asks_reason, deadlines, ends)


_NAMES = {model: kind for kind, model in KINDS.items()}

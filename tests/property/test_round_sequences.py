"""No sequence of acts and arrivals loses what was acknowledged, goes on without quorum, or leaves an end."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from private_parts import AT
from round_parts import PLAN
from steered_parts import SteeredRound

from coordinator.rounds.ledger import ADAPTER, STATISTICS
from coordinator.rounds.transitions import ENDED, GATHERING, RoundState
from coordinator.watching.lapses import Lapse
from protocol.acts import (
    AcceptContribution,
    CancelRound,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    RemoveContribution,
    ResumeRound,
)
from protocol.errors import CoterieError

QUORUM, MEMBERS = 2, 3
NUMBER = st.integers(0, MEMBERS - 1)
ACTS = ("quarantine", "accept", "remove", "sell", "pause", "resume", "extend", "publish", "cancel")
ARRIVALS = ("contribute", "decline", "score", "grant anew", "late")
WORK = ("wait a little", "wait long", "work", *(10 * ["what is due"]))
STEPS = st.lists(st.tuples(st.sampled_from((*ACTS, *ARRIVALS, *WORK)), NUMBER), min_size=4, max_size=30)


class Story:
    """A round, what was acknowledged in it, and what must hold after every step."""

    def __init__(self, folder: Path) -> None:
        self.here = SteeredRound(folder, PLAN.model_copy(update={"quorum": QUORUM}), count=MEMBERS)
        self.acknowledged: set[str] = set()
        self.ended_by_name: set[str] = set()
        self.newest = {number: member.grant for number, member in enumerate(self.here.members)}
        self.has_late = False

    def take(self, step: str, number: int) -> None:
        """One step; what is refused changes nothing, which ``check`` sees."""
        before = self.here.state
        paused = self.here.ledger.facts(self.here.round_id).paused_at is not None
        try:
            self._do(step, number)
        except CoterieError:
            assert self.here.state == before, f"{step} was refused and moved the round"
        self.check(step, before, paused)

    def check(self, step: str, before: RoundState, paused: bool) -> None:
        here, after, states = self.here, self.here.state, self.here.states()
        assert self.acknowledged <= states.keys(), f"{step} lost a contribution"
        for one in self.acknowledged:
            assert states[one] in ("live", "quarantined") or one in self.ended_by_name
            assert {ADAPTER, STATISTICS} <= {file.name for file in (here.folder / "contributions" / one).iterdir()}
        if before in ENDED:
            assert after == before, f"{step} left an end"
        if before in GATHERING and after not in GATHERING | {RoundState.FAILED, RoundState.CANCELLED}:
            assert len(here.ledger.standing(here.round_id).contributed) >= QUORUM, f"{step} went on without quorum"
        if paused and step not in ("cancel", "resume"):
            assert after == before, f"{step} moved a paused round"
        if after == RoundState.PUBLISHED and before != after:
            assert all(states[one] == "live" for one in here.merged()), "what is set aside or dead is released"

    def _do(self, step: str, number: int) -> None:
        here = self.here
        one = sorted(self.acknowledged)[number % len(self.acknowledged)] if self.acknowledged else "0" * 16
        match step:
            case "contribute":
                self.acknowledged.add(here.contribute(number, self.newest[number]))
            case "decline":
                here.ledger.decline(here.round_id, here.members[number].grant.node_key, "No.")
            case "score":
                here.score(number)
            case "grant anew":
                self.newest[number] = here.grants_anew(number)
            case "late" if not self.has_late:
                self.has_late = True
                self.newest[MEMBERS] = here.late(MEMBERS).grant
            case "quarantine":
                here.steering.quarantine(
                    here.order(QuarantineContribution, contribution_id=one, reason="Odd."), "0x", AT
                )
            case "accept":
                here.steering.accept(here.order(AcceptContribution, contribution_id=one), "0x", AT)
            case "remove":
                here.ledger.remove(here.order(RemoveContribution, contribution_id=one, reason="Odd."), "0x", AT)
                self.ended_by_name.add(one)
            case "sell":
                if one in here.states():
                    here.ledger.end_contributions([Lapse(one, "0x", None, "Sold.")], AT)
                    self.ended_by_name.add(one)
            case "pause":
                here.steering.pause(here.order(PauseRound, reason="Wait."), "0x", AT)
            case "resume":
                here.steering.resume(here.order(ResumeRound), "0x", AT)
            case "extend":
                here.steering.extend(here.order(ExtendRound, deadline=here.now + 5000), "0x", AT)
            case "publish":
                here.steering.publish(here.order(PublishRound), "0x", AT)
            case "cancel":
                if len(self.acknowledged) > MEMBERS:
                    here.ledger.cancel(here.order(CancelRound, reason="Enough."), "0x", AT)
            case "wait a little":
                here.now += 50
            case "wait long":
                here.now += 3000
            case "work":
                self._work()
            case "what is due":
                self._answer(number)
                self._work()

    def _answer(self, number: int) -> None:
        """What a machine does that is on and willing."""
        if self.here.state == RoundState.SCORING:
            self.here.score(number)
        elif self.here.members[number].grant.node_key in self.here.ledger.wanted_trainers(self.here.round_id):
            self.acknowledged.add(self.here.contribute(number, self.newest[number]))

    def _work(self) -> None:
        """What the worker does at a tick."""
        state = self.here.go()
        if self.here.ledger.facts(self.here.round_id).paused_at is None:
            if state == RoundState.MERGING:
                self.here.merge()
            elif state == RoundState.PUBLISHING:
                self.here.publish()


@given(STEPS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_sequence_of_acts_and_arrivals_breaks_a_round(steps: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        story = Story(Path(folder))
        for step, number in steps:
            story.take(step, number)
        story.here.database.close()

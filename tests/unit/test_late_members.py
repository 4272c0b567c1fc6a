"""Members who come while a round is under way, grant anew, drop out or come back: what becomes of each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from private_parts import AT, BEGAN, NOISED_PLAN, NOUNS, POLICY, SECRET_PLAN
from round_parts import PLAN, reply_of
from steered_parts import SteeredRound

from coordinator.database import LinkedWalletRow, RoundGrantRow
from coordinator.rounds.latecomers import COUNTS_NEXT, REST_SECONDS, Latecomers
from coordinator.rounds.ledger import ASKED_BEFORE
from coordinator.rounds.parts import TOO_FEW
from coordinator.rounds.queries import REPLACED
from coordinator.rounds.transitions import RoundState
from protocol.acts import PauseRound, RemoveContribution
from protocol.errors import Conflict, Unreachable
from protocol.grant import RoundPlan
from protocol.policy import CollectionRule, Policy, judge

BIRDS = "0x" + "22" * 20


def under_way(folder: Path, plan: RoundPlan = PLAN, count: int = 2, policy: Policy = POLICY) -> Iterator[SteeredRound]:
    running = SteeredRound(folder, plan, count=count, policy=policy)
    yield running
    running.database.close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[SteeredRound]:
    yield from under_way(tmp_path)


def part(here: SteeredRound, grant_id: str) -> RoundGrantRow | None:
    with here.database.reading() as session:
        return session.get(RoundGrantRow, (here.round_id, grant_id))


def test_who_grants_while_the_round_trains_is_asked_too_and_nobody_else_again(here: SteeredRound) -> None:
    before = here.task()
    late = here.late(2)
    task = here.task()
    assert here.exchange.wanted(2, task) and late.grant.grant_id in str(task.body["task"])
    assert task.task_id == before.task_id, "who has the task is not given it again"
    assert here.contribute(2) in here.states()
    assert not here.exchange.wanted(2, task)
    here.contribute(0)
    assert here.go() == RoundState.TRAINING, "it waits for everybody as before"
    here.contribute(1)
    assert here.go() == RoundState.MERGING
    assert len(here.ledger.live_contributions(here.round_id)) == 3
    [told] = here.told("round.joined")
    assert late.grant.member in told.body["message"]


def test_a_grant_is_judged_once_and_at_the_round_s_own_snapshot(here: SteeredRound) -> None:
    late = here.late(2)
    for _ in range(3):
        here.latecomers.step()
    assert here.asked_about == [late.grant.grant_id]


def test_no_grant_is_left_out_when_it_comes_while_a_round_opens(tmp_path: Path) -> None:
    """The opening reads the grants, then asks the chain, then writes: what comes in between has no part."""
    for here in under_way(tmp_path):
        here._join(2)
        assert part(here, here.members[2].grant.grant_id) is None
        here.latecomers.step()
        late = part(here, here.members[2].grant.grant_id)
        assert late and late.expected


def test_after_the_deadline_nobody_joins(here: SteeredRound) -> None:
    here.now += here.plan.deadline_seconds
    assert part(here, here.late(2).grant.grant_id) is None


def test_a_pause_stops_the_clock_for_those_who_join_too(here: SteeredRound) -> None:
    here.steering.pause(here.order(PauseRound, reason="Lunch."), "0x", AT)
    here.now += 10 * here.plan.deadline_seconds
    late = part(here, here.late(2).grant.grant_id)
    assert late and late.expected


def test_a_token_that_another_member_offers_in_the_round_stays_with_them(here: SteeredRound) -> None:
    taken = here.members[1].grant.tokens
    here._join(2)
    grant = here.grants_anew(2, tokens=tuple(one.token_id for one in taken))
    late = part(here, grant.grant_id)
    assert late and not late.expected and late.reason == TOO_FEW
    assert here.told("round.without")[-1].body["message"] == TOO_FEW
    assert here.ledger.standing(here.round_id).quorum == here.plan.quorum


def test_what_cannot_be_published_with_the_others_is_left_out_with_the_reason(tmp_path: Path) -> None:
    rules = (
        CollectionRule(contract=NOUNS, name="Nouns", licence="CC-BY-SA-4.0"),
        CollectionRule(contract=BIRDS, name="Birds", licence="CC-BY-NC-SA-4.0"),
    )
    for here in under_way(
        tmp_path, policy=POLICY.model_copy(update={"collections": rules, "accept_holder_warrant": True})
    ):
        here._join(2)
        grant = here.grants_anew(2, tokens=(1, 2), contract=BIRDS)
        late = part(here, grant.grant_id)
        assert late and not late.expected and "CC-BY-NC-SA-4.0" in (late.reason or "")
        assert {here.contribute(0), here.contribute(1)} == set(here.states()) and here.go() == RoundState.MERGING


def test_a_secret_sum_takes_nobody_once_its_terms_name_who_is_in_it(tmp_path: Path) -> None:
    for here in under_way(tmp_path, SECRET_PLAN, count=4):
        assert part(here, here.late(4).grant.grant_id) is None
        assert here.asked_about == []


def test_who_joins_a_noised_round_late_stays_within_everybody_s_budget(tmp_path: Path) -> None:
    pytest.importorskip("opendp")
    for here in under_way(tmp_path, NOISED_PLAN):
        late = part(here, here.late(2).grant.grant_id)
        assert late and late.expected


# Who grants anew ------------------------------------------------------------------------------------------------------


def test_another_machine_takes_the_place_of_one_that_has_given_nothing_yet(here: SteeredRound) -> None:
    task = here.task()
    grant = here.grants_anew(1, node=7)
    old, new = part(here, here.members[1].grant.grant_id), part(here, grant.grant_id)
    assert old and old.reason == REPLACED and not old.expected
    assert new and new.expected
    assert here.exchange.wanted(7, here.task()) and not here.exchange.wanted(1, task)


def test_what_a_machine_was_at_when_its_member_granted_anew_is_still_taken(here: SteeredRound) -> None:
    task, made = here.task(), here.made(1)
    grant = here.grants_anew(1)
    assert here.exchange.wanted(1, task), "the machine's answer is not thrown away unread"
    here.exchange.receive(task, 1, reply_of(made))
    assert here.states() == {made.contribution_id: "live"}
    new = part(here, grant.grant_id)
    assert new and new.reason == ASKED_BEFORE
    assert not here.exchange.wanted(1, here.task()), "one member, one contribution"


def test_the_same_machine_may_answer_under_the_newer_grant_instead(here: SteeredRound) -> None:
    earlier = here.made(1)
    grant = here.grants_anew(1)
    here.contribute(1, grant)
    with pytest.raises(Conflict, match="newer grant"):
        here.ledger.receive(here.round_id, here.members[1].grant.node_key, earlier, here.layers)
    assert list(here.states().values()) == ["live"]


def test_a_decline_of_the_task_under_the_earlier_grant_does_not_decline_the_newer_one(here: SteeredRound) -> None:
    task = here.task()
    grant = here.grants_anew(1)
    with pytest.raises(Conflict, match="granted anew"):
        here.exchange.receive(task, 1, {"declined": "None of my grants is in it."})
    new = part(here, grant.grant_id)
    assert new and new.expected
    here.exchange.receive(here.task(), 1, {"declined": "No room on the disk."})
    new = part(here, grant.grant_id)
    assert new and not new.expected


def test_who_declined_and_grants_again_is_asked_again(here: SteeredRound) -> None:
    here.exchange.receive(here.task(), 1, {"declined": "Not today."})
    grant = here.grants_anew(1)
    assert here.exchange.wanted(1, here.task())
    here.contribute(1, grant)
    assert here.told("round.joined")


def test_who_has_contributed_and_grants_anew_counts_from_the_next_round_on(here: SteeredRound) -> None:
    here.contribute(1)
    new = part(here, here.grants_anew(1).grant_id)
    assert new and not new.expected and new.reason == COUNTS_NEXT


def test_who_was_taken_out_of_the_round_does_not_come_back_into_it(here: SteeredRound) -> None:
    contribution_id = here.contribute(1)
    order = here.order(RemoveContribution, contribution_id=contribution_id, reason="Not theirs.")
    here.ledger.remove(order, "0x", AT)
    new = part(here, here.grants_anew(1).grant_id)
    assert new and new.reason == COUNTS_NEXT


def test_another_wallet_of_a_member_who_has_a_part_gets_none_and_nothing_tells_of_it(here: SteeredRound) -> None:
    before = here.told("round.without") + here.told("round.joined")
    here._join(2)
    with here.database.writing() as session:
        for member in here.members[1:]:
            session.add(LinkedWalletRow(wallet=member.grant.member, person="one", linked_at=BEGAN))
    here.latecomers.step()
    assert part(here, here.members[2].grant.grant_id) is None
    assert here.told("round.without") + here.told("round.joined") == before and here.asked_about == []


# Who drops out --------------------------------------------------------------------------------------------------------


def test_a_machine_that_was_off_is_wanted_until_the_deadline(here: SteeredRound) -> None:
    here.exchange.asked(here.task(), 1)
    here.contribute(0)
    here.now += here.plan.deadline_seconds - 1
    assert here.go() == RoundState.TRAINING and here.exchange.wanted(1, here.task())
    here.contribute(1)
    assert here.go() == RoundState.MERGING


def test_a_chain_that_does_not_answer_keeps_nobody_out_and_is_not_asked_all_the_time(here: SteeredRound) -> None:
    asked, down = [], [True]

    def judged(grant: object, at: object) -> list[object]:
        asked.append(grant)
        if down[0]:
            raise Unreachable("The block is too old for this node.")
        return [judge(here.policy, token, None) for token in grant.tokens]  # type: ignore[attr-defined]

    here._join(2)
    latecomers = Latecomers(here.database, here.policy, judged, lambda: here.now)  # type: ignore[arg-type]
    latecomers.step()
    latecomers.step()
    assert len(asked) == 1
    here.now += int(REST_SECONDS)
    down[0] = False
    latecomers.step()
    late = part(here, here.members[2].grant.grant_id)
    assert late and late.expected

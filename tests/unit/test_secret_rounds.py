"""A round that merges by a secret sum: five exchanges, dropouts, restarts, and what each side refuses."""

import json
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from private_parts import SECRET_PLAN, Member, PrivateRound
from sqlalchemy import select

from client.node import secret as member_side
from contracts_abi.model import Address, Token
from contracts_abi.ownership.holding import Holding
from contracts_abi.ownership.question import Claim
from coordinator.database import ExchangeRow
from coordinator.rounds import private
from coordinator.rounds.candidate import MEAN
from coordinator.rounds.exchange import RoundExchange
from coordinator.rounds.transitions import RoundState, Step
from coordinator.watching.lapses import Lapse
from protocol.adapter import Factors
from protocol.errors import Conflict, ContributionRefused, CoterieError, NotAllowed
from protocol.grant import SignedGrant, sign
from protocol.masking import SecretRound
from protocol.modes import Mode

ALL = (0, 1, 2, 3)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[PrivateRound]:
    running = PrivateRound(tmp_path, SECRET_PLAN)
    yield running
    running.database.close()


def mean_of(here: PrivateRound) -> np.ndarray:
    """The mean that the round's sum comes to, as one vector."""
    made = private.opened(*here.secret.total(here.round_id), here.plan, here.factors)
    return here.factors.flat({name: factors.b for name, factors in made.merged.adapter.items()})


@pytest.mark.usefixtures("each_database")
def test_the_sum_is_exact_when_everybody_answers(here: PrivateRound) -> None:
    states = [here.answer(*ALL) for _ in range(5)]
    assert states == ["sharing", "masking", "confirming", "unmasking", "merging"]
    assert np.array_equal(mean_of(here), here.plain_mean(*ALL))


@pytest.mark.parametrize(
    ("leaves", "survivors"),
    [(0, (1, 2, 3)), (1, (1, 2, 3)), (2, (1, 2, 3)), (3, ALL), (4, ALL)],
    ids=["before its keys", "before its shares", "before its update", "before it confirms", "before it answers"],
)
def test_a_member_may_drop_out_at_any_exchange(here: PrivateRound, leaves: int, survivors: tuple[int, ...]) -> None:
    for exchange in range(5):
        before = here.state
        here.answer(*(ALL if exchange < leaves else (1, 2, 3)))
        if here.state == before:
            here.wait(here.plan.exchange_seconds if exchange else here.plan.deadline_seconds)
    assert here.state == RoundState.MERGING
    assert np.array_equal(mean_of(here), here.plain_mean(*survivors))


def test_who_is_silent_at_the_end_is_not_waited_for_nor_counted_against_the_quorum(here: PrivateRound) -> None:
    here.plan = here.plan.model_copy(update={"quorum": 4})
    here.ledger.move(here.round_id, Step(RoundState.CANCELLED, "To plan another."))
    here.open("a second order")
    for _ in range(4):
        here.answer(*ALL)
    assert here.answer(0, 1, 2) == RoundState.MERGING
    assert np.array_equal(mean_of(here), here.plain_mean(*ALL))


def test_too_few_answers_end_the_round_and_leave_the_sum_closed(here: PrivateRound) -> None:
    here.answer(*ALL)
    here.answer(*ALL)
    here.answer(*ALL)
    here.answer(0, 1)
    assert here.wait(here.plan.exchange_seconds) == RoundState.FAILED
    assert "Only 2 members confirmed the survivors, and it takes 3" in reason_of(here)
    with pytest.raises(Conflict, match="Only 2 members"):
        here.secret.total(here.round_id)


def reason_of(here: PrivateRound) -> str:
    from coordinator.rounds.queries import round_row

    with here.database.reading() as session:
        return round_row(session, here.round_id).reason or ""


@pytest.mark.usefixtures("each_database")
def test_a_coordinator_that_starts_anew_in_every_exchange_goes_on_where_it_was(here: PrivateRound) -> None:
    for _ in range(5):
        here.exchange = RoundExchange(here.ledger, here.secret, here.round_id, here.layers, here.folder / "candidates")
        here.answer(*ALL)
    assert np.array_equal(mean_of(here), here.plain_mean(*ALL))


def test_a_member_that_starts_anew_gives_the_same_answer_again(here: PrivateRound) -> None:
    for _ in range(5):
        task = here.task()
        first, again = here.reply(0, task), here.reply(0, task)
        said = [json.loads(reply["said"])["document"] for reply in (first, again)]
        if "shares" in said[0]:
            assert set(said[0]["shares"]) == set(said[1]["shares"])
        assert said[0] == said[1]
        here.exchange.receive(task, 0, first)
        here.exchange.receive(task, 0, again)
        here.answer(1, 2, 3)
    assert here.state == RoundState.MERGING


def test_a_member_s_state_is_for_its_owner_s_eyes_only(here: PrivateRound) -> None:
    here.answer(*ALL)
    file = here.members[0].home / "masking.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_late_answer_to_an_exchange_that_is_over_is_not_wanted(here: PrivateRound) -> None:
    task = here.task()
    late = here.reply(3, task)
    here.answer(0, 1, 2)
    assert here.wait(here.plan.deadline_seconds) == RoundState.SHARING
    assert not here.exchange.wanted(3, task)
    with pytest.raises(CoterieError):
        here.exchange.receive(task, 3, late)


def test_nothing_but_what_was_asked_is_taken(here: PrivateRound) -> None:
    task, wrong = here.task(), here.reply(1)
    with pytest.raises(ContributionRefused, match="another node's"):
        here.exchange.receive(task, 0, wrong)
    with pytest.raises(ContributionRefused, match="not what this exchange asks"):
        here.exchange.receive(task, 0, {"said": b"{}"})
    with pytest.raises(ContributionRefused, match="carries no said"):
        here.exchange.receive(task, 0, {})
    with here.database.reading() as session:
        assert session.scalars(select(ExchangeRow)).all() == [], "a refused answer was kept"


def test_a_masked_update_goes_with_a_header_that_tells_nothing_of_it(here: PrivateRound) -> None:
    here.answer(*ALL)
    here.answer(*ALL)
    task = here.task()
    reply = here.reply(0, task)
    with pytest.raises(ContributionRefused, match="not the one that was signed"):
        here.exchange.receive(task, 0, reply | {"adapter": b"\0" * len(reply["adapter"])})  # type: ignore[arg-type]
    here.answer(*ALL)
    live = here.ledger.live_contributions(here.round_id)
    assert {(one.header.statistics_sha256, one.header.recipe, one.header.training) for one in live} == {(None,) * 3}
    assert {one.weight for one in live} == {1, 2, 3, 4}, "the policy weighs by token"


@pytest.mark.usefixtures("each_database")
def test_a_contribution_that_ends_before_the_release_ends_the_round(here: PrivateRound) -> None:
    for _ in range(4):
        here.answer(*ALL)
    assert here.state == RoundState.UNMASKING
    one = here.ledger.live_contributions(here.round_id)[0]
    lapse = Lapse(one.contribution_id, one.grant.member, one.header.tokens[0].token, "It was sold.")
    here.ledger.end_contributions([lapse], here.ledger.facts(here.round_id).snapshot)
    assert here.go() == RoundState.FAILED
    assert "cannot be taken apart" in reason_of(here)


def test_a_secret_sum_takes_three_members(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="too few for a secret sum"):
        PrivateRound(tmp_path, SECRET_PLAN.model_copy(update={"quorum": 1}), count=2)


def test_the_candidate_is_called_a_mean_and_has_no_norms(here: PrivateRound) -> None:
    for _ in range(5):
        here.answer(*ALL)
    made = private.opened(*here.secret.total(here.round_id), here.plan, here.factors)
    assert made.names == (MEAN,)
    assert {account.norm for account in made.merged.accounts.values()} == {None}
    assert all(isinstance(factors, Factors) for factors in made.merged.adapter.values())


# What a member checks before it trains --------------------------------------------------------------------------------


def opening_of(here: PrivateRound) -> SecretRound:
    return member_side.opening(here.task().body)


def owned(here: PrivateRound, without: Token | None = None) -> Callable[[object], dict[Claim, Holding]]:
    """The chain, as far as these members go."""
    return lambda claims: {
        claim: Holding(claim.token in members_tokens(here, claim.wallet) and claim.token != without, None)
        for claim in claims  # type: ignore[attr-defined]
    }


def members_tokens(here: PrivateRound, wallet: Address) -> set[Token]:
    return {token for m in here.members if m.grant.member == wallet for token in m.grant.tokens}


def require(here: PrivateRound, opening: SecretRound, holdings: Callable | None = None) -> None:  # type: ignore[type-arg]
    task, me = here.ledger.train_task(here.round_id), here.members[0]
    chain = member_side.OwnChain(holdings or owned(here), lambda *asked: False)
    member_side.require_members(opening, task, me.grant, here.policy, chain)


def test_a_round_of_members_with_grants_and_tokens_is_taken_part_in(here: PrivateRound) -> None:
    require(here, opening_of(here))
    member_side.require_terms(opening_of(here), here.ledger.train_task(here.round_id), here.factors)


def test_who_declines_takes_nobody_else_out_of_the_round(here: PrivateRound) -> None:
    here.ledger.decline(here.round_id, here.members[3].grant.node_key, "No disk left.")
    here.exchange = RoundExchange(here.ledger, here.secret, here.round_id, here.layers, here.folder / "candidates")
    require(here, opening_of(here))
    assert here.answer(0, 1, 2) == RoundState.SHARING


def regranted(member: Member, **changes: object) -> SignedGrant:
    grant = member.grant.model_copy(update=changes)
    return SignedGrant(grant=grant, signature=sign(grant, member.wallet))


def test_a_member_whose_wallet_is_a_contract_is_believed_by_the_chain_s_word(here: PrivateRound) -> None:
    opening, task, me = opening_of(here), here.ledger.train_task(here.round_id), here.members[0]
    first, *others = opening.others
    signed_by_owners = first.model_copy(update={"signature": "0x" + "12" * 130})
    shown = opening.model_copy(update={"others": (signed_by_owners, *others)})
    for accepts in (True, False):
        chain = member_side.OwnChain(owned(here), lambda *asked, accepts=accepts: accepts)
        with nullcontext() if accepts else pytest.raises(NotAllowed, match="signature"):
            member_side.require_members(shown, task, me.grant, here.policy, chain)


def without_a_grant(here: PrivateRound, opening: SecretRound) -> SecretRound:
    return opening.model_copy(update={"others": opening.others[1:]})


def twice_the_same_wallet(here: PrivateRound, opening: SecretRound) -> SecretRound:
    other = regranted(here.members[1], node_key=here.members[2].grant.node_key)
    kept = [one for one in opening.others if one.grant.node_key != other.grant.node_key]
    return opening.model_copy(update={"others": (*kept, other)})


def unsigned(here: PrivateRound, opening: SecretRound) -> SecretRound:
    first, *others = opening.others
    forged = first.model_copy(update={"signature": others[0].signature})
    return opening.model_copy(update={"others": (forged, *others)})


def for_another_policy(here: PrivateRound, opening: SecretRound) -> SecretRound:
    other = regranted(here.members[3], policy_hash="0" * 64)
    kept = [one for one in opening.others if one.grant.node_key != other.grant.node_key]
    return opening.model_copy(update={"others": (*kept, other)})


def heavier_than_the_policy(here: PrivateRound, opening: SecretRound) -> SecretRound:
    key = here.members[3].grant.node_key
    terms = opening.terms.model_copy(update={"weights": opening.terms.weights | {key: 100}})
    return opening.model_copy(update={"terms": terms})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_a_grant, "one grant for each node key"),
        (twice_the_same_wallet, "One wallet stands behind two"),
        (unsigned, "signature"),
        (for_another_policy, "another policy"),
        (heavier_than_the_policy, "weight"),
    ],
)
def test_a_member_leaves_a_round_with_members_who_may_be_made_up(
    here: PrivateRound, change: Callable[[PrivateRound, SecretRound], SecretRound], why: str
) -> None:
    with pytest.raises(NotAllowed, match=why):
        require(here, change(here, opening_of(here)))


def test_a_member_leaves_a_round_with_one_who_does_not_own_its_token(here: PrivateRound) -> None:
    invented = here.members[3].grant.tokens[0]
    with pytest.raises(NotAllowed, match="does not own it"):
        require(here, opening_of(here), owned(here, without=invented))


def test_terms_over_other_factors_or_another_clip_are_refused(here: PrivateRound) -> None:
    opening, task = opening_of(here), here.ledger.train_task(here.round_id)
    other = here.factors.model_copy(update={"seed": "another epoch"})
    with pytest.raises(NotAllowed, match="plan and base"):
        member_side.require_terms(opening, task, other)
    wide = opening.terms.model_copy(update={"grid": opening.terms.grid.model_copy(update={"clip": 400.0})})
    with pytest.raises(NotAllowed, match="plan and base"):
        member_side.require_terms(opening.model_copy(update={"terms": wide}), task, here.factors)


def test_every_round_trains_by_a_seed_of_its_own(tmp_path: Path) -> None:
    first, second = member_side.own_seed(tmp_path / "one"), member_side.own_seed(tmp_path / "two")
    assert first != second, "the same update in two sums tells what their difference is"
    assert member_side.own_seed(tmp_path / "one") == first, "training that goes on needs the seed that it began with"


def test_a_mode_that_the_policy_does_not_name_opens_no_round(tmp_path: Path) -> None:
    from private_parts import POLICY

    with pytest.raises(NotAllowed, match="no secagg rounds"):
        PrivateRound(tmp_path, SECRET_PLAN, policy=POLICY.model_copy(update={"modes": (Mode.OPEN,)}))


def test_a_fork_under_a_secret_sum_cancels_the_round(here: PrivateRound) -> None:
    here.answer(*ALL)
    taken = here.ledger.snapshots()[here.round_id]
    here.ledger.ask_again(here.round_id, taken.model_copy(update={"number": taken.number + 9}), [])
    assert here.state == RoundState.CANCELLED
    assert "cannot do without one member's part" in reason_of(here)
    assert here.ledger.snapshots() == {}

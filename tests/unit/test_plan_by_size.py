"""A round's plan for members of unlike sizes: who trains on more pictures makes more steps, and draws more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bases.statistics import recipe_of, said_in
from protocol.canonical import canonical
from protocol.grant import RoundPlan

PLAN = RoundPlan(steps=240, statistics_pictures=16, usual_pictures=16, growth_limit=4.0)


@pytest.mark.parametrize(
    ("pictures", "steps", "drawn"), [(0, 240, 16), (1, 240, 16), (16, 240, 16), (18, 270, 18), (32, 480, 32)]
)
def test_who_has_more_pictures_makes_more_steps_and_nobody_makes_fewer(pictures: int, steps: int, drawn: int) -> None:
    sized = PLAN.sized(pictures)
    assert (sized.steps, sized.statistics_pictures) == (steps, drawn)


def test_a_very_large_collection_does_not_train_for_ever() -> None:
    assert PLAN.sized(64).steps == PLAN.sized(10_000).steps == 960
    assert PLAN.sized(10_000).statistics_pictures == 64


def test_a_dao_may_have_everybody_make_the_same_steps() -> None:
    everyone = PLAN.model_copy(update={"growth_limit": 1.0})
    assert everyone.sized(10_000) == everyone


@given(first=st.integers(0, 300), second=st.integers(0, 300), limit=st.floats(1, 50))
def test_a_plan_is_sized_once(first: int, second: int, limit: float) -> None:
    sized = PLAN.model_copy(update={"growth_limit": limit}).sized(first)
    assert sized.sized(first) == sized == sized.sized(second)


@pytest.mark.parametrize("wrong", [{"usual_pictures": 0}, {"growth_limit": 0.5}, {"growth_limit": float("inf")}])
def test_a_plan_that_shrinks_or_has_no_bounds_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        RoundPlan.model_validate(wrong)


def test_plans_from_before_there_were_sizes_keep_their_hash() -> None:
    written = RoundPlan().model_dump(mode="json")
    assert not {"usual_pictures", "growth_limit", "drawing_steps"} & set(written)
    assert RoundPlan.model_validate_json(canonical(written)).digest() == RoundPlan().digest()


@given(pictures=st.integers(1, 200), captions=st.integers(1, 200))
def test_pictures_are_shared_out_evenly_among_all_captions(pictures: int, captions: int) -> None:
    said = said_in(pictures, captions)
    drawn = [said.count(caption) for caption in range(captions)]
    assert len(said) == pictures and max(drawn) - min(drawn) <= 1
    if pictures < captions:  # not the first ones alone: a collection's heads often lie side by side
        gaps = [after - before for before, after in zip(said, [*said[1:], captions], strict=True)]
        assert max(gaps) - min(gaps) <= 1


def test_every_caption_of_a_larger_member_is_drawn() -> None:
    captions = [f"noun {number}" for number in range(40)]
    recipe = recipe_of(PLAN, captions)
    assert recipe.pictures == 40 and set(said_in(recipe.pictures, 40)) == set(range(40))

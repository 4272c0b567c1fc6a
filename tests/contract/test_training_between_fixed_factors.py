"""Training in the private modes on the embedded base: fixed factors stay, and the update is all that was trained."""

import numpy as np
import pytest

from bases import EMBEDDED_BASE
from bases.families import Base
from bases.loading import load_base
from client.collection.example import Example
from client.training.engine import train
from client.training.fixed import fixed_factors, update_of
from client.training.options import TrainingOptions
from protocol.grant import RoundPlan
from protocol.modes import Learned, Mode

pytestmark = pytest.mark.slow

PLAN = RoundPlan(mode=Mode.DP, rank=4, steps=2, batch=2, drift=0.0)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(EMBEDDED_BASE)


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), f"head {n}") for n in range(2)]


@pytest.mark.parametrize("learned", Learned)
@pytest.mark.parametrize("rank", [4, 40], ids=["a rank that all layers have room for", "more than the narrowest has"])
def test_only_what_is_learned_moves_and_the_update_is_the_whole_adapter(
    base: Base, learned: Learned, rank: int
) -> None:
    plan = PLAN.model_copy(update={"learned": learned, "rank": rank})
    factors = fixed_factors(base, "b" * 64, plan)
    assert factors
    trained = train(base, examples(), plan, lambda line: None, options=TrainingOptions(rank=2), fixed=factors).adapter
    for layer in factors.layers:
        assert np.array_equal(trained[layer.name].a, factors.a(layer).astype(np.float32)), "a fixed factor moved"
        assert np.any(trained[layer.name].b), f"{layer.name} learned nothing"
    again = factors.adapter(update_of(factors, trained))
    for name, told in again.items():
        assert np.allclose(told.b, trained[name].b, atol=1e-6), "the update is not what was trained"
    assert np.isclose(np.linalg.norm(update_of(factors, trained)), _norm(trained), rtol=1e-5)


def _norm(adapter: dict) -> float:  # type: ignore[type-arg]
    return float(np.sqrt(sum(np.sum((f.b @ f.a) ** 2) for f in adapter.values())))


def test_an_open_round_has_no_fixed_factors(base: Base) -> None:
    assert fixed_factors(base, "b" * 64, RoundPlan()) is None

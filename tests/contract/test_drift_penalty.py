"""The drift penalty: it is the mean squared change of the base's own answers, and it keeps them."""

from pathlib import Path

import numpy as np
import pytest

from bases import EMBEDDED_BASE
from bases.nouns_art import NounsArt, caption
from client.collection.example import Example
from protocol.grant import RoundPlan

torch = pytest.importorskip("torch")

from bases.families import Base  # noqa: E402
from bases.loading import load_base  # noqa: E402
from bases.statistics import adapted_layers  # noqa: E402
from client.training import engine  # noqa: E402
from client.training.drift import DriftPenalty, Metric, drift_penalty  # noqa: E402
from client.training.scoring import score  # noqa: E402
from protocol.adapter import input_group  # noqa: E402

ART = Path(__file__).parents[2] / "deploy/devchain/node_modules/@nouns/assets/dist/image-data.json"
FEW = RoundPlan(steps=24, statistics_pictures=4)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(EMBEDDED_BASE)


def test_the_penalty_is_the_mean_squared_change_of_the_layers_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((500, 6), generator=generator)
    a, b = torch.randn((2, 6), generator=generator), torch.randn((5, 2), generator=generator)
    metric = Metric(factor=(x / len(x) ** 0.5).T, diagonal=torch.zeros(6))
    changed = (x @ a.T @ b.T).square().sum(1).mean()
    penalty = DriftPenalty(0.5, {input_group("block.ff.net.2"): metric})({"block.ff.net.2": (a, b)})
    assert float(penalty) == pytest.approx(0.5 * float(changed), rel=1e-5)


@pytest.mark.slow
def test_every_adapted_layer_has_its_metric(base: Base) -> None:
    penalty = drift_penalty(base, ["fence head"], FEW)
    assert set(penalty.metrics) == {input_group(layer) for layer in adapted_layers(base)}


@pytest.mark.slow
def test_an_adapter_under_penalty_forgets_less_of_what_the_base_knew(base: Base) -> None:
    art, rng = NounsArt.load(ART), np.random.default_rng(3)

    def examples(heads: tuple[int, ...], count: int) -> list[Example]:
        seeds = [art.random_seed(rng, heads) for _ in range(count)]
        return [Example(art.compose(seed), caption(art.traits(seed))) for seed in seeds]

    mine, known = examples(art.held_out_heads[:4], 8), examples(art.known_heads, 16)
    free = engine.train(base, mine, FEW.model_copy(update={"drift": 0.0}), lambda progress: None)
    held = engine.train(base, mine, FEW.model_copy(update={"drift": 2e-3}), lambda progress: None)
    forgotten, kept = (score(base, run.adapter, (1.0,), known, seed=0)[0] for run in (free, held))
    assert kept < forgotten

"""Training for real on the embedded base: it learns, it repeats itself, it leaves the base as it was."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bases import EMBEDDED_BASE
from bases.nouns_art import NounsArt, caption
from protocol.adapter import dump_adapter, dump_statistics, input_group, load_statistics
from protocol.contribution import StatisticsRecipe
from protocol.errors import BadInput
from protocol.grant import RoundPlan

torch = pytest.importorskip("torch")

from bases import statistics  # noqa: E402
from bases.loading import Base, load_base  # noqa: E402
from client.collection.example import Example  # noqa: E402
from client.training import engine  # noqa: E402
from client.training.scoring import score  # noqa: E402
from merging.merge import MergeInput, merge, scaled_by  # noqa: E402

pytestmark = pytest.mark.slow

ART = Path(__file__).parents[2] / "deploy/devchain/node_modules/@nouns/assets/dist/image-data.json"
RECIPE = StatisticsRecipe(pictures=4, sampling_steps=4, noise_levels=2, seed=0, rank=16)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(one_thread: None) -> Base:
    return load_base(EMBEDDED_BASE)


@pytest.fixture(scope="module")
def nouns() -> list[Example]:
    """Twelve Nouns of four heads that the base never saw; the last four are other Nouns with the same heads."""
    art, rng = NounsArt.load(ART), np.random.default_rng(3)
    seeds = [art.random_seed(rng, (head,)) for _ in range(3) for head in art.held_out_heads[:4]]
    return [Example(art.compose(seed), caption(art.traits(seed))) for seed in seeds]


@pytest.fixture(scope="module")
def trained(base: Base, nouns: list[Example]) -> engine.Trained:
    return engine.train(base, nouns[:8], RoundPlan(steps=60), lambda progress: None)


def test_an_adapter_lowers_the_loss_on_held_out_nouns(
    base: Base, nouns: list[Example], trained: engine.Trained
) -> None:
    before, after = score(base, trained.adapter, (0.0, 1.0), nouns[8:], seed=0)
    assert after < before


def test_the_same_seed_gives_the_same_adapter(base: Base, nouns: list[Example]) -> None:
    first, second = (engine.train(base, nouns[:4], RoundPlan(steps=3), lambda progress: None) for _ in range(2))
    assert dump_adapter(first.adapter) == dump_adapter(second.adapter)


def test_training_and_scoring_leave_the_base_as_it_was(base: Base, nouns: list[Example]) -> None:
    before = {key: value.clone() for key, value in base.denoiser.state_dict().items()}
    run = engine.train(base, nouns[:4], RoundPlan(steps=2), lambda progress: None)
    score(base, run.adapter, (1.0, 2.0), nouns[8:], seed=0)
    after = base.denoiser.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_statistics_come_from_captions_alone_and_anyone_gets_the_same(
    base: Base, nouns: list[Example], trained: engine.Trained
) -> None:
    captions = [example.caption for example in nouns[:8]]
    first, second = (statistics.draw(base, trained.adapter, captions, RECIPE) for _ in range(2))
    assert dump_statistics(first) == dump_statistics(second)
    read = load_statistics(dump_statistics(first))
    assert set(read) == {input_group(layer) for layer in trained.adapter}
    for group, sketch in read.items():
        values = np.linalg.eigvalsh(sketch.dense())
        assert values.min() > -1e-6, group
        assert values.sum() == pytest.approx(1, abs=0.01), group


def test_the_merge_of_one_member_is_that_members_adapter(
    base: Base, nouns: list[Example], trained: engine.Trained, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"rank": 64})
    sketches = statistics.draw(base, trained.adapter, [e.caption for e in nouns[:8]], recipe)
    (tmp_path / "a").write_bytes(dump_adapter(trained.adapter))
    (tmp_path / "s").write_bytes(dump_statistics(sketches))
    merged = merge([MergeInput("one", 1, tmp_path / "a", tmp_path / "s")], RoundPlan(tail=1e-4))
    own = score(base, trained.adapter, (1.0,), nouns[8:], seed=0)[0]
    collective = score(base, merged.adapter, (1.0,), nouns[8:], seed=0)[0]
    assert collective == pytest.approx(own, rel=0.02)


def test_a_published_adapter_loads_in_diffusers_with_no_key_left_over(
    base: Base, trained: engine.Trained, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(dump_adapter(scaled_by(trained.adapter, 1.15)))
    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED_BASE, local_files_only=True)
    pipeline.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    x, text = torch.randn(1, 12, 16, 16), base.embed(["a caption"])
    theirs = pipeline.unet(x, 500, text.tensors["text"]).sample
    with base.under(trained.adapter, 1.15), torch.no_grad():
        ours = base.predict(x, torch.tensor([500]), text)
        assert len([k for k in pipeline.unet.state_dict() if ".lora_" in k]) == 2 * len(trained.adapter)
    assert torch.allclose(theirs, ours, atol=5e-3)


def test_zero_images_cost_nothing_and_are_said(base: Base) -> None:
    with pytest.raises(BadInput, match="no image to train on"):
        engine.train(base, [], RoundPlan(), lambda progress: None)
    with pytest.raises(BadInput, match="No image was held out"):
        score(base, {}, (1.0,), [], seed=0)


def test_a_folder_that_is_no_base_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_base(tmp_path)

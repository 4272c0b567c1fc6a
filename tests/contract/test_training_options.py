"""Ways to train, the plan's and the member's own, on the embedded base: each does what it says, by default nothing."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bases import EMBEDDED_BASE
from protocol.adapter import dump_adapter, input_group
from protocol.errors import BadInput
from protocol.grant import RoundPlan

torch = pytest.importorskip("torch")

from peft import LoraConfig, get_peft_model_state_dict  # noqa: E402

from bases.loading import Base, load_base  # noqa: E402
from client.collection.example import Example  # noqa: E402
from client.training import engine  # noqa: E402
from client.training.drift import DriftPenalty, Metric  # noqa: E402
from client.training.options import TrainingOptions  # noqa: E402
from client.training.validation import Validation  # noqa: E402

pytestmark = pytest.mark.slow

PLAN = RoundPlan(steps=4, batch=4, drift=0.0)


def pictures(*sizes: tuple[int, int], **said: object) -> list[Example]:
    rng = np.random.default_rng(1)
    return [Example(rng.integers(0, 256, (*s, 3), dtype=np.uint8), f"picture {i}", **said) for i, s in enumerate(sizes)]


FIVE = pictures(*[(32, 32)] * 5)


@pytest.fixture(scope="module")
def base() -> Base:
    torch.set_num_threads(1)
    return load_base(EMBEDDED_BASE)


def train(base: Base, plan: RoundPlan = PLAN, examples: list[Example] = FIVE, **options: object) -> engine.Trained:
    return engine.train(base, examples, plan, lambda line: None, options=TrainingOptions.model_validate(options))


def bytes_of(trained: engine.Trained) -> bytes:
    return dump_adapter(trained.adapter)


def difference(one: engine.Trained, other: engine.Trained) -> float:
    """Relative distance of two adapters' B."""
    apart = sum(float(np.square(f.b - other.adapter[n].b).sum()) for n, f in one.adapter.items())
    return (apart / sum(float(np.square(f.b).sum()) for f in one.adapter.values())) ** 0.5


def test_by_default_training_is_the_plainest_loop_to_the_bit(base: Base) -> None:
    encoded = base.encode(FIVE)
    torch.manual_seed(PLAN.seed)
    generator = torch.Generator().manual_seed(PLAN.seed)
    base.denoiser.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=list(base.adapted)), adapter_name="plain")
    base.denoiser.train()
    weights = [p for p in base.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=PLAN.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PLAN.steps)
    order = torch.empty(0, dtype=torch.long)
    try:
        for _ in range(PLAN.steps):
            while len(order) < PLAN.batch:
                order = torch.cat([order, torch.randperm(len(FIVE), generator=generator)])
            rows, order = order[: PLAN.batch], order[PLAN.batch :]
            noise = torch.randn(encoded.latents[rows].shape, generator=generator)
            steps = torch.randint(base.levels, (PLAN.batch,), generator=generator)
            dropped = torch.rand(PLAN.batch, generator=generator) < 0.1
            text = encoded.text.rows(rows).where(dropped, encoded.empty)
            noisy, target = base.noised(encoded.latents[rows], noise, steps)
            optimizer.zero_grad(set_to_none=True)
            (base.predict(noisy, steps, text) - target).square().mean().backward()
            optimizer.step()
            schedule.step()
        state = get_peft_model_state_dict(base.denoiser, adapter_name="plain")
        plain = {key: value.detach().numpy().copy() for key, value in state.items()}
    finally:
        base.denoiser.unload_lora()
        base.denoiser.eval().requires_grad_(False)
    ours = train(base).adapter
    for layer, factors in ours.items():
        for side, matrix in (("A", factors.a), ("B", factors.b)):
            assert np.array_equal(plain[f"{layer}.lora_{side}.weight"].reshape(matrix.shape), matrix), layer


def test_who_has_more_pictures_than_usual_makes_more_steps(base: Base) -> None:
    plan = PLAN.model_copy(update={"usual_pictures": 2})
    assert [train(base, plan, FIVE[:n]).training.steps for n in (1, 3)] == [4, 6]


def test_a_batch_in_parts_is_the_same_step(base: Base) -> None:
    plan = PLAN.model_copy(update={"drift": 5e-4, "statistics_pictures": 1, "steps": 2})
    assert difference(train(base, plan), train(base, plan, gradient_accumulation=3)) < 0.02


def test_activations_computed_twice_give_the_same_adapter(base: Base) -> None:
    assert bytes_of(train(base, gradient_checkpointing=True)) == bytes_of(train(base))
    assert not base.denoiser.is_gradient_checkpointing


def short_of_memory(base: Base, monkeypatch: pytest.MonkeyPatch, fits: Callable[[int, bool], bool]) -> None:
    """The denoiser fails as on a GPU without memory unless ``fits`` (pictures at once, activations computed twice)."""
    real = type(base).predict

    def predict(self: Base, noisy: torch.Tensor, *rest: object) -> torch.Tensor:
        if not fits(len(noisy), self.denoiser.is_gradient_checkpointing):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")
        return real(self, noisy, *rest)

    monkeypatch.setattr(type(base), "predict", predict)


def test_a_step_that_does_not_fit_into_memory_is_made_smaller_and_said(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(base, gradient_accumulation=4)
    short_of_memory(base, monkeypatch, lambda count, twice: count == 1)
    lines: list[engine.TrainingProgress] = []
    trained = engine.train(base, FIVE, PLAN, lines.append)
    assert bytes_of(trained) == bytes_of(expected)
    said = [line.note for line in lines if line.note]
    assert len(said) == 1
    assert said[0].endswith("Set gradient_accumulation to 4 to start that way.")


def test_where_one_picture_is_too_much_activations_are_computed_twice(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(base, monkeypatch, lambda count, twice: count == 1 and twice)
    lines: list[engine.TrainingProgress] = []
    engine.train(base, FIVE, PLAN.model_copy(update={"steps": 1}), lines.append)
    assert "activations are now computed twice" in lines[0].note


def test_where_nothing_fits_the_member_is_told_what_to_do(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of_memory(base, monkeypatch, lambda count, twice: False)
    with pytest.raises(BadInput, match="Not even one picture at a time fits") as error:
        train(base)
    assert "precision to bf16" in error.value.hint
    assert not any(p.requires_grad for p in base.denoiser.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fewer_bits_train_nearly_the_same_adapter_and_leave_the_base_as_it_was(base: Base, precision: str) -> None:
    before = {key: value.clone() for key, value in base.denoiser.state_dict().items()}
    plan = PLAN.model_copy(update={"steps": 2})
    assert difference(train(base, plan), train(base, plan, precision=precision)) < 0.5
    after = base.denoiser.state_dict()
    assert all(after[key].dtype == value.dtype and torch.equal(after[key], value) for key, value in before.items())


def test_the_drift_penaltys_gradient_in_closed_form_is_the_one_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 6), (5, 4), (6, 3), (6,))
    a, b, factor, diagonal = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    a, b = a.requires_grad_(), b.requires_grad_()
    moment = factor @ factor.T + torch.diag(diagonal)
    defined = 0.5 * (b @ a @ moment @ a.T @ b.T).trace()
    metric = Metric(factor, diagonal)
    penalty = DriftPenalty(0.5, {input_group("block.ff.net.2"): metric})({"block.ff.net.2": (a, b)})
    assert float(penalty) == pytest.approx(float(defined))
    ours, theirs = (torch.autograd.grad(3 * value, (a, b)) for value in (penalty, defined))
    assert all(torch.allclose(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_members_rank_is_its_own_up_to_the_plans(base: Base) -> None:
    plan = PLAN.model_copy(update={"steps": 1})
    for asked, given in ((4, 4), (64, 8)):
        assert {factors.rank for factors in train(base, plan, rank=asked).adapter.values()} == {given}


@pytest.mark.parametrize(("optimizer", "library"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_an_optimizer_of_a_library_trains_or_says_what_to_install(base: Base, optimizer: str, library: str) -> None:
    if find_spec(library):
        assert np.isfinite(train(base, optimizer=optimizer).training.last_loss)
        return
    with pytest.raises(BadInput, match=f"needs {library}, which is not installed"):
        train(base, optimizer=optimizer)


def test_one_single_image_trains(base: Base) -> None:
    assert train(base, examples=FIVE[:1]).training.steps == 4


def test_pictures_of_several_sizes_train_together(base: Base) -> None:
    assert train(base, examples=pictures((32, 32), (32, 48), (48, 32))).training.steps == 4


def test_a_weight_decides_how_often_a_picture_comes(base: Base) -> None:
    loud, silent = FIVE[0], FIVE[1]
    weighed = [Example(loud.picture, loud.caption, weight=2.0), Example(silent.picture, silent.caption, weight=1e-6)]
    batches = engine.prepare(base, weighed, PLAN)
    latents = base.encode([loud]).latents[0]
    assert all(torch.equal(row, latents) for _ in range(3) for row in next(batches).latents)


def test_dropped_captions_keep_their_trigger_and_traits_drop_out_one_by_one(base: Base) -> None:
    phrases = ("red cap head", "pipe glasses")
    example = Example(FIVE[0].picture, "mycats, red cap head, pipe glasses", phrases, "mycats")
    said = ["mycats", "mycats, red cap head, pipe glasses", "mycats, red cap head", "mycats, pipe glasses"]
    known = {text: base.embed([text]).tensors["text"][0] for text in said}

    def seen(**plan: float) -> set[str]:
        batches = engine.prepare(base, [example], PLAN.model_copy(update=plan))
        rows = [row for _ in range(12) for row in next(batches).text.tensors["text"]]
        return {name for row in rows for name, text in known.items() if torch.equal(row, text)}

    assert seen(caption_dropout=1.0) == {"mycats"}
    assert seen(caption_dropout=0.0) == {said[1]}
    assert seen(caption_dropout=0.0, trait_dropout=0.5) > {said[1]}


def test_pictures_that_the_base_draws_itself_keep_what_it_knew(base: Base) -> None:
    plan = PLAN.model_copy(update={"prior_pictures": 3, "prior_captions": ("a", "b")})
    batches = engine.prepare(base, FIVE, plan)
    latents = torch.cat([next(batches).latents for _ in range(4)])
    assert len({tuple(row.flatten()[:4].tolist()) for row in latents}) == 8


def test_validation_ends_training_that_gets_no_better(base: Base, tmp_path: Path) -> None:
    lines: list[engine.TrainingProgress] = []
    plan = PLAN.model_copy(update={"steps": 9, "learning_rate": 0.0})
    options = TrainingOptions(validate_every=2, early_stop=2, samples_every=3)
    workspace = engine.Workspace(tmp_path / "round", tmp_path / "cache", "base")
    trained = engine.train(base, FIVE[:2], plan, lines.append, options=options, held_out=FIVE[2:], workspace=workspace)
    assert [line.validation is None for line in lines] == [True, False, False, False, False, False]
    assert trained.training.steps == 6
    sheets = sorted((tmp_path / "round" / "samples").iterdir())
    assert [path.name for path in sheets] == ["step-000003.png", "step-000006.png"]
    with Image.open(sheets[0]) as sheet:
        assert sheet.size == (4 * 128, 2 * 128)
    assert bool(find_spec("tensorboard")) == (tmp_path / "round" / "metrics").exists()


def test_the_adapter_that_was_best_on_held_out_pictures_is_kept() -> None:
    held_out, validation = iter((3.0, 2.0, 2.5, 4.0)), Validation([], 0, patience=2)
    validation.measure = lambda base: next(held_out)  # type: ignore[method-assign]
    for step in range(4):
        assert not validation.over
        validation.look(None, step, lambda step=step: {"layer": step})  # type: ignore[arg-type, misc]
    assert validation.over
    assert validation.best == {"layer": 1}


def test_progress_tells_speed_time_left_and_memory(base: Base) -> None:
    lines: list[engine.TrainingProgress] = []
    engine.train(base, FIVE, PLAN, lines.append)
    assert [line.step for line in lines] == [1, 2, 3, 4]
    assert all(line.images_per_second and line.memory_bytes and line.memory_bytes > 1e8 for line in lines)
    assert lines[-1].seconds_left == 0

"""The collective learns from its members' adapters, from public things alone, and the same way every time."""

from pathlib import Path

import numpy as np
import pytest
from small_bases import build

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from bases import EMBEDDED_BASE, statistics  # noqa: E402
from bases.families import Base  # noqa: E402
from bases.loading import load_base  # noqa: E402
from bases.statistics import adapted_layers  # noqa: E402
from coordinator.distillation.distil import distil  # noqa: E402
from coordinator.distillation.lessons import Lessons, draw_lessons  # noqa: E402
from coordinator.releases.samples import SAMPLES, draw_sheet  # noqa: E402
from coordinator.rounds.candidate import Candidates  # noqa: E402
from coordinator.rounds.merging import MergeOrder, Ordered, make, merge_in_child  # noqa: E402
from merging.merge import MergeInput, merge  # noqa: E402
from protocol.adapter import Factors, dump_adapter, dump_statistics, load_adapter, load_statistics  # noqa: E402
from protocol.base import BASE_STATISTICS, base_hash  # noqa: E402
from protocol.errors import BadInput, Unreachable  # noqa: E402
from protocol.grant import RoundPlan  # noqa: E402
from protocol.policy import RobustRule  # noqa: E402

pytestmark = pytest.mark.slow

CAPTIONS = ("glasses big head, yellow body", "shark head, red body")
PLAN = RoundPlan(
    rank=2, batch=2, statistics_pictures=1, statistics_rank=16, release_rank=4, distillation_steps=2, tail=0.0
)


@pytest.fixture(scope="module")
def base() -> Base:
    torch.set_num_threads(1)
    return load_base(EMBEDDED_BASE)


@pytest.fixture(scope="module")
def members(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[Ordered]:
    """Three contributions whose statistics are honestly drawn; the third's are then another's."""
    folder = tmp_path_factory.mktemp("contributions")
    made = [_contribution(base, folder, seed) for seed in (1, 2, 3)]
    made[2].statistics.write_bytes(made[0].statistics.read_bytes())
    return made


def _adapter(base: Base, seed: int) -> dict[str, Factors]:
    rng, layers = np.random.default_rng(seed), base.layers
    return {
        name: Factors(
            rng.normal(0, 0.2, (2, int(np.prod(layers[name].weight.shape[1:])))),
            rng.normal(0, 0.2, (layers[name].weight.shape[0], 2)),
            tuple(layers[name].weight.shape[2:]),
        )
        for name in adapted_layers(base)
    }


def _contribution(base: Base, folder: Path, seed: int) -> Ordered:
    adapter, file = dump_adapter(_adapter(base, seed)), folder / f"adapter-{seed}"
    file.write_bytes(adapter)
    sketches = statistics.draw(base, load_adapter(adapter), CAPTIONS, statistics.recipe_of(PLAN, CAPTIONS))
    told = folder / f"statistics-{seed}"
    told.write_bytes(dump_statistics(sketches))
    return Ordered(
        contribution_id=f"{seed:016x}", weight=1, adapter=file, statistics=told, captions=CAPTIONS, plan=PLAN
    )


def order(members: list[Ordered], folder: Path, plan: RoundPlan = PLAN) -> MergeOrder:
    return MergeOrder(
        plan=plan,
        robust=RobustRule.NONE,
        processes=1,
        base=EMBEDDED_BASE,
        base_hash=base_hash(EMBEDDED_BASE),
        contributions=tuple(members),
        lessons=folder / "lessons",
        candidates=folder / "candidates",
    )


@pytest.fixture(scope="module")
def with_three(members: list[Ordered], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Candidates]:
    """All three merged, and the folder in which their lessons are."""
    folder = tmp_path_factory.mktemp("three")
    return folder, make(order(members, folder))


def test_where_drawing_costs_too_much_noise_stands_for_pictures_and_everybody_gets_the_same(base: Base) -> None:
    plan = PLAN.model_copy(update={"drawing_steps": 0, "statistics_pictures": 2})
    recipe, adapter = statistics.recipe_of(plan, CAPTIONS), load_adapter(dump_adapter(_adapter(base, 4)))
    noise = statistics.draw_pictures(base, CAPTIONS, recipe).latents
    assert torch.equal(noise, torch.randn(noise.shape, generator=torch.Generator().manual_seed(plan.seed)))
    signed = load_statistics(dump_statistics(statistics.draw(base, adapter, CAPTIONS, recipe)))
    assert draw_lessons(base, adapter, CAPTIONS, plan, signed).error < 0.02
    of_pictures = plan.model_copy(update={"drawing_steps": 20})
    assert draw_lessons(base, adapter, CAPTIONS, of_pictures, signed).error > 0.1, "of pictures they would be others"


def test_the_collective_comes_to_answer_as_its_members_adapters_do(base: Base, members: list[Ordered]) -> None:
    adapters = [load_adapter(one.adapter.read_bytes()) for one in members[:2]]
    lessons = [draw_lessons(base, one, CAPTIONS, PLAN) for one in adapters]
    start = {layer: Factors(f.a / 2, f.b, f.kernel) for layer, f in adapters[0].items()}
    losses: list[float] = []
    plan = PLAN.model_copy(update={"distillation_steps": 20, "distillation_rate": 5e-3, "batch": 4})
    distil(base, start, lessons, [1.0, 1.0], plan, lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 2 / 3 * np.mean(losses[:5])


def test_the_base_is_left_as_it_was(base: Base, members: list[Ordered]) -> None:
    before = {name: weight.clone() for name, weight in base.denoiser.named_parameters()}
    adapter = load_adapter(members[0].adapter.read_bytes())
    distil(base, adapter, [draw_lessons(base, adapter, CAPTIONS, PLAN)], [1.0], PLAN)
    after = dict(base.denoiser.named_parameters())
    assert all(torch.equal(weight, after[name]) and not after[name].requires_grad for name, weight in before.items())


def test_lessons_are_the_same_each_time_and_survive_the_disk(
    base: Base, members: list[Ordered], tmp_path: Path
) -> None:
    adapter = load_adapter(members[0].adapter.read_bytes())
    first, second = (draw_lessons(base, adapter, CAPTIONS, PLAN) for _ in range(2))
    first.save(tmp_path / "kept" / "lessons")
    kept = Lessons.load(tmp_path / "kept" / "lessons", CAPTIONS)
    assert len(first) == len(kept) == 12
    for name in ("noisy", "steps", "said", "answers"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert np.array_equal(getattr(first, name), getattr(kept, name))


def test_a_removal_is_bit_identical_to_never_having_had_it(
    members: list[Ordered], with_three: tuple[Path, Candidates], tmp_path: Path
) -> None:
    there, _ = with_three
    kept = make(order(members[:2], there))
    never = make(order(list(reversed(members[:2])), tmp_path / "without"))
    assert kept.distilled and never.distilled
    assert kept.merged.commitment == never.merged.commitment
    assert dump_adapter(kept.distilled.adapter) == dump_adapter(never.distilled.adapter)
    assert len([one for one in (there / "lessons").iterdir() if not one.name.startswith("base-")]) == 2


def test_statistics_that_are_not_what_the_adapter_reads_are_noticed_and_not_used(
    members: list[Ordered], with_three: tuple[Path, Candidates]
) -> None:
    _, made = with_three
    honest, other = (made.statistics_errors[one.contribution_id] for one in (members[0], members[2]))
    assert honest < 0.01
    assert other > 0.3
    assert made.note("regression mean", members[0].contribution_id) == ""
    assert "not what its adapter reads" in made.note("regression mean", members[2].contribution_id)
    told = [members[0].statistics, members[1].statistics, None]
    inputs = [MergeInput(m.contribution_id, 1, m.adapter, file) for m, file in zip(members, told, strict=True)]
    assert merge(inputs, PLAN).commitment == made.merged.commitment


def test_statistics_are_checked_by_the_plan_they_were_made_under(members: list[Ordered], tmp_path: Path) -> None:
    later = PLAN.model_copy(update={"seed": 7, "statistics_rank": 2, "distillation_steps": 1})
    made = make(order(members[:1], tmp_path, later))
    assert made.statistics_errors[members[0].contribution_id] < 0.01


def test_the_bases_own_word_keeps_its_answers(members: list[Ordered], with_three: tuple[Path, Candidates]) -> None:
    there, without = with_three
    held = make(order(members, there, PLAN.model_copy(update={"base_weight": 1.0})))
    assert held.own_word and held.own_word.said.source == "shipped"
    assert held.merged.commitment == without.merged.commitment
    for name in held.names:
        assert held.base_changes[name] < 0.9 * without.base_changes[name]


def test_of_a_base_that_came_without_its_statistics_they_are_drawn(
    base: Base, members: list[Ordered], tmp_path: Path
) -> None:
    alone = tmp_path / "base"
    alone.mkdir()
    for part in EMBEDDED_BASE.iterdir():
        if part.name != BASE_STATISTICS:
            (alone / part.name).symlink_to(part)
    plan = PLAN.model_copy(update={"base_weight": 1.0, "distillation_steps": 0})
    made = make(order(members[:1], tmp_path, plan).model_copy(update={"base": alone}))
    assert made.own_word and made.own_word.said.source == "drawn"
    drawn = load_statistics(made.own_word.file.read_bytes())
    assert drawn.keys() == load_statistics((EMBEDDED_BASE / BASE_STATISTICS).read_bytes()).keys()
    held = merge([MergeInput("a", 1, members[0].adapter, members[0].statistics)], plan)
    assert dump_adapter(made.merged.adapter) != dump_adapter(held.adapter), "μ was passed over without distillation"


def test_a_plan_without_distillation_has_one_candidate(members: list[Ordered], tmp_path: Path) -> None:
    made = make(order(members, tmp_path, PLAN.model_copy(update={"distillation_steps": 0})))
    assert made.names == ("regression mean",)


def test_what_cannot_be_merged_is_told_by_the_process_in_its_sentence(members: list[Ordered], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No live contribution"):
        merge_in_child(order([], tmp_path, PLAN.model_copy(update={"distillation_steps": 0})))


def test_a_process_that_fails_otherwise_is_told_so_that_the_round_rests(members: list[Ordered], tmp_path: Path) -> None:
    broken = order(members, tmp_path).model_copy(update={"base": tmp_path / "no-base"})
    with pytest.raises(BadInput, match="cannot be loaded"):
        make(broken)
    unreadable = order(members, tmp_path).model_copy(update={"lessons": Path("/proc/none")})
    with pytest.raises(Unreachable, match="merging process failed"):
        merge_in_child(unreadable)


@pytest.mark.parametrize("family", ["SDXL", "SD 3 without T5"])
def test_every_family_is_distilled_and_drawn(family: str, tmp_path: Path) -> None:
    folder = build(family, tmp_path / "base")
    small = load_base(folder)
    adapter = load_adapter(dump_adapter(_adapter(small, 1)))
    lessons = draw_lessons(small, adapter, CAPTIONS, PLAN)
    moved = distil(small, adapter, [lessons], [1.0], PLAN)
    assert set(moved) == set(adapter)
    release = tmp_path / "release"
    release.mkdir()
    (release / "pytorch_lora_weights.safetensors").write_bytes(dump_adapter(moved))
    draw_sheet(folder, release, CAPTIONS, seed=0)
    assert (release / SAMPLES).stat().st_size > 0


def test_signed_statistics_lack_an_input(base: Base, members: list[Ordered]) -> None:
    told = load_statistics(members[0].statistics.read_bytes())
    told.pop(next(iter(told)))
    lessons = draw_lessons(base, load_adapter(members[0].adapter.read_bytes()), CAPTIONS, PLAN, told)
    assert float(lessons.error) == 1.0


def test_sums_that_are_kept_change_nothing_but_the_reading(members: list[Ordered], tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"distillation_steps": 0})
    keeping = order(members[:2], tmp_path, plan).model_copy(update={"sums": tmp_path / "sums"})
    make(keeping)
    assert list((tmp_path / "sums").iterdir())
    more = make(keeping.model_copy(update={"contributions": tuple(members)}))
    assert more.merged.commitment == make(order(members, tmp_path, plan)).merged.commitment

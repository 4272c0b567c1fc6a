"""The quality bench compares what it says: who owns what, what a mean is, how a bar is met."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bases.nouns_art import NounsArt, Seed
from bench.quality import report
from bench.quality.cost import Speed, work_of
from bench.quality.factors import averaged, cut, stacked, truncated
from bench.quality.peers import in_parts
from bench.quality.rows import BASE, CEILING, DISTILLED, NAMES, ROWS
from bench.quality.unit import Order, forget, plan_of, read_results
from bench.quality.world import RANKS, SCENARIOS, UNEVEN, Unit, heads_of, make_world, units_of
from bench.quality.yardstick import GAINS, Figures, best_gain, head_ranks
from deploy.demo.measure import head_prompts
from deploy.demo.world import IMAGE_DATA
from protocol.adapter import Factors
from protocol.grant import RoundPlan

UNSEEN = list(range(48))


@pytest.fixture(scope="module")
def art() -> NounsArt:
    return NounsArt.load(IMAGE_DATA)


def figures(held_out: float, recognised: float = 0.0) -> Figures:
    return Figures(held_out, held_out, 0.1, recognised, recognised)


def adapter(seed: int, rank: int) -> dict[str, Factors]:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, 6)).astype(np.float32), rng.normal(size=(5, rank)).astype(np.float32)
    return {"layer": Factors(a, b)}


def dense(one: dict[str, Factors]) -> np.ndarray:
    return one["layer"].b @ one["layer"].a


@pytest.mark.parametrize(("members", "each"), [(4, 8), (8, 6)])
def test_unlike_members_share_no_head(members: int, each: int) -> None:
    owned = heads_of(Unit(0, members), UNSEEN)
    assert [len(heads) for heads in owned] == [each] * members
    assert len({head for heads in owned for head in heads}) == members * each


def test_uneven_members_own_what_the_scenario_says() -> None:
    owned = heads_of(Unit(0, 4, "uneven"), UNSEEN)
    assert tuple(map(len, owned)) == UNEVEN
    assert len({head for heads in owned for head in heads}) == sum(UNEVEN)


def test_overlapping_members_share_half_of_their_heads_with_each_neighbour() -> None:
    owned = [set(heads) for heads in heads_of(Unit(0, 4, "overlapping"), UNSEEN)]
    assert all(len(heads) == 8 and len(heads & owned[(i + 1) % 4]) == 4 for i, heads in enumerate(owned))
    assert not owned[0] & owned[2]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nobody_trains_on_what_is_measured_and_the_base_saw_none_of_it(art: NounsArt, scenario: str) -> None:
    world = make_world(art, Unit(1, 4, scenario), 96)  # type: ignore[arg-type]
    trained = {example.picture.tobytes() for example in world.everyones}
    assert not trained & {example.picture.tobytes() for example in (*world.chosen_by, *world.tested)}
    assert not {e.picture.tobytes() for e in world.chosen_by} & {e.picture.tobytes() for e in world.tested}
    unseen = {f"{art.names['heads'][head]} head" for head in art.held_out_heads}
    assert {example.caption.split(", ")[0] for example in (*world.everyones, *world.tested)} <= unseen
    assert not {example.caption.split(", ")[0] for example in world.known} & unseen
    assert len(world.prompts) == 96 and sum(world.shares) == pytest.approx(1)


def test_the_same_seed_makes_the_same_world(art: NounsArt) -> None:
    first, again, other = (make_world(art, Unit(seed, 4), 32) for seed in (3, 3, 4))
    assert [e.caption for e in first.tested] == [e.caption for e in again.tested]
    assert [m.heads for m in first.members] != [m.heads for m in other.members]


def test_members_of_mixed_ranks_keep_theirs_under_the_units_plan(art: NounsArt) -> None:
    unit = Unit(2, 4, "mixed-rank")
    assert tuple(member.rank for member in make_world(art, unit, 32).members) == RANKS
    plan = plan_of(unit, RoundPlan())
    assert (plan.rank, plan.seed) == (max(RANKS), 2)


def test_only_the_even_scenario_has_eight_members() -> None:
    units = units_of([0, 1], [4, 8], SCENARIOS, [0])
    assert [u.members for u in units if u.scenario == "even"] == [8, 8, 4, 4]
    assert [(u.seed, u.members) for u in units if u.scenario != "even"] == [(0, 4)] * 3


def test_stacking_is_the_exact_mean_also_of_mixed_ranks() -> None:
    both, shares = [adapter(0, 2), adapter(1, 3)], [0.25, 0.75]
    exact = 0.25 * dense(both[0]) + 0.75 * dense(both[1])
    assert np.allclose(dense(stacked(both, shares)), exact, atol=1e-6)


def test_averaging_a_and_b_apart_is_not_the_mean_of_products() -> None:
    both, shares = [adapter(0, 2), adapter(1, 3)], [0.5, 0.5]
    mean = averaged(both, shares)
    assert mean["layer"].rank == 3
    assert np.allclose(mean["layer"].a[2], both[1]["layer"].a[2] / 2)
    assert not np.allclose(dense(mean), dense(stacked(both, shares)), atol=0.1)


def test_truncation_keeps_the_largest_directions_first() -> None:
    whole = adapter(0, 4)
    best = truncated(whole, 3)
    s = np.linalg.svd(dense(whole), compute_uv=False)
    assert np.linalg.norm(dense(whole) - dense(best)) == pytest.approx(s[3], rel=1e-4)
    assert np.linalg.norm(dense(whole) - dense(cut(best, 1))) == pytest.approx(np.linalg.norm(s[1:]), rel=1e-4)


@pytest.mark.parametrize("steps", [240, 22, 3])
def test_rounds_share_all_local_steps(steps: int) -> None:
    parts = in_parts(steps, 4)
    assert len(parts) == 4 and sum(parts) == steps and max(parts) - min(parts) <= 1


@pytest.mark.parametrize("valley", GAINS)
def test_the_best_gain_is_found_on_both_sides_of_one(valley: float) -> None:
    assert best_gain(lambda gain: abs(gain - valley), GAINS) == valley


def test_a_true_picture_has_rank_one_and_another_heads_does_not(art: NounsArt) -> None:
    prompts = list(head_prompts(art, art.held_out_heads[:2], 1))
    other = art.known_heads[0]
    wrong = [art.compose(Seed(s.background, s.body, s.accessory, other, s.glasses)) for s in prompts]
    assert head_ranks(art, prompts, np.stack([art.compose(seed) for seed in prompts])).tolist() == [1, 1]
    assert (head_ranks(art, prompts, np.stack(wrong)) > 1).all()


def test_the_share_of_gain_is_between_base_and_central_training() -> None:
    results = {BASE: figures(0.5), CEILING: figures(0.1), DISTILLED: figures(0.2)}
    assert report.share_of_gain(results, DISTILLED) == pytest.approx(0.75)
    assert report.share_of_gain({DISTILLED: figures(0.2)}, DISTILLED) is None


def test_bars_are_about_the_mean_over_seeds_of_each_scenario() -> None:
    peers = [row.name for row in ROWS if row.kind == "peer"]
    good = {
        BASE: figures(0.5),
        CEILING: figures(0.1),
        DISTILLED: figures(0.1, 1.0),
        **dict.fromkeys(peers, figures(0.2)),
    }
    poor = {
        BASE: figures(0.5),
        CEILING: figures(0.1),
        DISTILLED: figures(0.2, 0.7),
        **dict.fromkeys(peers, figures(0.3)),
    }
    fewer_rules = {name: one for name, one in poor.items() if name != peers[-1]}
    results = {Unit(0, 4): good, Unit(1, 4): poor, Unit(0, 4, "uneven"): fewer_rules}
    assert [str(bar) for bar in report.bars(results)] == [
        "bar gain-over-base-4-members 0.875 0.95 missed",
        "bar heads-4-members 0.850 0.90 missed",
        "bar beats-every-federated-rule-4-members 0.600 1.00 met",
        "bar gain-over-base-4-uneven-members 0.750 0.95 missed",
        "bar heads-4-uneven-members 0.700 0.90 missed",
    ]


def test_a_run_of_some_rows_has_a_table_of_them_and_no_bars() -> None:
    runs = [{"mean": figures(0.3, 0.5)}, {"mean": figures(0.4, 0.6), BASE: figures(0.5)}]
    lines = report.table(runs).splitlines()
    assert lines[2].startswith("| base, 1 seed of 2 | 0.500 |  |")
    assert lines[3].startswith("| exact mean, one shot | 0.350 ± 0.050 |  |") and len(lines) == 4
    assert report.bars({Unit(0, 4): runs[0]}) == []


def test_the_page_keeps_what_a_person_wrote() -> None:
    page = f"# Title\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    assert report.with_section(page, "new") == f"# Title\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    shipped = (Path(__file__).parents[2] / "docs" / "quality.md").read_text()
    assert shipped.count(report.BEGIN) == shipped.count(report.END) == 1


def test_the_sheet_is_small_and_has_a_row_for_each_who_drew(art: NounsArt, tmp_path: Path) -> None:
    world = make_world(art, Unit(0, 4), 32)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    drawn = dict.fromkeys(report.SHEET_ROWS, noise)
    sheet = report.save_sheet(art, world, drawn, tmp_path / "quality.png")
    assert sheet.stat().st_size < 200_000
    with Image.open(sheet) as image:
        assert image.mode == "P" and image.height > 128 * (1 + len(drawn))


def test_what_rows_share_is_trained_once_in_the_estimate() -> None:
    plan = RoundPlan(steps=100)
    by_name = {row.name: row for row in ROWS}
    one = work_of(Unit(0, 4), plan, 96, [by_name["mean"]])
    both = work_of(Unit(0, 4), plan, 96, [by_name["mean"], by_name["engine"]])
    assert one.steps == both.steps == 400 and both.drawn == one.drawn + 96
    assert work_of(Unit(0, 8), plan, 96, [by_name[CEILING]]).steps == 1600
    assert one.seconds(Speed(step=1.0, drawing=0.0, look=0.0)) == 400


def test_central_training_makes_as_many_steps_as_uneven_members_do_together() -> None:
    plan, ceiling = RoundPlan(), [row for row in ROWS if row.name == CEILING]
    assert work_of(Unit(0, 4, "uneven"), plan, 96, ceiling).steps == 2 * (240 + 240 + 270 + 480)


def test_a_cut_run_goes_on_with_the_rows_that_are_missing(tmp_path: Path) -> None:
    order = Order(Unit(0, 4), RoundPlan(), 96, NAMES, tmp_path)
    assert len(order.missing) == len(ROWS)
    order.folder.mkdir(parents=True)
    told = {name: vars(figures(0.5)) for name in (BASE, DISTILLED)}
    (order.folder / "results.json").write_text(json.dumps(told))
    assert {row.name for row in order.missing} == set(NAMES) - {BASE, DISTILLED}
    forget(order, [DISTILLED])
    assert set(read_results(order.folder)) == {BASE}
    assert Order(Unit(0, 4), RoundPlan(steps=9), 96, NAMES, tmp_path).folder != order.folder
    forget(order)
    assert not order.folder.exists()


def test_plans_that_differ_after_training_share_what_was_trained(tmp_path: Path) -> None:
    first, other_merge, other_training = (
        Order(Unit(0, 4), plan, 96, NAMES, tmp_path)
        for plan in (RoundPlan(), RoundPlan(distillation_steps=50, tail=0.01), RoundPlan(drift=5e-4))
    )
    assert first.folder != other_merge.folder and first.trained == other_merge.trained
    assert first.trained != other_training.trained

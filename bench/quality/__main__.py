"""``python -m bench.quality``: this engine beside every other way to train one model on everybody's images.

Hours of work, so every row is kept when it is done: ``--resume`` goes on where a run was cut, ``--redo`` does some rows
again on the same members' adapters, ``--anew`` begins again.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from bases.nouns_art import NounsArt
from bench.bases import quiet
from bench.quality import cost, report
from bench.quality.rows import NAMES
from bench.quality.unit import Order, end_with_parent, forget, read_results, run
from bench.quality.world import SCENARIOS, Unit, make_world, units_of
from bench.quality.yardstick import Figures
from client.training.timing import use_threads
from deploy.demo.world import IMAGE_DATA
from protocol.grant import RoundPlan

ROOT = Path(__file__).parents[2]
SUMMARY = "quality.json"


def main() -> None:
    """Estimate, run what is missing, print tables and a line for each bar; a missed bar is no error."""
    told = _arguments()
    use_threads(1)
    quiet()
    plan = _plan(told.plan, told.steps)
    rows = tuple(name for name in NAMES if name in told.rows)
    units = units_of(told.seeds, told.members, told.scenarios, told.scenario_seeds)
    orders = [Order(unit, plan, told.pictures, rows, told.out) for unit in units]
    _begin(orders, told)
    _announce(orders, told.processes)
    results = _run(orders, told.processes)
    _finish(orders, results, told.docs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what this engine's collective is worth.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", type=int, nargs="+", default=[4, 8], help="numbers of members with even shares")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--scenario-seeds", type=int, nargs="+", default=[0], help="seeds of all but the even scenario")
    parser.add_argument("--steps", type=int, help="local steps of every member; the plan's by default")
    parser.add_argument("--plan", nargs="+", default=[], metavar="FIELD=VALUE", help="other fields of the plan")
    parser.add_argument("--pictures", type=int, default=96, help="pictures that every model draws")
    parser.add_argument("--rows", nargs="+", choices=NAMES, default=list(NAMES))
    before = parser.add_mutually_exclusive_group()
    before.add_argument(
        "--resume", action="store_true", help="go on with what an earlier run of the same plan has done"
    )
    before.add_argument("--redo", nargs="+", choices=NAMES, default=[], help="resume, but measure these rows again")
    before.add_argument("--anew", action="store_true", help="drop what an earlier run of the same plan has done")
    parser.add_argument("--processes", type=int, default=2, help="units at the same time, one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-quality")
    parser.add_argument("--docs", type=Path, help="folder whose quality.md and quality.png are written anew")
    return parser.parse_args()


def _plan(fields: list[str], steps: int | None) -> RoundPlan:
    changed = {name: json.loads(value) for name, value in (field.split("=", 1) for field in fields)}
    return RoundPlan(**changed) if steps is None else RoundPlan(**{**changed, "steps": steps})


def _begin(orders: list[Order], told: argparse.Namespace) -> None:
    """Hours of work are dropped only when asked for."""
    for order in (one for one in orders if one.folder.exists()):
        if told.anew:
            forget(order)
        elif told.redo:
            forget(order, told.redo)
        elif not told.resume:
            raise SystemExit(f"{order.folder} holds an earlier run: --resume goes on with it, --anew drops it.")


def _announce(orders: list[Order], processes: int) -> None:
    missing = sum(len(order.missing) for order in orders)
    print(f"{missing} rows of {len(orders)} units are to do, into {orders[0].out}")
    if missing:
        speed = cost.speed_of(orders[0].plan)
        minutes = cost.seconds_left(orders, speed, processes) / 60
        print(
            f"{1000 * speed.step:.0f} ms a step, {1000 * speed.drawing:.0f} ms a picture: about {minutes:.0f} min on "
            f"{processes} cores, if nothing else runs",
            flush=True,
        )


def _run(orders: list[Order], processes: int) -> dict[Unit, dict[str, Figures]]:
    """All units' figures; each unit's table is printed when it is done."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before a worker imports numpy
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=end_with_parent) as pool:
        waiting = {pool.submit(run, order): order for order in orders if order.missing}
        for done in as_completed(waiting):
            print(f"\n{waiting[done].unit.name}\n\n{report.table([done.result()])}\n", flush=True)
    return {order.unit: read_results(order.folder) for order in sorted(orders, key=_place)}


def _finish(orders: list[Order], results: dict[Unit, dict[str, Figures]], docs: Path | None) -> None:
    summary = [
        {"unit": unit.name, "row": name, **vars(figures)}
        for unit, rows in results.items()
        for name, figures in rows.items()
    ]
    (orders[0].out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    for members, scenario, runs in report.by_setting(results):
        print(f"\n{report.heading(members, scenario, len(runs))}\n\n{report.table(runs)}")
    sheet = _sheet(min(orders, key=_place), docs or orders[0].out)
    print(f"\nFigures in {orders[0].out / SUMMARY}, pictures in {sheet}\n")
    if docs:
        page = docs / "quality.md"
        text = report.section(results, _settings(orders[0]), with_sheet=True)
        page.write_text(report.with_section(page.read_text(), text))
    for bar in report.bars(results):
        print(bar)


def _place(order: Order) -> tuple[int, int, int]:
    """In what is printed; what is run goes the longest first."""
    return SCENARIOS.index(order.unit.scenario), order.unit.members, order.unit.seed


def _sheet(order: Order, folder: Path) -> Path:
    art = NounsArt.load(IMAGE_DATA)
    drawn = {name: np.load(order.folder / f"drawn-{name}.npy") for name in read_results(order.folder)}
    return report.save_sheet(art, make_world(art, order.unit, order.pictures), drawn, folder / report.SHEET)


def _settings(order: Order) -> str:
    plan = order.plan
    return (
        f"{plan.steps} local steps of batch {plan.batch} for every member, in proportion more for who has over "
        f"{plan.usual_pictures} pictures, rank {plan.rank}, ρ = {plan.drift:g}, "
        f"{order.pictures} pictures drawn by each model; torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()

"""What a run found, in words: tables, bars, the page in the docs and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from bases.nouns_art import NounsArt, caption
from bench.quality.rows import BASE, BY_STEPS, CEILING, DISTILLED, ONE_SHOT, OWN_BEST, ROWS
from bench.quality.world import Unit, World
from bench.quality.yardstick import Figures, Pictures
from deploy.demo.measure import draw_sheet
from protocol.counted import counted

Results = Mapping[str, Figures]
"""One unit's figures by row."""
HEADLINE = DISTILLED
"""The row that the bars are about."""
GAIN_OVER_BASE, HEADS, OVER_PEERS = 0.95, 0.90, 1.00
BEGIN, END = "<!-- bench-quality: begin -->", "<!-- bench-quality: end -->"
SHEET, SHEET_COLUMNS, SHEET_COLOURS = "quality.png", 8, 64
SHEET_ROWS = {
    BASE: "base",
    OWN_BEST: "one member",
    "average": "averaging",
    BY_STEPS: "stacking",
    ONE_SHOT: "merge",
    DISTILLED: "distilled",
    CEILING: "central",
}
HEADER = (
    "| | held-out images | of central's gain | members' images | base's own heads | heads recognised | reciprocal rank "
    "| gain |\n|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Bar:
    """One thing that a run is held to; ``least`` says that more is better."""

    name: str
    measured: float
    limit: float
    least: bool = True

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.least else self.measured < self.limit

    def __str__(self) -> str:
        return f"bar {self.name} {self.measured:.3f} {self.limit:.2f} {'met' if self.met else 'missed'}"


def share_of_gain(results: Results, row: str) -> float | None:
    """How much of central training's gain over the base, with everybody's steps, a row reaches on held-out images."""
    if BASE not in results or CEILING not in results:
        return None
    base, ceiling = results[BASE].held_out, results[CEILING].held_out
    return (base - results[row].held_out) / (base - ceiling)


def table(runs: Sequence[Results]) -> str:
    """Markdown: a line for each row that a run has, the mean and half the range over the runs that have it."""
    lines = [HEADER]
    for row in ROWS:
        having = [run for run in runs if row.name in run]
        if not having:
            continue
        each = [run[row.name] for run in having]
        gained = [share for run in having if (share := share_of_gain(run, row.name)) is not None]
        fewer = f", {counted(len(having), 'seed')} of {len(runs)}" if len(having) < len(runs) else ""
        cells = (
            spread([one.held_out for one in each], "{:.3f}"),
            spread([100 * share for share in gained], "{:.0f}") + "%" if gained else "",
            spread([one.owned for one in each], "{:.3f}"),
            spread([one.known for one in each], "{:.3f}"),
            spread([100 * one.recognised for one in each], "{:.0f}") + "%",
            spread([one.reciprocal for one in each], "{:.2f}"),
            " / ".join(f"{one.gain:g}" for one in each) if row.tuned else "",
        )
        lines.append(f"| {row.title}{fewer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], form: str) -> str:
    """``0.312 ± 0.010``: the mean, and half of what lies between the least and the most."""
    mean = form.format(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format((max(values) - min(values)) / 2)}"


def by_setting(results: Mapping[Unit, Results]) -> Iterator[tuple[int, str, list[Results]]]:
    """(members, scenario, one result for each seed), in the order in which they came."""
    for (members, scenario), units in groupby(results, key=lambda unit: (unit.members, unit.scenario)):
        yield members, scenario, [results[unit] for unit in units]


def heading(members: int, scenario: str, seeds: int) -> str:
    """``4 members, even (3 seeds, mean ± half the range)``."""
    return f"{members} members, {scenario} ({f'{seeds} seeds, mean ± half the range' if seeds > 1 else 'one seed'})"


def bars(results: Mapping[Unit, Results]) -> list[Bar]:
    """For each scenario and number of members, of whatever rows it takes, the means over seeds."""
    found = []
    for members, scenario, runs in by_setting(results):
        if not all(HEADLINE in run for run in runs):
            continue
        where = f"{members}-members" if scenario == "even" else f"{members}-{scenario}-members"
        shares = [share for run in runs if (share := share_of_gain(run, HEADLINE)) is not None]
        if len(shares) == len(runs):
            found.append(Bar(f"gain-over-base-{where}", _mean(shares), GAIN_OVER_BASE))
        found.append(Bar(f"heads-{where}", _mean([run[HEADLINE].recognised for run in runs]), HEADS))
        if best := best_peer(runs):
            ratio = _mean([run[HEADLINE].held_out for run in runs]) / _mean([run[best].held_out for run in runs])
            found.append(Bar(f"beats-every-federated-rule-{where}", ratio, OVER_PEERS, least=False))
    return found


def best_peer(runs: Sequence[Results]) -> str | None:
    """The federated rule with the least mean loss on held-out images; None unless every run has every rule."""
    peers = [row.name for row in ROWS if row.kind == "peer"]
    if not all(name in run for name in peers for run in runs):
        return None
    return min(peers, key=lambda name: _mean([run[name].held_out for run in runs]))


def section(results: Mapping[Unit, Results], settings: str, with_sheet: bool) -> str:
    """What stands between the page's two marks."""
    parts = [settings]
    if with_sheet:
        parts.append(f"![What each of them draws of the same captions, the true Noun on top]({SHEET})")
    for members, scenario, runs in by_setting(results):
        parts.append(f"### {heading(members, scenario, len(runs))}\n{table(runs)}")
        if all(CEILING in run for run in runs):
            heads = _mean([run[CEILING].recognised for run in runs])
            parts.append(f"Central training's own share of recognised heads is the ceiling there: {heads:.1%}.")
    if held_to := bars(results):
        parts.append("```text\n" + "\n".join(map(str, held_to)) + "\n```")
    return "\n\n".join(parts)


def with_section(page: str, text: str) -> str:
    """The page with ``text`` between its marks; all else stays as a person wrote it."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def save_sheet(art: NounsArt, world: World, drawn: Mapping[str, Pictures], path: Path) -> Path:
    """The same captions in every row, heads of all members, in few colours so that the file stays small."""
    columns = np.linspace(0, len(world.prompts) - 1, SHEET_COLUMNS).round().astype(int)
    seeds = [world.prompts[column] for column in columns]
    rows = {"true": np.stack([art.compose(seed) for seed in seeds])}
    rows |= {title: drawn[name][columns] for name, title in SHEET_ROWS.items() if name in drawn}
    draw_sheet([caption(art.traits(seed)) for seed in seeds], rows, path)
    with Image.open(path) as sheet:
        sheet.quantize(SHEET_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""``python -m bench.merge``: what a merge costs and how far it is from the exact result, beside the ways of others.

Every measurement is a process of its own, so that its peak of memory is its own. Times are CPU seconds on one thread,
from reading the members' files to the merged factors; errors are those of one layer of each shape.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.merge_members import RANKS, STATISTICS_RANK, compared, inputs, shapes, write
from merging import algebra, exact
from merging.algebra import Solved
from merging.merge import MergeInput, merge
from merging.stored import StoredAdapter, StoredStatistics
from merging.sums import Opened, group_sums
from protocol.adapter import input_group
from protocol.grant import RoundPlan

RANK = 64
MEAN, REGRESSION, KEPT, ERRORS, ENGINE = "mean", "regression", "kept", "errors", "coterie"
PEERS = ("averaged", "peft_svd", "peft_cat", "dense_svd", "stacked")
PEERS_UP_TO = {"peft_svd": 100, "peft_cat": 100, "dense_svd": 100}
PLAN = RoundPlan(tail=0.0, release_rank=RANK)
EXACT, OVER_BEST, TIMES_FASTER, MEAN_S, REGRESSION_S, PEAK_GB, ADDED = 1e-9, 1.01, 10.0, 90.0, 240.0, 1.5, 0.2

Result = dict[str, Any]
Dense = dict[str, np.ndarray]


def main() -> None:
    """Measure, print the table, then a line for each bar; a missed bar is no error."""
    parser = argparse.ArgumentParser(description="Measure merges of synthetic members at SD 1.5's attention shapes.")
    parser.add_argument("--members", type=int, nargs="+", default=[10, 100, 1000], help="how many, one table each")
    parser.add_argument("--folder", type=Path, help="where members' files are written and left for the next run")
    parser.add_argument("--only", nargs="+", default=[MEAN, REGRESSION, KEPT, ERRORS, *PEERS], help="what to measure")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "MEMBERS"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        print(json.dumps(_measured(told.folder, told.child[0], int(told.child[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {n: _all_of(folder, n, told.only) for n in told.members}
    _bars(found)


def _all_of(folder: Path, n: int, only: Sequence[str]) -> dict[str, Result]:
    """Every measurement at ``n`` members, printed as it comes."""
    _child(folder, "write", n + 1)
    print(f"\n{n} members of ranks {RANKS}, statistics of rank {STATISTICS_RANK}, no two alike; cut at rank {RANK}\n")
    print("| way | CPU s | peak MB | error | over the best of its rank |\n|---|---|---|---|---|", flush=True)
    found: dict[str, Result] = {}
    for what in (MEAN, REGRESSION, *PEERS):
        if what not in only or n > PEERS_UP_TO.get(what, n):
            continue
        found[what] = one = _child(folder, what, n)
        told = [f"{one[key]:.3g}" if key in one else "" for key in ("error", "over_best")]
        print(f"| {what} | {one['cpu_s']:.1f} | {one['peak_mb']:.0f} | {' | '.join(told)} |", flush=True)
    if ERRORS in only:
        found[ERRORS] = one = _child(folder, ERRORS, n)
        print(f"\nbefore the cut: mean {one[MEAN]:.2g}, regression {one[REGRESSION]:.2g} from fp64 dense", flush=True)
    if KEPT in only and n == 100:
        found[KEPT] = _child(folder, KEPT, n)
        print(
            "\n{from_scratch:.1f} s of reading and adding from scratch, {added:.1f} s to add one".format(**found[KEPT])
        )
    return found


def _bars(found: dict[int, dict[str, Result]]) -> None:
    print()
    for n, at in found.items():
        for name in (MEAN, REGRESSION):
            if ERRORS in at:
                _bar(f"merge-{name}-{n}-error", at[ERRORS][name], EXACT)
            if name in at:
                _bar(f"merge-{name}-{n}-over-best", at[name]["over_best"], OVER_BEST)
        if n == 10 and MEAN in at:
            for peer in ("peft_svd", "dense_svd"):
                if peer in at:
                    times = at[peer]["cpu_s"] / at[MEAN]["cpu_s"]
                    _bar(f"merge-mean-10-faster-than-{peer.replace('_', '-')}", times, TIMES_FASTER, at_least=True)
        if n == 1000:
            for name, limit in ((MEAN, MEAN_S), (REGRESSION, REGRESSION_S)):
                if name in at:
                    _bar(f"merge-{name}-{n}-cpu-seconds", at[name]["cpu_s"], limit)
                    _bar(f"merge-{name}-{n}-peak-gb", at[name]["peak_mb"] / 1000, PEAK_GB)
        if KEPT in at:
            _bar(f"merge-one-more-than-{n}", at[KEPT]["added"] / at[KEPT]["from_scratch"], ADDED)


def _bar(name: str, measured: float, limit: float, at_least: bool = False) -> None:
    met = measured >= limit if at_least else measured <= limit
    print(f"bar {name} {measured:.4g} {limit:g} {'met' if met else 'missed'}")


def _child(folder: Path, what: str, n: int) -> Result:
    """One measurement in a process of its own, on one thread."""
    command = [sys.executable, "-m", "bench.merge", "--folder", str(folder), "--child", what, str(n)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def _measured(folder: Path, what: str, n: int) -> Result:
    if what == "write":
        write(folder, n)
        return {}
    if what == ERRORS:
        return {name: max(_full_rank_errors(folder, n, name == REGRESSION)) for name in (MEAN, REGRESSION)}
    if what == KEPT:
        return _adding_one(folder, n)
    if what in (MEAN, REGRESSION):
        members = inputs(folder, range(n), what == REGRESSION)
        return _timed(lambda: _engine(members), members, what == REGRESSION)
    from bench import merge_peers  # torch and peft would count as this engine's memory

    members = inputs(folder, range(n), statistics=False)
    return _timed(
        lambda: _peer(merge_peers.PEERS[what], members), members, False, same_rank=what in ("peft_svd", "dense_svd")
    )


def _engine(members: Sequence[MergeInput]) -> Dense:
    adapter = merge(members, PLAN).adapter
    return {layer: adapter[layer].b @ adapter[layer].a for layer in compared()}


def _peer(way: Callable[[Sequence[Path], int], Any], members: Sequence[MergeInput]) -> Dense:
    wanted = set(compared())
    pairs = ((layer, a, b) for layer, a, b in way([one.adapter for one in members], RANK))
    return {layer: b.astype(np.float64) @ a.astype(np.float64) for layer, a, b in pairs if layer in wanted}


def _timed(
    work: Callable[[], Dense], members: Sequence[MergeInput], regression: bool, same_rank: bool = True
) -> Result:
    """CPU seconds and peak memory of the work, and how far what it made is from the exact result."""
    before = time.process_time()
    made = work()
    seconds, peak = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    errors, best = [], []
    for layer, delta in made.items():
        wanted, root = _dense(members, layer, regression)
        metric = wanted if root is None else wanted @ root
        off = wanted - delta if root is None else (wanted - delta) @ root
        errors.append(np.linalg.norm(off) / np.linalg.norm(metric))
        s = np.linalg.svd(metric, compute_uv=False)
        best.append(np.sqrt(np.square(s[RANK:]).sum() / np.square(s).sum()))
    result: Result = {"cpu_s": seconds, "peak_mb": peak, "error": float(max(errors))}
    if same_rank:
        # At rank 64 ten members' mean of rank 93 is cut too: no best error is zero.
        result["over_best"] = float(max(error / least for error, least in zip(errors, best, strict=True)))
    return result


def _full_rank_errors(folder: Path, n: int, regression: bool) -> list[float]:
    """‖ours − dense‖ / ‖dense‖ of what is solved before the cut, by compared layer."""
    members = inputs(folder, range(n), regression)
    opened = [
        Opened(1, StoredAdapter(one.adapter), StoredStatistics(one.statistics) if one.statistics else None)
        for one in members
    ]
    errors = []
    for layer in compared():
        sums = group_sums(opened, input_group(layer), [layer])
        total, denominator = sums.numerator_values()[layer], exact.denominator_value(sums.denominator)
        if regression:
            ours = algebra.solve(total, denominator, PLAN.regularisation).dense()
        else:
            ours = algebra.mean(total, float(denominator[0, 0])).dense()
        wanted = _dense(members, layer, regression)[0]
        errors.append(float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted)))
    return errors


def _dense(members: Sequence[MergeInput], layer: str, regression: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The exact ΔW in plain fp64, and the Cholesky root of its metric; the mean has none."""
    m, n = shapes()[layer]
    top, bottom = np.zeros((m, n)), np.zeros((n, n))
    for one in members:
        factors = StoredAdapter(one.adapter)[layer]
        a, b = factors.a.astype(np.float64), factors.b.astype(np.float64)
        if not regression or one.statistics is None:
            top += b @ a
            continue
        sketch = StoredStatistics(one.statistics)[input_group(layer)]
        factor, diagonal = sketch.factor.astype(np.float64), sketch.diagonal.astype(np.float64)
        moment = factor @ factor.T + np.diag(diagonal * (1 - np.square(factor).sum()) / diagonal.sum())
        top += b @ (a @ moment)
        bottom += moment
    if not regression:
        return top / len(members), None
    bottom += PLAN.regularisation * np.trace(bottom) / n * np.eye(n)
    return np.linalg.solve(bottom, top.T).T, np.linalg.cholesky(bottom)


def _adding_one(folder: Path, n: int) -> Result:
    """What reading and adding the ``n`` + 1st member costs with the sums of ``n`` kept, and all from scratch.

    Solving and hashing have to be done either way and are timed apart. Both ways commit to one hash.
    """
    with tempfile.TemporaryDirectory(dir=folder) as kept, _Apart() as apart:
        first, more = (inputs(folder, range(count), statistics=True) for count in (n, n + 1))
        merge(first, PLAN, kept=Path(kept))
        seconds, found = [], []
        for where in (Path(kept), None):
            began, before = time.process_time(), apart.seconds
            found.append(merge(more, PLAN, kept=where))
            seconds.append(time.process_time() - began - (apart.seconds - before))
        size = sum(path.stat().st_size for path in Path(kept).iterdir())
    if found[0].commitment != found[1].commitment:
        raise SystemExit("The merge that went on from kept sums is not the one from scratch.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"cpu_s": sum(seconds), "peak_mb": peak, "added": seconds[0], "from_scratch": seconds[1], "gb": size / 1e9}


class _Apart:
    """Counts the CPU seconds of solving and hashing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._places = [(algebra, "root"), (algebra, "solve_in"), (Solved, "at_rank"), (hashlib, "sha256")]
        self._places += [(exact, "numerator_value"), (exact, "denominator_value")]

    def __enter__(self) -> "_Apart":
        self._plain = [getattr(owner, name) for owner, name in self._places]
        for (owner, name), plain in zip(self._places, self._plain, strict=True):
            setattr(owner, name, self._counted(plain))
        return self

    def __exit__(self, *_: object) -> None:
        for (owner, name), plain in zip(self._places, self._plain, strict=True):
            setattr(owner, name, plain)

    def _counted(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return plain(*args, **named)
            finally:
                self.seconds += time.process_time() - began

        return counted


if __name__ == "__main__":
    main()

"""Sums and inner products of the last merge on the disk, so that the next one adds and takes away only what differs.

Sums are exact, so what comes out is bit for bit the merge from scratch. Of each input group the newest sums are kept
and no others, with the exact set that they are over: ids, weights, lengths, and size and time of every file. Whatever
does not fit, or cannot be read, counts as not kept. The folder is the coordinator's own: nothing in it is checked
against tampering.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merging.sums import GroupSums
from merging.wide import Whole

FORMAT = 1
"""Another number for sums on other grids."""
_GRAM, _FIGURES, _SUMS = "products.npz", "figures.json", "sums"


class Member(NamedTuple):
    """One contribution in sums. Equal members add equal numbers."""

    contribution_id: str
    weight: int
    length: int
    adapter: str
    statistics: str
    """Empty if it has none."""
    files: tuple[tuple[int, int], ...]
    """Size and time of change of each file."""

    @classmethod
    def of(cls, contribution_id: str, weight: int, length: int, adapter: Path, statistics: Path | None) -> "Member":
        """As the files are now."""
        files = (adapter,) if statistics is None else (adapter, statistics)
        return cls(contribution_id, weight, length, str(adapter), str(statistics or ""), tuple(map(_stamp, files)))

    @property
    def name(self) -> str:
        """The contribution and its very files in one line."""
        return json.dumps([self.contribution_id, *self.files])

    def is_there(self) -> bool:
        """Its files are still those that were added."""
        try:
            return tuple(_stamp(Path(path)) for path in (self.adapter, self.statistics) if path) == self.files
        except OSError:
            return False


def read_sums(folder: Path, group: str) -> tuple[frozenset[Member], GroupSums] | None:
    """The newest sums of a group and whose they are, if there are any."""
    try:
        with _path(folder, group).open("rb") as file:
            head = json.loads(file.readline())
            if head["format"] != FORMAT or head["group"] != group:
                return None
            numerators = {layer: Whole(np.load(file), shift) for layer, shift in head["layers"].items()}
            sums = GroupSums(numerators, Whole(np.load(file), head["shift"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return frozenset(_member(one) for one in head["members"]), sums


def read_members(folder: Path, group: str) -> frozenset[Member]:
    """Whose sums are kept, without reading them."""
    try:
        with _path(folder, group).open("rb") as file:
            head = json.loads(file.readline())
        return frozenset(_member(one) for one in head["members"]) if head["format"] == FORMAT else frozenset()
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def write_sums(folder: Path, group: str, members: Iterable[Member], sums: GroupSums) -> None:
    """Keep a group's sums in place of the last ones."""
    folder.mkdir(parents=True, exist_ok=True)
    shifts = {layer: total.shift for layer, total in sorted(sums.numerators.items())}
    head: dict[str, object] = {"format": FORMAT, "group": group, "layers": shifts, "shift": sums.denominator.shift}
    head["members"] = sorted(members)
    path = _path(folder, group)
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(json.dumps(head).encode() + b"\n")
        for layer in sorted(sums.numerators):
            np.save(file, sums.numerators[layer].digits)
        np.save(file, sums.denominator.digits)
    new.replace(path)


def remove_others(folder: Path, groups: Iterable[str]) -> None:
    """What is kept of other groups than these is of no use any more."""
    wanted = {_path(folder, group) for group in groups}
    for path in folder.glob(f"*.{_SUMS}"):
        if path not in wanted:
            path.unlink()


def read_products(folder: Path, names: Sequence[str]) -> NDArray[np.float64] | None:
    """The Gram matrix of contributions by their names (``Member.name``), NaN where one of a pair is new.

    None if nothing is kept.
    """
    try:
        with np.load(folder / _GRAM) as kept:
            known, matrix = {str(one): at for at, one in enumerate(kept["names"])}, kept["matrix"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    whole = np.full((len(names), len(names)), np.nan)
    here = [at for at, one in enumerate(names) if one in known]
    there = [known[names[at]] for at in here]
    whole[np.ix_(here, here)] = matrix[np.ix_(there, there)]
    return whole


def write_products(folder: Path, names: Sequence[str], matrix: NDArray[np.float64]) -> None:
    """Keep a Gram matrix in place of the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"new-{_GRAM}"
    np.savez(new, names=np.array(names), matrix=matrix)
    new.replace(folder / _GRAM)


class Figures(NamedTuple):
    """What the robust rules ask of one contribution's statistics alone: peaks by input group, and its reach."""

    peaks: dict[str, float]
    reach: float


def read_figures(folder: Path) -> dict[str, Figures]:
    """By contribution's name (``Member.name``)."""
    try:
        return {key: Figures(*one) for key, one in json.loads((folder / _FIGURES).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_figures(folder: Path, figures: Mapping[str, Figures]) -> None:
    """Keep these in place of the last ones."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"new-{_FIGURES}"
    new.write_text(json.dumps(figures))
    new.replace(folder / _FIGURES)


def _member(entry: list[Any]) -> Member:
    contribution_id, weight, length, adapter, statistics, files = entry
    stamps = tuple((size, changed) for size, changed in files)
    return Member(contribution_id, weight, length, adapter, statistics, stamps)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _path(folder: Path, group: str) -> Path:
    return folder / f"{hashlib.sha256(group.encode()).hexdigest()[:32]}.{_SUMS}"

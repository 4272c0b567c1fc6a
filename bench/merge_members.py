"""Members for ``bench.merge``: adapters of mixed ranks and statistics at the shapes of SD 1.5's attention, on the disk.

They are made of noise around something common, as members' are who train from one base on like pictures.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from merging.merge import MergeInput
from protocol.adapter import Factors, Sketch, dump_adapter, dump_statistics, input_group

RANKS = (4, 8, 16)
STATISTICS_RANK = 32
TEXT_WIDTH = 768
BLOCKS = {"down_blocks.0": (320, 2), "down_blocks.1": (640, 2), "down_blocks.2": (1280, 2), "mid_block": (1280, 1)} | {
    "up_blocks.1": (1280, 3),
    "up_blocks.2": (640, 3),
    "up_blocks.3": (320, 3),
}
"""Where SD 1.5's UNet has attention: width and number of transformers."""


def shapes() -> dict[str, tuple[int, int]]:
    """Layer → (d_out, d_in), the 128 linears of SD 1.5's attention."""
    return {
        f"{block}.attentions.{at}.transformer_blocks.0.{attention}.{name}": (width, n)
        for block, (width, count) in BLOCKS.items()
        for at in range(count)
        for attention in ("attn1", "attn2")
        for name in ("to_q", "to_k", "to_v", "to_out.0")
        for n in (TEXT_WIDTH if attention == "attn2" and name in ("to_k", "to_v") else width,)
    }


def compared() -> tuple[str, ...]:
    """One layer of every shape, for errors against the dense result."""
    found: dict[tuple[int, int], str] = {}
    for layer, shape in shapes().items():
        found.setdefault(shape, layer)
    return tuple(found.values())


def write(folder: Path, count: int) -> None:
    """Members 0 to ``count`` − 1, those that are missing: no two are alike."""
    for member in range(count):
        if not _statistics(folder, member).exists():
            rng = np.random.default_rng(member)
            adapter = dump_adapter(dict(_adapter(rng, RANKS[member % len(RANKS)])))
            (folder / f"{member}.adapter").write_bytes(adapter)
            _statistics(folder, member).write_bytes(dump_statistics(dict(_sketches(rng))))


def inputs(folder: Path, members: Sequence[int], statistics: bool) -> list[MergeInput]:
    """Those members as a merge takes them."""
    return [
        MergeInput(f"{one:06}", 1, folder / f"{one}.adapter", _statistics(folder, one) if statistics else None)
        for one in members
    ]


def _statistics(folder: Path, member: int) -> Path:
    return folder / f"{member}.statistics"


def _adapter(rng: np.random.Generator, rank: int) -> Iterator[tuple[str, Factors]]:
    for at, (layer, (m, n)) in enumerate(shapes().items()):
        common = np.random.default_rng(10**9 + at)
        a = rng.standard_normal((rank, n), np.float32) / np.sqrt(n)
        b = 0.02 * rng.standard_normal((m, rank), np.float32)
        a[:4] = 0.6 * a[:4] + 0.8 * common.standard_normal((4, n), np.float32) / np.sqrt(n)
        b[:, :4] = 0.6 * b[:, :4] + 0.016 * common.standard_normal((m, 4), np.float32)
        yield layer, Factors(a, b)


def _sketches(rng: np.random.Generator) -> Iterator[tuple[str, Sketch]]:
    widths = {input_group(layer): n for layer, (_, n) in shapes().items()}
    for at, (group, n) in enumerate(widths.items()):
        common = np.random.default_rng(2 * 10**9 + at).standard_normal((n, STATISTICS_RANK), np.float32)
        factor = (0.7 * common + 0.7 * rng.standard_normal((n, STATISTICS_RANK), np.float32)) / np.sqrt(n)
        factor *= np.exp(-np.arange(STATISTICS_RANK) / 12)
        diagonal = rng.random(n)
        factor *= np.sqrt(0.85 / np.square(factor).sum())
        yield group, Sketch(factor, 0.15 * diagonal / diagonal.sum())

"""What the demo's table says: losses at fixed noise, heads recognised in drawn pictures, and the sheet to look at.

The measuring itself (``python -m deploy.demo.measure ORDER``, the answer beside it) runs in processes of its own, so
that the demo's terminal stays light, two models are measured side by side, and the story goes on meanwhile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bases.nouns_art import NounsArt, Seed, caption
from deploy.demo.processes import environment
from deploy.demo.world import IMAGE_DATA
from processes.children import Child, end_with_parent
from protocol.adapter import load_adapter
from protocol.errors import Unreachable

if TYPE_CHECKING:  # both load torch, which only the measuring processes need
    from bases.families import Base
    from client.collection.example import Example

Picture = NDArray[np.uint8]

BASE, COLLECTIVE = "base", "collective"
KNOWN = 32
"""Random Nouns with heads that the base was trained on, to see what it forgets."""
DRAWN_EACH = 2
"""Pictures drawn of each of the members' heads."""
SAMPLING_STEPS = 20
GUIDANCE = 3.0
"""The same for every model; Stable Diffusion is seldom run with less."""
BATCH = 32
NOISE_SEED, PROMPT_SEED, DRAW_SEED = 1, 2, 3
CELL, LABEL, MARGIN = 128, 22, 96


@dataclass(frozen=True)
class Losses:
    """Mean denoising loss at fixed noise; lower is better."""

    held_out: float
    """On pictures of all members that nobody trained on."""
    everyone: float
    """On all pictures of all members."""
    known: float
    """On Nouns with the base's own heads."""


@dataclass(frozen=True)
class Order:
    """What one measuring process is asked: paths and numbers only, for it travels as JSON."""

    base: str
    models: Mapping[str, str]
    """Name → adapter file; no file for the base alone."""
    draw: tuple[str, ...]
    """Models that draw."""
    datasets: tuple[str, ...]
    """The members' round folders."""
    heads: tuple[int, ...]
    """The members' heads."""
    out: str
    drawn_each: int = DRAWN_EACH
    sampling_steps: int = SAMPLING_STEPS


@dataclass(frozen=True)
class Measured:
    """Losses by model, the share of heads recognised by model, and the sheet."""

    losses: Mapping[str, Losses]
    recognised: Mapping[str, float]
    sheet: Path


class Measuring:
    """The models shared out to two processes, which have begun; leave the block and none of them is left."""

    def __init__(self, order: Order) -> None:
        self._order, folder = order, Path(order.out)
        shares = [share for start in (0, 1) if (share := list(order.models)[start::2])]
        self._parts = [folder / f"measuring-{number}.json" for number in range(len(shares))]
        self._children: list[Child] = []
        for part, share in zip(self._parts, shares, strict=True):
            models, drawing = {name: order.models[name] for name in share}, [n for n in share if n in order.draw]
            part.write_text(json.dumps({**asdict(order), "models": models, "draw": drawing}))
            command = [sys.executable, "-m", "deploy.demo.measure", str(part)]
            self._children.append(Child(command, part.with_suffix(".log"), environment()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.stop(patience=0)

    def result(self) -> Measured:
        """Wait for the answers, then recognise and put the sheet together.

        Raises:
            Unreachable: a process failed; its last words are in the message.
        """
        answers: dict[str, Losses] = {}
        for child, part in zip(self._children, self._parts, strict=True):
            child.wait()
            answer = _answer_file(part)
            if not answer.exists():
                last = part.with_suffix(".log").read_text(errors="replace").strip().splitlines()[-1:]
                raise Unreachable(f"The measuring failed: {(last or ['it said nothing'])[0]}")
            answers |= {name: Losses(**values) for name, values in json.loads(answer.read_text()).items()}
        return _summed_up(self._order, answers)


def _summed_up(order: Order, losses: Mapping[str, Losses]) -> Measured:
    art = NounsArt.load(IMAGE_DATA)
    prompts = list(head_prompts(art, order.heads, order.drawn_each))
    drawn = {name: np.load(_drawn_file(order, name)) for name in order.draw}
    recognised = {name: recognition(art, prompts, pictures["heads"]) for name, pictures in drawn.items()}
    first = drawn[order.draw[0]]
    rows = {"the NFT": first["nfts"], **{name: pictures["held_out"] for name, pictures in drawn.items()}}
    sheet = draw_sheet([str(text) for text in first["captions"]], rows, Path(order.out) / "sheet.png")
    return Measured({name: losses[name] for name in order.models}, recognised, sheet)


def head_prompts(art: NounsArt, heads: Sequence[int], each: int) -> Iterator[Seed]:
    """Nouns with these heads and random other traits: combinations that nobody owns."""
    rng = np.random.default_rng(PROMPT_SEED)
    for head in heads:
        for _ in range(each):
            yield art.random_seed(rng, (head,))


def recognition(art: NounsArt, prompts: Sequence[Seed], pictures: NDArray[np.uint8]) -> float:
    """The share of pictures (n, 32, 32, 3) whose nearest of all heads, all else as prompted, is the right one."""
    return float(np.mean([nearest_head(art, seed, p) == seed.head for seed, p in zip(prompts, pictures, strict=True)]))


def nearest_head(art: NounsArt, seed: Seed, picture: Picture) -> int:
    """Analysis by synthesis: which head, drawn with the prompt's other traits, comes closest pixel by pixel."""
    every = range(len(art.names["heads"]))
    candidates = (art.compose(Seed(seed.background, seed.body, seed.accessory, head, seed.glasses)) for head in every)
    return int(np.argmin([np.square(picture.astype(np.int32) - c).sum() for c in candidates]))


def draw_sheet(captions: Sequence[str], rows: Mapping[str, NDArray[np.uint8]], path: Path) -> Path:
    """A column for each caption, a row for each who draws it: (n, 32, 32, 3) each, enlarged without blurring."""
    font = ImageFont.load_default(size=14)
    sheet = Image.new("RGB", (MARGIN + CELL * len(captions), LABEL + CELL * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, text in enumerate(captions):
        head = text.split(",")[0].removesuffix(" head")
        pen.text((MARGIN + CELL * column + 4, 3), head, fill="black", font=font)
    for row, (name, pictures) in enumerate(rows.items()):
        top = LABEL + CELL * row
        pen.text((6, top + CELL // 2 - 8), name, fill="black", font=font)
        for column, picture in enumerate(pictures):
            cell = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(cell, (MARGIN + CELL * column, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _dataset(folder: Path) -> Iterator[tuple[Example, bool]]:
    """A member's pictures as its lock file lists them, and whether each was held out."""
    from client.collection.dataset import LOCK, PICTURES, DatasetLock
    from client.collection.example import Example

    lock = DatasetLock.model_validate_json((folder / LOCK).read_bytes())
    for use in (locked.use for locked in lock.tokens):
        with Image.open(folder / PICTURES / f"{use.token.contract}-{use.token.token_id}.png") as image:
            yield Example(np.asarray(image.convert("RGB")).copy(), use.caption), use.held_out


def _answer(order: Order) -> dict[str, dict[str, float]]:
    """In the measuring process: the losses of each model, and its pictures into ``out``."""
    from bases.loading import load_base
    from client.collection.example import Example
    from client.training.scoring import fixed_noise_loss

    base = load_base(Path(order.base))
    art = NounsArt.load(IMAGE_DATA)
    rng = np.random.default_rng(PROMPT_SEED)
    marked = [pair for folder in order.datasets for pair in _dataset(Path(folder))]
    owned, kept = [example for example, _ in marked], [example for example, held_out in marked if held_out]
    strangers = [art.random_seed(rng, art.known_heads) for _ in range(KNOWN)]
    known = [Example(art.compose(seed), caption(art.traits(seed))) for seed in strangers]
    sets = {"held_out": base.encode(kept), "everyone": base.encode(owned), "known": base.encode(known)}
    prompts = {
        "heads": [caption(art.traits(seed)) for seed in head_prompts(art, order.heads, order.drawn_each)],
        "held_out": [example.caption for example in kept],
    }
    answer = {}
    for name, file in order.models.items():
        adapter = load_adapter(Path(file).read_bytes()) if file else {}
        with base.under(adapter):
            answer[name] = {what: fixed_noise_loss(base, encoded, NOISE_SEED) for what, encoded in sets.items()}
            if name in order.draw:
                np.savez(
                    _drawn_file(order, name),
                    heads=_draw(base, prompts["heads"], order.sampling_steps),
                    held_out=_draw(base, prompts["held_out"], order.sampling_steps),
                    nfts=np.stack([example.picture for example in kept]),
                    captions=np.array(prompts["held_out"]),
                )
    return answer


def _draw(base: Base, captions: Sequence[str], steps: int) -> NDArray[np.uint8]:
    """uint8 (n, 32, 32, 3); the same seed for every model, so the same noise."""
    import torch

    generator = torch.Generator(base.device).manual_seed(DRAW_SEED)
    pictures = []
    with torch.no_grad():
        for start in range(0, len(captions), BATCH):
            text = base.embed(captions[start : start + BATCH])
            pictures.append(base.pictures(base.draw_latents(text, steps, generator, guidance=GUIDANCE)))
    return np.concatenate(pictures)


def _drawn_file(order: Order, name: str) -> Path:
    return Path(order.out) / f"drawn-{name}.npz"


def _answer_file(part: Path) -> Path:
    return part.with_suffix(".answer")


if __name__ == "__main__":
    end_with_parent()
    asked = Path(sys.argv[1])
    told = json.dumps(_answer(Order(**json.loads(asked.read_text()))))
    _answer_file(asked).write_text(told)

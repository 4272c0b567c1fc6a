"""One measure for all models: losses at fixed noise, and heads recognised in what they draw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bases.families import Base
from bases.nouns_art import NounsArt, Seed, caption
from bench.quality.factors import Adapter
from bench.quality.world import World
from client.training.scoring import fixed_noise_loss
from deploy.demo.measure import BATCH, DRAW_SEED, GUIDANCE, NOISE_SEED, SAMPLING_STEPS

GAINS = (0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0)
"""Candidates for everyone: the plain mean wants far more than one."""
Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Figures:
    """What one row of the table says. Losses are mean squared errors of the denoiser's answer."""

    held_out: float
    """On other pictures of everybody's heads, which nobody trained on and no gain was chosen by."""
    owned: float
    """On all pictures that members trained on."""
    known: float
    """On the base's own heads."""
    recognised: float
    """The share of drawn pictures whose nearest of all heads is the one that was asked for."""
    reciprocal: float
    """The mean of 1 / the true head's rank among all heads."""
    gain: float = 1.0
    seconds: float = 0.0
    """All the work of the row, in one thread."""


class Loss(NamedTuple):
    """Of one model on each set."""

    held_out: float
    owned: float
    known: float


class Yardstick:
    """Everything that models are measured on, encoded once."""

    def __init__(self, base: Base, art: NounsArt, world: World) -> None:
        self._base, self._art, self._world = base, art, world
        self._chosen_by = base.encode(world.chosen_by)
        self._sets = [base.encode(examples) for examples in (world.tested, world.everyones, world.known)]

    def choosing_loss(self, adapter: Adapter, gain: float = 1.0) -> float:
        """On the images that gains are chosen by."""
        with self._base.under(adapter, gain):
            return fixed_noise_loss(self._base, self._chosen_by, NOISE_SEED)

    def best_gain(self, adapter: Adapter) -> float:
        """The candidate with the least loss on the images that gains are chosen by."""
        return best_gain(lambda gain: self.choosing_loss(adapter, gain), GAINS)

    def figures(self, models: Sequence[Adapter], gain: float = 1.0) -> tuple[Figures, Pictures]:
        """The mean over ``models``, who take turns at drawing the prompts, and the pictures (n, h, w, 3)."""
        losses: list[list[float]] = []
        drawn: dict[int, Pictures] = {}
        for number, adapter in enumerate(models):
            with self._base.under(adapter, gain):
                losses.append([fixed_noise_loss(self._base, one, NOISE_SEED) for one in self._sets])
                drawn |= self._drawn(range(number, len(self._world.prompts), len(models)))
        pictures = np.stack([drawn[index] for index in sorted(drawn)])
        ranks = head_ranks(self._art, self._world.prompts, pictures)
        mean = Loss(*np.mean(losses, axis=0).tolist())
        return Figures(*mean, float(np.mean(ranks == 1)), float(np.mean(1 / ranks)), gain), pictures

    def _drawn(self, numbers: Sequence[int]) -> dict[int, Pictures]:
        """By number of the prompt."""
        captions = [caption(self._art.traits(self._world.prompts[number])) for number in numbers]
        return dict(zip(numbers, draw(self._base, captions), strict=True))


@torch.no_grad()
def draw(base: Base, captions: Sequence[str]) -> Pictures:
    """(n, h, w, 3), guided as in the demo; the same noise for every model that draws the same captions."""
    generator, parts = torch.Generator(base.device).manual_seed(DRAW_SEED), []
    for start in range(0, len(captions), BATCH):
        text = base.embed(captions[start : start + BATCH])
        parts.append(base.pictures(base.draw_latents(text, SAMPLING_STEPS, generator, guidance=GUIDANCE)))
    return np.concatenate(parts)


def best_gain(loss_at: Callable[[float], float], gains: Sequence[float]) -> float:
    """From gain 1 up the candidates as long as the loss falls, or else down: there is one valley."""
    start = gains.index(1.0)
    best, least = 1.0, loss_at(1.0)
    for way in (gains[start + 1 :], gains[:start][::-1]):
        for gain in way:
            loss = loss_at(gain)
            if loss >= least:
                break
            best, least = gain, loss
        if best != 1.0:
            break
    return best


def head_ranks(art: NounsArt, prompts: Sequence[Seed], pictures: Pictures) -> NDArray[np.int64]:
    """The true head's rank, 1 the best, among all heads drawn with the prompt's other traits, pixel by pixel."""
    return np.array([_rank(art, seed, picture) for seed, picture in zip(prompts, pictures, strict=True)])


def _rank(art: NounsArt, seed: Seed, picture: Pictures) -> int:
    every = range(len(art.names["heads"]))
    drawn = np.stack(
        [art.compose(Seed(seed.background, seed.body, seed.accessory, head, seed.glasses)) for head in every]
    )
    distances = np.square(drawn.astype(np.int32) - picture).sum(axis=(1, 2, 3))
    return int((distances < distances[seed.head]).sum()) + 1

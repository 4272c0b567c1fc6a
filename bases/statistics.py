"""Statistics without any private image: what the layers read while the adapter draws from public captions.

The recipe is public (delta, captions, seed), so that anyone can compute the same: draw pictures with the
member's own adapter, put fixed noise on them, run the UNet over them once, and take the second moment of
every adapted layer's input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bases.families import Base
from bases.families.family import Conditioning
from protocol.adapter import Factors, Sketch, input_group
from protocol.contribution import StatisticsRecipe
from protocol.errors import BadInput
from protocol.grant import RoundPlan

NOISE_LEVELS = 8


def recipe_of(plan: RoundPlan, captions: Sequence[str]) -> StatisticsRecipe:
    """How a round's statistics are drawn from the captions that were trained on."""
    return StatisticsRecipe(
        pictures=plan.sized(len(captions)).statistics_pictures,
        sampling_steps=plan.drawing_steps,
        noise_levels=NOISE_LEVELS,
        seed=plan.seed,
        rank=plan.statistics_rank,
    )


def adapted_layers(base: Base) -> list[str]:
    """The names of the layers that an adapter of this base has."""
    ends = tuple(f".{end}" for end in base.adapted)
    return [name for name in base.layers if f".{name}".endswith(ends)]


@dataclass(frozen=True)
class Moment:
    """Σ x xᵀ (n, n) in fp64 over ``rows`` inputs x."""

    sum: Tensor
    rows: int

    def __add__(self, other: "Moment") -> "Moment":
        return Moment(self.sum + other.sum, self.rows + other.rows)


def draw(
    base: Base,
    adapter: Mapping[str, Factors],
    captions: Sequence[str],
    recipe: StatisticsRecipe,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    layers: Sequence[str] = (),
) -> dict[str, Sketch]:
    """Sketches of unit trace by input group of ``layers``, by default the adapter's.

    ``progress`` gets (step, steps) of the denoiser's passes.
    """
    observed = observe(base, adapter, layers or list(adapter), captions, recipe, progress)
    return {group: sketch(moment.sum, recipe.rank) for group, moment in observed.items()}


def observe(
    base: Base,
    adapter: Mapping[str, Factors],
    layers: Sequence[str],
    captions: Sequence[str],
    recipe: StatisticsRecipe,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, Moment]:
    """Second moments, by input group, of what ``layers`` read on pictures that base and adapter draw themselves."""
    with base.under(adapter):
        return measure(base, layers, draw_pictures(base, captions, recipe, progress), recipe, progress)


@dataclass(frozen=True)
class Drawn:
    """Pictures as ``latents`` (n, c, h, w) with their ``text``; whatever chance comes next is the generator's."""

    latents: Tensor
    text: Conditioning
    generator: torch.Generator


def draw_pictures(
    base: Base,
    captions: Sequence[str],
    recipe: StatisticsRecipe,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> Drawn:
    """The recipe's pictures, as the base draws them with whatever adapter it is under, from captions by ``said_in``."""
    generator = torch.Generator(base.device).manual_seed(recipe.seed)
    total = recipe.sampling_steps + recipe.noise_levels
    with torch.no_grad():
        text = base.embed([captions[i] for i in said_in(recipe.pictures, len(captions))])
        latents = base.draw_latents(text, recipe.sampling_steps, generator, lambda s: progress(s, total))
    return Drawn(latents, text, generator)


def said_in(pictures: int, captions: int) -> list[int]:
    """Which caption each picture is drawn from: they take turns; if too many, some, evenly spread."""
    if pictures >= captions:
        return [i % captions for i in range(pictures)]
    return [i * captions // pictures for i in range(pictures)]


def measure(
    base: Base,
    layers: Sequence[str],
    drawn: Drawn,
    recipe: StatisticsRecipe,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, Moment]:
    """Second moments, by input group, of what ``layers`` read when the base looks at noised pictures."""
    latents, total = drawn.latents, recipe.sampling_steps + recipe.noise_levels
    moments = _Moments(base, layers)
    with moments, torch.no_grad():
        for level, step in enumerate(even_steps(base, recipe.noise_levels), start=1):
            steps = torch.full((len(latents),), step, device=base.device)
            noise = torch.randn(latents.shape, generator=drawn.generator, device=base.device)
            base.predict(base.noised(latents, noise, steps)[0], steps, drawn.text)
            progress(recipe.sampling_steps + level, total)
    return moments.seen


def even_steps(base: Base, count: int) -> list[int]:
    """``count`` time steps in the middles of equal parts of the schedule."""
    return [int((i + 0.5) * base.levels / count) for i in range(count)]


def sketch(moment: Tensor, rank: int) -> Sketch:
    """The best low rank of a second moment (n, n), plus what is left of its diagonal, at unit trace."""
    g = (moment / moment.trace()).double()
    values, vectors = torch.linalg.eigh(g)
    top = min(rank, len(g))
    factor = vectors[:, -top:] * values[-top:].clamp(min=0).sqrt()
    diagonal = (g.diagonal() - factor.square().sum(1)).clamp(min=0)
    return Sketch(factor.cpu().numpy().astype(np.float32), diagonal.cpu().numpy().astype(np.float32))


class _Moments:
    """Hooks that add up x xᵀ of each input group, over all rows and positions, in fp64."""

    def __init__(self, base: Base, layers: Sequence[str]) -> None:
        modules = base.layers
        readers = {input_group(layer): modules[layer] for layer in layers}
        # All text inputs are one: listening at one layer is listening at all of them.
        self._readers = readers
        self._handles: list[RemovableHandle] = []
        self.seen: dict[str, Moment] = {}

    def __enter__(self) -> None:
        for group, module in self._readers.items():
            self._handles.append(module.register_forward_pre_hook(self._hook(group)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, group: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = _rows(module, inputs[0].float())
            moment = Moment((rows.T @ rows).double(), len(rows))
            self.seen[group] = self.seen[group] + moment if group in self.seen else moment

        return add


def _rows(module: nn.Module, x: Tensor) -> Tensor:
    """A layer's input as rows: (positions, d_in), convolutions unfolded."""
    if not isinstance(module, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    if isinstance(module.padding, str):
        raise BadInput(f"A convolution padded by {module.padding!r} cannot be measured.", "Use another base.")
    patches = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])

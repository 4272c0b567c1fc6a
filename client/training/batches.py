"""What a step trains on: rows of one size, their wording, their noise, all drawn from one seed.

Everything is encoded once, before the first step. Whatever is chance here comes from two generators whose states are
part of a checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bases.families import Base
from bases.families.family import Conditioning, Encoded, Size
from client.collection.example import Example
from client.training.cache import Cache, Tensors
from client.training.losses import Draw, draw_noise
from client.training.prior import prior_captions, prior_latents
from protocol.canonical import sha256
from protocol.grant import RoundPlan

WORDINGS = 8
"""Ways in which a caption is worded where traits drop out, the whole caption among them."""


@dataclass(frozen=True)
class Bucket:
    """Rows of one size: latents (n, c, h, w), and texts; row i is said by ``wordings[i]`` or ``dropped[i]`` of them."""

    latents: Tensor
    texts: Conditioning
    wordings: Tensor
    """(n, k) row numbers in ``texts``."""
    dropped: Tensor
    """(n,) row numbers in ``texts``: the empty caption, or the trigger alone."""
    weights: Tensor
    """(n,) how often a row comes, relative to the others."""

    def __len__(self) -> int:
        return len(self.latents)


def encode(base: Base, examples: Sequence[Example], cache: Cache) -> Encoded:
    """Examples of one size, each encoded alone, so that a kept one is the same whatever it was encoded beside."""
    parts = [_encode_one(base, example, cache) for example in examples]
    return Encoded(torch.cat([part.latents for part in parts]), _joined(part.text for part in parts), parts[0].empty)


def by_size(examples: Iterable[Example]) -> list[list[Example]]:
    """Examples grouped by their picture's (height, width), the first seen first."""
    groups: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.picture.shape[:2], []).append(example)
    return list(groups.values())


def buckets_of(base: Base, examples: Sequence[Example], plan: RoundPlan, cache: Cache) -> list[Bucket]:
    """Everything that is trained on, encoded; pictures that the base draws itself come on top."""
    buckets = [_bucket(base, group, plan, cache) for group in by_size(examples)]
    if not plan.prior_pictures:
        return buckets
    prior = _prior_bucket(base, plan, cache)
    same = next((i for i, bucket in enumerate(buckets) if bucket.latents.shape[1:] == prior.latents.shape[1:]), None)
    if same is None:
        return [*buckets, prior]
    return [_together(bucket, prior) if i == same else bucket for i, bucket in enumerate(buckets)]


class Batches:
    """Endless draws of the plan's batch size."""

    def __init__(self, base: Base, buckets: Sequence[Bucket], plan: RoundPlan) -> None:
        self._base, self._plan, self._buckets = base, plan, buckets
        self._generator = torch.Generator(base.device).manual_seed(plan.seed)
        # Which bucket comes next decides shapes, so it is drawn where the program runs.
        self._chooser = torch.Generator().manual_seed(plan.seed)
        self._shares = torch.stack([bucket.weights.sum() for bucket in buckets]).cpu()
        self._orders = [_Order(bucket.weights, plan.batch, self._generator) for bucket in buckets]

    def __next__(self) -> Draw:
        number = int(torch.multinomial(self._shares, 1, generator=self._chooser)) if len(self._buckets) > 1 else 0
        bucket, rows = self._buckets[number], next(self._orders[number])
        generator, device, count = self._generator, self._base.device, self._plan.batch
        latents = bucket.latents[rows]
        noise = draw_noise(latents, self._plan.noise_offset, generator)
        steps = torch.randint(self._base.levels, (count,), generator=generator, device=device)
        dropped = torch.rand(count, generator=generator, device=device) < self._plan.caption_dropout
        wordings = bucket.wordings[rows]
        kinds = wordings.shape[1]
        chosen = torch.randint(kinds, (count, 1), generator=generator, device=device) if kinds > 1 else None
        texts = wordings[:, 0] if chosen is None else wordings.gather(1, chosen)[:, 0]
        return Draw(latents, noise, steps, bucket.texts.rows(torch.where(dropped, bucket.dropped[rows], texts)))

    @property
    def size_bytes(self) -> int:
        """Of everything encoded."""
        kept = [tensor for b in self._buckets for tensor in (b.latents, *b.texts.tensors.values())]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def state(self) -> Tensors:
        """All that the next draws depend on."""
        queues = {f"queue.{i}": order.queue for i, order in enumerate(self._orders)}
        return {"generator": self._generator.get_state(), "chooser": self._chooser.get_state(), **queues}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state`` was taken."""
        self._generator.set_state(state["generator"].cpu())
        self._chooser.set_state(state["chooser"].cpu())
        for i, order in enumerate(self._orders):
            order.queue = state[f"queue.{i}"].to(self._base.device)


class _Order:
    """Endless batches of row numbers: every row comes once before any comes twice, or as often as weights say."""

    def __init__(self, weights: Tensor, batch: int, generator: torch.Generator) -> None:
        self._weights, self._batch, self._generator = weights, batch, generator
        self._alike = bool((weights == weights[0]).all())
        self.queue = torch.empty(0, dtype=torch.long, device=generator.device)

    def __next__(self) -> Tensor:
        while len(self.queue) < self._batch:
            self.queue = torch.cat([self.queue, self._more()])
        batch, self.queue = self.queue[: self._batch], self.queue[self._batch :]
        return batch

    def _more(self) -> Tensor:
        rows = len(self._weights)
        if self._alike:
            return torch.randperm(rows, generator=self._generator, device=self._generator.device)
        return torch.multinomial(self._weights, rows, replacement=True, generator=self._generator)


def _encode_one(base: Base, example: Example, cache: Cache) -> Encoded:
    def make() -> Tensors:
        encoded = base.encode([example])
        texts = {f"text.{name}": tensor for name, tensor in encoded.text.tensors.items()}
        empty = {f"empty.{name}": tensor for name, tensor in encoded.empty.tensors.items()}
        return {"latents": encoded.latents, **texts, **empty}

    picture = example.picture
    what = {
        "kind": "example",
        "shape": list(picture.shape),
        "picture": sha256(np.ascontiguousarray(picture).tobytes()),
        "caption": example.caption,
    }
    tensors = cache.kept(what, base.device, make)
    return Encoded(tensors["latents"], _named(tensors, "text."), _named(tensors, "empty."))


def _bucket(base: Base, examples: Sequence[Example], plan: RoundPlan, cache: Cache) -> Bucket:
    encoded = encode(base, examples, cache)
    said = [_wordings(example, plan, number) for number, example in enumerate(examples)]
    known = {"": len(examples)}
    more = sorted(({text for row in said for text in row} | {example.trigger for example in examples}) - set(known))
    known |= {text: len(examples) + 1 + number for number, text in enumerate(more)}
    height, width = examples[0].picture.shape[:2]
    texts = [_embed(base, text, (height, width), cache) for text in more]
    numbers = [[number, *(known[text] for text in row)] for number, row in enumerate(said)]
    return Bucket(
        encoded.latents,
        _joined([encoded.text, encoded.empty, *texts]),
        torch.tensor(numbers, device=base.device),
        torch.tensor([known[example.trigger] for example in examples], device=base.device),
        torch.tensor([example.weight for example in examples], device=base.device),
    )


def _embed(base: Base, text: str, size: Size, cache: Cache) -> Conditioning:
    @torch.no_grad()
    def make() -> Tensors:
        return dict(base.embed([text], size).tensors)

    return Conditioning(cache.kept({"kind": "text", "text": text, "size": list(size)}, base.device, make))


def _wordings(example: Example, plan: RoundPlan, number: int) -> list[str]:
    """What else may be said of an example: its caption with some phrases left out, the same at every start."""
    if not plan.trait_dropout or not example.phrases:
        return []
    random = np.random.default_rng((plan.seed, number))
    kept = random.random((WORDINGS - 1, len(example.phrases))) >= plan.trait_dropout
    return [example.worded([p for p, stays in zip(example.phrases, row, strict=True) if stays]) for row in kept]


def _prior_bucket(base: Base, plan: RoundPlan, cache: Cache) -> Bucket:
    captions = prior_captions(plan)
    latents = prior_latents(base, plan, cache)
    with torch.no_grad():
        texts = _joined([base.embed(captions), base.embed([""])])
    rows = torch.arange(len(captions), device=base.device)
    return Bucket(
        latents, texts, rows[:, None], torch.full_like(rows, len(captions)), torch.ones(len(rows), device=base.device)
    )


def _together(first: Bucket, second: Bucket) -> Bucket:
    """Two buckets of one size as one; a row with fewer wordings says its first more often."""
    kinds, offset = first.wordings.shape[1], len(first.texts)
    wordings = second.wordings[:, :1].expand(-1, kinds) + offset
    return Bucket(
        torch.cat([first.latents, second.latents]),
        _joined([first.texts, second.texts]),
        torch.cat([first.wordings, wordings]),
        torch.cat([first.dropped, second.dropped + offset]),
        torch.cat([first.weights, second.weights]),
    )


def _joined(parts: Iterable[Conditioning]) -> Conditioning:
    """One after the other, (n₁ + n₂ + …, …)."""
    whole = [part.tensors for part in parts]
    return Conditioning({name: torch.cat([tensors[name] for tensors in whole]) for name in whole[0]})


def _named(tensors: Mapping[str, Tensor], prefix: str) -> Conditioning:
    return Conditioning({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})

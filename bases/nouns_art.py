"""Nouns as arrays: decode the run-length art of ``@nouns/assets`` (CC0), compose, caption.

A Noun is a background colour and four layers (body, accessory, head, glasses) on a 32 x 32 grid. Each
layer is a hex string: one byte palette index, four bytes of bounds (top, right, bottom, left; only the
bottom one inclusive), then (length, colour index) pairs that fill the bounds row by row; colour 0 is
transparent. The format is that of the on-chain ``NounsDescriptor``.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 32
LAYERS = ("bodies", "accessories", "heads", "glasses")
TRAITS = ("head", "glasses", "accessory", "body", "background")
BACKGROUNDS = ("cool", "warm")
HELD_OUT_COUNT = 48
_ALWAYS_KNOWN = frozenset({"fence", "heart"})
"""Two heads that the base must draw well, and is looked at for: they are never held out."""


@dataclass(frozen=True)
class Seed:
    """Which background and parts make up one Noun (indices into the art's lists)."""

    background: int
    body: int
    accessory: int
    head: int
    glasses: int


@dataclass(frozen=True)
class NounsArt:
    """The decoded art: ``parts[layer]`` is uint8 (count, 32, 32, 4), names without their prefix."""

    parts: dict[str, NDArray[np.uint8]]
    names: dict[str, tuple[str, ...]]
    backgrounds: NDArray[np.uint8]

    @classmethod
    def load(cls, image_data: Path) -> "NounsArt":
        """Read ``@nouns/assets/dist/image-data.json``."""
        data = json.loads(image_data.read_text())
        palette = [_rgb(colour) for colour in data["palette"]]
        images = data["images"]
        return cls(
            parts={k: np.stack([decode_layer(i["data"], palette) for i in images[k]]) for k in LAYERS},
            names={k: tuple(_spoken(i["filename"]) for i in images[k]) for k in LAYERS},
            backgrounds=np.array([_rgb(colour) for colour in data["bgcolors"]], dtype=np.uint8),
        )

    @cached_property
    def held_out_heads(self) -> tuple[int, ...]:
        """Heads the base never sees, nor any combination with them: the least by hash of their name."""
        candidates = [i for i, name in enumerate(self.names["heads"]) if name not in _ALWAYS_KNOWN]
        by_hash = sorted(candidates, key=lambda i: hashlib.sha256(self.names["heads"][i].encode()).digest())
        return tuple(sorted(by_hash[:HELD_OUT_COUNT]))

    @cached_property
    def known_heads(self) -> tuple[int, ...]:
        """Heads the base was trained on."""
        held_out = set(self.held_out_heads)
        return tuple(i for i in range(len(self.names["heads"])) if i not in held_out)

    def compose(self, seed: Seed) -> NDArray[np.uint8]:
        """Draw one Noun: uint8 (32, 32, 3)."""
        picture = np.broadcast_to(self.backgrounds[seed.background], (SIZE, SIZE, 3)).copy()
        chosen = (seed.body, seed.accessory, seed.head, seed.glasses)
        for layer, index in zip(LAYERS, chosen, strict=True):
            part = self.parts[layer][index]
            opaque = part[..., 3] > 0
            picture[opaque] = part[opaque][:, :3]
        return picture

    def traits(self, seed: Seed) -> dict[str, str]:
        """The traits a marketplace would show, in the order of ``TRAITS``."""
        return {
            "head": self.names["heads"][seed.head],
            "glasses": self.names["glasses"][seed.glasses],
            "accessory": self.names["accessories"][seed.accessory],
            "body": self.names["bodies"][seed.body],
            "background": BACKGROUNDS[seed.background],
        }

    def random_seed(self, rng: np.random.Generator, heads: tuple[int, ...]) -> Seed:
        """A random Noun whose head is one of ``heads``."""
        return Seed(
            background=int(rng.integers(len(self.backgrounds))),
            body=int(rng.integers(len(self.names["bodies"]))),
            accessory=int(rng.integers(len(self.names["accessories"]))),
            head=int(rng.choice(heads)),
            glasses=int(rng.integers(len(self.names["glasses"]))),
        )


def trait_phrase(trait: str, value: str) -> str:
    """One trait in words. The member's captions must be made the same way, so the client's template says so too."""
    return f"{value} {trait}"


def caption(traits: dict[str, str]) -> str:
    """``"fence head, square black glasses, axe accessory, cold body, cool background"``."""
    return ", ".join(trait_phrase(trait, traits[trait]) for trait in TRAITS)


def svg(picture: NDArray[np.uint8]) -> str:
    """The picture as the chain would hold it: 320 x 320, one rect for each run of one colour."""
    rects = []
    for y, row in enumerate(picture):
        x = 0
        while x < SIZE:
            run = x
            while run < SIZE and (row[run] == row[x]).all():
                run += 1
            colour = "".join(f"{channel:02x}" for channel in row[x])
            rects.append(f'<rect width="{(run - x) * 10}" height="10" x="{x * 10}" y="{y * 10}" fill="#{colour}" />')
            x = run
    size = 'width="320" height="320" viewBox="0 0 320 320"'
    head = f'<svg {size} xmlns="http://www.w3.org/2000/svg" shape-rendering="crispEdges">'
    return head + "".join(rects) + "</svg>"


def decode_layer(encoded: str, palette: list[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """One run-length layer as uint8 (32, 32, 4), alpha 0 or 255."""
    data = bytes.fromhex(encoded.removeprefix("0x"))
    top, right, bottom, left = data[1:5]
    runs = np.frombuffer(data[5:], dtype=np.uint8).reshape(-1, 2)
    indices = np.repeat(runs[:, 1], runs[:, 0]).reshape(bottom - top + 1, right - left)
    colours = np.array([(*rgb, 255) for rgb in palette], dtype=np.uint8)
    colours[0, 3] = 0
    layer = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    layer[top : bottom + 1, left:right] = colours[indices]
    return layer


def _rgb(colour: str) -> tuple[int, int, int]:
    return (int(colour[0:2], 16), int(colour[2:4], 16), int(colour[4:6], 16)) if colour else (0, 0, 0)


def _spoken(filename: str) -> str:
    """``head-cash-register`` → ``cash register``."""
    return filename.split("-", 1)[1].replace("-", " ").lower()

"""The demo's numbers mean what the table says."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bases.nouns_art import NounsArt, Seed, caption
from deploy.demo.measure import CELL, LABEL, MARGIN, draw_sheet, head_prompts, recognition
from deploy.demo.world import IMAGE_DATA


@pytest.fixture(scope="module")
def art() -> NounsArt:
    return NounsArt.load(IMAGE_DATA)


def test_true_pictures_are_recognised_also_under_noise(art: NounsArt) -> None:
    prompts = list(head_prompts(art, art.held_out_heads[:4], 1))
    noise = np.random.default_rng(0).normal(0, 40, (len(prompts), 32, 32, 3))
    true = np.stack([art.compose(seed) for seed in prompts])
    assert recognition(art, prompts, np.clip(true + noise, 0, 255).astype(np.uint8)) == 1.0


def test_pictures_of_other_heads_are_not_recognised(art: NounsArt) -> None:
    prompts = list(head_prompts(art, art.held_out_heads[:4], 1))
    other = art.known_heads[0]
    wrong = [art.compose(Seed(s.background, s.body, s.accessory, other, s.glasses)) for s in prompts]
    assert recognition(art, prompts, np.stack(wrong)) == 0.0


def test_prompts_are_the_same_every_time_and_ask_for_every_head(art: NounsArt) -> None:
    heads = art.held_out_heads[:3]
    prompts = list(head_prompts(art, heads, 2))
    assert [seed.head for seed in prompts] == [head for head in heads for _ in range(2)]
    assert prompts == list(head_prompts(art, heads, 2))


def test_the_sheet_shows_every_picture_unblurred_in_its_place(art: NounsArt, tmp_path: Path) -> None:
    seeds = list(head_prompts(art, art.held_out_heads[:2], 1))
    pictures = np.stack([art.compose(seed) for seed in seeds])
    sheet = draw_sheet(
        [caption(art.traits(seed)) for seed in seeds], {"the NFT": pictures, "base": 255 - pictures}, tmp_path / "s.png"
    )
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape == (LABEL + 2 * CELL, MARGIN + 2 * CELL, 3)
    cell = pixels[LABEL + CELL :, MARGIN + CELL :]
    assert np.array_equal(cell[2::4, 2::4], 255 - pictures[1])

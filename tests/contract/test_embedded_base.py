"""The base that ships: small, bound by its hash, true to pixels, and ignorant of what the members own."""

import re
from pathlib import Path

import numpy as np
import pytest

from bases import EMBEDDED_BASE
from bases.nouns_art import NounsArt, caption
from protocol.base import base_hash
from protocol.errors import BadInput

ART = Path(__file__).parents[2] / "deploy/devchain/node_modules/@nouns/assets/dist/image-data.json"
LIMIT_BYTES = 15_000_000


@pytest.fixture(scope="module")
def art() -> NounsArt:
    return NounsArt.load(ART)


def test_the_base_weighs_at_most_fifteen_megabytes() -> None:
    assert sum(file.stat().st_size for file in EMBEDDED_BASE.rglob("*") if file.is_file()) <= LIMIT_BYTES


def test_the_card_names_the_hash_that_contributions_are_bound_to() -> None:
    named = re.search(r"[0-9a-f]{64}", (EMBEDDED_BASE / "README.md").read_text())
    assert named
    assert named[0] == base_hash(EMBEDDED_BASE)


def test_a_changed_base_has_another_hash_and_a_changed_card_has_not(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"one")
    before = base_hash(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert base_hash(tmp_path) == before
    (tmp_path / "unet" / "weights.safetensors").write_bytes(b"two")
    assert base_hash(tmp_path) != before


def test_a_folder_without_a_pipeline_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"model_index\.json"):
        base_hash(tmp_path)


def test_at_least_thirty_heads_are_held_out_for_the_members(art: NounsArt) -> None:
    assert len(art.held_out_heads) >= 30
    assert not set(art.held_out_heads) & set(art.known_heads)
    names = {art.names["heads"][i] for i in art.known_heads}
    assert {"fence", "heart"} <= names


@pytest.mark.slow
def test_the_vae_keeps_every_pixel_of_heads_it_never_saw(art: NounsArt) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL

    rng = np.random.default_rng(0)
    nouns = np.stack([art.compose(art.random_seed(rng, art.held_out_heads)) for _ in range(64)])
    pixels = torch.from_numpy(nouns).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(EMBEDDED_BASE / "vae", dtype=torch.float32)
    with torch.no_grad():
        restored = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    psnr = -10 * np.log10(float(((restored - pixels) / 2).square().mean()))
    assert psnr > 38, f"{psnr:.1f} dB"


@pytest.mark.slow
def test_captions_fit_into_the_text_encoder(art: NounsArt) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_BASE / "tokenizer")
    rng = np.random.default_rng(0)
    heads = tuple(range(len(art.names["heads"])))
    lengths = [len(tokenizer(caption(art.traits(art.random_seed(rng, heads)))).input_ids) for _ in range(500)]
    assert max(lengths) <= tokenizer.model_max_length

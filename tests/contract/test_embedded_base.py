"""The base that ships: small, bound by its hash, true to pixels, and ignorant of what the members own."""

import re
from pathlib import Path

import numpy as np
import pytest

from bases import EMBEDDED_BASE
from bases.nouns_art import NounsArt, caption
from bases.shipped import shipped
from coordinator.rounds.checks import adapted_layers
from protocol.adapter import input_group, load_statistics
from protocol.base import BASE_STATISTICS, base_hash
from protocol.errors import BadInput
from protocol.tensor_file import read_metadata

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


def test_it_came_with_what_its_layers_read_on_its_own_data(art: NounsArt) -> None:
    file = shipped(EMBEDDED_BASE, base_hash(EMBEDDED_BASE))
    assert file and file.stat().st_size < 1_000_000
    widths = {group: len(one.diagonal) for group, one in load_statistics(file.read_bytes()).items()}
    assert widths == {input_group(name): layer.d_in for name, layer in adapted_layers(EMBEDDED_BASE).items()}
    assert read_metadata(file.read_bytes())["pictures"] == str(len(art.known_heads))


@pytest.mark.slow
def test_its_script_makes_that_file_again(art: NounsArt) -> None:
    """From every eighth picture, which is quick: 0.2 away. What the base draws of no caption is 1.1 away."""
    from bases.loading import load_base
    from bases.own_data import measure_own
    from bases.training.nouns32 import own_data

    data = own_data(art)
    held_out = {f"{art.names['heads'][i]} head" for i in art.held_out_heads}
    assert len(data) == len(art.known_heads)
    assert not held_out & {one.caption.split(", ")[0] for one in data}

    told = load_statistics((EMBEDDED_BASE / BASE_STATISTICS).read_bytes())
    made = measure_own(load_base(EMBEDDED_BASE), data[::8])
    off = np.mean([_distance(told[group].dense(), made[group].dense()) for group in told])
    assert off < 0.3, f"{off:.3f}"


def _distance(told: np.ndarray, made: np.ndarray) -> float:
    return float(np.linalg.norm(told - made) / np.linalg.norm(told))


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

"""How large a base draws is read from its configuration, whatever family it is of."""

import json
from pathlib import Path

import pytest

from bases import EMBEDDED_BASE
from client.collection.base_size import picture_size
from protocol.errors import BadInput


def base(folder: Path, denoiser: str, config: dict[str, object], blocks: int = 4) -> Path:
    for name, content in ((denoiser, config), ("vae", {"block_out_channels": [8] * blocks})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(content))
    return folder


def test_the_embedded_base_draws_32_pixels() -> None:
    assert picture_size(EMBEDDED_BASE) == 32


@pytest.mark.parametrize(
    ("denoiser", "config", "size"),
    [
        ("unet", {"sample_size": 64}, 512),
        ("unet", {"sample_size": [96, 96]}, 768),
        ("transformer", {"sample_size": 128}, 1024),
        ("transformer", {}, 1024),
    ],
)
def test_unets_and_transformers_say_how_large_they_draw(
    tmp_path: Path, denoiser: str, config: dict[str, object], size: int
) -> None:
    assert picture_size(base(tmp_path, denoiser, config)) == size


def test_a_folder_that_holds_no_base_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no base model"):
        picture_size(tmp_path)

"""How large a base draws, read from its configuration alone."""

import json
from pathlib import Path

from protocol.errors import BadInput

DEFAULT_SAMPLE_SIZE = 128
"""In latents, for transformers that don't say: diffusers' own default for them."""


def picture_size(base: Path) -> int:
    """Pixels a side: the denoiser's sample size times the VAE's factor, as diffusers has it.

    Raises:
        BadInput: the folder holds no such base.
    """
    denoiser = next((base / name for name in ("unet", "transformer") if (base / name).is_dir()), base / "unet")
    try:
        told = json.loads((denoiser / "config.json").read_text()).get("sample_size") or DEFAULT_SAMPLE_SIZE
        sample_size = max(told) if isinstance(told, list) else told
        blocks = json.loads((base / "vae" / "config.json").read_text())["block_out_channels"]
        return int(sample_size * 2 ** (len(blocks) - 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{base} holds no base model in diffusers format.", "Set `base` to the folder of one that is whole."
        ) from error

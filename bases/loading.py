"""The frozen base: find out its family and load it."""

import json
from pathlib import Path
from typing import Any

from processes.imports import uncollected
from protocol.errors import BadInput

with uncollected():
    import diffusers
    import torch

    from bases.families import Base, family_of


def load_base(folder: Path, dtype: torch.dtype = torch.float32) -> Base:
    """Load a diffusers folder with its frozen weights in ``dtype``, on the GPU where there is one.

    Instead of fp16 a VAE gets fp32 unless it says that it doesn't overflow (SDXL's does). Only safetensors are read.

    Raises:
        BadInput: the folder holds no pipeline of a family that is known here.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        index = json.loads((folder / "model_index.json").read_text())
        name = str(index["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _cannot_be_loaded(folder, error) from error
    family = family_of(name)
    if family is None:
        raise BadInput(f"{folder} holds a {name}, a family that is not known here.", "Name another base.")
    try:
        # A part that a base comes without, such as SD 3's T5, has to be named to diffusers as none.
        absent = {part: None for part, entry in index.items() if entry == [None, None]}
        dtypes = {"default": dtype, "vae": _vae_dtype(folder, dtype)}
        with uncollected():  # diffusers imports a pipeline's module when it is first named
            pipeline = getattr(diffusers, name).from_pretrained(
                folder,
                dtype=dtypes,
                local_files_only=True,
                use_safetensors=True,
                **{**absent, **family.left_out},
            )
    except (OSError, ValueError, TypeError) as error:
        raise _cannot_be_loaded(folder, error) from error
    pipeline.set_progress_bar_config(disable=True)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    return family(pipeline.to(device), device)


def _vae_dtype(folder: Path, dtype: torch.dtype) -> torch.dtype:
    config: dict[str, Any] = json.loads((folder / "vae" / "config.json").read_text())
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype


def _cannot_be_loaded(folder: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{folder} cannot be loaded as a base: {error}", "Set `base` to the folder of a diffusers pipeline."
    )

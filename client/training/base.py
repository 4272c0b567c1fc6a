"""The frozen base: find out its family and load it."""

import json
from pathlib import Path

import diffusers
import torch

from client.training.families import Base, family_of
from protocol.errors import BadInput


def load_base(folder: Path) -> Base:
    """Load a diffusers folder in fp32, on the GPU where there is one.

    Raises:
        BadInput: the folder holds no pipeline of a family that is known here.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        name = str(json.loads((folder / "model_index.json").read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _cannot_be_loaded(folder, error) from error
    family = family_of(name)
    if family is None:
        raise BadInput(f"{folder} holds a {name}, a family that is not known here.", "Name another base.")
    try:
        pipeline = getattr(diffusers, name).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, **family.left_out
        )
    except (OSError, ValueError) as error:
        raise _cannot_be_loaded(folder, error) from error
    pipeline.set_progress_bar_config(disable=True)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval()
    return family(pipeline.to(device), device)


def _cannot_be_loaded(folder: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{folder} cannot be loaded as a base: {error}", "Set `base` to the folder of a diffusers pipeline."
    )

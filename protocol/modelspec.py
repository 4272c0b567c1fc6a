"""What an adapter's file says of itself: the Stability AI Model Metadata Standard 1.0.1, ``modelspec.*`` in the header.

Collections and interfaces show it and choose by it (github.com/Stability-AI/ModelSpec). There is no date, so that the
same adapter gives the same bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.canonical import sha256
from protocol.errors import BadInput
from protocol.tensor_file import payload, with_metadata

VERSION = "1.0.1"
PREFIX = "modelspec."
_DENOISERS = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "StableDiffusion3Pipeline": "transformer",
    "FluxPipeline": "transformer",
}


@dataclass(frozen=True)
class Architecture:
    """A base in the standard's words: ``stable-diffusion-v1``, ``512x512``, and ``v``, ``epsilon`` or nothing."""

    name: str
    resolution: str = ""
    prediction: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """One file's entry; empty fields are left out."""

    architecture: Architecture
    implementation: str
    """Whose names the tensors go by: ``diffusers``, or kohya's sd-scripts."""
    title: str
    description: str = ""
    author: str = ""
    licence: str = ""
    usage_hint: str = ""
    trigger_phrase: str = ""
    tags: tuple[str, ...] = ()
    merged_from: tuple[str, ...] = ()

    def metadata(self) -> dict[str, str]:
        """The header's keys and values."""
        fields = {
            "sai_model_spec": VERSION,
            "architecture": f"{self.architecture.name}/lora",
            "implementation": self.implementation,
            "title": self.title,
            "resolution": self.architecture.resolution,
            "prediction_type": self.architecture.prediction,
            "description": self.description,
            "author": self.author,
            "license": self.licence,
            "usage_hint": self.usage_hint,
            "trigger_phrase": self.trigger_phrase,
            "tags": ", ".join(self.tags),
            "merged_from": ", ".join(self.merged_from),
        }
        return {PREFIX + name: value for name, value in fields.items() if value}


def stamped(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file under this metadata and ``modelspec.hash_sha256``, which is over all that follows the header."""
    return with_metadata(data, {**metadata, f"{PREFIX}hash_sha256": f"0x{sha256(payload(data))}"})


def architecture_in(metadata: Mapping[str, str]) -> Architecture | None:
    """The base that a file's header names, None when it names none."""
    name = metadata.get(f"{PREFIX}architecture", "").removesuffix("/lora")
    if not name:
        return None
    return Architecture(name, metadata.get(f"{PREFIX}resolution", ""), metadata.get(f"{PREFIX}prediction_type", ""))


def architecture_of(folder: Path) -> Architecture:
    """What the base in a diffusers folder is, by its configuration files.

    Raises:
        BadInput: no diffusers folder, or a pipeline that the standard has no name for here.
    """
    pipeline = str(_read(folder, "model_index.json").get("_class_name", ""))
    if pipeline not in _DENOISERS:
        raise BadInput(
            f"The base in {folder} is a {pipeline or 'pipeline without a name'}, which is not known here.",
            "Known are Stable Diffusion 1, 2, XL and 3, and FLUX.",
        )
    denoiser = _read(folder, f"{_DENOISERS[pipeline]}/config.json")
    scheduler, vae = _read(folder, "scheduler/scheduler_config.json"), _read(folder, "vae/config.json")
    prediction = {"v_prediction": "v", "epsilon": "epsilon"}.get(str(scheduler.get("prediction_type", "")), "")
    return Architecture(_name(pipeline, denoiser, prediction), _resolution(denoiser, vae), prediction)


def _name(pipeline: str, denoiser: Mapping[str, Any], prediction: str) -> str:
    if pipeline == "StableDiffusionXLPipeline":
        return "stable-diffusion-xl-v1-base"
    if pipeline == "StableDiffusion3Pipeline":
        version = "3.5" if denoiser.get("qk_norm") else "3"
        return f"stable-diffusion-v{version}-{'large' if denoiser.get('num_layers', 0) > 30 else 'medium'}"
    if pipeline == "FluxPipeline":
        return "flux-1-dev" if denoiser.get("guidance_embeds") else "flux-1-schnell"
    # The text encoder's width tells versions 1 and 2 apart; a base of another width is neither.
    if denoiser.get("cross_attention_dim") == 768:
        return "stable-diffusion-v1"
    if denoiser.get("cross_attention_dim") == 1024:
        return "stable-diffusion-v2-768-v" if prediction == "v" else "stable-diffusion-v2-512"
    return "stable-diffusion"


def _resolution(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
    """Pixels a side: the denoiser's sample size times the VAE's factor; empty where the base leaves it open."""
    size = denoiser.get("sample_size")
    if not isinstance(size, int):
        return ""
    side = size * 2 ** (len(vae.get("block_out_channels", ())) - 1)
    return f"{side}x{side}"


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder / name} cannot be read, so what the base is stays unknown.", "Name the base's folder."
        ) from error
    return dict(content)

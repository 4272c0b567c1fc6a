"""What a base is bound by: one hash over every file of a diffusers folder that shapes its output."""

from pathlib import Path

from protocol.canonical import canonical, sha256
from protocol.errors import BadInput

_SHAPING = {".json", ".safetensors", ".txt", ".model"}


def base_hash(folder: Path) -> str:
    """SHA-256 of the canonical JSON {relative POSIX path: SHA-256} over configurations, tokenizer and weights.

    Raises:
        BadInput: the folder is no diffusers pipeline.
    """
    if not (folder / "model_index.json").is_file():
        raise BadInput(f"{folder} is no diffusers pipeline: it has no model_index.json.", "Name the base's folder.")
    files = sorted(p for p in folder.rglob("*") if p.suffix in _SHAPING and p.is_file())
    return sha256(canonical({p.relative_to(folder).as_posix(): sha256(p.read_bytes()) for p in files}))

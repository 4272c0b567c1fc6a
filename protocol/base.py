"""What a base is bound by: one hash over every file of a diffusers folder that shapes its output.

Which files these are is said by ``model_index.json`` and by names alone, so that the same base has the same hash as a
folder, as a hub's snapshot and as a directory on IPFS, whatever else lies beside it: cards, pictures, other formats,
variants (``model.fp16.safetensors``), single-file checkpoints.
"""

import hashlib
import json
import re
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from protocol.canonical import canonical, sha256
from protocol.errors import BadInput

INDEX = "model_index.json"
BASE_STATISTICS = "base_statistics.safetensors"
"""G₀ of the base's own data, beside the index and not counted; in a release, the G₀ that its merge had."""
SHAPING = ("*.json", "*.safetensors", "*.txt", "*.model")
VARIANTS = ("*.*.safetensors", "*.index.*.json")
_LARGE_BYTES = 64 << 20
"""A smaller file can be written twice within one tick of a file system's clock, and costs nothing to read again."""
_NEVER_LOADED = {"safety_checker", "feature_extractor", "image_encoder"}


def base_hash(folder: Path) -> str:
    """SHA-256 of the canonical JSON {relative POSIX path: SHA-256} over configurations, tokenizers and weights.

    Files are read in pieces, and large ones once a process while their size and time of change stay the same.

    Raises:
        BadInput: the folder is no diffusers pipeline.
    """
    index = folder / INDEX
    if not index.is_file():
        raise BadInput(f"{folder} is no diffusers pipeline: it has no {INDEX}.", "Name the base's folder.")
    inside = (file for part in parts_of(index) for file in (folder / part).rglob("*") if is_shaping(file.name))
    files = [index, *(file for file in inside if file.is_file())]
    return sha256(canonical({file.relative_to(folder).as_posix(): _file_sha256(file) for file in files}))


def parts_of(index: Path) -> list[str]:
    """The folders that the pipeline of this ``model_index.json`` is loaded from, sorted; none if it names none.

    Raises:
        BadInput: it names something that is no plain folder beside it.
    """
    try:
        entries = json.loads(index.read_bytes())
    except (ValueError, RecursionError):
        return []
    named = entries.items() if isinstance(entries, dict) else ()
    loaded = [name for name, entry in named if isinstance(entry, list) and entry[:1] != [None]]
    if strange := [name for name in loaded if not re.fullmatch(r"\w+", name)]:
        raise BadInput(f"{index} names a part {strange[0][:80]!r}, which is no plain folder.", "Use another base.")
    return sorted(set(loaded) - _NEVER_LOADED)


def is_shaping(name: str) -> bool:
    """Whether a file of this name, in a part's folder, is read when the part is loaded."""
    return any(fnmatchcase(name, p) for p in SHAPING) and not any(fnmatchcase(name, p) for p in VARIANTS)


def _file_sha256(file: Path) -> str:
    status = file.stat()
    hashed = _kept_sha256 if status.st_size >= _LARGE_BYTES else _kept_sha256.__wrapped__
    return hashed(file.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _kept_sha256(file: Path, size: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

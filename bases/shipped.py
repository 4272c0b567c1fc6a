"""G₀ as a file in a base's folder: the second moments of its layers' inputs on what the base itself was trained on.

It lies beside ``model_index.json``, where ``base_hash`` does not count it: it says what μ holds on to, nothing of what
the base answers. So it names the base that it was measured in. Nothing here imports torch.
"""

from pathlib import Path

from protocol.adapter import Statistics, dump_statistics, load_statistics
from protocol.base import BASE_STATISTICS
from protocol.errors import BadInput, ContributionRefused
from protocol.tensor_file import read_metadata, with_metadata

_AGAIN = "Make it again with `coterie-coordinator base statistics`, or remove it: then G₀ is drawn."


def write_shipped(folder: Path, base_hash: str, statistics: Statistics, pictures: int) -> Path:
    """Put G₀ into the base's folder; where it lies."""
    said = {"format": "pt", "base_hash": base_hash, "pictures": str(pictures)}
    file = folder / BASE_STATISTICS
    beside = file.with_suffix(".part")
    beside.write_bytes(with_metadata(dump_statistics(statistics), said))
    beside.replace(file)
    return file


def shipped(folder: Path, base_hash: str) -> Path | None:
    """The file of G₀ that came with the base, checked; None where there is none.

    Raises:
        BadInput: it is damaged, or of another base.
    """
    file = folder / BASE_STATISTICS
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"The base's own statistics {file} cannot be read: {error.strerror}.", _AGAIN) from error
    try:
        load_statistics(data)
        named = read_metadata(data).get("base_hash")
    except (BadInput, ContributionRefused) as damage:
        raise BadInput(f"The base's own statistics {file} are damaged: {damage.message}", _AGAIN) from damage
    if named != base_hash:
        raise BadInput(f"The base's own statistics {file} are of another base.", _AGAIN)
    return file

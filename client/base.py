"""Where a base lies, and how it gets there: a folder of the member's, a hub's snapshot, or a directory on IPFS.

A reference names exactly one set of files for ever: ``owner/name@commit`` and ``ipfs://CID`` do, a branch does not.
Where a fetched base lies follows from its reference alone and says in turn what belongs there, so a setting can hold
either. What a base is bound by is ``base_hash``, wherever it came from.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.pull.fetch import fetch_release
from protocol.base import INDEX, SHAPING, VARIANTS, base_hash, parts_of
from protocol.errors import BadInput, NotFound, Unreachable
from protocol.unixfs import Cid

MAX_BASE_BYTES = 64 << 30
FETCH_TIMEOUT_S = 24 * 3600.0
IPFS = "ipfs://"
_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_COMMIT = r"[0-9a-f]{40}"


@dataclass(frozen=True)
class HubBase:
    """A repository ``owner/name`` at one commit; it lies in the hub's own cache, which other programs share."""

    repository: str
    commit: str

    @property
    def folder(self) -> Path:
        from huggingface_hub import constants

        name = "models--" + self.repository.replace("/", "--")
        return Path(constants.HF_HUB_CACHE).expanduser().absolute() / name / "snapshots" / self.commit

    def fetch(self) -> None:
        """Download what is missing of the files that the base is loaded from.

        Raises:
            NotFound: the hub has no such repository or commit for this member.
            Unreachable: the hub does not answer, or breaks off.
        """
        from huggingface_hub import errors, hf_hub_download, snapshot_download

        try:
            index = Path(hf_hub_download(self.repository, INDEX, revision=self.commit))
            allowed = [INDEX, *(f"{part}/{pattern}" for part in parts_of(index) for pattern in SHAPING)]
            ignored = [f"*/{pattern}" for pattern in VARIANTS]
            snapshot_download(self.repository, revision=self.commit, allow_patterns=allowed, ignore_patterns=ignored)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
            raise NotFound(
                f"The hub shows no base {self.repository} at commit {self.commit}.",
                "Check both; for a repository with terms of use, accept them there and sign in with `hf auth login`.",
            ) from error
        except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # of its HTTP library
            raise Unreachable(
                f"The base {self.repository} could not be fetched from the hub ({_first_line(error)}).",
                "Go online and try again, or set `base` to a folder that has it.",
            ) from error


@dataclass(frozen=True)
class IpfsBase:
    """A directory on IPFS; it lies in ``bases/<cid>`` of the member's home."""

    cid: str
    home: Path

    @property
    def folder(self) -> Path:
        return self.home / "bases" / self.cid

    def fetch(self, gateways: Sequence[str], show: Callable[[int], None] | None = None) -> None:
        """Download it whole or not at all, every block checked; Unreachable if no gateway gave it."""
        fetch_release(
            self.cid,
            gateways,
            self.folder,
            max_bytes=MAX_BASE_BYTES,
            timeout_s=FETCH_TIMEOUT_S,
            progress=show,
            keep=self.home / "partial",
        )


def folder_of(reference: str, home: Path) -> Path:
    """Where the base that ``reference`` names lies, or will once it is fetched. Reads no network.

    Raises:
        BadInput: it names a branch, or no commit, or something that is no CID.
    """
    if reference.startswith(IPFS):
        return IpfsBase(str(Cid.parse(reference.removeprefix(IPFS).rstrip("/"))), home).folder
    folder = Path(reference).expanduser().absolute()
    hub = re.fullmatch(rf"({_REPOSITORY})(?:@(.*))?", reference)
    if hub is None or folder.exists():
        return folder
    repository, revision = hub.groups()
    if revision is None:
        raise BadInput(
            f"There is no folder {reference}, and a base on the hub needs its commit.",
            f"Write {repository}@COMMIT: the 40 hex digits that its history shows.",
        )
    if not re.fullmatch(_COMMIT, revision):
        raise BadInput(
            f"{reference} names the branch or tag {revision!r}, which may be another model tomorrow.",
            f"Write {repository}@COMMIT: the 40 hex digits that its history shows.",
        )
    return HubBase(repository, revision).folder


def source_of(folder: Path, home: Path) -> HubBase | IpfsBase | None:
    """Where to fetch what belongs in ``folder``; None for a folder of the member's own.

    Invariant: ``source_of(source.folder, home) == source``.
    """
    if folder.parent == home / "bases":
        return IpfsBase(folder.name, home)
    match = re.fullmatch(rf"models--(.+?)--(.+)/snapshots/({_COMMIT})", "/".join(folder.parts[-3:]))
    if match is None:
        return None
    source = HubBase(f"{match[1]}/{match[2]}", match[3])
    return source if source.folder == folder else None


def bring_base(
    folder: Path, expected: str, home: Path, gateways: Sequence[str], show: Callable[[int], None] | None = None
) -> None:
    """Fetch what belongs in ``folder`` unless the base with the hash ``expected`` is there already.

    Whether it then is the right one is for the caller to ask. ``show`` gets the bytes that came over IPFS so far.

    Raises:
        NotFound, Unreachable: it cannot be had.
    """
    match source_of(folder, home):
        case IpfsBase() as source if not folder.exists():
            source.fetch(gateways, show)
        case HubBase() as source if not _is_whole(folder, expected):
            source.fetch()


def _is_whole(folder: Path, expected: str) -> bool:
    """A hub's snapshot may be there in part, and fills up file by file."""
    return (folder / INDEX).is_file() and base_hash(folder) == expected


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]

"""``coterie pull``: a published model, from whoever has it, checked byte by byte, and installed for other programs."""

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from client.config import MemberSettings, load_settings
from client.coordinator_api import CoordinatorApi
from client.options import Home, RpcUrl
from client.pull.fetch import fetch_release
from client.pull.sources import CarFolder, Node, Source
from contracts_abi.names import content_of
from contracts_abi.readers import finalized_snapshot
from contracts_abi.rpc import Rpc
from protocol.errors import BadInput, Conflict, ContentMismatch, NotFound
from protocol.manifest import Manifest
from protocol.unixfs import Cid, build_directory

MAX_RELEASE_BYTES = 8 << 30
PULL_TIMEOUT_S = 1800.0
LATEST = "latest"
_NAME = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")
"""An ENS name; a CID has no full stop."""
KOHYA = "collective.safetensors"
"""The file of a release that ComfyUI, A1111 and their kin read."""

console = Console()

What = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A CID, a coordinator's URL, an ENS name, or latest of the one you joined."),
]
Gateways = Annotated[
    list[str] | None, typer.Option("--gateway", help="IPFS gateway; several are tried in order. None is trusted.")
]
Cars = Annotated[Path | None, typer.Option(help="Folder of CAR files to look into first.")]
IpfsApi = Annotated[str | None, typer.Option("--ipfs-api", help="RPC of an IPFS node of yours; member.toml.")]


@dataclass(frozen=True)
class Wanted:
    """A release, and the gateways that its coordinator names."""

    cid: str
    gateways: tuple[str, ...] = ()


def pull(
    model: What = LATEST,
    gateway: Gateways = None,
    into: Annotated[Path | None, typer.Option(help="Folder to make; your home folder's releases/CID.")] = None,
    cars: Cars = None,
    ipfs_api: IpfsApi = None,
    comfyui: Annotated[Path | None, typer.Option(help="ComfyUI's folder: put the model into its loras.")] = None,
    a1111: Annotated[Path | None, typer.Option(help="A1111's or Forge's folder: put the model into its Lora.")] = None,
    rpc: RpcUrl = None,
    home: Home = None,
) -> None:
    """Fetch a published model and check every byte against its CID, so that nobody who serves it has to be trusted.

    What was cut off goes on where it ended. With --comfyui or --a1111 the model is put where these programs look for
    it, under the DAO's and the round's name.
    """
    settings = load_settings(home, ipfs_api=ipfs_api, rpc_url=rpc)
    folder = bring(model, settings, gateway or (), cars, into)
    manifest = read_manifest(folder)
    members = len({contribution.member for contribution in manifest.contributions})
    console.print(f"[green]Verified:[/] {escape(manifest.dao)}, round {manifest.round_id} ({manifest.kind})")
    console.print(f"{len(manifest.contributions)} contributions by {members} members, {manifest.licence}")
    for removal in manifest.removals:
        what = removal.token or f"contribution {removal.contribution_id}"
        console.print(f"Removed: {what}: {escape(removal.reason)}", highlight=False)
    for one in manifest.unproven:
        console.print(
            f"[yellow]Not checked:[/] {one.member} is a contract wallet; whether it signed its grant, only chain "
            f"{one.grant.chain_id} can say.",
            highlight=False,
        )
    console.print(
        f"Files are in {folder}. In diffusers: pipe.load_lora_weights({str(folder)!r})", highlight=False, soft_wrap=True
    )
    for program, place in ((comfyui, "models/loras"), (a1111, "models/Lora")):
        if program is not None:
            console.print(f"Installed: {install(folder, manifest, program / place)}", highlight=False, soft_wrap=True)


def bring(
    model: str,
    settings: MemberSettings,
    gateways: Sequence[str] = (),
    cars: Path | None = None,
    into: Path | None = None,
) -> Path:
    """The folder of the release that ``model`` means, fetched unless it is there.

    Raises:
        NotFound: nothing has been released there.
        Unreachable: nobody gave a verified copy.
        ContentMismatch: the folder that is there has been changed.
    """
    wanted = find(model, settings)
    root = Cid.parse(wanted.cid)
    folder = into or settings.home / "releases" / wanted.cid
    if folder.exists() and into is None:
        require_unchanged(folder, root)
        return folder
    sources: list[str | Source] = [CarFolder(cars)] if cars else []
    sources += [Node(settings.ipfs_api)] if settings.ipfs_api else []
    sources += dict.fromkeys(gateways or settings.gateways or (*wanted.gateways, *_joined_gateways(settings, wanted)))
    with console.status("Fetching …") as status:

        def show(received: int) -> None:
            status.update(f"Fetching … {received / 1e6:.1f} MB")

        return fetch_release(
            wanted.cid,
            sources,
            folder,
            max_bytes=MAX_RELEASE_BYTES,
            timeout_s=PULL_TIMEOUT_S,
            progress=show,
            keep=settings.home / "partial",
        )


def find(model: str, settings: MemberSettings) -> Wanted:
    """Which release is meant: by its CID, by an ENS name that points to it, or the newest of a coordinator.

    Raises:
        BadInput: it is none of these, no coordinator was joined, or no chain node is known to ask for a name.
        NotFound: the coordinator has released nothing, or the name points to no release.
    """
    if model == LATEST and not settings.coordinator:
        raise BadInput(
            "This machine has joined no coordinator, so it knows no latest model.", "Name a CID or a coordinator's URL."
        )
    if _NAME.fullmatch(model):
        return Wanted(_named(model, settings))
    if model != LATEST and "://" not in model:
        return Wanted(str(Cid.parse(model)))
    api = CoordinatorApi(settings.coordinator if model == LATEST else model)
    released = next(iter(api.releases()), None)
    if released is None:
        raise NotFound(f"The coordinator at {api.url} has released nothing yet.", "Try again after its first round.")
    return Wanted(released.cid, (api.url, *api.dao().gateways))


def _named(name: str, settings: MemberSettings) -> str:
    """The CID that an ENS name points to, by the member's own chain node."""
    if not settings.rpc_url:
        raise BadInput(
            f"{name} is a name, and this machine knows no chain node to look it up.",
            "Name one with --rpc or COTERIE_RPC_URL, on the chain that the name is registered on.",
        )
    rpc = Rpc(settings.rpc_url)
    cid = content_of(rpc, name, finalized_snapshot(rpc), settings.ens_registry)
    if cid is None:
        raise NotFound(f"{name} points to nothing on IPFS.", "Ask the DAO for a CID.")
    return str(cid)


def install(folder: Path, manifest: Manifest, place: Path) -> Path:
    """Copy the release's file for such programs into ``place``; the new file's path. The same file again is fine.

    Raises:
        BadInput: the release has no such file, or there is no such folder.
        Conflict: another file has that name.
    """
    source = folder / KOHYA
    if not source.is_file():
        raise BadInput(
            f"The release has no {KOHYA}: its base is none that ComfyUI and A1111 have names for.",
            "Load its folder in diffusers.",
        )
    if not place.parent.is_dir():
        raise BadInput(f"There is no folder {place.parent}.", "Name the program's own folder, which has models in it.")
    place.mkdir(exist_ok=True)
    target = place / f"{slug(manifest.dao)}-{slug(manifest.round_id)[:24]}.safetensors"
    if target.exists():
        if digest(target) == digest(source):
            return target
        raise Conflict(f"{target} is another file.", "Move it away; nothing is ever written over.")
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def read_manifest(folder: Path) -> Manifest:
    """The release's manifest, its files and signatures checked.

    Raises:
        BadInput: there is none, or it cannot be read.
        ContentMismatch: a file is not what it says.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise BadInput(f"{folder} holds no manifest.json, so it is no release of Coterie.", "Check the CID.")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise BadInput("The release's manifest cannot be read.", "Its version and yours may differ.") from error
    others = [file for file in folder.rglob("*") if file.is_file() and file != path]
    manifest.check({file.relative_to(folder).as_posix(): digest(file) for file in others})
    return manifest


def require_unchanged(folder: Path, root: Cid) -> None:
    """Whether the folder has just what ``root`` names; ContentMismatch if not."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    found = str(build_directory(files)[0]) if files else "nothing"
    if found != str(root):
        raise ContentMismatch(f"{folder} is not {root} any more.", "Move it away, and pull again.")


def digest(file: Path) -> str:
    """SHA-256 in hex, in little memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def slug(text: str) -> str:
    """Letters and digits of any script, with hyphens between."""
    return re.sub(r"[\W_]+", "-", text.casefold()).strip("-")[:60] or "release"


def _joined_gateways(settings: MemberSettings, wanted: Wanted) -> tuple[str, ...]:
    """Whoever names a bare CID has nowhere to look but where the joined coordinator does."""
    if wanted.gateways or not settings.coordinator:
        return ()
    api = CoordinatorApi(settings.coordinator)
    return (api.url, *api.dao().gateways)

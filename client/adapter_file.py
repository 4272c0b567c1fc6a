"""``coterie adapter``: one's own adapter of a round, a release or anybody's LoRA as a file for other programs."""

import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.config import load_settings
from client.options import Home
from client.wallet.grant import stored_grants
from protocol.adapter import Adapter, dump_adapter, load_adapter
from protocol.base import base_hash
from protocol.contribution import ContributionHeader
from protocol.errors import BadInput, ContributionRefused, NotFound
from protocol.kohya import SD_SCRIPTS, dump_kohya, is_kohya, load_kohya, training_metadata
from protocol.manifest import Manifest
from protocol.modelspec import PREFIX, Architecture, ModelSpec, architecture_in, architecture_of, stamped
from protocol.peft_metadata import folded, peft_metadata
from protocol.tensor_file import read_metadata, read_tensors

ROUNDS = "rounds"
OWN, RELEASED = "adapter.safetensors", "pytorch_lora_weights.safetensors"

console = Console()


class Format(StrEnum):
    """For which programs a file is."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"


@dataclass(frozen=True)
class Told:
    """What is known of an adapter beside its tensors; empty where nothing is."""

    title: str = ""
    description: str = ""
    licence: str = ""
    captions: tuple[str, ...] = ()
    trigger: str = ""
    base_hash: str = ""


def adapter(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A round's id, a release's folder or a LoRA file; newest round.")
    ] = "",
    form: Annotated[Format, typer.Option("--format", help="diffusers, or kohya for ComfyUI and A1111.")] = Format.KOHYA,
    out: Annotated[Path | None, typer.Option(help="File to write; named after the title, in this folder.")] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base it is for, where nothing else says so.")] = None,
    title: Annotated[str, typer.Option(help="What programs show as its name.")] = "",
    trigger: Annotated[str, typer.Option(help="Words that call what was learned.")] = "",
    home: Home = None,
) -> None:
    """Write your own adapter of a round, a release, or any LoRA as a file for ComfyUI, A1111 or diffusers."""
    settings = load_settings(home)
    path = find(source, settings.home)
    given = read(path)
    told = tell(path, settings.home, title=title, trigger=trigger)
    architecture = base_of(given, told, base, settings.base)
    data = converted(given, form, told, architecture, path.stem)
    written = out or Path(file_name(title_of(data), form))
    write_new(written, data)
    console.print(f"{written}: {len(data) / 1e6:.1f} MB, for {architecture.name}", highlight=False, soft_wrap=True)


def find(source: str, home: Path) -> Path:
    """The file that ``source`` means: a file, a release's folder, a round's id, or nothing for the newest round.

    Raises:
        NotFound: there is none.
    """
    if not source:
        mine = sorted((home / ROUNDS).glob(f"*/{OWN}"), key=lambda path: path.stat().st_mtime)
        if not mine:
            raise NotFound(
                f"No round in {home} has an adapter yet.", "Take part with coterie join, or name a file or a release."
            )
        return mine[-1]
    candidates = (Path(source), Path(source) / RELEASED, home / ROUNDS / Path(source).name / OWN)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise NotFound(
            f"{source} is no LoRA file, no release's folder, and no round that this machine has trained for.",
            f"The rounds are the folders in {home / ROUNDS}.",
        )
    return found


def read(path: Path) -> bytes:
    """Raises BadInput when the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", "Look at the file's permissions.") from error


def converted(data: bytes, form: Format, told: Told, architecture: Architecture, name: str) -> bytes:
    """The file in this format, with what it said of itself before and what is ``told`` of it now.

    Args:
        name: the title where neither says one.

    Raises:
        BadInput: no plain LoRA, or one that the format has no names for.
    """
    lora, metadata = read_lora(data), read_metadata(data)
    before = {key: value for key, value in metadata.items() if key.startswith(PREFIX)}
    spec = ModelSpec(
        architecture=architecture,
        implementation=SD_SCRIPTS if form is Format.KOHYA else "diffusers",
        title=told.title or title_of(data) or name,
        description=told.description,
        licence=told.licence,
        usage_hint=next(iter(told.captions), ""),
        trigger_phrase=told.trigger,
    )
    said = {"format": "pt", **before, **spec.metadata()}
    if form is Format.DIFFUSERS:
        return stamped(dump_adapter(lora), {**peft_metadata(lora), **said})
    extra = training_metadata(lora, architecture.name, architecture.prediction, told.captions)
    return stamped(dump_kohya(lora, architecture.name), {**extra, **said})


def base_of(data: bytes, told: Told, named: Path | None, own: Path) -> Architecture:
    """What the adapter is for: the base that was ``named``, else the member's ``own`` if it is the one that the
    adapter's papers name, else what the file itself says.

    Raises:
        BadInput: it is for another base than the named one, or nothing says for which.
    """
    if named is not None:
        if told.base_hash and base_hash(named) != told.base_hash:
            raise BadInput(
                f"The adapter was trained on another base than the one in {named}.", "Name that one's folder."
            )
        return architecture_of(named)
    if told.base_hash and base_hash(own) == told.base_hash:
        return architecture_of(own)
    architecture = architecture_in(read_metadata(data))
    if architecture is None:
        raise BadInput("Nothing says which base the adapter is for.", "Name the base's folder with --base.")
    return architecture


def read_lora(data: bytes) -> Adapter:
    """The adapter in a LoRA file of either format, its scale folded in.

    Raises:
        BadInput: no plain LoRA.
    """
    if is_kohya(read_tensors(data, "file")):
        return load_kohya(data)
    try:
        plain = load_adapter(data)
    except ContributionRefused as problem:
        raise BadInput(problem.message, "Name a plain LoRA in diffusers' or kohya's format.") from problem
    return folded(plain, read_metadata(data))


def tell(path: Path, home: Path, title: str = "", trigger: str = "") -> Told:
    """What lies beside the file (a contribution's header, a release's manifest, or nothing) and what is given.

    Raises:
        BadInput: what lies there cannot be read.
    """
    found = _beside(path, home)
    return replace(found, title=title or found.title, trigger=trigger)


def title_of(data: bytes) -> str:
    """The title in a file's header."""
    return read_metadata(data).get(f"{PREFIX}title", "")


def file_name(title: str, form: Format) -> str:
    """``nouns-dao-round-1a2b3c4d-kohya.safetensors``: the title's letters and digits, whatever their script."""
    slug = re.sub(r"[\W_]+", "-", title.casefold()).strip("-")[:80] or "adapter"
    return f"{slug}-{form.value}.safetensors"


def write_new(path: Path, data: bytes) -> None:
    """Write whole or not at all, and never over another file.

    Raises:
        BadInput: there is something already, or it cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    if path.exists():
        raise BadInput(f"{path} is already there.", "Name another file with --out, or move that one away.")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written: {error.strerror}.", "Name another file with --out.") from error


def _beside(path: Path, home: Path) -> Told:
    header, manifest = path.with_name("contribution.json"), path.with_name("manifest.json")
    try:
        if path.name == OWN and header.is_file():
            return _of_contribution(header, home)
        if path.name == RELEASED and manifest.is_file():
            return _of_release(Manifest.model_validate_json(manifest.read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"What lies beside {path} cannot be read.", "It may be from another version of Coterie; copy the file out."
        ) from error
    return Told()


def _of_contribution(path: Path, home: Path) -> Told:
    header = ContributionHeader.model_validate(json.loads(path.read_bytes())["header"])
    trained = [use for use in header.tokens if not use.held_out]
    grant = next((stored for stored in stored_grants(home) if stored.grant.grant_id == header.grant_id), None)
    title = f"{grant.grant.dao}, round {header.round_id}" if grant else f"Round {header.round_id}"
    contracts = {use.token.contract for use in trained}
    licences = {rule.contract: rule.licence for rule in grant.policy.collections} if grant else {}
    known = sorted({licences.get(contract) or "" for contract in contracts})
    return Told(
        title=f"{title}, one member's adapter",
        description=f"Trained on {len(trained)} tokens with Coterie; contribution {header.digest()[:16]}.",
        licence=" AND ".join(known) if all(known) else "",
        captions=tuple(use.caption for use in trained),
        base_hash=header.base_hash,
    )


def _of_release(manifest: Manifest) -> Told:
    captions = [use.caption for c in manifest.contributions for use in c.header.tokens if not use.held_out]
    return Told(
        description=f"The collective of {manifest.dao}, made with Coterie on {manifest.base.name}.",
        licence=manifest.licence,
        captions=tuple(captions),
        base_hash=manifest.base.hash,
    )

"""``coterie verify``: fetch if need be, ask everything that can be asked here, say what was not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.config import load_settings
from client.coordinator_api import CoordinatorApi
from client.options import Home
from client.pull.command import LATEST, bring, find
from contracts_abi.rpc import Rpc
from protocol.errors import BadInput, NotFound
from protocol.release_signature import SigningKey
from protocol.unixfs import Cid
from protocol.verification import Check, Outcome, Release, Report, check_chain, check_papers, read_release, report_table


def verify(
    release: Annotated[
        str,
        typer.Argument(
            metavar="RELEASE", help="A pulled release's folder; or a CID, a coordinator's URL or latest, to fetch."
        ),
    ],
    cid: Annotated[str | None, typer.Option(help="What the folder should be: the CID that the DAO published.")] = None,
    signing_key: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="The coordinator's public key (PEM); or its URL, to ask for the key."),
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option(help="IPFS gateway to fetch a CID from; several are tried in order.")
    ] = None,
    chain: Annotated[
        str | None, typer.Option(metavar="RPC", help="A chain node with old state: asks who held the tokens, and more.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Merge again from the contributions.")] = False,
    contributions: Annotated[
        Path | None, typer.Option(help="Folder that has contributions/ID/…, if the release does not carry them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    home: Home = None,
) -> None:
    """Check where a release comes from: files, signatures, policy, licences, weights, and what the chain says.

    Every check is named, with what was found; what could not be checked is said too. The exit status is 1 when
    anything is wrong.
    """
    folder, named = _found(release, gateway, home)
    found = read_release(folder)
    checks = check_papers(found, cid or named, _trusted(release, signing_key, found, home))
    if chain:
        checks += check_chain(found, Rpc(chain))
    if recompute:
        checks += _merged_again(folder, contributions)
    report = Report(cid=found.cid, checks=tuple(checks))
    _say(report, as_json, asked_chain=bool(chain), merged=recompute)
    if not report.holds:
        raise typer.Exit(1)


def _merged_again(folder: Path, contributions: Path | None) -> list[Check]:
    try:
        from merging.recompute import recompute
    except ImportError as error:
        raise BadInput("Merging again takes SciPy, which is not installed.", "Install coterie[client].") from error
    return recompute(read_release(folder), contributions)


def _found(release: str, gateways: Sequence[str] | None, home: Path | None) -> tuple[Path, str | None]:
    """The release's folder, fetched unless it is there, and the CID by which it is known, if it is."""
    if Path(release).is_dir():
        return Path(release), None
    if release != LATEST and "://" not in release:
        try:
            Cid.parse(release)
        except BadInput as error:
            raise BadInput(
                f"{release} is neither a folder nor a CID.", "Name a pulled release's folder, a CID or a coordinator."
            ) from error
    settings = load_settings(home)
    wanted = find(release, settings)
    return bring(release, settings, gateways or ()), wanted.cid


def _trusted(release: str, named: str | None, found: Release, home: Path | None) -> SigningKey | None:
    """The key that was named, else the one of the coordinator that the release is asked of; None if it is of none.

    A coordinator is not asked about releases from before it signed any.
    """
    if named and "://" not in named:
        return _key_in(Path(named))
    asked = LATEST if release == LATEST else release if "://" in release else None
    url = named or (asked if found.is_signed else None)
    if url is None:
        return None
    api = CoordinatorApi(load_settings(home).coordinator if url == LATEST else url)
    if (published := api.dao().signing_key) is None:
        raise NotFound(f"The coordinator at {api.url} publishes no key that it signs with.", "Ask the DAO for it.")
    return SigningKey.parse(published.encode(), f"What {api.url} publishes as its signing key")


def _key_in(file: Path) -> SigningKey:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read.", "Name the file of the coordinator's public key.") from error
    return SigningKey.parse(data, str(file))


def _say(report: Report, as_json: bool, *, asked_chain: bool, merged: bool) -> None:
    console = Console()
    if as_json:
        console.print_json(json.dumps({"holds": report.holds, **report.model_dump(mode="json")}))
        return
    console.print(report_table(report.checks))
    failed = [one.name for one in report.checks if one.outcome is Outcome.FAILED]
    if failed:
        console.print(f"[bold red]Do not rely on this release:[/] {', '.join(failed)}.", highlight=False)
    else:
        console.print("[green]Nothing is wrong with what was checked.[/]")
    left = [one.name for one in report.unchecked]
    left += [] if asked_chain else ["whatever the chain says (--chain RPC)"]
    left += [] if merged else ["the merge itself (--recompute)"]
    if left:
        console.print(f"Not checked: {', '.join(left)}.", highlight=False, soft_wrap=True)

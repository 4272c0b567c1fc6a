"""What a DAO does with a release at a shell: divide a reward by its weights, announce it on chain."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import is_address, to_checksum_address
from rich.console import Console
from rich.table import Table

from contracts_abi.readers import latest_snapshot
from contracts_abi.rpc import Rpc
from contracts_abi.transaction import safe_batch, send
from coordinator.config import CoordinatorSettings
from coordinator.releases.announce import Places, steps
from coordinator.releases.build import MANIFEST
from coordinator.releases.rewards import RewardTree, divided, splits, weights_of
from coordinator.releases.store import CarStore
from protocol.errors import BadInput, Conflict
from protocol.manifest import Manifest
from protocol.unixfs import Cid

Config = Annotated[Path, typer.Option("--config", help="The coordinator's settings, TOML.")]
DEFAULT_CONFIG = Path("coordinator.toml")
WALLET_KEY_VARIABLE = "COTERIE_WALLET_KEY"
out = Console()


def rewards(
    cid: Annotated[str, typer.Argument(metavar="CID", help="The release whose weights divide the reward.")],
    amount: Annotated[int, typer.Option(help="How much in all, in the token's smallest unit.")],
    into: Annotated[Path, typer.Option(help="Folder to make, for rewards.json and splits.json.")] = Path("rewards"),
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Divide a reward among the members of a release: a Merkle tree to claim from, and a 0xSplits list."""
    if into.exists():
        raise Conflict(f"{into} exists already.", "Choose a folder that does not exist yet.")
    weights = weights_of(manifest_of(CoordinatorSettings.load(config), cid))
    tree = RewardTree(divided(amount, weights))
    into.mkdir(parents=True)
    (into / "rewards.json").write_text(json.dumps(tree.dump(), indent=2) + "\n")
    (into / "splits.json").write_text(json.dumps(splits(weights), indent=2) + "\n")
    table = Table("member", "weight", "amount")
    for one in tree.rewards:
        table.add_row(one.member, str(weights[one.member]), str(one.amount))
    out.print(table)
    out.print(f"Root: 0x{tree.root.hex()}", highlight=False, soft_wrap=True)
    out.print(f"Files are in {into}.", highlight=False)


def announce(
    cid: Annotated[str, typer.Argument(metavar="CID", help="The release to announce.")],
    unsigned: Annotated[
        Path | None, typer.Option(help="Send nothing: write a file for Safe's Transaction Builder.")
    ] = None,
    sender: Annotated[str, typer.Option(help="With --unsigned: the Safe, or whoever signs.")] = "",
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Attest a release with EAS and point the DAO's ENS name to it. A removal revokes what it takes back.

    What is done already is not done again, so this can be repeated until it has worked. The key is read from
    COTERIE_WALLET_KEY.
    """
    settings = CoordinatorSettings.load(config)
    rpc, places = Rpc(settings.rpc_url), _places(settings)
    manifests = _lineage(settings, cid)
    if unsigned:
        todo = steps(rpc, places, _address(sender, "--sender"), cid, manifests, latest_snapshot(rpc))
        unsigned.write_text(json.dumps(safe_batch(settings.loaded_policy.chain_id, todo), indent=2) + "\n")
        out.print(f"{len(todo)} transactions are in {unsigned}; nothing was sent.", highlight=False)
        return
    wallet = _wallet()
    while todo := steps(rpc, places, wallet.address, cid, manifests, latest_snapshot(rpc)):
        out.print(f"{todo[0].what}: {send(rpc, wallet, todo[0])}", highlight=False, soft_wrap=True)
    out.print(f"{cid} is announced.", highlight=False)


def _places(settings: CoordinatorSettings) -> Places:
    return Places(
        eas=_address(settings.eas, "eas") if settings.eas else "",
        ens_name=settings.ens_name,
        ens_registry=_address(settings.ens_registry, "ens_registry"),
    )


def _lineage(settings: CoordinatorSettings, cid: str) -> dict[str, Manifest]:
    """The release and the one before it, by CID."""
    manifests = {cid: manifest_of(settings, cid)}
    if parent := manifests[cid].parent:
        manifests[parent] = manifest_of(settings, parent)
    return manifests


def _address(text: str, what: str) -> str:
    if not is_address(text):
        raise BadInput(f"{what} is no Ethereum address: {text or 'empty'}.", "Write it as 0x and 40 hex digits.")
    return to_checksum_address(text)


def _wallet() -> LocalAccount:
    key = os.environ.get(WALLET_KEY_VARIABLE)
    if not key:
        raise BadInput(
            f"{WALLET_KEY_VARIABLE} is not set.", "Set it to the wallet's private key, or use --unsigned for a Safe."
        )
    account: LocalAccount = Account.from_key(key)
    return account


def manifest_of(settings: CoordinatorSettings, cid: str) -> Manifest:
    """Of a release in the store; raises NotFound where it is not there."""
    return Manifest.model_validate_json(b"".join(CarStore(settings.store).read(Cid.parse(cid), MANIFEST)))

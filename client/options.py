"""What several of ``coterie``'s commands take and ask for."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None, typer.Option(help="Folder for your node's key, grants and rounds; COTERIE_HOME or ~/.coterie.")
]
RpcUrl = Annotated[
    str | None, typer.Option("--rpc", help="Chain node to ask, one that you trust; COTERIE_RPC_URL or member.toml.")
]
Keystore = Annotated[
    Path | None, typer.Option(help="Wallet as an encrypted keystore file; else the key in COTERIE_WALLET_KEY.")
]


def ask_password() -> str:
    """The keystore's, from the terminal."""
    return str(typer.prompt("Keystore password", hide_input=True))

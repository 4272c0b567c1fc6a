"""How far a contract's logs were read for a wallet, kept so that the next look goes on from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from contracts_abi.model import Address


class Checkpoint(BaseModel):
    """Every token that was ever transferred to the wallet, up to a block. Whether it is still there is not said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    through: int = Field(ge=0)
    """The last block that was read."""
    hash: str
    """Its hash: where the chain has another by now, the reading begins anew."""
    token_ids: tuple[str, ...] = ()
    """Decimal, because they have 256 bits."""


class Checkpoints(Protocol):
    """Where checkpoints are kept. To lose one costs time and nothing else."""

    def load(self, chain_id: int, contract: Address, wallet: Address) -> Checkpoint | None: ...

    def save(self, chain_id: int, contract: Address, wallet: Address, checkpoint: Checkpoint) -> None: ...


class NoCheckpoints:
    """Every look begins anew."""

    def load(self, chain_id: int, contract: Address, wallet: Address) -> Checkpoint | None:
        return None

    def save(self, chain_id: int, contract: Address, wallet: Address, checkpoint: Checkpoint) -> None:
        """Nothing is kept."""


class CheckpointFolder:
    """A small file for each wallet and contract; safe to share between processes, for a file is replaced whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, chain_id: int, contract: Address, wallet: Address) -> Checkpoint | None:
        """None where there is none, or one that cannot be read."""
        try:
            return Checkpoint.model_validate_json(self._file(chain_id, contract, wallet).read_bytes())
        except (OSError, ValueError):
            return None

    def save(self, chain_id: int, contract: Address, wallet: Address, checkpoint: Checkpoint) -> None:
        file = self._file(chain_id, contract, wallet)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}")
        aside.write_text(checkpoint.model_dump_json())
        aside.replace(file)

    def _file(self, chain_id: int, contract: Address, wallet: Address) -> Path:
        return self._folder / f"{chain_id}-{contract.lower()}-{wallet.lower()}.json"

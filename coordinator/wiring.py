"""From settings to working parts, for every process of the coordinator: web, worker, and a run's relay."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contracts_abi.ownership.checkpoints import CheckpointFolder
from contracts_abi.ownership.discovery import Sources
from contracts_abi.ownership.indexer import Indexer
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.eligibility.policies import keep
from coordinator.flower.exchange import Exchange
from coordinator.releases.pinning import Pinning
from coordinator.releases.places import places_of
from coordinator.releases.store import CarStore
from coordinator.rounds.checks import adapted_layers
from coordinator.rounds.exchange import RoundExchange
from coordinator.rounds.ledger import Ledger
from coordinator.rounds.secret import SecretSums
from coordinator.rounds.steering import Steering
from protocol.errors import Unreachable

if TYPE_CHECKING:
    from coordinator.flower.link import SuperLinkControl

CONFIG_VARIABLE = "COTERIE_COORDINATOR_CONFIG"
"""Where child processes find the settings file."""
EXCHANGE = "coordinator.wiring:exchange_for"
"""What a run's relay calls, by name, with the round's id."""


@dataclass(frozen=True)
class SuperLinkAddress:
    """How to reach the SuperLink: host:port, and the PEM certificate that it is known by."""

    address: str
    root_certificate: str


def exchange_for(round_id: str) -> Exchange:
    """The exchange of one round, in the process of its run."""
    settings = CoordinatorSettings.load(Path(os.environ[CONFIG_VARIABLE]))
    database = Database(settings.database)
    layers = adapted_layers(settings.base)
    return RoundExchange(
        ledger_of(settings, database), secret_sums_of(settings, database), round_id, layers, settings.candidates
    )


def ledger_of(settings: CoordinatorSettings, database: Database, clock: Callable[[], float] = time.time) -> Ledger:
    """The rounds of the coordinator that these settings describe, whose policy is kept for its releases."""
    keep(settings.policies, settings.loaded_policy)
    return Ledger(database, settings.loaded_policy, settings.contributions, settings.scoring_timeout_seconds, clock)


def secret_sums_of(
    settings: CoordinatorSettings, database: Database, clock: Callable[[], float] = time.time
) -> SecretSums:
    """The same rounds' secret sums."""
    return SecretSums(database, settings.loaded_policy, settings.contributions, clock)


def steering_of(settings: CoordinatorSettings, database: Database, clock: Callable[[], float] = time.time) -> Steering:
    """What an admin does to the same rounds."""
    return Steering(database, settings.loaded_policy, clock)


def pinning_of(
    settings: CoordinatorSettings, database: Database, store: CarStore, clock: Callable[[], float] = time.time
) -> Pinning:
    """What keeps releases at other places. Raises BadInput when a setting is no address."""
    return Pinning(database, store, places_of(settings), settings.pin_check_minutes * 60, clock)


def sources_of(settings: CoordinatorSettings) -> Sources:
    """What helps to find a wallet's tokens, beside the chain."""
    key = settings.indexer_key.get_secret_value()
    indexer = Indexer(settings.indexer_url, key) if settings.indexer_url and key else None
    return Sources(CheckpointFolder(settings.discovery), indexer)


def superlink_control(settings: CoordinatorSettings) -> "SuperLinkControl":
    """The SuperLink that ``up`` started. Raises Unreachable when there is none."""
    from coordinator.flower.link import SuperLinkControl  # flwr takes a second to import: only where it is used

    link = superlink_address(settings.superlink_file)
    return SuperLinkControl(link.address, link.root_certificate.encode())


def tell_superlink(file: Path, link: SuperLinkAddress) -> None:
    """Write down, at once or not at all, how to reach the SuperLink."""
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(asdict(link)))
    aside.replace(file)


def superlink_address(file: Path) -> SuperLinkAddress:
    """Raises Unreachable when nobody wrote it down."""
    try:
        return SuperLinkAddress(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise Unreachable("The coordinator's SuperLink is not running.", "Start it: coterie-coordinator up.") from error

"""What the views stand on: one object with the settings, the policy, the database, the chain and the store."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import cast

from flask import current_app

from contracts_abi.model import Address
from contracts_abi.ownership.discovery import Sources
from contracts_abi.rpc import Rpc
from contracts_abi.signatures import wallet_accepts
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.eligibility.verdicts import take_snapshot
from coordinator.identity import sign_in
from coordinator.releases.store import CarStore
from coordinator.rounds.ledger import Ledger
from coordinator.rounds.steering import Steering
from coordinator.web.desk.seats import Seats
from coordinator.web.feed import Feed
from coordinator.wiring import (
    SuperLinkAddress,
    ledger_of,
    sources_of,
    steering_of,
    superlink_address,
    superlink_control,
)
from protocol.policy import Policy

UnregisterNode = Callable[[int], None]
"""Shuts a node out for good, by the SuperLink's node id."""
RegisterNode = Callable[[bytes], int]
"""Takes a node's public key (SubjectPublicKeyInfo PEM), answers the SuperLink's node id."""


class Service:
    """Everything that outlives a request. Safe to share between threads."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        register_node: RegisterNode | None = None,
        clock: Callable[[], float] = time.time,
        unregister_node: UnregisterNode | None = None,
    ) -> None:
        """Both act on node keys at the SuperLink, by default at the one that ``up`` started."""
        self.settings = settings
        self.clock = clock
        self.policy: Policy = settings.loaded_policy
        self.base_hash = settings.base_hash
        self.database = Database(settings.database)
        self.feed = Feed(self.database, settings.streams, settings.streams_each)
        self.register_node: RegisterNode = register_node or self._register_at_superlink
        self.unregister_node: UnregisterNode = unregister_node or self._unregister_at_superlink

    @property
    def rpc(self) -> Rpc:
        """A connection of its own for every use, because sessions of ``requests`` are not shared between threads."""
        return Rpc(self.settings.rpc_url)

    def ask_wallet(self, account: Address, digest: bytes, signature: bytes) -> bool:
        """Whether a contract wallet accepts a signature at the newest finalized block; see ``AskWallet``."""
        rpc = self.rpc
        return wallet_accepts(rpc, account, digest, signature, take_snapshot(rpc, self.policy))

    @cached_property
    def nonce_key(self) -> bytes:
        """What this coordinator seals the nonces with that it gives out."""
        with self.database.writing() as session:
            return sign_in.nonce_key(session)

    @cached_property
    def sources(self) -> Sources:
        """What helps to find a wallet's tokens."""
        return sources_of(self.settings)

    @cached_property
    def seats(self) -> Seats:
        """Who may look at the admins' desk."""
        return Seats()

    @cached_property
    def ledger(self) -> Ledger:
        return ledger_of(self.settings, self.database, self.clock)

    @cached_property
    def steering(self) -> Steering:
        return steering_of(self.settings, self.database, self.clock)

    @cached_property
    def store(self) -> CarStore:
        return CarStore(self.settings.store)

    def now(self) -> int:
        """Unix seconds."""
        return int(self.clock())

    def superlink(self) -> SuperLinkAddress:
        """Raises Unreachable when no SuperLink was started."""
        return superlink_address(self.settings.superlink_file)

    def _register_at_superlink(self, public_key: bytes) -> int:
        return superlink_control(self.settings).register_node(public_key)

    def _unregister_at_superlink(self, node_id: int) -> None:
        superlink_control(self.settings).unregister_node(node_id)


def service() -> Service:
    """The service of the app that handles this request."""
    return cast(Service, current_app.extensions["coterie"])

"""What several tests stand on. Everything here is real; what starts a process ends it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from postgres_parts import Postgres, kept_on, running_postgres
from web3.contract import Contract

from contracts_abi.model import Snapshot, Token
from contracts_abi.readers import finalized_snapshot
from contracts_abi.rpc import Rpc
from coordinator.releases.samples import draw_sheet
from deploy.devchain.anvil import ANVIL_KEYS, CHAIN_ID, Anvil
from deploy.devchain.deployment import CantBeEvil, Deployer, licensed_nouns, onchain_nouns, preset

# A console takes its width when it is made, which is when some test first imports its module: no matter which.
os.environ["COLUMNS"] = "200"

# What test modules import stays: to look for garbage in it meanwhile takes a third of the time of collecting tests.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on garbage is looked for, but not among what was imported."""
    gc.freeze()
    gc.enable()


@dataclass(frozen=True)
class Chain:
    """A running anvil with four collections, three wallets that own tokens and one that owns none.

    Shared by the whole test session: a test that moves a token mints a spare one to a wallet first.
    """

    anvil: Anvil
    rpc: Rpc
    admin: Deployer
    alice: Deployer
    bob: Deployer
    carol: Deployer
    nobody: Deployer
    """Owns nothing, ever."""
    buyer: Deployer
    """Whoever tokens are sold to."""
    cc0: Contract
    personal: Contract
    commercial: Contract
    preset: Contract

    @property
    def url(self) -> str:
        return self.anvil.url

    def snapshot(self) -> Snapshot:
        """A finalized block in which everything sent so far is done."""
        self.anvil.finalize()
        return finalized_snapshot(self.rpc)

    def token(self, collection: Contract, token_id: int) -> Token:
        return Token(chain_id=CHAIN_ID, contract=collection.address, token_id=token_id)

    def mint_spare(self, collection: Contract, owner: Deployer) -> Token:
        """A fresh token of ``owner``'s, for a test that moves it."""
        token_id = collection.functions.totalSupply().call()
        self.admin.mint(collection, [owner.address])
        return self.token(collection, token_id)


@pytest.fixture(scope="session")
def chain() -> Iterator[Chain]:
    """The chain that the tests share."""
    with new_chain() as shared:
        yield shared


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL that the tests share; each has databases of its own in it."""
    with running_postgres() as shared:
        yield shared


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The test runs twice: with files, then with databases of a real server; its kind.

    So do the settings that it loads, and what it opens at ``postgres_parts.database_in``.
    """
    if request.param == "sqlite":
        yield request.param
        return
    with kept_on(request.getfixturevalue("postgres")) as url:
        monkeypatch.setenv("COTERIE_COORDINATOR_DATABASE_URL", url)
        yield request.param


@pytest.fixture(scope="module")
def drawn_here() -> Iterator[None]:
    """Sample sheets are drawn by this process, which has torch already, instead of a new one that imports it for each.

    Nothing else differs; other tests, the demo's first, draw as a coordinator does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordinator.releases.build.draw_samples", draw_sheet)
        yield


@contextmanager
def new_chain() -> Iterator[Chain]:
    """Tokens 0-2 are alice's, 3-5 bob's and 6-8 carol's in each collection; the on-chain ones have data: URIs."""
    base = "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi/"
    with Anvil() as anvil:
        admin, alice, bob, carol, nobody, buyer = (Deployer(anvil.url, key) for key in ANVIL_KEYS[:6])
        there = Chain(
            anvil=anvil,
            rpc=Rpc(anvil.url),
            admin=admin,
            alice=alice,
            bob=bob,
            carol=carol,
            nobody=nobody,
            buyer=buyer,
            cc0=admin.deploy(onchain_nouns(), "Nouns on anvil", "NOUN", base),
            personal=admin.deploy(licensed_nouns(), "Personal Nouns", "PNOUN", base, CantBeEvil.PERSONAL),
            commercial=admin.deploy(licensed_nouns(), "Commercial Nouns", "CNOUN", base, CantBeEvil.COMMERCIAL),
            preset=admin.deploy(preset(), "Plain Nouns", "PLAIN", base),
        )
        owners = [wallet.address for wallet in (alice, bob, carol) for _ in range(3)]
        mints = [(owner, f'data:application/json,{{"name":"Noun {n}"}}') for n, owner in enumerate(owners)]
        for collection in (there.cc0, there.personal, there.commercial):
            admin.mint_with_uris(collection, mints)
        admin.mint(there.preset, owners)
        anvil.finalize()
        yield there

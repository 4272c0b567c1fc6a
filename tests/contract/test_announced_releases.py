"""A release announced on chain: attested with the real EAS, and what a real ENS name points to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Chain
from eth_account import Account
from eth_utils.crypto import keccak
from test_verified_releases import Published
from test_verified_releases import original as original  # the fixture
from typer.testing import CliRunner, Result
from web3.contract import Contract

from client.config import load_settings
from client.pull.command import find
from contracts_abi.attestations import Announcement, attest, attestations_of, schema_uid
from contracts_abi.names import content_of, namehash
from contracts_abi.readers import latest_snapshot
from contracts_abi.rpc import Rpc
from contracts_abi.transaction import Transaction, send
from coordinator.cli import app
from coordinator.release_commands import manifest_of
from coordinator.releases.announce import Places, steps
from deploy.devchain.anvil import ANVIL_KEYS
from deploy.devchain.deployment import Deployer, package
from protocol.errors import BadInput, Conflict, NotFound, Unreachable
from protocol.unixfs import Cid

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn_here")]

DAO_KEY, STRANGER_KEY = ANVIL_KEYS[9], ANVIL_KEYS[8]
ADMIN, STRANGER = Account.from_key(DAO_KEY), Account.from_key(STRANGER_KEY)
EAS = "@ethereum-attestation-service/eas-contracts/artifacts/contracts"
ENS = "@ensdomains/ens/build/contracts/ENSRegistry"
RESOLVER = "@ensdomains/resolver/build/contracts/PublicResolver"


class Town:
    """The contracts of others, deployed as they publish them, and a DAO that owns dao.eth."""

    def __init__(self, chain: Chain) -> None:
        self.chain, admin = chain, Deployer(chain.url, DAO_KEY)
        registry = admin.deploy(package(f"{EAS}/SchemaRegistry.sol/SchemaRegistry"))
        self.eas: Contract = admin.deploy(package(f"{EAS}/EAS.sol/EAS"), registry.address)
        self.ens: Contract = admin.deploy(package(ENS))
        resolver = admin.deploy(package(RESOLVER), self.ens.address)
        admin.act(self.ens, "setSubnodeOwner", bytes(32), keccak(text="eth"), admin.address)
        admin.act(self.ens, "setSubnodeOwner", namehash("eth"), keccak(text="dao"), admin.address)
        admin.act(self.ens, "setResolver", namehash("dao.eth"), resolver.address)
        self.places = Places(self.eas.address, "dao.eth", self.ens.address)


@pytest.fixture
def town(chain: Chain) -> Town:
    return Town(chain)


@pytest.fixture
def told(original: Published, town: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[Announcing]:
    config = original.here.folder / "coordinator.toml"
    before = config.read_text()
    config.write_text(
        f'{before}eas = "{town.eas.address}"\nens_name = "dao.eth"\nens_registry = "{town.ens.address}"\n'
    )
    monkeypatch.setenv("COTERIE_WALLET_KEY", DAO_KEY)
    yield Announcing(original, town, config)
    config.write_text(before)


class Announcing:
    def __init__(self, release: Published, town: Town, config: Path) -> None:
        self.release, self.town, self.config = release, town, config

    def command(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["announce", self.release.cid, *words, "--config", str(self.config)])


def test_a_release_is_attested_and_named_and_nothing_is_done_twice(told: Announcing) -> None:
    rpc, cid = told.town.chain.rpc, told.release.cid
    first = told.command()
    assert first.exit_code == 0, first.output
    assert first.output.count(": 0x") == 3, first.output
    [found] = attestations_of(rpc, told.town.eas.address, cid, 0, latest_snapshot(rpc))
    assert (found.attester, found.revoked, found.parent) == (ADMIN.address, False, bytes(32))
    assert found.announcement.cid == cid and found.announcement.dao == "Nouns-on-anvil"
    assert told.town.eas.functions.isAttestationValid(found.uid).call()
    assert content_of(rpc, "dao.eth", latest_snapshot(rpc), told.town.ens.address) == Cid.parse(cid)
    again = told.command()
    assert again.exit_code == 0 and ": 0x" not in again.output


def test_a_safe_gets_a_file_and_nothing_is_sent(told: Announcing, tmp_path: Path) -> None:
    chain, file = told.town.chain, tmp_path / "safe.json"
    done = told.command("--unsigned", str(file), "--sender", ADMIN.address)
    assert done.exit_code == 0, done.output
    batch = json.loads(file.read_text())
    assert (batch["version"], batch["chainId"], len(batch["transactions"])) == ("1.0", "31337", 3)
    assert attestations_of(chain.rpc, told.town.eas.address, told.release.cid, 0, latest_snapshot(chain.rpc)) == []
    Deployer(chain.url, DAO_KEY).send([{"to": one["to"], "data": one["data"]} for one in batch["transactions"]])
    assert len(attestations_of(chain.rpc, told.town.eas.address, told.release.cid, 0, latest_snapshot(chain.rpc))) == 1
    assert told.command("--unsigned", str(file)).exit_code == 1, "a Safe's address has to be named"


def test_a_name_is_as_good_as_a_cid_for_whoever_pulls(told: Announcing, tmp_path: Path) -> None:
    assert told.command().exit_code == 0
    told.town.chain.anvil.finalize()
    settings = load_settings(tmp_path, rpc_url=told.town.chain.url, ens_registry=told.town.ens.address)
    assert find("dao.eth", settings).cid == told.release.cid
    with pytest.raises(NotFound, match="has no resolver"):
        find("nobody.eth", settings)
    with pytest.raises(BadInput, match="no chain node to look it up"):
        find("dao.eth", load_settings(tmp_path, rpc_url=""))


def test_a_removal_refers_to_what_it_takes_back_and_revokes_it(told: Announcing) -> None:
    rpc, town, parent = told.town.chain.rpc, told.town, told.release.cid
    assert told.command().exit_code == 0
    manifest = manifest_of(told.release.here.settings, parent)
    cid = str(Cid.of(0x55, b"a removal"))
    manifests = {
        parent: manifest,
        cid: manifest.model_copy(update={"kind": "removal", "parent": parent}),
    }
    for _ in range(3):
        for one in steps(rpc, town.places, ADMIN.address, cid, manifests, latest_snapshot(rpc)):
            send(rpc, ADMIN, one)
    [old] = attestations_of(rpc, town.eas.address, parent, 0, latest_snapshot(rpc))
    [new] = attestations_of(rpc, town.eas.address, cid, 0, latest_snapshot(rpc))
    assert (old.revoked, new.revoked, new.parent) == (True, False, old.uid)
    assert content_of(rpc, "dao.eth", latest_snapshot(rpc), town.ens.address) == Cid.parse(cid)
    assert steps(rpc, town.places, ADMIN.address, cid, manifests, latest_snapshot(rpc)) == []


def test_what_a_stranger_attests_is_not_taken_for_the_dao_s(told: Announcing) -> None:
    rpc, town, cid = told.town.chain.rpc, told.town, told.release.cid
    first, *_ = steps(
        rpc, town.places, ADMIN.address, cid, {cid: manifest_of(told.release.here.settings, cid)}, latest_snapshot(rpc)
    )
    send(rpc, STRANGER, first)  # the schema is everybody's
    said = Announcement(cid=cid, dao="Nouns-on-anvil", policy_hash="0" * 64, removal=False)
    send(rpc, STRANGER, attest(town.eas.address, said))
    assert told.command().exit_code == 0
    attesters = [one.attester for one in attestations_of(rpc, town.eas.address, cid, 0, latest_snapshot(rpc))]
    assert attesters == [STRANGER.address, ADMIN.address]
    assert town.eas.functions.getAttestation(schema_uid()).call()[0] == bytes(32)


def test_a_wallet_that_may_not_is_told_before_anything_is_sent(
    told: Announcing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_WALLET_KEY", STRANGER_KEY)
    refused = told.command()
    assert refused.exit_code == 1
    assert "The chain refuses to point dao.eth to" in refused.output
    monkeypatch.delenv("COTERIE_WALLET_KEY")
    assert "COTERIE_WALLET_KEY is not set" in told.command().output


def test_a_name_without_a_resolver_and_names_that_are_none(town: Town) -> None:
    rpc = town.chain.rpc
    with pytest.raises(NotFound, match="has no resolver"):
        content_of(rpc, "nobody.eth", latest_snapshot(rpc), town.ens.address)
    assert content_of(rpc, "dao.eth", latest_snapshot(rpc), town.ens.address) is None
    for name in ("", "Dao.eth", "dao..eth", "da o.eth", "dão.eth"):
        with pytest.raises(BadInput, match="is no name"):
            namehash(name)


def test_without_a_place_there_is_nothing_to_announce(town: Town) -> None:
    with pytest.raises(BadInput, match="Nowhere is set"):
        steps(town.chain.rpc, Places(), ADMIN.address, "c", {}, latest_snapshot(town.chain.rpc))


def test_a_node_that_does_not_answer_is_asked_again(town: Town) -> None:
    waited: list[float] = []
    with pytest.raises(Unreachable):
        send(Rpc("http://127.0.0.1:9"), ADMIN, Transaction(to=ADMIN.address, data="0x", what="wait"), waited.append)
    assert waited == [1.0, 2.0, 4.0]
    with pytest.raises(Conflict, match="refuses to spoil"):
        send(town.chain.rpc, STRANGER, Transaction(to=town.eas.address, data="0x12345678", what="spoil"))

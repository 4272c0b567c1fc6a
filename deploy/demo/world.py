"""The world of "Nouns-on-anvil": who owns which real Nouns, in which collections, under which licences.

Deterministic: the same art gives the same tokens at the same addresses with the same metadata every time.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from eth_account import Account
from web3.contract import Contract

from bases.nouns_art import TRAITS, NounsArt, Seed, svg
from coordinator.releases.store import CarStore
from deploy.devchain.anvil import ANVIL_KEYS, CHAIN_ID, HERE, Anvil
from deploy.devchain.deployment import CantBeEvil, Deployer, licensed_nouns, onchain_nouns, preset
from protocol.policy import AdminRole, CollectionRule, Policy

DAO = "Nouns-on-anvil"
PURPOSE = "One image model of our Nouns, trained by the members who own them"
IMAGE_DATA = HERE / "node_modules/@nouns/assets/dist/image-data.json"
NOUNS, BY_IPFS, PERSONAL, COMMERCIAL = "Nouns", "Nouns by IPFS", "Nouns Personal", "Nouns Commercial"
EVIDENCE = "The Nouns project dedicates its art to the public domain (CC0 1.0): https://nouns.wtf"
HEADS_EACH = 8
COPIES = 2
FORBIDDEN = 3
"""Tokens of the PERSONAL collection that one member holds beside its own share."""
SEED = 7


@dataclass(frozen=True)
class Person:
    """A wallet with a name. The key is one of anvil's."""

    name: str
    key: str

    @property
    def address(self) -> str:
        return str(Account.from_key(self.key).address)


ADMIN, ADA, BEN, CLEO, DAN, EVE = (
    Person(name, key)
    for name, key in zip(("the admin", "ada", "ben", "cleo", "dan", "eve"), ANVIL_KEYS[:6], strict=True)
)
MEMBERS = (ADA, BEN, CLEO, DAN)


@dataclass(frozen=True)
class OwnedNoun:
    """One token before it is minted: its collection, its first owner and what it looks like."""

    collection: str
    owner: Person
    seed: Seed


@dataclass(frozen=True)
class World:
    """The DAO as it stands on the chain, and the files that its coordinator is started with."""

    folder: Path
    anvil: Anvil
    art: NounsArt
    members: tuple[Person, ...]
    nouns: tuple[OwnedNoun, ...]
    contracts: Mapping[str, Contract]
    policy: Policy

    @property
    def coordinator_data(self) -> Path:
        return self.folder / "coordinator"

    def heads_of(self, person: Person) -> tuple[int, ...]:
        """The heads that this member owns and the base has never seen."""
        own = [noun.seed.head for noun in self.nouns if noun.owner is person and noun.collection != PERSONAL]
        return tuple(dict.fromkeys(own))

    def home(self, person: Person) -> Path:
        """This member's own folder."""
        return self.folder / "members" / person.name

    def sell(self, collection: str, seller: Person, buyer: Person) -> int:
        """The seller's first token of ``collection`` goes to the buyer, finalized; its id."""
        contract = self.contracts[collection]
        token_id = int(contract.functions.tokenOfOwnerByIndex(seller.address, 0).call())
        Deployer(self.anvil.url, seller.key).transfer(contract, token_id, buyer.address)
        self.anvil.finalize()
        return token_id


def found(anvil: Anvil, folder: Path, members: Sequence[Person] = MEMBERS, heads_each: int = HEADS_EACH) -> World:
    """Deploy the collections, mint everybody's Nouns, write the policy. ``folder`` holds all that the demo leaves."""
    art = NounsArt.load(IMAGE_DATA)
    nouns = owned_nouns(art, members, heads_each)
    store = CarStore(folder / "coordinator" / "cars")
    admin = Deployer(anvil.url, ADMIN.key)
    by_collection = {
        name: [n for n in nouns if n.collection == name] for name in (NOUNS, BY_IPFS, PERSONAL, COMMERCIAL)
    }
    contracts = {
        NOUNS: admin.deploy(onchain_nouns(), NOUNS, "NOUN", ""),
        BY_IPFS: admin.deploy(preset(), BY_IPFS, "INOUN", _pin(store, art, by_collection[BY_IPFS])),
        PERSONAL: admin.deploy(licensed_nouns(), PERSONAL, "PNOUN", "", CantBeEvil.PERSONAL),
        COMMERCIAL: admin.deploy(licensed_nouns(), COMMERCIAL, "CNOUN", "", CantBeEvil.COMMERCIAL),
    }
    for name in (NOUNS, PERSONAL, COMMERCIAL):
        mints = [(n.owner.address, _data_uri(art, n, i)) for i, n in enumerate(by_collection[name])]
        admin.mint_with_uris(contracts[name], mints)
    admin.mint(contracts[BY_IPFS], [n.owner.address for n in by_collection[BY_IPFS]])
    anvil.finalize()
    policy = write_policy({name: str(contract.address) for name, contract in contracts.items()})
    (folder / "policy.json").write_bytes(policy.canonical())
    return World(folder, anvil, art, tuple(members), nouns, contracts, policy)


def owned_nouns(art: NounsArt, members: Sequence[Person], heads_each: int) -> tuple[OwnedNoun, ...]:
    """Every member's own held-out heads, ``COPIES`` Nouns of each, a quarter of them in the collection on IPFS.

    Dan's are in part in the COMMERCIAL collection; Cleo has ``FORBIDDEN`` more in the PERSONAL one.
    """
    rng = np.random.default_rng(SEED)
    heads = rng.permutation(art.held_out_heads).tolist()
    nouns: list[OwnedNoun] = []
    for number, member in enumerate(members):
        own = heads[number * heads_each : (number + 1) * heads_each] * COPIES
        count = len(own)
        commercial = 3 * count // 8 if member is DAN else 0
        shares = {BY_IPFS: count // 4, COMMERCIAL: commercial, NOUNS: count - count // 4 - commercial}
        collections = [name for name, share in shares.items() for _ in range(share)]
        seeds = [art.random_seed(rng, (head,)) for head in own]
        nouns += [
            OwnedNoun(str(name), member, seed) for name, seed in zip(rng.permutation(collections), seeds, strict=True)
        ]
        if member is CLEO:
            nouns += [OwnedNoun(PERSONAL, member, art.random_seed(rng, art.known_heads)) for _ in range(FORBIDDEN)]
    return tuple(nouns)


def write_policy(contracts: Mapping[str, str]) -> Policy:
    """The DAO's rules: CC0 by its own word, licensed collections by what their contracts declare."""
    return Policy(
        dao=DAO,
        purpose=PURPOSE,
        chain_id=CHAIN_ID,
        admin=AdminRole(contract=contracts[NOUNS]),
        collections=(
            CollectionRule(contract=contracts[NOUNS], name=NOUNS, licence="CC0", evidence=EVIDENCE),
            CollectionRule(contract=contracts[BY_IPFS], name=BY_IPFS, licence="CC0", evidence=EVIDENCE),
            CollectionRule(contract=contracts[PERSONAL], name=PERSONAL),
            CollectionRule(contract=contracts[COMMERCIAL], name=COMMERCIAL),
        ),
        accept_holder_warrant=True,
    )


def write_settings(world: World, base: Path, port: int, superlink_port: int) -> Path:
    """``coordinator.toml``: this machine only, nothing beyond loopback."""
    settings = {
        "data": str(world.coordinator_data),
        "rpc_url": world.anvil.url,
        "policy": "policy.json",
        "base": str(base.absolute()),
        "base_name": base.name,
        "port": port,
        "superlink_port": superlink_port,
        "poll_seconds": 0.5,
    }
    file = world.folder / "coordinator.toml"
    # A JSON string or number is written the same way in TOML.
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return file


def metadata(art: NounsArt, noun: OwnedNoun, number: int, image: str) -> bytes:
    """ERC-721 metadata as marketplaces read it."""
    traits = art.traits(noun.seed)
    document = {
        "name": f"{noun.collection} {number}",
        "description": "A Noun on a chain that lives for one demo",
        "image": image,
        "attributes": [{"trait_type": trait, "value": traits[trait]} for trait in TRAITS],
    }
    return json.dumps(document).encode()


def _data_uri(art: NounsArt, noun: OwnedNoun, number: int) -> str:
    """All of it on the chain, as Nouns do it: JSON with an SVG, both in base64."""
    image = base64.b64encode(svg(art.compose(noun.seed)).encode()).decode()
    document = metadata(art, noun, number, f"data:image/svg+xml;base64,{image}")
    return f"data:application/json;base64,{base64.b64encode(document).decode()}"


def _pin(store: CarStore, art: NounsArt, nouns: Sequence[OwnedNoun]) -> str:
    """Put pictures, then metadata that names them, into the store; the collection's baseURI.

    Two directories, for no directory can hold its own CID.
    """
    pictures = store.put({f"{i}.svg": svg(art.compose(n.seed)).encode() for i, n in enumerate(nouns)})
    documents = store.put({str(i): metadata(art, n, i, f"ipfs://{pictures}/{i}.svg") for i, n in enumerate(nouns)})
    return f"ipfs://{documents}/"

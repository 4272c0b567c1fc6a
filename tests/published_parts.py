"""A release made the whole way: a real chain, real grants and contributions, the coordinator's own merge and build."""

from __future__ import annotations

from pathlib import Path

from conftest import Chain

from coordinator.releases.store import CarStore
from protocol.car import Car
from protocol.policy import AdminRole, CollectionRule, Policy
from protocol.unixfs import Cid, read_file, walk


def publishing_policy(chain: Chain) -> Policy:
    """Contributions are published; one collection by the policy's word, one by what its contract declares."""
    return Policy(
        dao="Nouns-on-anvil",
        purpose="One shared model of our Nouns.",
        chain_id=31337,
        admin=AdminRole(contract=chain.cc0.address),
        collections=(
            CollectionRule(contract=chain.cc0.address, name="Nouns", licence="CC0", evidence="nouns.wtf"),
            CollectionRule(contract=chain.commercial.address, name="Commercial Nouns"),
        ),
        accept_holder_warrant=True,
        publish_contributions=True,
    )


def small_base(folder: Path) -> Path:
    """Random weights in a real pipeline, so that a release can draw its samples."""
    from small_bases import build  # torch and diffusers, which golden releases do without

    return build("SD 1.x, epsilon", folder)


def unpacked(store: CarStore, cid: str, into: Path) -> Path:
    """The release's files in a new folder."""
    path = store.car(Cid.parse(cid))
    return unpack_car(path, cid, into)


def unpack_car(path: Path, cid: str, into: Path) -> Path:
    with path.open("rb") as stream:
        car = Car(stream, path.stat().st_size)
        for name, block, is_dir in walk(Cid.parse(cid), car.get):
            if is_dir:
                (into / name).mkdir(parents=True)
            else:
                (into / name).write_bytes(b"".join(read_file(block, car.get)))
    return into

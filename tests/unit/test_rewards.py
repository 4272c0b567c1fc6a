"""A reward is divided by weights to the last unit, and written as the libraries of others read it."""

import json
import subprocess
from pathlib import Path

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from coordinator.releases.rewards import Reward, RewardTree, divided, splits
from deploy.devchain.anvil import HERE
from protocol.errors import BadInput

WALLETS = [Account.from_key(bytes([n + 1]) * 32).address for n in range(40)]
weights = st.lists(st.integers(1, 10**6), min_size=1, max_size=40).map(lambda w: dict(zip(WALLETS, w, strict=False)))


@given(st.integers(1, 2**255), weights)
def test_the_parts_add_up_and_each_is_less_than_a_unit_from_its_share(amount: int, weights: dict[str, int]) -> None:
    parts = divided(amount, weights)
    assert sum(one.amount for one in parts) == amount
    total = sum(weights.values())
    assert all(abs(one.amount * total - amount * weights[one.member]) < total for one in parts)


@given(weights)
def test_percentages_have_four_decimals_and_add_up_to_100(weights: dict[str, int]) -> None:
    recipients = splits(weights)["recipients"]
    steps = [one["percentAllocation"] * 10_000 for one in recipients]
    assert all(abs(step - round(step)) < 1e-6 for step in steps)
    assert sum(map(round, steps)) == 1_000_000


@given(weights)
def test_every_proof_leads_to_the_root(weights: dict[str, int]) -> None:
    tree = RewardTree(divided(10**20, weights))
    for at, one in enumerate(tree.rewards):
        dumped = tree.dump()
        node = bytes.fromhex(dumped["tree"][dumped["values"][at]["treeIndex"]].removeprefix("0x"))
        for other in tree.proof(one.member):
            node = keccak(min(node, other) + max(node, other))
        assert node == tree.root


@pytest.mark.parametrize("members", [1, 2, 3, 7, 16, 33])
def test_openzeppelins_own_library_reads_the_file_and_makes_the_same_tree(members: int, tmp_path: Path) -> None:
    if not (HERE / "node_modules/@openzeppelin/merkle-tree").is_dir():
        pytest.skip('npm\'s packages are not installed: run "npm ci --ignore-scripts" in deploy/devchain')
    tree = RewardTree(divided(10**18 + 7, {wallet: at + 1 for at, wallet in enumerate(WALLETS[:members])}))
    dump = json.dumps(tree.dump())
    done = subprocess.run(["node", "merkle_tree.mjs"], input=dump, cwd=HERE, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    assert theirs["root"] == theirs["again"] == "0x" + tree.root.hex()
    assert theirs["dump"] == tree.dump()
    for one in tree.rewards:
        assert theirs["proofs"][one.member] == ["0x" + node.hex() for node in tree.proof(one.member)]


def test_who_gets_nothing_has_no_proof() -> None:
    tree = RewardTree([Reward(WALLETS[0], 1), Reward(WALLETS[1], 0)])
    with pytest.raises(BadInput, match="gets nothing"):
        tree.proof(WALLETS[1])
    with pytest.raises(BadInput, match="cannot be divided"):
        divided(0, {WALLETS[0]: 1})

"""Whoever pulls a release can see that its papers were not changed, and that each contribution keeps to its grant."""

from pathlib import Path

import pytest
from eth_account import Account
from release_parts import HASH, MEMBER, TOKEN, merged_contribution

from contracts_abi.model import Snapshot
from contracts_abi.signatures import AskWallet
from protocol.errors import ContentMismatch, ContributionRefused, NotAllowed
from protocol.grant import sign, signing_hash
from protocol.manifest import Manifest, MergedContribution

STRANGER = Account.from_key("0x" + "22" * 32)
OTHER = TOKEN.model_copy(update={"token_id": 2})


@pytest.fixture
def contribution(tmp_path: Path) -> MergedContribution:
    return merged_contribution(tmp_path)


def test_a_contribution_as_it_was_granted_and_signed_holds(contribution: MergedContribution) -> None:
    contribution.check()


def test_a_contribution_on_a_token_that_was_not_granted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContributionRefused, match="beyond its grant"):
        merged_contribution(tmp_path, OTHER).check()


def test_a_contribution_put_in_anothers_name_is_refused(contribution: MergedContribution) -> None:
    with pytest.raises(NotAllowed):
        contribution.model_copy(update={"member": STRANGER.address}).check()
    stolen = {"member": STRANGER.address, "grant_signature": sign(contribution.grant, STRANGER.key.hex())}
    with pytest.raises(ContributionRefused, match="beyond its grant"):
        contribution.model_copy(update=stolen).check()
    with pytest.raises(ContributionRefused, match="another's name"):
        contribution.model_copy(update={"contribution_id": "0" * 16}).check()


BLOCK = Snapshot(chain_id=31337, number=7, hash="0x" + "ab" * 32, timestamp=1)


def of_a_contract_wallet(contribution: MergedContribution) -> MergedContribution:
    """The wallet's word on what one of its owners signed is not in the signature."""
    foreign = sign(contribution.grant, STRANGER.key.hex())
    return contribution.model_copy(update={"grant_signature": foreign, "signed_at": BLOCK})


def test_a_contract_wallets_signature_is_left_open_without_a_chain_and_asked_at_its_block(
    contribution: MergedContribution,
) -> None:
    assert not contribution.needs_chain
    assert not contribution.model_copy(update={"signed_at": BLOCK}).needs_chain, "a key's own"
    by_wallet, asked = of_a_contract_wallet(contribution), []

    def chain(block: Snapshot) -> AskWallet:
        return lambda account, digest, signature: bool(asked.append((block, account, digest))) or accepted

    assert by_wallet.needs_chain
    by_wallet.check()
    accepted = True
    by_wallet.check(chain)
    assert asked == [(BLOCK, MEMBER.address, signing_hash(contribution.grant))]
    accepted = False
    with pytest.raises(NotAllowed, match=MEMBER.address):
        by_wallet.check(chain)
    manifest = Manifest.model_construct(files={}, contributions=(contribution, by_wallet))
    assert manifest.unproven == (by_wallet,)
    manifest.check({})
    with pytest.raises(NotAllowed):
        manifest.check({}, chain)


@pytest.mark.parametrize("block", [None, BLOCK.model_copy(update={"chain_id": 1})], ids=["none", "another chain's"])
def test_a_foreign_signature_without_a_block_of_its_chain_is_refused(
    contribution: MergedContribution, block: Snapshot | None
) -> None:
    with pytest.raises(NotAllowed, match=STRANGER.address):
        of_a_contract_wallet(contribution).model_copy(update={"signed_at": block}).check()


def test_a_contract_wallet_s_contribution_is_held_to_its_grant_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(ContributionRefused, match="beyond its grant"):
        of_a_contract_wallet(merged_contribution(tmp_path, OTHER)).check()


def test_a_header_changed_after_signing_is_refused(contribution: MergedContribution) -> None:
    header = contribution.header.model_copy(update={"adapter_sha256": "1" * 64})
    with pytest.raises(ContributionRefused, match="does not match"):
        contribution.model_copy(update={"header": header}).check()


@pytest.mark.parametrize(
    "found",
    [{}, {"samples.png": "1" * 64}, {"samples.png": HASH, "extra.py": HASH}],
    ids=["missing", "changed", "not named"],
)
def test_a_file_that_is_not_the_one_the_manifest_names_is_found(found: dict[str, str]) -> None:
    manifest = Manifest.model_construct(files={"samples.png": HASH}, contributions=())
    manifest.check({"samples.png": HASH})
    with pytest.raises(ContentMismatch, match="not what the manifest says"):
        manifest.check(found)

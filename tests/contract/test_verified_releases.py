"""``coterie verify`` on a release made the whole way: what it finds right, what it finds wrong, what it leaves open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from c2pa import Reader
from conftest import Chain
from eth_account import Account
from published_parts import publishing_policy, small_base, unpacked
from round_parts import PLAN, statistics_for
from test_coordinator_api import ALICE, BOB, CAROL, Coordinator, opened, score, train
from typer.testing import CliRunner, Result
from web3.exceptions import ContractLogicError

from bases.shipped import write_shipped
from client.cli import app
from contracts_abi.rpc import Rpc
from coordinator.cli import app as dao_commands
from coordinator.releases.rewards import Reward, RewardTree
from coordinator.releases.store import CarStore
from deploy.devchain.deployment import openzeppelin, ours
from merging.recompute import recompute
from protocol.adapter import Factors, dump_adapter, load_adapter
from protocol.base import BASE_STATISTICS
from protocol.canonical import canonical, sha256
from protocol.grant import StartRound, sign
from protocol.manifest import BaseStatistics, Manifest
from protocol.release_signature import SigningKey
from protocol.verification import Check, Outcome, check_chain, check_papers, read_release

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn_here")]


class Published:
    """A release in a folder, and the chain that it is about."""

    def __init__(self, folder: Path, cid: str, here: Coordinator) -> None:
        self.folder, self.cid, self.here, self.chain = folder, cid, here, here.chain

    def copy(self, into: Path) -> Published:
        return Published(Path(shutil.copytree(self.folder, into / "release")), self.cid, self.here)

    def change(self, edit: Callable[[dict[str, Any]], None]) -> Published:
        """The manifest changed and written in its canonical form, as someone who knows how would."""
        file = self.folder / "manifest.json"
        value = json.loads(file.read_bytes())
        edit(value)
        file.write_bytes(canonical(value))
        return self

    def papers(self) -> dict[str, Check]:
        return {one.name: one for one in check_papers(read_release(self.folder), None, self.key)}

    @property
    def key(self) -> SigningKey:
        """As the coordinator publishes it."""
        return SigningKey.parse(self.here.client.get("/api/v1/dao").json["signing_key"].encode(), "It")

    def on_chain(self) -> dict[str, Check]:
        return {one.name: one for one in check_chain(read_release(self.folder), Rpc(self.chain.url))}

    def merged(self) -> dict[str, Check]:
        return {one.name: one for one in recompute(read_release(self.folder))}

    def command(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["verify", str(self.folder), *words])


@pytest.fixture(scope="module")
def original(chain: Chain, drawn_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("dao")
    chain.anvil.finalize()
    here = Coordinator(chain, folder, small_base(folder / "base"), publishing_policy(chain))
    write_shipped(here.settings.base, here.settings.base_hash, statistics_for(7, here.shapes), 3)
    round_id, granted = opened(here, ALICE, BOB, CAROL, plan=PLAN.model_copy(update={"base_weight": 0.5}))
    train(here, round_id, granted)
    here.worker().tick()
    score(here, round_id, granted)
    here.worker().tick()
    cid = here.client.get("/api/v1/releases/latest").json["cid"]
    yield Published(unpacked(CarStore(here.settings.store), cid, folder / "release"), cid, here)
    here.service.database.close()


@pytest.fixture
def release(original: Published, tmp_path: Path) -> Published:
    return original.copy(tmp_path)


def outcomes(checks: dict[str, Check]) -> dict[str, Outcome]:
    return {name: one.outcome for name, one in checks.items()}


def failed(checks: dict[str, Check]) -> dict[str, str]:
    return {name: one.said for name, one in checks.items() if one.outcome is Outcome.FAILED}


def test_an_honest_release_passes_every_check(release: Published) -> None:
    papers = check_papers(read_release(release.folder), release.cid, release.key)
    everything = {one.name: one for one in papers} | release.on_chain() | release.merged()
    assert set(outcomes(everything).values()) == {Outcome.PASSED}, everything
    assert len(everything) == 20


def test_the_samples_name_the_adapter_that_drew_them(release: Published) -> None:
    with (release.folder / "samples.png").open("rb") as stream:
        told = {one["label"]: one["data"] for one in Reader("image/png", stream).get_active_manifest()["assertions"]}
    files = Manifest.model_validate_json((release.folder / "manifest.json").read_bytes()).files
    assert told["org.coterie.release"]["adapter_sha256"] == files["pytorch_lora_weights.safetensors"]


def test_the_command_says_it_in_a_table_and_in_json(release: Published, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(release.key.pem)
    words = ("--cid", release.cid, "--signing-key", str(tmp_path / "key.pem"), "--chain", release.chain.url)
    told = release.command(*words, "--recompute")
    assert told.exit_code == 0, told.output
    assert "Nothing is wrong with what was checked." in told.output
    assert "Not checked" not in told.output
    found = json.loads(release.command("--json").output)
    assert found["holds"] is True and found["cid"] == release.cid
    assert {one["outcome"] for one in found["checks"]} == {"passed", "not checked"}


def test_what_was_not_asked_is_said(release: Published) -> None:
    told = release.command()
    assert told.exit_code == 0
    assert "whatever the chain says (--chain RPC), the merge itself (--recompute)" in told.output
    assert release.cid in told.output


def test_one_byte_changed_anywhere_is_found(release: Published) -> None:
    for file in sorted(path for path in release.folder.rglob("*") if path.is_file()):
        data = file.read_bytes()
        for at in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            checks = {one.name: one for one in check_papers(read_release(release.folder), release.cid)}
            assert "content identifier" in failed(checks), f"{file.name}, byte {at}"
            if file.name != "manifest.json":
                assert "coordinator signature" in failed(checks), f"{file.name}, byte {at}"
                assert ("files" in failed(checks)) is (file.name != "model.sig"), f"{file.name}, byte {at}"
        file.write_bytes(data)
    assert not failed(release.papers())


def test_a_file_too_many_or_too_few_is_found(release: Published) -> None:
    (release.folder / "loader.py").write_text("import os")
    assert failed(release.papers()) == {
        "files": "loader.py is not named in the manifest.",
        "coordinator signature": "model.sig leaves loader.py out.",
    }
    (release.folder / "loader.py").unlink()
    (release.folder / "README.md").unlink()
    assert failed(release.papers()) == {
        "files": "README.md is missing.",
        "coordinator signature": "README.md is missing, which model.sig is over.",
    }


Edit = Callable[[dict[str, Any]], None]


def _first(manifest: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = manifest["contributions"][0]
    return one


def _put(path: str, value: object) -> Edit:
    """Set the value at a dotted path of the manifest."""

    def edit(manifest: dict[str, Any]) -> None:
        *way, last = path.split(".")
        at: Any = manifest
        for step in way:
            at = at[int(step) if step.isdigit() else step]
        at[last] = value

    return edit


def _swap_wallet_signatures(manifest: dict[str, Any]) -> None:
    one, other, *_ = manifest["contributions"]
    one["grant_signature"], other["grant_signature"] = other["grant_signature"], one["grant_signature"]
    one["signed_at"] = other["signed_at"] = None


def _deny_a_token(manifest: dict[str, Any]) -> None:
    _first(manifest)["verdicts"][0]["allow"] = False


def _another_licence(manifest: dict[str, Any]) -> None:
    for verdict in _first(manifest)["verdicts"]:
        if verdict["rule"] == "collection":
            verdict["licence"] = "CC-BY-4.0"


def _drop_a_verdict(manifest: dict[str, Any]) -> None:
    del _first(manifest)["verdicts"][0]


def _remove_a_live_one(manifest: dict[str, Any]) -> None:
    one = _first(manifest)
    manifest["removals"] = [
        {
            "contribution_id": one["contribution_id"],
            "member": one["member"],
            "token": one["header"]["tokens"][0]["token"],
            "block": manifest["snapshot"],
            "reason": "sold",
        }
    ]


@pytest.mark.parametrize(
    ("edit", "check", "said"),
    [
        (_swap_wallet_signatures, "wallet signatures", "the document was changed after signing"),
        (_put("contributions.0.signature", "00" * 50), "node signatures", "does not match node key"),
        (_put("contributions.0.header.adapter_sha256", "0" * 64), "node signatures", "does not match node key"),
        (_put("contributions.0.contribution_id", "0" * 16), "node signatures", "another's name"),
        (_put("base.hash", "0" * 64), "node signatures", "another base"),
        (_put("dao", "Another DAO"), "node signatures", "another DAO"),
        (_put("plan.steps", 2), "order", "another plan"),
        (_put("round_id", "0" * 16), "order", "another round"),
        (_put("policy_hash", "0" * 64), "policy", "not the policy that the manifest names"),
        (_deny_a_token, "verdicts", "is denied"),
        (_another_licence, "verdicts", "the policy says otherwise"),
        (_drop_a_verdict, "verdicts", "verdicts on other tokens"),
        (_put("licence", "CC0"), "licence and duties", "is under CBE-COMMERCIAL, not CC0"),
        (_put("contributions.0.licences", ["CC0"]), "licence and duties", "other licences than it says"),
        (_put("contributions.0.weight", 5), "weights", "another share"),
        (_put("contributions.0.share", 0.5), "weights", "another share"),
        (_put("contributions.0.admitted", 99), "weights", "counts other tokens"),
        (_put("kind", "removal"), "parent", "names no parent"),
        (_put("parent", "not-a-cid"), "parent", "not a CID"),
        (_remove_a_live_one, "parent", "removed and merged at once"),
        (_put("plan.mode", "dp"), "published contributions", "must not carry contributions"),
        (_put("version", 2), "manifest", "version 2, and this program knows 1"),
        (_put("surprise", 1), "manifest", "cannot be read at surprise"),
    ],
)
def test_a_manifest_that_lies_is_found_out(release: Published, edit: Edit, check: str, said: str) -> None:
    found = failed(release.change(edit).papers())
    assert said in found[check], found
    assert release.command().exit_code == 1


def test_a_manifest_that_is_not_in_canonical_form_is_found(release: Published) -> None:
    file = release.folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()), indent=2))
    assert "not in its canonical form" in failed(release.papers())["manifest"]


def test_a_weight_that_the_policy_does_not_give_is_found(release: Published) -> None:
    def heavier(manifest: dict[str, Any]) -> None:
        weights = [3] + [1] * (len(manifest["contributions"]) - 1)
        for one, weight in zip(manifest["contributions"], weights, strict=True):
            one["weight"], one["share"] = weight, weight / sum(weights)

    assert "another weight than the policy gives" in failed(release.change(heavier).papers())["weights"]
    assert "has another weight" in failed(release.merged())["merge: integer sums"]


def test_who_held_a_token_is_asked_of_the_chain_again(release: Published) -> None:
    chain, manifest = release.chain, Manifest.model_validate_json((release.folder / "manifest.json").read_bytes())
    sold = next(use.token for one in manifest.contributions for use in one.tokens if one.member == chain.carol.address)
    contract = chain.commercial if sold.contract == chain.commercial.address else chain.cc0
    chain.carol.transfer(contract, sold.token_id, chain.buyer.address)
    assert not failed(release.on_chain()), "what happens after the snapshot does not matter"
    later = chain.snapshot().model_dump()
    chain.buyer.transfer(contract, sold.token_id, chain.carol.address)
    for number in range(len(manifest.contributions)):
        release.change(_put(f"contributions.{number}.snapshot", later))
    assert f"was {chain.buyer.address}'s, not {chain.carol.address}'s" in failed(release.on_chain())["chain: ownership"]


def test_a_block_that_is_not_in_the_chain_is_found(release: Published) -> None:
    found = failed(release.change(_put("snapshot.hash", "0x" + "0" * 64)).on_chain())
    assert "no longer in the chain" in found["chain: blocks"]


def test_a_block_told_with_another_time_is_found(release: Published) -> None:
    assert "another time" in failed(release.change(_put("snapshot.timestamp", 1)).on_chain())["chain: blocks"]


def test_an_order_by_somebody_without_the_role_is_found(release: Published) -> None:
    def by_alice(manifest: dict[str, Any]) -> None:
        order = StartRound.model_validate(manifest["order"]["order"])
        order = order.model_copy(update={"admin": Account.from_key(ALICE).address})
        manifest["order"]["order"] = order.model_dump(mode="json")
        manifest["order"]["signature"] = sign(order, ALICE)
        manifest["round_id"] = order.digest()[:16]

    found = failed(release.change(by_alice).on_chain())
    assert "does not hold the admin role" in found["chain: admin"]


def test_a_node_of_another_chain_or_none_at_all_is_no_word_against_a_release(release: Published) -> None:
    silent = {one.name: one for one in check_chain(read_release(release.folder), Rpc("http://127.0.0.1:9"))}
    assert set(outcomes(silent).values()) <= {Outcome.OPEN, Outcome.PASSED}
    assert silent["chain: ownership"].outcome is Outcome.OPEN


def test_an_adapter_that_the_contributions_do_not_merge_to_is_found(release: Published) -> None:
    file = release.folder / "pytorch_lora_weights.safetensors"
    adapter = load_adapter(file.read_bytes())
    layer = sorted(adapter)[0]
    other = Factors(adapter[layer].a, adapter[layer].b * 1.5, adapter[layer].kernel)
    file.write_bytes(dump_adapter({**adapter, layer: other}))
    assert "away from what the contributions merge to" in failed(release.merged())["merge: adapter"]


def test_another_s_sums_are_found(release: Published) -> None:
    found = failed(release.change(_put("merge.commitment", "0" * 64)).merged())
    assert "another commitment" in found["merge: integer sums"]


def test_without_its_contributions_a_release_cannot_be_merged_again_until_somebody_has_them(
    release: Published, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    shutil.move(release.folder / "contributions", tmp_path / "kept" / "contributions")
    assert release.merged()["merge: integer sums"].outcome is Outcome.OPEN
    with_them = recompute(read_release(release.folder), tmp_path / "kept")
    assert [one.outcome for one in with_them] == [Outcome.PASSED] * 2


def test_a_release_that_was_held_to_its_base_says_by_what_and_carries_it(release: Published) -> None:
    carried = (release.folder / BASE_STATISTICS).read_bytes()
    assert carried == (release.here.settings.base / BASE_STATISTICS).read_bytes()
    said = read_release(release.folder).manifest.merge.base_statistics
    assert said == BaseStatistics(source="shipped", sha256=sha256(carried))
    assert "μ = 0.5, on the base's own data" in release.here.client.get("/releases/1").text
    (release.folder / BASE_STATISTICS).unlink()
    assert release.merged()["merge: adapter"].outcome is Outcome.OPEN


def test_every_member_claims_its_part_of_a_reward_once(release: Published, tmp_path: Path) -> None:
    chain, amount, config = release.chain, 10**18 + 1, release.here.folder / "coordinator.toml"
    into = tmp_path / "rewards"
    words = ["rewards", release.cid, "--amount", str(amount), "--into", str(into), "--config", str(config)]
    told = CliRunner().invoke(dao_commands, words)
    assert told.exit_code == 0, told.output
    dump = json.loads((into / "rewards.json").read_text())
    assert dump["tree"][0] in told.output

    coin = chain.admin.deploy(openzeppelin("ERC20PresetFixedSupply"), "Coin", "C", amount, chain.admin.address)
    distributor = chain.admin.deploy(ours("RewardDistributor"), coin.address, bytes.fromhex(dump["tree"][0][2:]))
    chain.admin.act(coin, "transfer", distributor.address, amount)
    tree = RewardTree([Reward(member, int(part)) for member, part in (one["value"] for one in dump["values"])])
    for one in tree.rewards:
        with pytest.raises(ContractLogicError):
            distributor.functions.claim(one.member, one.amount + 1, tree.proof(one.member)).call()
        chain.nobody.act(distributor, "claim", one.member, one.amount, tree.proof(one.member))
        assert coin.functions.balanceOf(one.member).call() == one.amount
    assert coin.functions.balanceOf(distributor.address).call() == 0
    with pytest.raises(ContractLogicError):
        distributor.functions.claim(*tree.rewards[0], tree.proof(tree.rewards[0].member)).call()
    again = CliRunner().invoke(dao_commands, words)
    assert again.exit_code == 1 and "exists already" in again.output


def test_a_removal_release_holds_though_a_token_was_sold(chain: Chain, tmp_path: Path) -> None:
    spare = chain.mint_spare(chain.commercial, chain.alice)
    chain.anvil.finalize()
    here = Coordinator(chain, tmp_path, small_base(tmp_path / "base"), publishing_policy(chain))
    round_id, granted = opened(here, ALICE, BOB, CAROL)
    train(here, round_id, granted)
    here.worker().tick()
    score(here, round_id, granted)
    here.worker().tick()
    chain.alice.transfer(chain.commercial, spare.token_id, chain.buyer.address)
    chain.anvil.finalize()
    here.worker().tick()
    del granted[ALICE]
    score(here, here.client.get("/api/v1/rounds").json[0]["round_id"], granted)
    here.worker().tick()
    latest = here.client.get("/api/v1/releases/latest").json
    assert latest["kind"] == "removal"
    folder = unpacked(CarStore(here.settings.store), latest["cid"], tmp_path / "release")
    here.service.database.close()

    release = Published(folder, latest["cid"], here)
    checks = release.papers() | release.on_chain() | release.merged()
    assert not failed(checks)
    assert {name for name, one in checks.items() if one.outcome is Outcome.OPEN} == {
        "content identifier",
        "order",
        "chain: admin",
    }
    assert "without 1 contribution of earlier releases" in checks["parent"].said


def test_a_folder_that_is_no_release_is_told_so(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert told.exit_code == 1 and "is no release of Coterie" in told.output
    told = CliRunner().invoke(app, ["verify", "nowhere"])
    assert told.exit_code == 1 and "neither a folder nor a CID" in told.output


def test_a_release_is_fetched_by_its_cid_and_then_checked(release: Published, tmp_path: Path) -> None:
    cars = release.here.settings.store
    home = tmp_path / "home"
    pulled = CliRunner().invoke(app, ["pull", release.cid, "--cars", str(cars), "--home", str(home)])
    assert pulled.exit_code == 0, pulled.output
    told = CliRunner().invoke(app, ["verify", release.cid, "--home", str(home), "--json"])
    assert told.exit_code == 0, told.output
    found = {one["name"]: one["outcome"] for one in json.loads(told.output)["checks"]}
    assert found["content identifier"] == "passed"

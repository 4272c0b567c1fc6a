"""``coterie nfts`` on a real chain with real Nouns: what is shown is what training would get."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Chain
from PIL import Image
from typer.testing import CliRunner, Result
from veto_parts import picture, with_xmp, xmp
from web3.contract import Contract
from werkzeug.serving import make_server

from bases import EMBEDDED_BASE
from bases.nouns_art import TRAITS, NounsArt, Seed, caption, svg
from client.cli import app
from client.collection.choice_file import load_choice
from client.wallet.grant import StoredGrant, stored_grants
from client.wallet.key import Wallet
from coordinator.config import CoordinatorSettings
from coordinator.web.app import create_app
from deploy.demo.world import IMAGE_DATA
from deploy.devchain.anvil import ANVIL_KEYS, CHAIN_ID
from deploy.devchain.deployment import onchain_nouns
from protocol import node_key
from protocol.base import base_hash
from protocol.grant import Grant
from protocol.policy import AdminRole, CollectionRule, Policy, TokenRule

pytestmark = pytest.mark.slow
NOUNS = 6
VETOED = "data:application/json," + json.dumps(
    {
        "name": "kept",
        "image": "data:image/png;base64,"
        + base64.b64encode(with_xmp(picture("PNG"), "PNG", xmp("DMI-PROHIBITED-AIMLTRAINING"))).decode(),
    }
)
VIDEO = "data:application/json," + json.dumps({"name": "clip", "image": "data:video/mp4;base64,AAAAGGZ0eXBtcDQy"})


@dataclass(frozen=True)
class Owned:
    """Alice's: six Nouns, then a video, one on a web server and one with a veto; her node's home holds a grant."""

    home: Path
    contract: str
    wallet: str
    captions: tuple[str, ...]
    rpc: str

    def run(self, *arguments: str) -> Result:
        options = ["--home", str(self.home), "--rpc", self.rpc]
        return CliRunner().invoke(app, ["nfts", *arguments, *options], env={"COLUMNS": "200"})

    def json(self, *arguments: str) -> dict[int, dict[str, object]]:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        tokens = json.loads(result.stdout)["tokens"]
        return {int(one["token"].rpartition("/")[2]): one for one in tokens}


def noun_uri(art: NounsArt, seed: Seed) -> str:
    image = "data:image/svg+xml;base64," + base64.b64encode(svg(art.compose(seed)).encode()).decode()
    traits = art.traits(seed)
    document = {"image": image, "attributes": [{"trait_type": name, "value": traits[name]} for name in TRAITS]}
    return "data:application/json;base64," + base64.b64encode(json.dumps(document).encode()).decode()


@pytest.fixture(scope="module")
def nouns(chain: Chain) -> tuple[Contract, tuple[str, ...]]:
    """The contract, and the captions of the six."""
    art = NounsArt.load(IMAGE_DATA)
    rng = np.random.default_rng(5)
    seeds = [art.random_seed(rng, art.known_heads) for _ in range(NOUNS)]
    contract = chain.admin.deploy(onchain_nouns(), "Nouns to look at", "LOOK", "ipfs://none/")
    uris = [*(noun_uri(art, seed) for seed in seeds), VIDEO, "https://nouns.example/7", VETOED]
    chain.admin.mint_with_uris(contract, [(chain.alice.address, uri) for uri in uris])
    chain.anvil.finalize()
    return contract, tuple(caption(art.traits(seed)) for seed in seeds)


@pytest.fixture
def owned(chain: Chain, nouns: tuple[Contract, tuple[str, ...]], tmp_path: Path) -> Owned:
    collection, captions = nouns
    contract = collection.address
    home = tmp_path / "home"
    node_key.create(home / "node.pem")
    tokens = tuple(chain.token(collection, n) for n in range(9))
    policy = Policy(
        dao="Nouns on anvil",
        purpose="One model",
        chain_id=CHAIN_ID,
        admin=AdminRole(contract=contract),
        collections=(CollectionRule(contract=contract, name="Nouns", licence="CC0"),),
        tokens=(TokenRule(token=tokens[0], allow=False, reason="The DAO keeps it for itself."),),
    )
    wallet = Wallet.from_key(ANVIL_KEYS[1])
    grant = Grant(
        dao=policy.dao,
        chain_id=CHAIN_ID,
        member=wallet.address,
        purpose=policy.purpose,
        tokens=tokens,
        node_key=node_key.public_of(home / "node.pem"),
        policy_hash=policy.digest(),
        base_hash=base_hash(EMBEDDED_BASE),
        expires=4_000_000_000,
    )
    StoredGrant(
        grant=grant,
        signature=wallet.sign_grant(grant),
        policy=policy,
        coordinator="https://dao.example",
        gateways=(),
    ).save(home)
    return Owned(home, contract, wallet.address, captions, chain.url)


def test_stored_grants_are_shown_with_caption_reason_weight_and_size(owned: Owned) -> None:
    tokens = owned.json()
    assert [number for number, one in tokens.items() if one["taken"]] == [1, 2, 3, 4, 5]
    assert [tokens[n]["caption"] for n in range(1, NOUNS)] == list(owned.captions[1:])
    assert tokens[0]["because"] == "the policy: The DAO keeps it for itself."
    assert "a video (MP4)" in str(tokens[6]["because"])
    assert "web server" in str(tokens[7]["because"])
    assert "forbids training (IPTC: plus:DataMining is DMI-PROHIBITED-AIMLTRAINING)" in str(tokens[8]["because"])
    assert (tokens[1]["weight"], tokens[1]["height"], tokens[1]["width"], tokens[1]["rule"]) == (
        1,
        32,
        32,
        "collection",
    )
    assert sum(bool(one["held_out"]) for one in tokens.values()) == 1


def test_the_table_says_the_sum_first_and_then_why(owned: Owned) -> None:
    shown = owned.run("--exclude", f"{owned.contract}:2", "--star", f"{owned.contract}:1=5", "--by-rarity").output
    assert "4 of 9 NFTs would be trained on; 1 of them are held out" in " ".join(shown.split())
    assert "you left out 0x" in shown
    assert "5 stars" in shown
    assert "Rarity is among the tokens shown here" in shown
    assert "Not kept. Add --save" in shown
    assert not (owned.home / "choice.toml").exists()


def test_a_choice_is_kept_where_asked_and_training_goes_by_it(owned: Owned) -> None:
    tried = owned.run("--exclude", f"{owned.contract}:2", "--trigger", "zxc", "--save")
    assert tried.exit_code == 0, tried.output
    choice = load_choice(owned.home)
    assert (choice.exclude, choice.captions["all"].trigger) == ((f"{owned.contract}:2",), "zxc")
    tokens = owned.json()
    assert not tokens[2]["taken"]
    assert tokens[1]["caption"] == f"zxc, {owned.captions[1]}"
    assert owned.json("--anew")[2]["taken"]


def test_a_wallets_tokens_can_be_looked_at_without_any_dao(owned: Owned) -> None:
    tokens = owned.json("--contract", owned.contract.lower(), "--wallet", owned.wallet, "--where", "background=cool")
    assert {one["rule"] for one in tokens.values()} == {"no DAO was asked"}
    for number in range(NOUNS):
        assert tokens[number]["taken"] == ("cool background" in owned.captions[number])


def test_the_contact_sheet_shows_taken_left_out_and_broken_tokens(owned: Owned, tmp_path: Path) -> None:
    result = owned.run("--exclude", f"{owned.contract}:2", "--sheet", str(tmp_path / "sheet.png"))
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        frames = [tuple(sheet.getpixel((16 + 256 * (n % 5), 17 + (256 + 90) * (n // 5)))) for n in range(7)]
    green, red = (40, 150, 80), (200, 70, 60)
    assert frames == [green, red, green, green, green, red, red]


def test_the_croissant_file_names_every_token_that_is_trained_on(owned: Owned, tmp_path: Path) -> None:
    assert owned.run("--croissant", str(tmp_path / "nouns.json")).exit_code == 0
    document = json.loads((tmp_path / "nouns.json").read_text())
    assert [row["tokens/caption"] for row in document["recordSet"][0]["data"]] == list(owned.captions[1:])
    assert document["license"] == ["https://creativecommons.org/publicdomain/zero/1.0/"]
    assert document["url"] == "https://dao.example"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wallet", "0x" + "11" * 20], "--contract and --wallet belong together."),
        (["--wallet", "me", "--contract", "0x" + "11" * 20], "'0x1111"),
        (["--star", "12"], "'12' gives no stars."),
        (["--where", "head"], "'head' is no filter"),
        (["--sheet", "/nowhere/sheet.png"], "could not be written"),
        (["--exclude", "0x" + "00" * 20, "--include", "0x" + "00" * 20, "--croissant", "x.json"], "No token is left"),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence(owned: Owned, arguments: list[str], said: str) -> None:
    result = owned.run(*arguments)
    assert result.exit_code == 1
    assert said in " ".join(result.output.split()) or "is no Ethereum address" in result.output


@pytest.fixture
def dao_url(owned: Owned, tmp_path: Path) -> Iterator[str]:
    """The web side of a coordinator with that policy; its SuperLink is not needed to be judged."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (stored,) = stored_grants(owned.home)
    (tmp_path / "policy.json").write_bytes(stored.policy.canonical())
    (tmp_path / "coordinator.toml").write_text(
        f'rpc_url = "{owned.rpc}"\npolicy = "policy.json"\nbase = "{EMBEDDED_BASE}"\nbase_name = "nouns32"\n'
        f'uri = "http://127.0.0.1:{port}"\n'
    )
    settings = CoordinatorSettings.load(tmp_path / "coordinator.toml")
    settings.data.mkdir()
    settings.superlink_file.write_text(json.dumps({"address": "127.0.0.1:1", "root_certificate": "PEM"}))
    server = make_server("127.0.0.1", port, create_app(settings), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{port}"
    server.shutdown()
    server.server_close()


def test_a_dao_is_asked_before_joining_and_the_same_tokens_are_shown(
    owned: Owned, dao_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = owned.json()
    monkeypatch.setenv("COTERIE_WALLET_KEY", ANVIL_KEYS[1])
    asked = owned.json(dao_url)
    assert asked == granted


def test_without_a_chain_node_the_daos_verdicts_are_shown_and_what_is_missing(
    owned: Owned, dao_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_WALLET_KEY", ANVIL_KEYS[1])
    monkeypatch.delenv("COTERIE_RPC_URL", raising=False)
    result = CliRunner().invoke(app, ["nfts", dao_url, "--home", str(owned.home)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "denied" in result.output
    assert "Name a chain node with --rpc" in result.output
    assert "knows no chain node" in CliRunner().invoke(app, ["nfts", "--home", str(owned.home)]).output


def test_without_a_grant_it_is_said_how_to_look_all_the_same(owned: Owned, tmp_path: Path) -> None:
    result = Owned(tmp_path / "empty", owned.contract, owned.wallet, (), owned.rpc).run()
    assert "holds no grant in force" in result.output
    assert "--contract" in result.output


def test_a_token_that_was_sold_is_left_out(owned: Owned, chain: Chain, nouns: tuple[Contract, tuple[str, ...]]) -> None:
    chain.alice.transfer(nouns[0], 5, chain.buyer.address)
    chain.anvil.finalize()
    assert owned.json()[5]["because"] == "the policy: it is no longer this wallet's"

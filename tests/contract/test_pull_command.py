"""``coterie pull`` and ``coterie sample`` against a coordinator's real web server and a model of the embedded base."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server
from PIL import Image
from release_parts import manifest_of, publish
from round_parts import adapter_for
from typer.testing import CliRunner, Result
from werkzeug.serving import make_server

from bases import EMBEDDED_BASE
from client.cli import app
from coordinator.config import CoordinatorSettings
from coordinator.releases.signing import KEY, make_key, sign_release, signing_key
from coordinator.releases.store import CarStore
from coordinator.rounds.checks import adapted_layers
from coordinator.web.app import create_app
from coordinator.web.service import Service
from protocol.adapter import dump_adapter
from protocol.base import base_hash
from protocol.canonical import sha256
from protocol.kohya import dump_kohya
from protocol.modelspec import architecture_of, stamped
from protocol.peft_metadata import peft_metadata
from protocol.policy import AdminRole, CollectionRule, Policy

pytestmark = pytest.mark.slow


def release_files(folder: Path, credentials: Path) -> dict[str, bytes]:
    """A small adapter on the embedded base in both formats, the papers that name them, and the signature over all."""
    layers = adapted_layers(EMBEDDED_BASE)
    shapes = {name: (one.d_out, one.d_in // math.prod(one.kernel), *one.kernel) for name, one in layers.items()}
    adapter = adapter_for(0, shapes)
    files = {
        "pytorch_lora_weights.safetensors": stamped(dump_adapter(adapter), {"format": "pt", **peft_metadata(adapter)}),
        "collective.safetensors": dump_kohya(adapter, architecture_of(EMBEDDED_BASE).name),
        "README.md": b"# A model\n",
    }
    named = {name: sha256(data) for name, data in files.items()}
    manifest = manifest_of(files=named, base_hash=base_hash(EMBEDDED_BASE))
    make_key(credentials)
    files["manifest.json"] = manifest.model_copy(update={"signing_key": signing_key(credentials).pem}).canonical()
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sign_release(folder, credentials)
    return content_of(folder)


class Dao:
    """A coordinator's web side on a free port, with one release unless there is none."""

    def __init__(self, folder: Path, released: bool = True) -> None:
        rule = CollectionRule(name="Nouns", contract="0x" + "ab" * 20, licence="CC0", evidence="nouns.wtf")
        policy = policy_of(rule)
        (folder / "policy.json").write_bytes(policy.canonical())
        server = make_server("127.0.0.1", 0, lambda *_: [], threaded=True)
        self.url = f"http://127.0.0.1:{server.server_port}"
        settings = CoordinatorSettings(
            data=folder / "data",
            rpc_url="http://127.0.0.1:9",
            policy=folder / "policy.json",
            base=EMBEDDED_BASE,
            base_name="nouns32",
            uri=self.url,
        )
        settings.data.mkdir()
        settings.superlink_file.write_text(json.dumps({"address": "127.0.0.1:1", "root_certificate": "PEM"}))
        self.cars = settings.store
        self.files = release_files(folder / "release", settings.credentials)
        self.credentials = settings.credentials
        self.cid = str(CarStore(settings.store).put(self.files))
        if released:
            publish(Service(settings).database, 1, self.cid, manifest_of())
        server.app = create_app(settings)
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def dao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dao]:
    here = Dao(tmp_path_factory.mktemp("dao"))
    yield here
    here.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTERIE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def coterie(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_dao_s_newest_model_comes_by_its_coordinator_s_address(dao: Dao, home: Path) -> None:
    done = coterie("pull", dao.url)
    assert done.exit_code == 0, done.output
    assert "Verified: Nouns on anvil" in done.output
    assert content_of(home / "releases" / dao.cid) == dao.files
    assert list((home / "partial").iterdir()) == []


def test_the_newest_model_of_the_coordinator_that_was_joined_is_called_latest(dao: Dao, home: Path) -> None:
    refused = coterie("pull")
    assert refused.exit_code == 1 and "joined no coordinator" in refused.output
    home.mkdir()
    (home / "member.toml").write_text(f'coordinator = "{dao.url}"\n')
    assert coterie("pull", "latest").exit_code == 0
    assert content_of(home / "releases" / dao.cid) == dao.files


def signature_check(*words: str | Path) -> dict[str, str]:
    """What ``coterie verify`` says of the coordinator's signature."""
    checks: list[dict[str, str]] = json.loads(coterie("verify", *words, "--json").output)["checks"]
    return next(one for one in checks if one["name"] == "coordinator signature")


def test_whose_signature_it_is_is_asked_of_the_coordinator_that_was_named(dao: Dao, home: Path, tmp_path: Path) -> None:
    assert signature_check(dao.url)["outcome"] == "passed"
    (home / "member.toml").write_text(f'coordinator = "{dao.url}"\n')
    assert signature_check("latest")["outcome"] == "passed"
    folder = home / "releases" / dao.cid
    assert signature_check(folder)["outcome"] == "not checked", "the joined coordinator need not be this release's"
    assert signature_check(folder, "--signing-key", dao.url)["outcome"] == "passed"


def test_a_coordinator_with_another_key_or_none_is_told(dao: Dao, home: Path) -> None:
    key = dao.credentials / KEY
    before = key.read_bytes()
    try:
        key.unlink()
        told = coterie("verify", dao.url)
        assert told.exit_code == 1
        assert f"The coordinator at {dao.url} publishes no key that it signs with." in " ".join(told.output.split())
        make_key(dao.credentials)
        assert signature_check(dao.url)["outcome"] == "failed"
    finally:
        key.write_bytes(before)


def test_a_bare_cid_is_looked_for_where_the_joined_coordinator_looks(dao: Dao, home: Path, tmp_path: Path) -> None:
    assert "none was named" in coterie("pull", dao.cid).output
    assert list((home / "partial").iterdir()) == [], "nothing came, so nothing is kept"
    (home / "member.toml").write_text(f'coordinator = "{dao.url}"\n')
    assert coterie("pull", dao.cid, "--into", tmp_path / "mine").exit_code == 0
    assert content_of(tmp_path / "mine") == dao.files
    again = coterie("pull", dao.cid, "--into", tmp_path / "mine")
    assert again.exit_code == 1 and "exists already" in again.output


def test_what_is_here_already_is_checked_and_not_fetched_again(dao: Dao, home: Path) -> None:
    assert coterie("pull", dao.cid, "--cars", dao.cars).exit_code == 0
    assert coterie("pull", dao.cid).exit_code == 0, "there is nowhere to fetch it from, and no need to"
    (home / "releases" / dao.cid / "README.md").write_text("# Another\n")
    changed = coterie("pull", dao.cid)
    assert changed.exit_code == 1 and "any more" in changed.output


def test_a_dao_that_has_released_nothing_says_so(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    young = Dao(tmp_path_factory.mktemp("young"), released=False)
    try:
        told = coterie("pull", young.url)
    finally:
        young.stop()
    assert told.exit_code == 1 and "released nothing yet" in told.output


def test_text_that_is_neither_is_refused_and_each_gateway_s_reason_is_told(home: Path) -> None:
    assert "is not a CID" in coterie("pull", "nouns").output
    with Server(lambda *_: (404, {}, b"")) as empty:
        cid = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
        told = coterie("pull", cid, "--gateway", empty.url, "--gateway", "http://127.0.0.1:9").output
    assert f"{empty.url}: it answered 404" in told and "http://127.0.0.1:9: the connection failed" in told


def test_a_model_is_put_where_comfyui_and_a1111_look_and_nothing_is_written_over(
    dao: Dao, home: Path, tmp_path: Path
) -> None:
    comfyui, a1111 = tmp_path / "ComfyUI", tmp_path / "webui"
    for program in (comfyui, a1111):
        (program / "models").mkdir(parents=True)
    words = ("pull", dao.cid, "--cars", dao.cars, "--comfyui", comfyui, "--a1111", a1111)
    for _ in range(2):
        done = coterie(*words)
        assert done.exit_code == 0, done.output
    name = "nouns-on-anvil-r.safetensors"
    assert content_of(comfyui) == {f"models/loras/{name}": dao.files["collective.safetensors"]}
    assert content_of(a1111) == {f"models/Lora/{name}": dao.files["collective.safetensors"]}
    (comfyui / "models" / "loras" / name).write_bytes(b"somebody else's")
    refused = coterie(*words)
    assert refused.exit_code == 1 and "is another file" in refused.output
    assert (comfyui / "models" / "loras" / name).read_bytes() == b"somebody else's"
    assert "There is no folder" in coterie("pull", dao.cid, "--comfyui", tmp_path / "nowhere").output


def test_a_model_draws_a_grid_on_the_member_s_own_base(dao: Dao, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    words = ("sample", dao.cid, "a noun", "a noun with red glasses", "--pictures", "3", "--steps", "2", "--out", out)
    done = coterie(*words, "--compare", "--cars", dao.cars)
    assert done.exit_code == 0, done.output
    with Image.open(out) as picture:
        size = picture.size
        rows = [picture.crop((0, n * size[1] // 4, size[0], (n + 1) * size[1] // 4)).tobytes() for n in range(4)]
    assert size == (3 * 128, 4 * 128)
    assert len(set(rows)) == 4, "the base and the model draw different pictures of different prompts"
    again = coterie(*words)
    assert again.exit_code == 1 and "already there" in again.output


def test_a_model_for_another_base_is_not_drawn(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest_of().canonical())
    refused = coterie("sample", folder, "a noun", "--out", tmp_path / "grid.png")
    assert refused.exit_code == 1 and "another one" in refused.output


def policy_of(rule: CollectionRule) -> Policy:
    return Policy(
        dao="Nouns on anvil",
        purpose="p",
        chain_id=31337,
        collections=(rule,),
        admin=AdminRole(contract=rule.contract),
    )

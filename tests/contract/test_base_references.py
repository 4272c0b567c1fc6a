"""One base, three ways to name it: a folder, a hub's repository at a commit, a directory on IPFS; one hash."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server

from client.base import HubBase, IpfsBase, bring_base, folder_of, source_of
from client.config import load_settings, remember
from coordinator.releases.gateway import respond
from coordinator.releases.store import CarStore
from protocol.base import base_hash, parts_of
from protocol.errors import BadInput, NotFound, Unreachable

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "a-dao/its-base"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "image_encoder": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
LOADED = {
    "model_index.json": json.dumps(INDEX).encode(),
    "tokenizer/merges.txt": b"a b",
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors": b"first half",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors": b"second half",
    "unet/diffusion_pytorch_model.safetensors.index.json": b'{"weight_map": {}}',
}
BESIDE = {
    "README.md": b"a card",
    ".gitattributes": b"*.safetensors lfs",
    "one-file.safetensors": b"seven gigabytes",
    "sample.png": b"a picture",
    "safety_checker/model.safetensors": b"never loaded",
    "unet/diffusion_pytorch_model.bin": b"a pickle",
    "unet/diffusion_pytorch_model.fp16.safetensors": b"a variant",
    "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors": b"a variant",
    "unet/diffusion_pytorch_model.safetensors.index.fp16.json": b"{}",
    "vae_other/config.json": b"no part of the pipeline",
}


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def files() -> dict[str, bytes]:
    """What the hub has; a test may change it."""
    return {**LOADED, **BESIDE}


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The few endpoints of a hub that a download needs, with one repository; and an empty cache."""
    constants = pytest.importorskip("huggingface_hub").constants

    def answer(path, query):
        prefix = f"/{REPOSITORY}/resolve/{COMMIT}/"
        if path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}  # noqa: S324
                for n, d in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
        if path.startswith(prefix) and path.removeprefix(prefix) in files:
            body = files[path.removeprefix(prefix)]
            tag = hashlib.sha1(body).hexdigest()  # noqa: S324
            return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, body
        missing = (
            "RepoNotFound" if REPOSITORY not in path else "RevisionNotFound" if COMMIT not in path else "EntryNotFound"
        )
        return 404, {"X-Error-Code": missing}, b""

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # `make test` is offline; this hub is on loopback
    with Server(answer) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_only_what_is_loaded_counts_whatever_lies_beside_it(tmp_path: Path) -> None:
    plain = base_hash(write(LOADED, tmp_path / "plain"))
    assert base_hash(write(LOADED | BESIDE, tmp_path / "full")) == plain
    for name in LOADED:
        changed = {**LOADED, name: LOADED[name] + b" "}
        assert base_hash(write(changed, tmp_path / name.replace("/", "_"))) != plain, name


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protocol import base

    monkeypatch.setattr(base, "_LARGE_BYTES", 8)
    base._kept_sha256.cache_clear()
    folder = write(LOADED, tmp_path)
    first = base_hash(folder)
    read = base._kept_sha256.cache_info().misses
    assert base_hash(folder) == first
    assert base._kept_sha256.cache_info().misses == read
    (folder / "unet/diffusion_pytorch_model-00001-of-00002.safetensors").write_bytes(b"the first half")
    assert base_hash(folder) != first


def test_an_index_cannot_name_a_part_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"../unet": ["diffusers", "UNet2DConditionModel"]}')
    with pytest.raises(BadInput, match="no plain folder"):
        base_hash(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "{}"])
def test_an_index_that_names_nothing_has_a_hash_of_its_own(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    assert base_hash(tmp_path) != base_hash(write(LOADED, tmp_path / "base"))


def test_a_reference_and_its_place_name_each_other(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    cid = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
    hub, ipfs, own = (folder_of(r, tmp_path) for r in (f"{REPOSITORY}@{COMMIT}", f"ipfs://{cid}/", str(tmp_path / "x")))
    assert source_of(hub, tmp_path) == HubBase(REPOSITORY, COMMIT)
    assert source_of(ipfs, tmp_path) == IpfsBase(cid, tmp_path)
    assert ipfs == tmp_path / "bases" / cid
    assert (own, source_of(own, tmp_path)) == (tmp_path / "x", None)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (f"{REPOSITORY}@main", "names the branch or tag 'main'"),
        (f"{REPOSITORY}@0123456", "names the branch or tag '0123456'"),
        (REPOSITORY, "needs its commit"),
        ("ipfs://nonsense", "nonsense"),
    ],
)
def test_a_name_that_may_be_another_model_tomorrow_is_refused(reference: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=reason):
        load_settings(tmp_path, base=reference)


def test_the_setting_takes_each_kind_and_a_folder_stays_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "member.toml").write_text(f'base = "{REPOSITORY}@{COMMIT}"\n')
    monkeypatch.delenv("COTERIE_BASE", raising=False)
    assert source_of(load_settings(tmp_path).base, tmp_path) == HubBase(REPOSITORY, COMMIT)
    remember(load_settings(tmp_path), "base")
    assert source_of(load_settings(tmp_path).base, tmp_path) == HubBase(REPOSITORY, COMMIT)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bases" / "mine").mkdir(parents=True)
    monkeypatch.setenv("COTERIE_BASE", "bases/mine")
    assert load_settings(tmp_path).base == tmp_path / "bases" / "mine"


@pytest.mark.slow
def test_from_the_hub_come_the_files_that_are_loaded_and_no_other(hub: Server, tmp_path: Path) -> None:
    expected = base_hash(write(LOADED, tmp_path / "own"))
    folder = folder_of(f"{REPOSITORY}@{COMMIT}", tmp_path)
    bring_base(folder, expected, tmp_path, ())
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(LOADED)
    assert base_hash(folder) == expected
    asked = len(hub.asked)
    bring_base(folder, expected, tmp_path, ())
    assert len(hub.asked) == asked


@pytest.mark.slow
def test_a_snapshot_that_broke_off_is_filled_up(hub: Server, tmp_path: Path) -> None:
    expected = base_hash(write(LOADED, tmp_path / "own"))
    folder = folder_of(f"{REPOSITORY}@{COMMIT}", tmp_path)
    bring_base(folder, expected, tmp_path, ())
    (folder / "unet/config.json").unlink()
    bring_base(folder, expected, tmp_path, ())
    assert base_hash(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("reference", [f"nobody/nothing@{COMMIT}", f"{REPOSITORY}@{COMMIT[::-1]}"])
def test_a_base_that_the_hub_does_not_have_is_said_with_what_to_do(hub: Server, tmp_path: Path, reference: str) -> None:
    with pytest.raises(NotFound, match=r"The hub shows no base .* Check both"):
        bring_base(folder_of(reference, tmp_path), "", tmp_path, ())


@pytest.mark.slow
def test_a_repository_without_a_pipeline_is_no_base(hub: Server, files: dict[str, bytes], tmp_path: Path) -> None:
    del files["model_index.json"]
    with pytest.raises(NotFound, match="shows no base"):
        bring_base(folder_of(f"{REPOSITORY}@{COMMIT}", tmp_path), "", tmp_path, ())


@pytest.mark.slow
def test_without_a_network_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match=r"could not be fetched from the hub .* Go online") as told:
        bring_base(folder_of(f"{REPOSITORY}@{COMMIT}", tmp_path), "", tmp_path, ())
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_from_ipfs_comes_the_same_base_whole_and_once(tmp_path: Path) -> None:
    store = CarStore(tmp_path / "store")
    cid = store.put(LOADED | BESIDE)

    def answer(path, query):
        status, content_type, body = respond(store, path.removeprefix("/ipfs/"), "", query["format"][0])
        return status, {"Content-Type": content_type}, body if isinstance(body, bytes) else b"".join(body)

    expected = base_hash(write(LOADED, tmp_path / "own"))
    folder = folder_of(f"ipfs://{cid}", tmp_path / "home")
    with Server(answer) as gateway:
        bring_base(folder, expected, tmp_path / "home", (gateway.url,))
    assert base_hash(folder) == expected
    bring_base(folder, expected, tmp_path / "home", ())


def test_the_parts_are_what_the_index_names_and_nothing_that_is_left_out(tmp_path: Path) -> None:
    assert parts_of(write(LOADED, tmp_path) / "model_index.json") == ["tokenizer", "unet"]

"""``coterie adapter``: one's own adapter and a release as files that other programs read, with their papers in them."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, load_file, save_file
from typer.testing import CliRunner, Result

from bases import EMBEDDED_BASE
from client.cli import app
from client.wallet.grant import StoredGrant
from contracts_abi.model import Token
from protocol import node_key
from protocol.adapter import Factors, dump_adapter, load_adapter
from protocol.base import base_hash
from protocol.contribution import ContributionHeader, StatisticsRecipe, TokenUse, Training
from protocol.grant import Grant
from protocol.kohya import dump_kohya, load_kohya
from protocol.modelspec import Architecture, architecture_in, architecture_of
from protocol.policy import AdminRole, CollectionRule, Policy
from protocol.tensor_file import write_tensors

CONTRACT = "0x" + "ab" * 20
HASH = "0" * 64
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA_LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
PAIR = Factors(np.full((2, 4), 0.5, np.float16), np.full((3, 2), 0.25, np.float16))


def coterie(*words: str | Path, home: Path) -> Result:
    return CliRunner().invoke(app, ["adapter", *map(str, words), "--home", str(home)])


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A member's folder with one round's contribution, trained on two tokens of a CC0 collection."""
    folder = tmp_path / "home"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    take_part(folder, "ab12cd34", base_hash(EMBEDDED_BASE))
    return folder


def take_part(home: Path, round_id: str, base: str) -> Path:
    tokens = tuple(Token(chain_id=31337, contract=CONTRACT, token_id=n) for n in range(3))
    rule = CollectionRule(contract=CONTRACT, name="Nouns", licence="CC0")
    policy = Policy(
        dao="Nouns DAO", purpose="One model", chain_id=31337, admin=AdminRole(contract=CONTRACT), collections=(rule,)
    )
    home.mkdir(exist_ok=True)
    node_key.create(home / "node.pem")
    grant = Grant(
        dao=policy.dao,
        chain_id=31337,
        member="0x" + "11" * 20,
        purpose=policy.purpose,
        tokens=tokens,
        node_key=node_key.public_of(home / "node.pem"),
        policy_hash=policy.digest(),
        base_hash=base,
        expires=2_000_000_000,
    )
    StoredGrant(grant=grant, signature="0x00", policy=policy, coordinator="", gateways=()).save(home)
    captions = ("blue, fence head", "blue, heart head", "red, held out")
    header = ContributionHeader(
        round_id=round_id,
        grant_id=grant.grant_id,
        node_key=grant.node_key,
        plan_hash=HASH,
        policy_hash=grant.policy_hash,
        base_hash=base,
        tokens=tuple(
            TokenUse(token=token, media_sha256=HASH, caption=caption, held_out=n == 2)
            for n, (token, caption) in enumerate(zip(tokens, captions, strict=True))
        ),
        adapter_sha256=HASH,
        statistics_sha256=HASH,
        recipe=StatisticsRecipe(pictures=1, sampling_steps=1, noise_levels=1, seed=0, rank=1),
        training=Training(steps=1, seconds=1, device="cpu", first_loss=1, last_loss=1),
    )
    folder = home / "rounds" / round_id
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(dump_adapter({LAYER: PAIR}))
    signed = {"header": header.model_dump(mode="json"), "signature": "00" * 32}
    (folder / "contribution.json").write_text(json.dumps(signed))
    return folder


def test_ones_own_adapter_comes_out_for_comfyui_and_a1111_under_a_telling_name(home: Path) -> None:
    result = coterie(home=home)
    assert result.exit_code == 0, result.output
    (file,) = Path().glob("*.safetensors")
    assert file.name == "nouns-dao-round-ab12cd34-one-member-s-adapter-kohya.safetensors"
    assert file.name in result.output
    tensors = load_file(file)
    assert set(tensors) == {f"{KOHYA_LAYER}{end}" for end in (".lora_down.weight", ".lora_up.weight", ".alpha")}
    assert tensors[f"{KOHYA_LAYER}.alpha"] == 2


def test_the_file_says_what_it_is_and_under_which_licence(home: Path) -> None:
    assert coterie("ab12cd34", "--trigger", "nounish", "--out", "x.safetensors", home=home).exit_code == 0
    said = metadata(Path("x.safetensors"))
    assert said["modelspec.sai_model_spec"] == "1.0.1"
    assert said["modelspec.architecture"] == "stable-diffusion/lora"
    assert said["modelspec.implementation"] == "https://github.com/kohya-ss/sd-scripts"
    assert said["modelspec.title"] == "Nouns DAO, round ab12cd34, one member's adapter"
    assert (said["modelspec.resolution"], said["modelspec.prediction_type"]) == ("32x32", "v")
    assert (said["modelspec.license"], said["modelspec.trigger_phrase"]) == ("CC0", "nounish")
    assert said["modelspec.usage_hint"] == "blue, fence head"
    assert json.loads(said["ss_tag_frequency"])["coterie"] == {"blue": 2, "fence head": 1, "heart head": 1}
    assert "2 tokens" in said["modelspec.description"]
    assert not [key for key in said if "date" in key]


def test_the_hash_in_the_header_is_over_everything_behind_it(home: Path) -> None:
    coterie("--out", "x.safetensors", home=home)
    data = Path("x.safetensors").read_bytes()
    behind = data[8 + int.from_bytes(data[:8], "little") :]
    assert metadata(Path("x.safetensors"))["modelspec.hash_sha256"] == "0x" + hashlib.sha256(behind).hexdigest()


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_the_same_adapter_gives_the_same_bytes_whenever_it_is_written(home: Path, form: str) -> None:
    for name in ("first.safetensors", "second.safetensors"):
        assert coterie("--format", form, "--out", name, home=home).exit_code == 0
    assert Path("first.safetensors").read_bytes() == Path("second.safetensors").read_bytes()


def test_there_and_back_through_the_command_changes_no_number(home: Path) -> None:
    coterie("--format", "diffusers", "--out", "a.safetensors", home=home)
    coterie("a.safetensors", "--format", "kohya", "--out", "b.safetensors", home=home)
    coterie("b.safetensors", "--format", "diffusers", "--out", "c.safetensors", home=home)
    own = load(dump_adapter({LAYER: PAIR}))
    for name in ("a.safetensors", "c.safetensors"):
        tensors = load_file(name)
        assert tensors.keys() == own.keys()
        assert all(tensors[key].tobytes() == own[key].tobytes() for key in own)
        assert "ss_network_dim" not in metadata(Path(name))
    said = metadata(Path("c.safetensors"))
    assert said["modelspec.title"] == "Nouns DAO, round ab12cd34, one member's adapter"
    assert json.loads(said["lora_adapter_metadata"])["unet.lora_alpha"] == 2


def test_the_newest_round_is_taken_where_none_is_named(home: Path) -> None:
    newer = take_part(home, "newer", base_hash(EMBEDDED_BASE))
    os.utime(home / "rounds/ab12cd34/adapter.safetensors", (1, 1))
    assert newer.is_dir() and coterie("--out", "x.safetensors", home=home).exit_code == 0
    assert "round newer" in metadata(Path("x.safetensors"))["modelspec.title"]


def released(folder: Path) -> Path:
    folder.mkdir()
    said = {"format": "pt", "modelspec.title": "Nouns DAO collective, 7", "modelspec.merged_from": "one, two"}
    said["modelspec.architecture"] = "stable-diffusion-xl-v1-base/lora"
    (folder / "pytorch_lora_weights.safetensors").write_bytes(dump_adapter({LAYER: PAIR}, said))
    return folder


def test_a_release_is_converted_and_keeps_its_title_and_its_sources(home: Path, tmp_path: Path) -> None:
    result = coterie(released(tmp_path / "release"), home=home)
    assert result.exit_code == 0, result.output
    file = Path("nouns-dao-collective-7-kohya.safetensors")
    said = metadata(file)
    assert said["modelspec.merged_from"] == "one, two"
    assert said["ss_base_model_version"] == "sdxl_base_v1-0"
    assert set(load_kohya(file.read_bytes())) == {LAYER}
    assert "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.alpha" in load_file(file)


def test_somebody_elses_scale_is_folded_in(home: Path) -> None:
    tensors = load(dump_kohya({LAYER: PAIR}, "stable-diffusion-v1"))
    tensors[f"{KOHYA_LAYER}.alpha"] = np.array(1, np.float32)
    save_file(tensors, "theirs.safetensors", {"modelspec.architecture": "stable-diffusion-v1/lora"})
    result = coterie("theirs.safetensors", "--format", "diffusers", "--out", "ours.safetensors", home=home)
    assert result.exit_code == 0, result.output
    ours = load_adapter(Path("ours.safetensors").read_bytes())[LAYER]
    np.testing.assert_allclose(ours.b @ ours.a, 0.5 * PAIR.b @ PAIR.a, rtol=1e-3)


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 1 and result.exception is not None
    told = " ".join(result.output.split())
    assert all(word in told for word in words), told
    assert "Traceback" not in told


def test_each_wrong_input_is_told_in_a_sentence_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    Path("text.safetensors").write_text("not tensors")
    Path("other.safetensors").write_bytes(write_tensors({"conv.weight": np.ones((2, 2), np.float16)}))
    Path("dora.safetensors").write_bytes(
        write_tensors({**load(dump_kohya({LAYER: PAIR}, "stable-diffusion-v1")), f"{KOHYA_LAYER}.dora_scale": PAIR.a})
    )
    Path("unsaid.safetensors").write_bytes(dump_adapter({LAYER: PAIR}))
    before = set(Path().iterdir())
    refused(coterie("nowhere", home=home), "no LoRA file", "rounds")
    refused(coterie("text.safetensors", "--base", EMBEDDED_BASE, home=home), "header is longer")
    refused(coterie("other.safetensors", "--base", EMBEDDED_BASE, home=home), "not pairs", "plain LoRA")
    refused(coterie("dora.safetensors", "--base", EMBEDDED_BASE, home=home), "is DoRA", "plain LoRA")
    refused(coterie("unsaid.safetensors", home=home), "which base", "--base")
    refused(coterie("unsaid.safetensors", "--base", tmp_path, home=home), "model_index.json", "base's folder")
    refused(coterie(home=tmp_path / "empty"), "No round", "coterie join")
    refused(coterie("--out", "missing/x.safetensors", home=home), "cannot be written", "--out")
    assert set(Path().iterdir()) == before


def test_a_file_that_is_there_is_never_written_over(home: Path) -> None:
    Path("x.safetensors").write_text("mine")
    refused(coterie("--out", "x.safetensors", home=home), "already there", "--out")
    assert Path("x.safetensors").read_text() == "mine"


def test_an_adapter_is_not_called_one_for_a_base_that_it_was_not_trained_on(home: Path) -> None:
    take_part(home, "elsewhere", "1" * 64)
    refused(coterie("elsewhere", home=home), "which base", "--base")
    refused(coterie("elsewhere", "--base", EMBEDDED_BASE, home=home), "another base")


def test_papers_that_cannot_be_read_are_told(home: Path) -> None:
    (home / "rounds/ab12cd34/contribution.json").write_text('{"header": {}}')
    refused(coterie(home=home), "cannot be read", "another version")


def write_base(folder: Path, pipeline: str, denoiser: dict[str, object], scheduler: dict[str, object]) -> Path:
    part = "transformer" if pipeline in ("StableDiffusion3Pipeline", "FluxPipeline") else "unet"
    for name, content in (
        ("model_index.json", {"_class_name": pipeline}),
        (f"{part}/config.json", denoiser),
        ("scheduler/scheduler_config.json", scheduler),
        ("vae/config.json", {"block_out_channels": [1, 2, 3, 4]}),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


EPSILON, V, FLOW = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}, {"shift": 3.0}


@pytest.mark.parametrize(
    ("pipeline", "denoiser", "scheduler", "expected"),
    [
        ("StableDiffusion", {"cross_attention_dim": 768, "sample_size": 64}, EPSILON, "stable-diffusion-v1"),
        ("StableDiffusion", {"cross_attention_dim": 1024, "sample_size": 64}, EPSILON, "stable-diffusion-v2-512"),
        ("StableDiffusion", {"cross_attention_dim": 1024, "sample_size": 96}, V, "stable-diffusion-v2-768-v"),
        ("StableDiffusion", {"cross_attention_dim": [64], "sample_size": 8}, V, "stable-diffusion"),
        ("StableDiffusionXL", {"sample_size": 128}, EPSILON, "stable-diffusion-xl-v1-base"),
        ("StableDiffusion3", {"num_layers": 24, "sample_size": 128}, FLOW, "stable-diffusion-v3-medium"),
        ("StableDiffusion3", {"num_layers": 24, "qk_norm": "rms_norm"}, FLOW, "stable-diffusion-v3.5-medium"),
        ("StableDiffusion3", {"num_layers": 38, "qk_norm": "rms_norm"}, FLOW, "stable-diffusion-v3.5-large"),
        ("Flux", {"guidance_embeds": True}, FLOW, "flux-1-dev"),
        ("Flux", {"guidance_embeds": False}, FLOW, "flux-1-schnell"),
    ],
)
def test_a_base_is_called_what_the_standard_calls_it(
    pipeline: str, denoiser: dict[str, object], scheduler: dict[str, object], expected: str, tmp_path: Path
) -> None:
    found = architecture_of(write_base(tmp_path, f"{pipeline}Pipeline", denoiser, scheduler))
    size = denoiser.get("sample_size")
    assert found.name == expected
    assert found.resolution == (f"{8 * int(str(size))}x{8 * int(str(size))}" if size else "")
    assert found.prediction == {"epsilon": "epsilon", "v_prediction": "v"}.get(
        str(scheduler.get("prediction_type")), ""
    )
    said = {"modelspec.architecture": f"{expected}/lora", "modelspec.resolution": "8x8"}
    assert architecture_in(said) == Architecture(expected, "8x8")


def test_a_pipeline_that_is_not_known_is_refused(home: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "odd", "KandinskyPipeline", {}, {})
    Path("x.safetensors").write_bytes(dump_adapter({LAYER: PAIR}))
    refused(coterie("x.safetensors", "--base", base, home=home), "KandinskyPipeline", "Known are")

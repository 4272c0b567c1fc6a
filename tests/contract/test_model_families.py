"""Every family, with diffusers' real classes built small: it draws as its pipeline does, learns, saves and loads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.adapter import Factors, dump_adapter, dump_statistics, input_group, load_adapter
from protocol.contribution import StatisticsRecipe
from protocol.errors import BadInput
from protocol.grant import RoundPlan

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
import safetensors.torch  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from small_bases import FAMILIES, SIDE, build  # noqa: E402

from bases import statistics  # noqa: E402
from bases.families import Base  # noqa: E402
from bases.loading import load_base  # noqa: E402
from bases.statistics import adapted_layers  # noqa: E402
from client.collection.example import Example  # noqa: E402
from client.training import engine  # noqa: E402
from client.training.descent import adapting  # noqa: E402
from client.training.drift import drift_penalty  # noqa: E402
from client.training.options import TrainingOptions  # noqa: E402
from client.training.scoring import score  # noqa: E402
from coordinator.rounds import checks  # noqa: E402
from merging.merge import MergeInput, merge  # noqa: E402

pytestmark = pytest.mark.slow

CAPTIONS = ["a red dog", "a blue cat with hat", "a green dog", "a red cat with glasses"]
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 200, 60)}
RECIPE = StatisticsRecipe(pictures=2, sampling_steps=2, noise_levels=2, seed=0, rank=8)
PLAN = RoundPlan(steps=24, rank=4, batch=4, learning_rate=1e-2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(folder)


@pytest.fixture(scope="module")
def trained(base: Base) -> dict[str, Any]:
    return engine.train(base, examples(), PLAN, lambda progress: None).adapter


def examples(side: int = SIDE) -> list[Example]:
    """One flat colour a caption, on a dark half."""
    found = []
    for caption in CAPTIONS:
        picture = np.zeros((side, side, 3), np.uint8)
        picture[side // 2 :] = next(rgb for word, rgb in COLOURS.items() if word in caption)
        found.append(Example(picture, caption))
    return found


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_the_base_draws_what_its_own_pipeline_draws(base: Base, guidance: float) -> None:
    seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
    ours = base.draw_latents(base.embed(CAPTIONS[:2]), 4, seeded[0], guidance=guidance)
    asked = {"prompt": CAPTIONS[:2], "num_inference_steps": 4, "guidance_scale": guidance, "generator": seeded[1]}
    theirs = base.pipeline(**asked, output_type="latent").images
    assert torch.allclose(ours, theirs, atol=2e-5 * float(theirs.std()))
    drawn = base.pipeline(**{**asked, "generator": torch.Generator().manual_seed(1)}, output_type="np").images
    assert np.abs(base.pictures(ours) / 255 - drawn).max() < 0.51 / 255


def test_training_asks_the_denoiser_what_the_pipeline_asks_it(base: Base) -> None:
    """At a time step of the schedule, the same input with the same text gets the same answer."""
    answers: list[tuple[Any, Any, Any]] = []

    def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
        told = dict(zip(("hidden_states", "timestep"), args, strict=False)) | kwargs
        answers.append((told["hidden_states"], told["timestep"], answer[0]))

    handle = base.denoiser.register_forward_hook(listen, with_kwargs=True)
    try:
        base.pipeline(prompt=CAPTIONS[:2], num_inference_steps=3, guidance_scale=1.0, output_type="latent")
    finally:
        handle.remove()
    noisy, timestep, theirs = answers[0]
    level = base.levels - 1 if base.component == "transformer" else int(timestep)
    ours = base.predict(noisy, torch.full((2,), level), base.embed(CAPTIONS[:2]))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_noise_grows_with_the_time_step_up_to_almost_nothing_else(base: Base) -> None:
    ratios = base.snr(torch.arange(base.levels))
    assert (ratios.diff() < 0).all()
    assert ratios[0] > 100
    assert ratios[-1] < 0.01
    latents, noise = torch.ones(base.levels, 1, 1, 1), torch.zeros(base.levels, 1, 1, 1)
    (signal, _), (disturbance, _) = (
        base.noised(*pair, torch.arange(base.levels)) for pair in ((latents, noise), (noise, latents))
    )
    assert torch.allclose((signal / disturbance).square().flatten(), ratios, rtol=1e-3, atol=1e-6)


def test_what_a_perfect_denoiser_would_answer_leads_back_to_the_picture(base: Base) -> None:
    """The target is what the scheduler takes for a step: one step to the end from any level ends at the latents."""
    latents = base.encode_pictures([e.picture for e in examples()][:2])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    scheduler = type(base.pipeline.scheduler).from_config(base.pipeline.scheduler.config)
    scheduler.set_timesteps(1)
    step = scheduler.timesteps[0]
    level = base.levels - 1 if base.component == "transformer" else int(step)
    noisy, target = base.noised(latents, noise, torch.full((2,), level))
    if isinstance(scheduler, diffusers.EulerDiscreteScheduler):  # its latents are not scaled to unit variance
        noisy = noisy * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    found = scheduler.step(target, step, noisy)
    clean = getattr(found, "pred_original_sample", None)
    assert torch.allclose(found.prev_sample if clean is None else clean, latents, atol=1e-3)


def test_a_member_trains_and_diffusers_draws_with_the_adapter(
    base: Base, trained: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    before, after = score(base, trained, (0.0, 1.0), examples(), seed=0)
    assert after < 0.95 * before
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(dump_adapter(trained))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts_left_out(folder))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    loaded = [key for key in getattr(pipeline, base.component).state_dict() if ".lora_" in key]
    assert len(loaded) == 2 * len(trained) == len(load_file(tmp_path / "pytorch_lora_weights.safetensors"))
    seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
    theirs = pipeline(CAPTIONS[0], num_inference_steps=2, guidance_scale=1.0, generator=seeded[0], output_type="latent")
    with base.under(load_adapter(dump_adapter(trained))):
        ours = base.draw_latents(base.embed(CAPTIONS[:1]), 2, seeded[1])
    plain = base.draw_latents(base.embed(CAPTIONS[:1]), 2, torch.Generator().manual_seed(1))
    assert torch.allclose(ours, theirs.images, atol=1e-3 * float(ours.std()))
    assert not torch.allclose(ours, plain, atol=1e-2 * float(ours.std()))


def test_statistics_and_the_drift_metric_cover_every_input(base: Base, trained: dict[str, Any]) -> None:
    groups = {input_group(layer) for layer in adapted_layers(base)}
    assert set(trained) == set(adapted_layers(base))
    assert set(statistics.draw(base, trained, CAPTIONS, RECIPE)) == groups
    assert set(drift_penalty(base, CAPTIONS, RoundPlan(statistics_pictures=1)).metrics) == groups


def test_layers_that_share_statistics_read_the_same(base: Base) -> None:
    """Listening at one layer of a group is listening at all of them."""
    layers = base.layers
    read: dict[str, list[Any]] = {}

    def listen(group: str) -> Any:
        return lambda module, inputs: read.setdefault(group, []).append(inputs[0])

    handles = [layers[one].register_forward_pre_hook(listen(input_group(one))) for one in adapted_layers(base)]
    try:
        latents = torch.randn((1, 4, SIDE // 2, SIDE // 2), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            base.predict(latents, torch.tensor([500]), base.embed(CAPTIONS[:1]))
    finally:
        for handle in handles:
            handle.remove()
    assert sum(map(len, read.values())) == len(handles)
    for group, inputs in read.items():
        assert all(torch.equal(one, inputs[0]) for one in inputs), group


def test_the_coordinator_expects_the_layers_that_members_train(base: Base, folder: Path) -> None:
    expected = checks.adapted_layers(folder)
    trained = {layer: base.layers[layer].weight for layer in adapted_layers(base)}
    assert {n: (e.d_out, e.d_in) for n, e in expected.items()} == {n: w.flatten(1).shape for n, w in trained.items()}


def test_two_members_contributions_are_merged(base: Base, trained: dict[str, Any], tmp_path: Path) -> None:
    against = {layer: Factors(-factors.a, factors.b, factors.kernel) for layer, factors in trained.items()}
    inputs = []
    for name, adapter in (("one", trained), ("two", trained), ("against", against)):
        (tmp_path / f"{name}.a").write_bytes(dump_adapter(adapter))
        (tmp_path / f"{name}.s").write_bytes(dump_statistics(statistics.draw(base, adapter, CAPTIONS, RECIPE)))
        inputs.append(MergeInput(name, 1, tmp_path / f"{name}.a", tmp_path / f"{name}.s"))
    agreed = merge(inputs[:2], RoundPlan(tail=1e-4))
    own, collective = (score(base, a, (1.0,), examples(), seed=0)[0] for a in (trained, agreed.adapter))
    assert collective == pytest.approx(own, rel=0.02)
    assert set(merge(inputs[::2], RoundPlan()).adapter) == set(trained)


def test_a_base_in_bf16_has_its_adapter_in_fp32_and_is_left_to_the_bit(
    folder: Path, base: Base, trained: dict[str, Any]
) -> None:
    half = load_base(folder, torch.bfloat16)
    before = {key: value.clone() for key, value in half.denoiser.state_dict().items()}
    assert {value.dtype for value in before.values()} == {torch.bfloat16}
    full, low = (score(one, trained, (1.0,), examples(), seed=0)[0] for one in (base, half))
    assert low == pytest.approx(full, rel=0.05)
    with adapting(half, PLAN, TrainingOptions()):
        assert {p.dtype for p in half.denoiser.parameters() if p.requires_grad} == {torch.float32}
    learned = engine.train(half, examples(), PLAN.model_copy(update={"steps": 2}), lambda progress: None).adapter
    assert all(np.isfinite(factors.b).all() for factors in learned.values())
    after = half.denoiser.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_in_fp16_the_vae_stays_in_fp32(folder: Path) -> None:
    base = load_base(folder, torch.float16)
    assert (base.denoiser.dtype, base.pipeline.vae.dtype) == (torch.float16, torch.float32)
    assert base.encode_pictures([examples()[0].picture]).dtype == torch.float32


def test_an_adapter_of_another_family_is_refused(base: Base) -> None:
    other = "transformer.transformer_blocks.9.attn.to_q" if base.component == "unet" else "mid_block.attn1.to_q"
    layer = next(iter(adapted_layers(base)))
    refused = pytest.raises(BadInput, match=f"names {other}, which this base does not have")
    with refused, base.under({other: no_change(base, layer)}):
        pass


@pytest.fixture
def sdxl(tmp_path: Path) -> Base:
    return load_base(build("SDXL", tmp_path / "sdxl"))


def test_sdxl_is_told_the_size_that_a_picture_is_trained_at(sdxl: Base) -> None:
    wide = [Example(np.zeros((16, 48, 3), np.uint8), "a red dog")]
    encoded = sdxl.encode(wide)
    for told in (encoded.text, encoded.empty):
        assert told.tensors["size"].tolist() == [[16, 48, 0, 0, 16, 48]]
    assert sdxl.embed(["a red dog"]).tensors["size"].tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]]
    trained = engine.train(sdxl, wide, PLAN.model_copy(update={"steps": 1}), lambda progress: None)
    assert trained.training.steps == 1


def test_sdxls_empty_caption_is_zeros_where_its_pipeline_draws_from_zeros(sdxl: Base) -> None:
    assert sdxl.pipeline.config.force_zeros_for_empty_prompt
    told = sdxl.embed(["a red dog", ""]).tensors
    for name in ("text", "pooled"):
        assert told[name][0].abs().max() > 0
        assert told[name][1].abs().max() == 0
    sdxl.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert sdxl.embed([""]).tensors["text"].abs().max() > 0


@pytest.mark.parametrize(
    ("family", "told", "reason"),
    [
        ("SD 1.x, epsilon", {"prediction_type": "sample"}, "learns sample by a DDIMScheduler, which is not known here"),
        ("SD 3 without T5", {"use_dynamic_shifting": True}, "noise has no fixed shift"),
        (
            "SDXL",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "by a FlowMatchEulerDiscreteScheduler, which is not",
        ),
    ],
)
def test_a_schedule_that_is_not_known_is_told_before_anything_starts(
    tmp_path: Path, family: str, told: dict[str, Any], reason: str
) -> None:
    folder = build(family, tmp_path)
    change(folder / "scheduler" / "scheduler_config.json", told)
    if name := told.get("_class_name"):
        change(folder / "model_index.json", {"scheduler": ["diffusers", name]})
    with pytest.raises(BadInput, match=reason):
        load_base(folder)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = build("SD 1.x, epsilon", tmp_path)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(safetensors.torch.load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BadInput, match="cannot be loaded as a base"):
        load_base(folder)


def test_a_family_that_is_not_known_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(BadInput, match="holds a KandinskyPipeline, a family that is not known here"):
        load_base(tmp_path)


def change(config: Path, told: dict[str, Any]) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | told))


def no_change(base: Base, layer: str) -> Factors:
    """A pair of the layer's shape that changes nothing."""
    weight = base.layers[layer].weight.flatten(1)
    return Factors(np.zeros((1, weight.shape[1])), np.zeros((weight.shape[0], 1)))


def parts_left_out(folder: Path) -> dict[str, None]:
    """The parts that the folder comes without, as diffusers wants them named."""
    index = json.loads((folder / "model_index.json").read_text())
    return {part: None for part, entry in index.items() if entry == [None, None]}

"""Our files in both formats, loaded by diffusers' own loader into real pipelines: no key left over, the same answer."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from diffusers import StableDiffusionPipeline  # noqa: E402
from lora_parts import answer, ending, equal, random_adapter, sd3_transformer, sd15_pipeline, sdxl_pipeline, weighted  # noqa: E402

from bases import EMBEDDED_BASE  # noqa: E402
from protocol.adapter import ADAPTED, ADAPTED_IN_TRANSFORMER, Factors, component_of, dump_adapter, load_adapter  # noqa: E402
from protocol.kohya import dump_kohya, load_kohya  # noqa: E402
from protocol.peft_metadata import peft_metadata  # noqa: E402

pytestmark = pytest.mark.slow

TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
RESIDUAL = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def embedded() -> Any:
    return StableDiffusionPipeline.from_pretrained(EMBEDDED_BASE, local_files_only=True)


def unet_adapter(pipeline: Any, ends: tuple[str, ...]) -> dict[str, Factors]:
    return random_adapter(ending(weighted(pipeline.unet), ends), ranks=(4, 2))


def text_adapter(pipeline: Any, component: str) -> dict[str, Factors]:
    """By the names that LoRA files have for CLIP, whatever this version of transformers calls it."""
    shapes = ending(weighted(getattr(pipeline, component)), TEXT)
    return random_adapter({f"text_model.{n.removeprefix('text_model.')}": s for n, s in shapes.items()}, component)


def loaded(pipeline: Any, data: bytes, file: Path, caplog: pytest.LogCaptureFixture) -> tuple[torch.Tensor, int]:
    """The UNet's answer under the file, and how many pairs are in the pipeline."""
    file.write_bytes(data)
    caplog.clear()
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
    complaints = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [text for text in complaints if "unexpected keys" in text or "missing keys" in text]
    parts = (getattr(pipeline, name, None) for name in ("unet", "text_encoder", "text_encoder_2"))
    pairs = sum(".lora_A." in name for part in parts if part is not None for name, _ in part.named_parameters())
    result = answer(pipeline), pairs
    pipeline.unload_lora_weights()
    return result


@pytest.mark.parametrize(
    ("build", "architecture", "ends", "encoders"),
    [
        (embedded, "stable-diffusion", ADAPTED, ()),
        (sd15_pipeline, "stable-diffusion-v1", ADAPTED, ()),
        (sd15_pipeline, "stable-diffusion-v1", (*ADAPTED, *RESIDUAL), ("text_encoder",)),
        (sdxl_pipeline, "stable-diffusion-xl-v1-base", ADAPTED, ()),
        (sdxl_pipeline, "stable-diffusion-xl-v1-base", (*ADAPTED, *RESIDUAL), ("text_encoder", "text_encoder_2")),
    ],
    ids=["embedded", "sd15", "sd15-everything", "sdxl", "sdxl-everything"],
)
def test_both_formats_load_whole_and_draw_the_same(
    build: Callable[[], Any],
    architecture: str,
    ends: tuple[str, ...],
    encoders: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    pipeline = build()
    adapter = unet_adapter(pipeline, ends)
    for encoder in encoders:
        adapter |= text_adapter(pipeline, encoder)
    plain, kohya = dump_adapter(adapter, peft_metadata(adapter) or None), dump_kohya(adapter, architecture)
    assert equal(load_adapter(plain), adapter) and equal(load_kohya(kohya), adapter)

    before = answer(pipeline)
    ours, pairs = loaded(pipeline, plain, tmp_path / "plain.safetensors", caplog)
    theirs, kohya_pairs = loaded(pipeline, kohya, tmp_path / "kohya.safetensors", caplog)
    assert pairs == kohya_pairs == len(adapter)
    assert (ours - before).abs().max() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_ranks_that_differ_by_layer_keep_their_scale_in_diffusers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    pipeline = sd15_pipeline()
    adapter = random_adapter(ending(weighted(pipeline.unet), ADAPTED), ranks=(1, 4, 8))
    data = dump_adapter(adapter, {"format": "pt", **peft_metadata(adapter)})
    theirs, _ = loaded(pipeline, data, tmp_path / "mixed.safetensors", caplog)
    modules = dict(pipeline.unet.named_modules())
    with torch.no_grad():
        for layer, factors in adapter.items():
            delta = torch.from_numpy(factors.b.astype("f4") @ factors.a.astype("f4"))
            modules[layer].weight.add_(delta.reshape(modules[layer].weight.shape))
    torch.testing.assert_close(theirs, answer(pipeline), atol=1e-5, rtol=0)


def test_a_transformers_file_loads_whole_and_changes_each_layer_by_its_delta(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from diffusers import StableDiffusion3Pipeline

    torch.manual_seed(0)
    transformer = sd3_transformer()
    adapter = random_adapter(ending(weighted(transformer), ADAPTED_IN_TRANSFORMER), "transformer", ranks=(4, 2))
    back = load_kohya(dump_kohya(adapter, "stable-diffusion-v3.5-medium"))
    assert equal(back, adapter)
    (tmp_path / "sd3.safetensors").write_bytes(dump_adapter(back, {"format": "pt", **peft_metadata(back)}))
    state, metadata = StableDiffusion3Pipeline.lora_state_dict(
        tmp_path, weight_name="sd3.safetensors", local_files_only=True, return_lora_metadata=True
    )
    modules = {component_of(layer)[1] for layer in adapter}
    weights = {name: transformer.get_submodule(name).weight.detach().clone() for name in modules}
    StableDiffusion3Pipeline.load_lora_into_transformer(state, transformer, metadata=metadata)
    assert not [r for r in caplog.records if "unexpected keys" in r.getMessage() or "missing keys" in r.getMessage()]
    transformer.fuse_lora()
    for layer, factors in adapter.items():
        module = component_of(layer)[1]
        delta = torch.from_numpy(factors.b.astype("f4") @ factors.a.astype("f4"))
        now = transformer.get_submodule(module).base_layer.weight
        torch.testing.assert_close(now, weights[module] + delta, atol=1e-5, rtol=0)

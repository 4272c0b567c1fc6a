"""Every layer of real UNets and transformers goes to kohya's names and back, and ComfyUI's own map has each of them.

The maps here follow the published code of ComfyUI and A1111 by walking the blocks in the order in which they are built;
the implementation counts with formulas.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

torch = pytest.importorskip("torch")

from lora_parts import ending, equal, random_adapter, sd3_transformer, sd15_unet, sdxl_unet, weighted  # noqa: E402

from protocol.adapter import ADAPTED, dump_adapter, load_adapter  # noqa: E402
from protocol.kohya import dump_kohya, load_kohya  # noqa: E402

RESIDUAL = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
SD3_ATTENTION = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
SD3 = (*SD3_ATTENTION, "to_out.0", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")


def shapes(build: Callable[[], Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return weighted(build())


def walked(unet: Any) -> dict[str, str]:
    """Module in diffusers → module in Stability's code, in the order in which the latter appends its blocks."""
    found = {
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }

    def put(block: Any, name: str, number: str, j: int) -> int:
        """One residual block and, where there is one, the attention behind it; how many they are."""
        for ours, theirs in RESIDUAL.items():
            found[f"{name}.resnets.{j}.{ours}"] = f"{number}.0.{theirs}"
        attentions = getattr(block, "attentions", None)
        if attentions is None:
            return 1
        found.update(
            {m: f"{number}.1{m[len(n) :]}" for n in [f"{name}.attentions.{j}"] for m in under(attentions[j], n)}
        )
        return 2

    def under(module: Any, name: str) -> list[str]:
        return [f"{name}.{inner}" for inner in weighted(module)]

    count = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            put(block, f"down_blocks.{i}", f"input_blocks.{count}", j)
            count += 1
        if block.downsamplers:
            found[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
            count += 1
    for j, number in enumerate((0, 2)):
        for ours, theirs in RESIDUAL.items():
            found[f"mid_block.resnets.{j}.{ours}"] = f"middle_block.{number}.{theirs}"
    middle = "mid_block.attentions.0"
    found.update({m: f"middle_block.1{m[len(middle) :]}" for m in under(unet.mid_block.attentions[0], middle)})
    count = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            parts = put(block, f"up_blocks.{i}", f"output_blocks.{count}", j)
            if j == len(block.resnets) - 1 and block.upsamplers:
                found[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{count}.{parts}.conv"
            count += 1
    return found


def test_comfyui_finds_every_layer_of_sdxl_under_the_name_of_stabilitys_own_module() -> None:
    with torch.device("meta"):
        unet = sdxl_unet()
    modules = walked(unet)
    layers = weighted(unet)
    assert layers.keys() <= modules.keys()
    for layer, shape in layers.items():
        (name,) = {key.partition(".")[0] for key in load(dump_kohya(random_adapter({layer: shape}), XL))}
        assert name == "lora_unet_" + modules[layer].replace(".", "_")


XL = "stable-diffusion-xl-v1-base"


def test_a1111_recognises_every_adapted_layer_of_stable_diffusion_1() -> None:
    known = re.compile(r"lora_unet_((down|up)_blocks_\d+_attentions_\d+|mid_block_attentions_\d+)_(?P<rest>.+)")
    inside = re.compile(r"(proj_(in|out)|transformer_blocks_0_(attn[12]_to_(q|k|v|out_0)|ff_net_(0_proj|2)))")
    layers = ending(shapes(sd15_unet), ADAPTED)
    tensors = load(dump_kohya(random_adapter(layers), "stable-diffusion-v1"))
    found = {key.partition(".")[0] for key in tensors}
    assert found == {f"lora_unet_{layer.replace('.', '_')}" for layer in layers}
    for name in found:
        match = known.fullmatch(name)
        assert match and inside.fullmatch(match["rest"]), name


@pytest.mark.parametrize(
    ("build", "component", "base", "ends"),
    [
        (sd15_unet, "unet", "stable-diffusion-v1", ("",)),
        (sdxl_unet, "unet", XL, ("",)),
        (sdxl_unet, "unet", "stable-diffusion-v1", ("",)),
        (sd3_transformer, "transformer", "stable-diffusion-v3.5-medium", SD3),
    ],
    ids=["sd15", "sdxl", "sdxl-by-diffusers-names", "sd3"],
)
def test_every_layer_goes_there_and_back_bit_for_bit(
    build: Callable[[], Any], component: str, base: str, ends: tuple[str, ...]
) -> None:
    layers = shapes(build)
    chosen = layers if ends == ("",) else {n: s for n, s in ending(layers, ends).items() if "_blocks." in n}
    adapter = random_adapter(chosen, component)
    through = load_kohya(dump_kohya(load_adapter(dump_adapter(adapter)), base))
    assert equal(through, adapter)
    assert dump_adapter(through) == dump_adapter(adapter)


LAYERS = shapes(sdxl_unet)


@given(
    st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([XL, "stable-diffusion-v1"]),
    st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_any_choice_of_layers_and_ranks_comes_back_as_it_was(
    chosen: list[str], ranks: list[int], base: str, seed: int
) -> None:
    adapter = random_adapter({layer: LAYERS[layer] for layer in chosen}, ranks=tuple(ranks), seed=seed)
    data = dump_kohya(adapter, base)
    assert equal(load_kohya(data), adapter)
    assert dump_kohya(load_kohya(data), base) == data

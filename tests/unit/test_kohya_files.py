"""kohya's format: names by the published tables, alpha for every layer, and what is no plain LoRA refused."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from safetensors.numpy import load, save

from protocol.adapter import Factors, component_of, dump_adapter, layer_in, load_adapter
from protocol.errors import BadInput
from protocol.kohya import dump_kohya, is_kohya, load_kohya, training_metadata
from protocol.peft_metadata import KEY, folded, peft_metadata

V1, XL, V3 = "stable-diffusion-v1", "stable-diffusion-xl-v1-base", "stable-diffusion-v3.5-medium"
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def pair(rank: int = 2, d_out: int = 3, seed: int = 0) -> Factors:
    rng = np.random.default_rng(seed)
    return Factors(rng.normal(size=(rank, 4)).astype(np.float16), rng.normal(size=(d_out, rank)).astype(np.float16))


def delta(factors: Factors) -> np.ndarray:
    return factors.b.astype(np.float64) @ factors.a.astype(np.float64)


def names(data: bytes) -> set[str]:
    return {key.partition(".")[0] for key in load(data)}


@pytest.mark.parametrize(
    ("layer", "base", "name"),
    [
        (ATTENTION, V1, "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"),
        ("mid_block.attentions.0.proj_in", V1, "lora_unet_mid_block_attentions_0_proj_in"),
        ("up_blocks.3.resnets.2.conv_shortcut", V1, "lora_unet_up_blocks_3_resnets_2_conv_shortcut"),
        (ATTENTION, XL, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
        (ATTENTION.replace("to_q", "to_out.0"), XL, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0"),
        (
            "up_blocks.0.attentions.2.transformer_blocks.9.ff.net.0.proj",
            XL,
            "lora_unet_output_blocks_2_1_transformer_blocks_9_ff_net_0_proj",
        ),
        ("mid_block.attentions.0.proj_out", XL, "lora_unet_middle_block_1_proj_out"),
        ("mid_block.resnets.1.conv1", XL, "lora_unet_middle_block_2_in_layers_2"),
        ("down_blocks.0.downsamplers.0.conv", XL, "lora_unet_input_blocks_3_0_op"),
        ("up_blocks.1.upsamplers.0.conv", XL, "lora_unet_output_blocks_5_2_conv"),
        ("add_embedding.linear_2", XL, "lora_unet_label_emb_0_2"),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
            V1,
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        ),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", XL, "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("text_encoder_2.text_model.encoder.layers.31.mlp.fc2", XL, "lora_te2_text_model_encoder_layers_31_mlp_fc2"),
        ("transformer.transformer_blocks.3.attn.to_out.0", V3, "lora_unet_joint_blocks_3_x_block_attn_proj"),
        ("transformer.transformer_blocks.3.ff_context.net.2", V3, "lora_unet_joint_blocks_3_context_block_mlp_fc2"),
    ],
)
def test_a_layer_has_the_name_that_other_programs_look_for(layer: str, base: str, name: str) -> None:
    data = dump_kohya({layer: pair()}, base)
    assert set(load(data)) == {f"{name}.lora_down.weight", f"{name}.lora_up.weight", f"{name}.alpha"}
    assert set(load_kohya(data)) == {layer}


def test_the_text_encoder_has_one_name_whatever_transformers_calls_it() -> None:
    layer = "text_encoder.encoder.layers.0.self_attn.k_proj"
    assert names(dump_kohya({layer: pair()}, V1)) == {"lora_te_text_model_encoder_layers_0_self_attn_k_proj"}


def test_alpha_is_written_for_every_layer_and_equals_the_rank() -> None:
    adapter = {ATTENTION: pair(8), "mid_block.attentions.0.proj_in": pair(8)}
    tensors = load(dump_kohya(adapter, V1))
    alphas = {key: float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha")}
    assert len(alphas) == 2 and set(alphas.values()) == {8.0}


def test_layers_of_lower_rank_are_filled_up_because_diffusers_takes_one_alpha_for_all() -> None:
    adapter = {ATTENTION: pair(8), "mid_block.attentions.0.proj_in": pair(2)}
    data = dump_kohya(adapter, V1)
    assert {tensor.shape[0] for key, tensor in load(data).items() if "lora_down" in key} == {8}
    read = load_kohya(data)
    assert {layer: factors.rank for layer, factors in read.items()} == {
        ATTENTION: 8,
        "mid_block.attentions.0.proj_in": 2,
    }
    assert all((read[k].a == adapter[k].a).all() and (read[k].b == adapter[k].b).all() for k in adapter)


def test_a_convolutions_kernel_is_kept() -> None:
    factors = Factors(np.ones((2, 36), np.float16), np.ones((5, 2), np.float16), (3, 3))
    data = dump_kohya({"down_blocks.0.resnets.0.conv1": factors}, V1)
    shapes = {key.partition(".")[2]: tensor.shape for key, tensor in load(data).items()}
    assert shapes == {"lora_down.weight": (2, 4, 3, 3), "lora_up.weight": (5, 2, 1, 1), "alpha": ()}
    assert load_kohya(data)["down_blocks.0.resnets.0.conv1"].kernel == (3, 3)


@pytest.mark.parametrize(
    ("parts", "fused"),
    [
        (("attn.to_q", "attn.to_k", "attn.to_v"), "x_block_attn_qkv"),
        (("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "context_block_attn_qkv"),
        (("attn2.to_q", "attn2.to_k", "attn2.to_v"), "x_block_attn2_qkv"),
    ],
)
@pytest.mark.parametrize("left_out", [(), (1,), (0, 2)])
def test_q_k_and_v_of_stable_diffusion_3_become_one_matrix_with_the_same_effect(
    parts: tuple[str, ...], fused: str, left_out: tuple[int, ...]
) -> None:
    own = {
        f"transformer.transformer_blocks.7.{part}": pair(rank=2 + n, seed=n)
        for n, part in enumerate(parts)
        if n not in left_out
    }
    data = dump_kohya(own, V3)
    assert names(data) == {f"lora_unet_joint_blocks_7_{fused}"}
    tensors = {key.partition(".")[2]: tensor.astype(np.float64) for key, tensor in load(data).items()}
    # As ComfyUI applies it: alpha / rank times up times down, onto q, k and v one below the other.
    rank = tensors["lora_down.weight"].shape[0]
    whole = tensors["alpha"] / rank * (tensors["lora_up.weight"] @ tensors["lora_down.weight"])
    for n, part in enumerate(parts):
        factors = own.get(f"transformer.transformer_blocks.7.{part}")
        expected = delta(factors) if factors else np.zeros((3, 4))
        np.testing.assert_array_equal(whole[3 * n : 3 * n + 3], expected)
    read = load_kohya(data)
    assert read.keys() == own.keys()
    assert all((read[k].a == own[k].a).all() and (read[k].b == own[k].b).all() for k in own)


def test_somebody_elses_fused_q_k_and_v_with_one_shared_factor_are_taken_apart() -> None:
    shared = pair(rank=2, d_out=9)
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    read = load_kohya(save({f"{name}.lora_down.weight": shared.a, f"{name}.lora_up.weight": shared.b}))
    rows = [delta(read[f"transformer.transformer_blocks.0.attn.to_{part}"]) for part in "qkv"]
    np.testing.assert_array_equal(np.concatenate(rows), delta(shared))


def theirs(alpha: np.ndarray | None, rank: int = 4) -> bytes:
    """A file as some other trainer would have written it."""
    factors, name = pair(rank), "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": factors.a, f"{name}.lora_up.weight": factors.b}
    return save(tensors if alpha is None else {**tensors, f"{name}.alpha": alpha})


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [
        (None, 1),
        (np.array(0, np.float32), 1),
        (np.array(4, np.int64), 1),
        (np.array(1, np.float16), 0.25),
        (np.array(8, np.float32), 2),
        (np.array([1], np.float32), 0.25),
    ],
)
def test_an_alpha_that_is_not_the_rank_is_folded_in(alpha: np.ndarray | None, scale: float) -> None:
    read = load_kohya(theirs(alpha))["mid_block.attentions.0.proj_in"]
    np.testing.assert_allclose(delta(read), scale * delta(pair(4)), rtol=1e-6)
    written = load_kohya(dump_kohya({"mid_block.attentions.0.proj_in": read}, V1))["mid_block.attentions.0.proj_in"]
    np.testing.assert_allclose(delta(written), delta(read), rtol=5e-3, atol=5e-3)


def test_bfloat16_is_read_exactly() -> None:
    data = theirs(None)
    header = int.from_bytes(data[:8], "little")
    values = np.arange(1, 29, dtype=np.float32)
    half = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    text = data[8 : 8 + header].replace(b'"F16"', b'"BF16"').ljust(header + 8)
    read = load_kohya((header + 8).to_bytes(8, "little") + text + half)
    factors = read["mid_block.attentions.0.proj_in"]
    assert sorted([*factors.a.ravel(), *factors.b.ravel()]) == list(values)


def changed(**change: np.ndarray | None) -> Callable[[], bytes]:
    """The other trainer's file with these ends of keys put in or, as None, taken out."""

    def build() -> bytes:
        tensors = dict(load(theirs(np.array(4, np.float32))))
        for end, tensor in change.items():
            key = f"lora_unet_mid_block_attentions_0_proj_in.{end.replace('__', '.')}"
            tensors.pop(key, None)
            if tensor is not None:
                tensors[key] = tensor
        return bytes(save(tensors))

    return build


ONES = np.ones((3, 4), np.float16)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(dora_scale=ONES), "is DoRA"),
        (changed(hada_w1_a=ONES), "is LoHa"),
        (changed(lokr_w1=ONES), "is LoKr"),
        (changed(lora_mid__weight=ONES), "LoCon with a core tensor"),
        (changed(lora_up__weight=None), "not pairs"),
        (changed(lora_down__weight=None), "not pairs"),
        (changed(diff=ONES), "not pairs"),
        (changed(lora_up__weight=np.ones((3, 5), np.float16)), "no LoRA pair"),
        (changed(lora_up__weight=np.full((3, 4), np.nan, np.float16)), "not finite"),
        (changed(lora_up__weight=np.ones((3, 4), np.int8)), "int8"),
        (changed(alpha=np.ones(3, np.float32)), "alpha is 3 numbers"),
        (changed(alpha=np.array(np.inf, np.float32)), "not finite"),
        (changed(alpha=np.array(1e30, np.float32)), "beyond what float16 holds"),
        (lambda: save({"weight": ONES}), "not pairs"),
        (lambda: save({}), "there are none"),
        (lambda: b"PK\x03\x04 a pickle in a zip", "header is longer"),
        (lambda: b"", "no safetensors"),
        (lambda: dump_kohya({ATTENTION: pair()}, V1).replace(b"lora_unet_", b"lora_vae__"), "No layer"),
        (lambda: dump_kohya({ATTENTION: pair()}, V1).replace(b"attn1", b"attn-"), "No layer"),
    ],
)
def test_what_is_no_plain_lora_is_refused_with_its_reason(data: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_kohya(data())


def test_one_layer_under_two_names_is_refused() -> None:
    both = {**load(dump_kohya({ATTENTION: pair()}, V1)), **load(dump_kohya({ATTENTION: pair()}, XL))}
    with pytest.raises(BadInput, match="twice, under two names"):
        load_kohya(save(both))


@pytest.mark.parametrize(
    ("layer", "base", "reason"),
    [
        ("down_blocks.3.attentions.0.proj_in", XL, "no name for the layer"),
        ("down_blocks.0.attentions.2.proj_in", XL, "no name for the layer"),
        ("down_blocks.0.odd_name", V1, "no name for the layer"),
        ("transformer.context_embedder", V3, "no name for the layer"),
        ("transformer.transformer_blocks.0.attn.to_q", "flux-1-dev", "not for flux-1-dev"),
    ],
)
def test_what_the_format_has_no_name_for_goes_out_in_diffusers_format(layer: str, base: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as problem:
        dump_kohya({layer: pair()}, base)
    assert "--format diffusers" in problem.value.hint


def test_a1111_finds_base_rank_and_tags_in_the_header() -> None:
    adapter = {ATTENTION: pair(8)}
    found = training_metadata(adapter, XL, "epsilon", ["fence head, blue", "heart head, blue"])
    assert found["ss_base_model_version"] == "sdxl_base_v1-0" and found["ss_v2"] == "False"
    assert found["ss_network_dim"] == found["ss_network_alpha"] == "8"
    assert json.loads(found["ss_tag_frequency"]) == {"coterie": {"blue": 2, "fence head": 1, "heart head": 1}}
    versions = [training_metadata(adapter, base, "v", []) for base in (V1, "stable-diffusion-v2-768-v", V3)]
    assert [v.get("ss_base_model_version") for v in versions] == ["sd_v1_v", "sd_v2_v", None]
    assert [v["ss_v2"] for v in versions] == ["False", "True", "False"]
    assert not any("ss_tag_frequency" in v for v in versions)


def test_the_formats_are_told_apart_by_their_keys() -> None:
    adapter = {ATTENTION: pair()}
    assert is_kohya(load(dump_kohya(adapter, V1))) and not is_kohya(load(dump_adapter(adapter)))


@pytest.mark.parametrize("component", ["unet", "transformer", "text_encoder", "text_encoder_2"])
def test_a_layer_says_which_part_of_the_pipeline_it_is_in(component: str) -> None:
    layer = layer_in(component, "transformer_blocks.0.attn.to_q")
    assert component_of(layer) == (component, "transformer_blocks.0.attn.to_q")
    data = dump_adapter({layer: pair()})
    assert {key.partition(".")[0] for key in load(data)} == {component}
    assert set(load_adapter(data)) == {layer}


def of_diffusers(**fields: object) -> Iterator[Factors]:
    data = dump_adapter({"mid_block.proj_in": pair(4)}, {KEY: json.dumps({f"unet.{k}": v for k, v in fields.items()})})
    yield from folded(load_adapter(data), {KEY: json.dumps({f"unet.{k}": v for k, v in fields.items()})}).values()


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 1),
        ({"r": 4, "lora_alpha": 8}, 2),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"mid_block.proj_in": 2}}, 0.5),
    ],
)
def test_the_scale_that_diffusers_keeps_in_the_header_is_folded_in(fields: dict[str, object], scale: float) -> None:
    (factors,) = of_diffusers(**fields)
    np.testing.assert_allclose(delta(factors), scale * delta(pair(4)), rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"unet.use_dora": true}', "is DoRA"), ("no json", "cannot be read"), ("[]", "cannot be read")],
)
def test_a_header_that_names_no_plain_lora_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        folded({"mid_block.proj_in": pair()}, {KEY: text})


def test_our_own_header_names_rank_and_alpha_of_every_layer() -> None:
    adapter = {"a.to_q": pair(8), "b.to_q": pair(8), "c.to_q": pair(2)}
    fields = json.loads(peft_metadata(adapter)[KEY])
    assert fields["unet.r"] == fields["unet.lora_alpha"] == 8
    assert fields["unet.rank_pattern"] == fields["unet.alpha_pattern"] == {"c.to_q": 2}
    assert fields["unet.target_modules"] == ["a.to_q", "b.to_q", "c.to_q"]
    assert all((folded(adapter, peft_metadata(adapter))[k].a == adapter[k].a).all() for k in adapter)
    assert peft_metadata({**adapter, "text_encoder.x.q_proj": pair()}) == {}

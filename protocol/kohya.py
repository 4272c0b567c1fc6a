"""An adapter in the format of kohya's sd-scripts, which ComfyUI and A1111 read.

Each layer is ``<name>.lora_down.weight`` (A), ``<name>.lora_up.weight`` (B) and ``<name>.alpha``; the delta is
alpha / rank · B A. Alpha is written for every layer and equals the rank, so the scale is one for every reader.
A name is a prefix for the part of the pipeline and the module's name with underscores. For Stable Diffusion 1 and 2
that is the module in diffusers; SDXL and Stable Diffusion 3 go by the modules of Stability's own code instead
(kohya-ss/sd-scripts: networks/lora.py, library/sdxl_model_util.py, networks/lora_sd3.py; ComfyUI: comfy/lora.py).
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from protocol.adapter import Adapter, Factors, as_tensors, component_of, from_tensors, layer_in
from protocol.errors import BadInput, ContributionRefused
from protocol.tensor_file import Array, read_tensors, write_tensors

SD_SCRIPTS = "https://github.com/kohya-ss/sd-scripts"
"""How modelspec names this format as the implementation."""
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_mid": "LoCon with a core tensor",
    "hada_w1_a": "LoHa",
    "lokr_w": "LoKr",
    "oft_blocks": "OFT",
    "a1.weight": "GLoRA",
}
_HALF_MAX = float(np.finfo(np.float16).max)

_WORDS = (
    *("down_blocks", "mid_block", "up_blocks", "input_blocks", "middle_block", "output_blocks"),
    *("transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out", "conv_in", "conv_out"),
    *("conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2"),
    *("in_layers", "out_layers", "emb_layers", "skip_connection", "time_embed", "label_emb"),
    *("text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "text_projection"),
)
"""Parts of module names that hold an underscore themselves; every other underscore was a dot."""
_PART = re.compile(rf"(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))}|[a-z0-9]+)(?=_|$)")


def _sdxl_modules() -> dict[str, str]:
    """Module in diffusers → module in Stability's code, by the beginnings of their names: SDXL's three levels."""
    residual = {
        "conv1": "in_layers.2",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    blocks = {f"mid_block.resnets.{j}": f"middle_block.{2 * j}" for j in range(2)}
    attentions = {"mid_block.attentions.0": "middle_block.1"}
    for i in range(3):
        for j in range(2):
            blocks[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{3 * i + j + 1}.0"
            attentions[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{3 * i + j + 1}.1"
        for j in range(3):
            blocks[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{3 * i + j}.0"
            attentions[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{3 * i + j}.1"
    scaling = {f"down_blocks.{i}.downsamplers.0.conv": f"input_blocks.{3 * i + 3}.0.op" for i in range(2)}
    scaling |= {f"up_blocks.{i}.upsamplers.0.conv": f"output_blocks.{3 * i + 2}.2.conv" for i in range(2)}
    ends = {
        "conv_in": "input_blocks.0.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    resnets = {f"{a}.{x}": f"{b}.{y}" for a, b in blocks.items() for x, y in residual.items()}
    return resnets | attentions | scaling | ends


_SDXL = _sdxl_modules()
_SDXL_BACK = {theirs: ours for ours, theirs in _SDXL.items()}

_SD3 = {
    "attn.to_out.0": "x_block_attn_proj",
    "attn.to_add_out": "context_block_attn_proj",
    "attn2.to_out.0": "x_block_attn2_proj",
    "ff.net.0.proj": "x_block_mlp_fc1",
    "ff.net.2": "x_block_mlp_fc2",
    "ff_context.net.0.proj": "context_block_mlp_fc1",
    "ff_context.net.2": "context_block_mlp_fc2",
}
_SD3_BACK = {theirs: ours for ours, theirs in _SD3.items()}
_SD3_FUSED = {
    "x_block_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block_attn2_qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
"""Where Stability's code has one matrix for q, k and v: its name, and the three modules in diffusers."""
_SD3_PART_OF = {part: fused for fused, parts in _SD3_FUSED.items() for part in parts}


def dump_kohya(adapter: Adapter, architecture: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """Deterministic safetensors bytes in fp16.

    Args:
        architecture: the base's, as ``protocol.modelspec`` calls it; it decides how layers are named.

    Raises:
        BadInput: this format has no name for the base or for a layer.
    """
    tensors: dict[str, Array] = {}
    for name, factors in _named(_of_one_rank(adapter), architecture).items():
        tensors[name + _DOWN], tensors[name + _UP] = as_tensors(factors)
        tensors[name + _ALPHA] = np.array(factors.rank, np.float32)
    return write_tensors(tensors, metadata)


def load_kohya(data: bytes) -> dict[str, Factors]:
    """The adapter in a file of this format, whoever wrote it, with alpha / rank folded into the factors.

    A layer without alpha, or with alpha zero, has scale one, as in kohya's own code. Ranks that are zero in both
    factors are left out. Invariant: ``load_kohya(dump_kohya(a, base)) == a`` for a trained adapter in fp16.

    Raises:
        BadInput: no plain LoRA in this format.
    """
    tensors = read_tensors(data, "file")
    _require_plain_lora(tensors)
    adapter: dict[str, Factors] = {}
    for name in sorted(key.removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)):
        for layer, factors in _layers(name, _factors(name, tensors)).items():
            if layer in adapter:
                raise BadInput(f"The file holds {layer} twice, under two names.", "Take a file from one trainer.")
            adapter[layer] = factors
    return adapter


def is_kohya(keys: Iterable[str]) -> bool:
    """Whether these are names of this format rather than of diffusers'."""
    return any(key.startswith("lora_") for key in keys)


def training_metadata(adapter: Adapter, architecture: str, prediction: str, captions: Sequence[str]) -> dict[str, str]:
    """The ``ss_`` keys that A1111 and collections of models read: rank, base, and how often each tag was trained.

    A1111 lists a file under the base that these keys name, and takes one without them for Stable Diffusion 1.
    """
    rank = str(max(factors.rank for factors in adapter.values()))
    tags = Counter(tag.strip() for caption in captions for tag in caption.split(",") if tag.strip())
    found = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_base_model_version": _version(architecture, prediction),
        "ss_v2": str("diffusion-v2" in architecture),
        "ss_tag_frequency": json.dumps({"coterie": dict(tags.most_common())}, ensure_ascii=False) if tags else "",
    }
    return {key: value for key, value in found.items() if value}


def scaled(factors: Factors, scale: float, layer: str) -> Factors:
    """Scale times the same delta, the two factors brought to like size so that fp16 holds both.

    Raises:
        BadInput: fp16 cannot hold it.
    """
    if scale == 1:
        return factors
    a, b = factors.a.astype(np.float32) * np.float32(scale), factors.b.astype(np.float32)
    sizes = float(np.abs(a).max()), float(np.abs(b).max())
    if all(sizes):
        half = float(2 ** np.round(np.log2(sizes[1] / sizes[0]) / 2))  # a power of two: no digit is lost
        a, b = a * half, b / half
    if not max(np.abs(a).max(), np.abs(b).max()) <= _HALF_MAX:
        raise BadInput(f"{layer}: scaled by alpha / rank = {scale:g}, its values are beyond what float16 holds.")
    return Factors(a, b, factors.kernel)


def _version(architecture: str, prediction: str) -> str:
    """What kohya calls the base."""
    if "-xl" in architecture:
        return "sdxl_base_v1-0"
    for version in ("v1", "v2"):
        if f"diffusion-{version}" in architecture:
            return f"sd_{version}" + ("_v" if prediction == "v" else "")
    return ""


def _named(adapter: Adapter, architecture: str) -> dict[str, Factors]:
    """Layers by their names in this format; q, k and v of Stable Diffusion 3 become one."""
    if not architecture.startswith("stable-diffusion"):
        raise BadInput(
            f"The kohya format is written for Stable Diffusion, not for {architecture}.",
            "Use --format diffusers: ComfyUI reads those files too.",
        )
    named: dict[str, Factors] = {}
    fused: defaultdict[str, dict[str, Factors]] = defaultdict(dict)
    for layer, factors in adapter.items():
        component, module = component_of(layer)
        if component == "unet":
            named[f"lora_unet_{_underscored(_sdxl(module) if '-xl' in architecture else module)}"] = factors
        elif component == "transformer":
            block, part = _sd3_block(module)
            if part in _SD3_PART_OF:
                fused[f"lora_unet_joint_blocks_{block}_{_SD3_PART_OF[part]}"][part] = factors
            else:
                named[f"lora_unet_joint_blocks_{block}_{_SD3[part]}"] = factors
        else:
            named[_text_prefix(component, architecture) + _underscored(_text_module(module))] = factors
    for name, parts in fused.items():
        named[name] = _stacked([parts.get(part) for part in _SD3_FUSED[name.split("_", 5)[5]]])
    return named


def _layers(name: str, factors: Factors) -> dict[str, Factors]:
    """The layer, or for a fused q, k and v the layers, that a name in this format means."""
    if match := re.fullmatch(r"lora_unet_joint_blocks_(\d+)_(\w+)", name):
        return _sd3_layers(name, match[1], match[2], factors)
    for prefix, component in (
        ("lora_unet_", "unet"),
        ("lora_te1_", "text_encoder"),
        ("lora_te2_", "text_encoder_2"),
        ("lora_te_", "text_encoder"),
    ):
        if name.startswith(prefix):
            module = _dotted(name.removeprefix(prefix), name)
            return {layer_in(component, _from_sdxl(module) if component == "unet" else module): factors}
    raise _unknown(name)


def _of_one_rank(adapter: Adapter) -> dict[str, Factors]:
    """Every layer of a UNet or text encoder filled with zeros up to the highest rank of its component.

    diffusers' loader takes one alpha for all layers of a file in this format, and so scales wrongly where ranks differ.
    """
    highest: defaultdict[str, int] = defaultdict(int)
    for layer, factors in adapter.items():
        component = component_of(layer)[0]
        if component != "transformer":  # diffusers reads none in this format
            highest[component] = max(highest[component], factors.rank)
    return {layer: _filled(factors, highest[component_of(layer)[0]]) for layer, factors in adapter.items()}


def _filled(factors: Factors, rank: int) -> Factors:
    more = max(rank - factors.rank, 0)
    return Factors(np.pad(factors.a, ((0, more), (0, 0))), np.pad(factors.b, ((0, 0), (0, more))), factors.kernel)


def _without_filling(factors: Factors) -> Factors:
    used = factors.a.any(axis=1) | factors.b.any(axis=0)
    return Factors(factors.a[used], factors.b[:, used], factors.kernel) if used.any() else factors


def _sd3_layers(name: str, block: str, part: str, factors: Factors) -> dict[str, Factors]:
    beginning = f"transformer.transformer_blocks.{block}."
    if part in _SD3_BACK:
        return {beginning + _SD3_BACK[part]: factors}
    if part not in _SD3_FUSED:
        raise _unknown(name)
    parts = zip(_SD3_FUSED[part], _unstacked(name, factors), strict=True)
    return {beginning + module: own for module, own in parts if own is not None}


def _sd3_block(module: str) -> tuple[str, str]:
    match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if match is None or match[2] not in _SD3.keys() | _SD3_PART_OF.keys():
        raise _nameless(module)
    return match[1], match[2]


def _stacked(parts: Sequence[Factors | None]) -> Factors:
    """q, k and v as one pair whose delta is theirs, one below the other: A stacked, B block-diagonal."""
    given = [part for part in parts if part is not None]
    d_out, kind = given[0].b.shape[0], np.result_type(*(part.b for part in given))
    b = np.zeros((d_out * len(parts), sum(part.rank for part in given)), kind)
    column = 0
    for row, part in enumerate(parts):
        if part is not None:
            b[row * d_out : (row + 1) * d_out, column : column + part.rank] = part.b
            column += part.rank
    return Factors(np.concatenate([part.a for part in given]), b)


def _unstacked(name: str, factors: Factors) -> list[Factors | None]:
    """Each third of the rows with the ranks that reach it; None where none does."""
    if factors.b.shape[0] % 3 or factors.kernel:
        raise BadInput(f"{name}: {factors.b.shape[0]} rows are no q, k and v.")
    thirds = [(b, np.abs(b).max(axis=0) > 0) for b in np.split(factors.b, 3)]
    return [Factors(factors.a[used], b[:, used]) if used.any() else None for b, used in thirds]


def _sdxl(module: str) -> str:
    beginning = _beginning(module, _SDXL)
    if beginning is None:
        raise _nameless(module)
    return _SDXL[beginning] + module.removeprefix(beginning)


def _from_sdxl(module: str) -> str:
    """Files for SDXL come in both namings; one that is diffusers' already stays as it is."""
    beginning = _beginning(module, _SDXL_BACK)
    return module if beginning is None else _SDXL_BACK[beginning] + module.removeprefix(beginning)


def _beginning(module: str, table: Mapping[str, str]) -> str | None:
    parts = module.split(".")
    beginnings = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((beginning for beginning in beginnings if beginning in table), None)


def _text_prefix(component: str, architecture: str) -> str:
    if component == "text_encoder_2":
        return "lora_te2_"
    return "lora_te1_" if "-xl" in architecture or "-v3" in architecture else "lora_te_"


def _text_module(module: str) -> str:
    """transformers 5 leaves ``text_model`` out of one of its two CLIP classes' names; this format never does."""
    return f"text_model.{module}" if module.startswith("encoder.") else module


def _underscored(module: str) -> str:
    if _dotted(module.replace(".", "_"), module) != module:
        raise _nameless(module)
    return module.replace(".", "_")


def _dotted(flat: str, name: str) -> str:
    parts, at = [], 0
    while at < len(flat):
        match = _PART.match(flat, at)
        if match is None:
            raise _unknown(name)
        parts.append(match[0])
        at = match.end() + 1
    return ".".join(parts)


def _factors(name: str, tensors: Mapping[str, Array]) -> Factors:
    try:
        factors = from_tensors(name, tensors[name + _DOWN], tensors[name + _UP])
    except ContributionRefused as problem:
        raise BadInput(problem.message) from problem
    alpha = tensors.get(name + _ALPHA, np.array(0.0))
    if alpha.size != 1:
        raise BadInput(f"{name}: alpha is {alpha.size} numbers, not one.")
    return _without_filling(scaled(factors, (float(alpha.item()) or factors.rank) / factors.rank, name))


def _require_plain_lora(tensors: Mapping[str, Array]) -> None:
    for end, kind in _OTHER_KINDS.items():
        if any(end in key for key in tensors):
            raise BadInput(f"The file is {kind}, which is no plain LoRA.", "Export it as plain LoRA and try again.")
    names = {key.removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)}
    needed = {name + end for name in names for end in (_DOWN, _UP)}
    strange = sorted(set(tensors) - needed - {name + _ALPHA for name in names} | needed - set(tensors))
    if strange or not names:
        raise BadInput(
            f"The file's keys are not pairs of lora_down and lora_up: {', '.join(strange[:3]) or 'there are none'}.",
            "Name a LoRA file in kohya's or diffusers' format.",
        )


def _nameless(module: str) -> BadInput:
    return BadInput(f"The kohya format has no name for the layer {module}.", "Use --format diffusers.")


def _unknown(name: str) -> BadInput:
    return BadInput(f"No layer of a base known here is called {name}.", "Name a LoRA for Stable Diffusion or SDXL.")

"""Small real pipelines with random weights, and adapters over their layers, for tests of LoRA files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    SD3Transformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

from protocol.adapter import Factors, layer_in

LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


def sd15_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's blocks, every width made small: 1x1 convolutions before and after attention."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16, 16), attention_head_dim=4, norm_num_groups=4,
        cross_attention_dim=768, **LEVELS,
    )  # fmt: skip


def sdxl_unet() -> UNet2DConditionModel:
    """SDXL's blocks and depths, every width made small: linear projections, size and crop conditioning."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 16), attention_head_dim=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), cross_attention_dim=48, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64,
    )  # fmt: skip


def sd3_transformer() -> SD3Transformer2DModel:
    """Stable Diffusion 3.5 medium's blocks, the first one with a second attention, made small."""
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def sd15_pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text(768)), tokenizer=_tokenizer(), unet=sd15_unet(),
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl_pipeline() -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text(32)), text_encoder_2=CLIPTextModelWithProjection(_text(16)),
        tokenizer=_tokenizer(), tokenizer_2=_tokenizer(), unet=sdxl_unet(), scheduler=DDIMScheduler(),
    )  # fmt: skip


def weighted(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name → weight's shape of every linear and convolutional layer."""
    kinds = (nn.Linear, nn.Conv2d)
    return {name: tuple(layer.weight.shape) for name, layer in module.named_modules() if isinstance(layer, kinds)}


def ending(shapes: dict[str, tuple[int, ...]], ends: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Those whose names end so."""
    return {name: shape for name, shape in shapes.items() if any(f".{name}".endswith(f".{end}") for end in ends)}


def random_adapter(
    shapes: dict[str, tuple[int, ...]], component: str = "unet", ranks: tuple[int, ...] = (3,), seed: int = 0
) -> dict[str, Factors]:
    """Factors in fp16 for each layer, ranks taking turns, strong enough to change what the model answers."""
    rng = np.random.default_rng(seed)
    adapter = {}
    for number, (name, shape) in enumerate(shapes.items()):
        rank, d_in = ranks[number % len(ranks)], int(np.prod(shape[1:]))
        a, b = rng.normal(0, d_in**-0.5, (rank, d_in)), rng.normal(0, 0.3, (shape[0], rank))
        adapter[layer_in(component, name)] = Factors(a.astype(np.float16), b.astype(np.float16), shape[2:])
    return adapter


def equal(one: dict[str, Factors], other: dict[str, Factors]) -> bool:
    """The same layers with the same numbers, bit for bit."""
    return one.keys() == other.keys() and all(
        (a.a.tobytes(), a.b.tobytes(), a.a.shape, a.kernel) == (b.a.tobytes(), b.b.tobytes(), b.a.shape, b.kernel)
        for a, b in ((one[layer], other[layer]) for layer in one)
    )


def answer(pipeline: Any) -> torch.Tensor:
    """What the UNet says to fixed noise and a fixed text."""
    unet, generator = pipeline.unet, torch.Generator().manual_seed(0)
    size, channels, width = unet.config.sample_size, unet.config.in_channels, unet.config.cross_attention_dim
    noise = torch.randn(2, channels, size, size, generator=generator)
    text = torch.randn(2, 7, width, generator=generator)
    added = {"text_embeds": torch.ones(2, 16), "time_ids": torch.ones(2, 6)}
    with torch.no_grad():
        return unet(noise, 500, text, added_cond_kwargs=added).sample


def _vae() -> AutoencoderKL:
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)


def _text(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=4, hidden_size=width, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16, max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="</s>", model_max_length=8)

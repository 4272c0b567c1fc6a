"""Bases of every family, built small with random weights: diffusers' real classes, widths in tens, few layers.

Captions are cut into tokens by the embedded base's own tokenizer. Nothing here was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from bases import EMBEDDED_BASE

SIDE = 32
"""Pixels: 16 latents a side."""
WIDTH = 16
WORDS = ["a", "red", "blue", "green", "dog", "cat", "with", "hat", "glasses"]


def build(family: str, folder: Path) -> Path:
    """A pipeline folder of one of ``FAMILIES``, the same at every call."""
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(folder)
    return folder


def _stable_diffusion(prediction: str) -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(CLIPTextModel, WIDTH),
        tokenizer=_tokenizer(),
        unet=_unet(cross_attention_dim=WIDTH),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl() -> StableDiffusionXLPipeline:
    # Six sizes in 8 numbers each, beside the second encoder's pooled answer.
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(CLIPTextModel, WIDTH),
        text_encoder_2=_clip(CLIPTextModelWithProjection, 2 * WIDTH),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=_unet(
            cross_attention_dim=3 * WIDTH,
            use_linear_projection=True,
            projection_class_embeddings_input_dim=2 * WIDTH + 6 * 8,
            **told,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
    )


def _stable_diffusion_3(t5: bool, dual: bool) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 2,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=3 * WIDTH,
        pos_embed_max_size=SIDE // 4,
        dual_attention_layers=(0,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.06),
        text_encoder=_clip(CLIPTextModelWithProjection, WIDTH),
        tokenizer=_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection, 2 * WIDTH),
        tokenizer_2=_tokenizer(),
        text_encoder_3=_t5() if t5 else None,
        tokenizer_3=_t5_tokenizer() if t5 else None,
    )


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "SD 1.x, epsilon": lambda: _stable_diffusion("epsilon"),
    "SD 2.x, v-prediction": lambda: _stable_diffusion("v_prediction"),
    "SDXL": _stable_diffusion_xl,
    "SD 3 without T5": lambda: _stable_diffusion_3(t5=False, dual=False),
    "SD 3.5 with T5": lambda: _stable_diffusion_3(t5=True, dual=True),
}


def _vae(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
        **more,
    )


def _unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=2,
        **more,
    )


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMBEDDED_BASE / "tokenizer")


def _clip(kind: type, width: int) -> Any:
    tokenizer = _tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=3,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5() -> T5EncoderModel:
    vocabulary = len(_t5_tokenizer())
    return T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=3 * WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )


def _t5_tokenizer() -> T5TokenizerFast:
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [(f"▁{word}", -1.0) for word in WORDS] + [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,"]
    return T5TokenizerFast(tokenizer_object=Tokenizer(models.Unigram([*specials, *pieces], unk_id=2)), extra_ids=0)

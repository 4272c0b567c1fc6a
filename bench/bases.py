"""Bases to time on: real classes in a known shape, with random weights."""

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bases import EMBEDDED_BASE
from bases.families import Base
from bases.families.stable_diffusion import StableDiffusion

TEXT = 256


def quiet() -> None:
    """Only what is measured is printed."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def small_sd15() -> Base:
    """Stable Diffusion 1.5's blocks at a fifth of their width, for 128 x 128 pixels."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_BASE / "tokenizer", local_files_only=True)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 256, 256), cross_attention_dim=TEXT, attention_head_dim=8
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT,
            intermediate_size=4 * TEXT,
            num_hidden_layers=6,
            num_attention_heads=8,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=TEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    for part in (unet, vae, text):
        part.requires_grad_(False).eval()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return StableDiffusion(pipeline, torch.device("cpu"))

"""Three ways to make one training step, each on its own copy of the UNet with the same LoRA.

``ours`` is this engine's step. ``floor`` is what no engine can leave out: forward, backward, AdamW. ``script`` does
what diffusers' ``train_text_to_image_lora.py`` does in every step, written anew: encode the pictures, encode the
captions, add noise, predict, clip the gradient, step, read the loss.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy

import numpy as np
import torch
from peft import LoraConfig

from bases.families import Base
from client.collection.example import Example
from client.training.descent import Descent, adapting
from client.training.drift import drift_penalty
from client.training.engine import prepare
from client.training.options import TrainingOptions
from protocol.grant import RoundPlan

Step = Callable[[], None]


def ours(base: Base, examples: Sequence[Example], plan: RoundPlan, stack: ExitStack) -> Step:
    """The engine's step, with everything that its plan asks for."""
    own = deepcopy(base)
    penalty = drift_penalty(own, [e.caption for e in examples], plan) if plan.drift else None
    stack.enter_context(adapting(own, plan, TrainingOptions()))
    descent = Descent(own, prepare(own, examples, plan), plan, TrainingOptions(), penalty)

    def step() -> None:
        descent.step()
        float(descent.losses[descent.done - 1])

    return step


def floor(base: Base, examples: Sequence[Example], plan: RoundPlan) -> Step:
    """Ready latents and texts, forward, backward, AdamW: nothing else."""
    own, weights = _with_lora(base, plan)
    encoded = own.encode((list(examples) * plan.batch)[: plan.batch])
    optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=0.0, foreach=True)

    def step() -> None:
        noise = torch.randn_like(encoded.latents)
        steps = torch.randint(own.levels, (plan.batch,), device=own.device)
        noisy, target = own.noised(encoded.latents, noise, steps)
        loss = (own.predict(noisy, steps, encoded.text) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())

    return step


def script(base: Base, examples: Sequence[Example], plan: RoundPlan) -> Step:
    """Pictures and captions through VAE and text encoder in every step."""
    own, weights = _with_lora(base, plan)
    pipeline, chance = own.pipeline, np.random.default_rng(0)
    pixels = torch.from_numpy(np.stack([e.picture for e in examples])).permute(0, 3, 1, 2).float() / 127.5 - 1
    ids = pipeline.tokenizer(
        [e.caption for e in examples],
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)

    def step() -> None:
        rows = torch.from_numpy(chance.integers(0, len(pixels), plan.batch))
        with torch.no_grad():
            latents = pipeline.vae.encode(pixels[rows].to(own.device)).latent_dist.sample()
            text = pipeline.text_encoder(ids[rows].to(own.device))[0]
        latents = latents * pipeline.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        steps = torch.randint(own.levels, (plan.batch,), device=own.device)
        noisy, target = own.noised(latents, noise, steps)
        answer = pipeline.unet(noisy, steps, text, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(answer.float(), target.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.detach().item()

    return step


def _with_lora(base: Base, plan: RoundPlan) -> tuple[Base, list[torch.nn.Parameter]]:
    own = deepcopy(base)
    config = LoraConfig(r=plan.rank, lora_alpha=plan.rank, target_modules=list(own.adapted))
    own.denoiser.add_adapter(config)
    own.denoiser.train()
    return own, [p for p in own.denoiser.parameters() if p.requires_grad]

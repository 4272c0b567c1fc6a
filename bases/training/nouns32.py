"""Train the embedded base: a small text-to-image latent diffusion pipeline on Nouns, from scratch.

Three stages, each writes its part of a diffusers folder: a byte-level BPE tokenizer, an AutoencoderKL (its
encoder an exact patch transform, its decoder trained), then UNet and text encoder together (v-prediction,
zero terminal SNR; Salimans & Ho 2022, Lin et al. 2024). A last one measures G₀, what the base's layers read on its
own data. The 48 held-out heads are seen by none of them.
Stages are given minutes, not steps, so that the same command makes the best of whatever machine it runs on.

    python -m bases.training.nouns32 --art image-data.json --out bases/nouns32 --decoder-minutes 10 --minutes 40
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bases.loading import load_base
from bases.nouns_art import LAYERS, SIZE, TRAITS, NounsArt, caption, trait_phrase
from bases.own_data import Shown, measure_own
from bases.shipped import write_shipped
from protocol.base import base_hash

MAX_TOKENS = 40
LATENT_CHANNELS = 12
EMPTY_CAPTION_SHARE = 0.1
TRAIT_DROPOUT = 0.1
UNSEEN_SPREAD = 3.0


@dataclass(frozen=True)
class Nouns:
    """The art on the device, and how to draw batches of random Nouns from it."""

    parts: dict[str, Tensor]  # layer → uint8 (count, 4, 32, 32)
    backgrounds: Tensor  # uint8 (2, 3)
    heads: Tensor  # indices to draw heads from
    device: torch.device

    @classmethod
    def on(cls, device: torch.device, art: NounsArt, heads: tuple[int, ...]) -> "Nouns":
        parts = {k: torch.from_numpy(v).permute(0, 3, 1, 2).to(device) for k, v in art.parts.items()}
        backgrounds = torch.from_numpy(art.backgrounds).to(device)
        return cls(parts, backgrounds, torch.tensor(heads, device=device), device)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Random pictures, float (count, 3, 32, 32) in [-1, 1], and the indices they were made of."""

        def pick(n: int) -> Tensor:
            return torch.randint(n, (count,), generator=generator, device=self.device)

        chosen = {layer: pick(len(self.parts[layer])) for layer in LAYERS}
        chosen["heads"] = self.heads[pick(len(self.heads))]
        chosen["backgrounds"] = pick(len(self.backgrounds))
        picture = self.backgrounds[chosen["backgrounds"]][:, :, None, None].expand(-1, -1, SIZE, SIZE)
        for layer in LAYERS:
            part = self.parts[layer][chosen[layer]]
            picture = torch.where(part[:, 3:] > 0, part[:, :3], picture)
        return picture.float() / 127.5 - 1, chosen


def train_tokenizer(art: NounsArt, folder: Path) -> CLIPTokenizer:
    """CLIP's own byte-level BPE, learned on the known traits; unknown words fall back to bytes."""
    phrases = [p for table in _phrases(art, art.known_heads) for p in table]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=1600, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator([p.replace(",", "") for p in phrases], trainer)
    merges = [tuple(m) for m in _merges(bpe)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(a + "</w>" for a in alphabet)]
    tokens += [t for t in dict.fromkeys("".join(m) for m in merges) if t not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder / "tokenizer")
    return tokenizer


@dataclass(frozen=True)
class PatchTransform:
    """The encoder as algebra: 2 x 2 pixels x 3 colours to 12 principal components, and nothing is lost.

    Components are scaled by variance^(-1/4), half way to white, so that edges weigh something, and to unit
    variance over all.
    """

    matrix: Tensor  # (12, 12), rows are components, columns (dy, dx, colour)
    mean: Tensor  # (12,)

    @classmethod
    def of(cls, pictures: Tensor) -> "PatchTransform":
        patches = _patches(pictures).permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).double()
        variance, basis = torch.linalg.eigh(torch.cov(patches.T))
        matrix = basis.T * variance.pow(-0.25)[:, None]
        latents = (patches - patches.mean(0)) @ matrix.T
        # fp16 is what the weights are stored in: the transform is rounded before anything learns from it.
        return cls((matrix / latents.std()).half().float(), patches.mean(0).half().float())

    def __call__(self, pictures: Tensor) -> Tensor:
        """(n, 3, 32, 32) in [-1, 1] → (n, 12, 16, 16)."""
        return torch.einsum("oc,nchw->nohw", self.matrix, _patches(pictures) - self.mean[:, None, None])


def new_vae(transform: PatchTransform) -> AutoencoderKL:
    """An AutoencoderKL whose encoder is exactly the patch transform; its decoder is still to be trained.

    At 32 x 32 there is nothing to compress, so the encoder is set rather than learned: residual branches are
    zero, the strided convolution is the transform, and every group of the last GroupNorm holds two constants
    ±K that make its statistics constant; the constants' mean shift is subtracted again by ``conv_out``.
    """
    vae = AutoencoderKL(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    constant, in_linear_part = 256.0, 32.0
    encoder = vae.encoder
    slots = torch.tensor([8 * (c // 2) + c % 2 for c in range(LATENT_CHANNELS)])
    plus, minus = slots // 8 * 8 + 6, slots // 8 * 8 + 7
    with torch.no_grad():
        for part in (encoder, vae.quant_conv, vae.post_quant_conv):
            for parameter in part.parameters():
                parameter.zero_()
        for c in range(3):
            encoder.conv_in.weight[c, c, 1, 1] = 1
        down = encoder.down_blocks[0].downsamplers[0].conv
        down.weight[:LATENT_CHANNELS, :3, :2, :2] = transform.matrix.reshape(-1, 2, 2, 3).permute(0, 3, 1, 2)
        down.bias[:LATENT_CHANNELS] = -transform.matrix @ transform.mean
        shortcut = encoder.down_blocks[1].resnets[0].conv_shortcut
        shortcut.weight[slots, torch.arange(LATENT_CHANNELS), 0, 0] = 1
        shortcut.bias[plus], shortcut.bias[minus] = constant, -constant
        shortcut.bias[6::8], shortcut.bias[7::8] = constant, -constant
        encoder.conv_norm_out.weight.fill_(constant / 2)
        encoder.conv_norm_out.bias.fill_(in_linear_part)
        means = torch.arange(LATENT_CHANNELS)
        encoder.conv_out.weight[means, slots, 1, 1] = 1
        encoder.conv_out.weight[means, plus, 1, 1] = -1
        encoder.conv_out.bias[:LATENT_CHANNELS] = constant
        encoder.conv_out.bias[LATENT_CHANNELS:] = -30  # log variance: the posterior is a point
        for identity in (vae.quant_conv, vae.post_quant_conv):
            for c in range(identity.out_channels):
                identity.weight[c, c, 0, 0] = 1
    return vae


def train_decoder(
    vae: AutoencoderKL,
    transform: PatchTransform,
    art: NounsArt,
    device: torch.device,
    minutes: float,
    batch: int,
    report: "Report",
) -> None:
    """Half of every batch is recoloured, flipped or shifted, so that unseen heads are restored as well."""
    decoder = vae.decoder.to(device).train()
    nouns, generator = Nouns.on(device, art, art.known_heads), torch.Generator(device).manual_seed(0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=1e-4)
    average = ExponentialAverage(decoder, 0.999)
    for clock in Clock(minutes, peak=2e-3).steps(optimizer):
        pictures = _augment(nouns.draw(batch, generator)[0], generator)
        latents = transform(pictures)
        # A little noise, so that what diffusion leaves unfinished is cleaned up here.
        latents = latents + 0.02 * torch.randn(latents.shape, generator=generator, device=device)
        error = decoder(latents) - pictures
        loss = error.abs().mean() + error.square().mean()
        _step(loss, decoder, optimizer)
        average.update()
        report.line("decoder", clock, loss)
    average.apply()
    unseen = Nouns.on(device, art, art.held_out_heads).draw(512, generator)[0]
    with torch.no_grad():
        error = (vae.decode(vae.encode(unseen).latent_dist.mean).sample.clamp(-1, 1) - unseen) / 2
    report.say(f"vae: PSNR on held-out heads {-10 * math.log10(error.square().mean().item()):.1f} dB")


def train_diffusion(
    art: NounsArt,
    transform: PatchTransform,
    tokenizer: CLIPTokenizer,
    device: torch.device,
    minutes: float,
    batch: int,
    report: "Report",
    parts: "BaseParts",
) -> None:
    """UNet and text encoder together, AdamW, cosine in the last part, weights averaged; saved every ten minutes."""
    unet = new_unet().to(device)
    text = new_text_encoder(tokenizer).to(device)
    both = nn.ModuleList([unet, text]).train()
    nouns, generator = Nouns.on(device, art, art.known_heads), torch.Generator(device).manual_seed(1)
    captions = Captions(art, tokenizer, device)
    alphas = new_scheduler().alphas_cumprod.to(device)
    optimizer = torch.optim.AdamW(both.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=1e-2)
    average = ExponentialAverage(both, 0.9995)
    for clock in Clock(minutes, peak=1e-3).steps(optimizer):
        pictures, chosen = nouns.draw(batch, generator)
        latents, ids = transform(pictures), captions.tokens(chosen, generator)
        steps = torch.randint(len(alphas), (batch,), generator=generator, device=device)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        a = alphas[steps][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        target = a.sqrt() * noise - (1 - a).sqrt() * latents
        with _autocast(device):
            guess = unet(noisy, steps, text(ids).last_hidden_state).sample
        loss = (guess.float() - target).square().mean()
        _step(loss, both, optimizer)
        average.update()
        report.line("diffusion", clock, loss)
        if clock.minutes_passed(10) or clock.share == 1:
            with average.applied():
                spread_unseen_tokens(text, tokenizer, art)
                parts.save_diffusion(unet, text)


@torch.no_grad()
def spread_unseen_tokens(text: CLIPTextModel, tokenizer: CLIPTokenizer, art: NounsArt) -> None:
    """Draw the embeddings of tokens that training never met anew, wide enough to tell them apart.

    Known words are whole tokens; names of unseen heads come in pieces that no caption ever held, at the tiny
    scale they were initialised with: to the text encoder they would all be one word. At three times the known
    tokens' deviation, unseen names come out of the encoder as far apart as known ones.
    """
    seen = {i for table in _phrases(art, art.known_heads) for p in table for i in tokenizer(p + ",")["input_ids"]}
    unseen = torch.tensor([i for i in range(len(tokenizer)) if i not in seen])
    weight = text.get_input_embeddings().weight
    deviation = UNSEEN_SPREAD * weight[sorted(seen)].std()
    drawn = torch.randn((len(unseen), weight.shape[1]), generator=torch.Generator().manual_seed(0))
    weight[unseen.to(weight.device)] = drawn.to(weight) * deviation


def new_unet() -> UNet2DConditionModel:
    """4.2 M parameters; latents are 16 x 16 x 12."""
    return UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Captions:
    """Token ids of captions, put together on the device: traits shuffled, some dropped, some captions empty."""

    def __init__(self, art: NounsArt, tokenizer: CLIPTokenizer, device: torch.device) -> None:
        every_head = tuple(range(len(art.names["heads"])))
        tables = _phrases(art, every_head)
        self._layers = ("heads", "glasses", "accessories", "bodies", "backgrounds")
        self._starts = np.cumsum([0, *(len(t) for t in tables)])
        rows = [tokenizer(p + ",", add_special_tokens=False)["input_ids"] for t in tables for p in t]
        width = max(map(len, rows))
        self._table = torch.full((len(rows), width), tokenizer.pad_token_id, device=device)
        for i, row in enumerate(rows):
            self._table[i, : len(row)] = torch.tensor(row, device=device)
        self._lengths = torch.tensor([len(r) for r in rows], device=device)
        self._bos, self._eos, self._device = tokenizer.bos_token_id, tokenizer.eos_token_id, device

    def tokens(self, chosen: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """int (batch, MAX_TOKENS): begin, the kept phrases in random order without the last comma, end."""
        phrases = torch.stack([chosen[k] + int(s) for k, s in zip(self._layers, self._starts, strict=False)], 1)
        batch, count = phrases.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=self._device)

        phrases = phrases.gather(1, uniform(batch, count).argsort(1))
        kept = (uniform(batch, count) > TRAIT_DROPOUT) & (uniform(batch, 1) > EMPTY_CAPTION_SHARE)
        lengths = self._lengths[phrases] * kept
        starts = 1 + lengths.cumsum(1) - lengths
        ends = lengths.sum(1).clamp(min=1, max=MAX_TOKENS - 1)
        ids = torch.full((batch, MAX_TOKENS + self._table.shape[1]), self._eos, device=self._device)
        offsets = torch.arange(self._table.shape[1], device=self._device)
        for slot in range(count):
            inside = (offsets < lengths[:, slot, None]) & (starts[:, slot, None] + offsets < MAX_TOKENS)
            rows, columns = inside.nonzero(as_tuple=True)
            ids[rows, starts[rows, slot] + columns] = self._table[phrases[rows, slot], columns]
        ids[:, 0] = self._bos
        ids.scatter_(1, ends[:, None], self._eos)  # over the last comma
        return ids[:, :MAX_TOKENS]


@dataclass
class Clock:
    """A learning-rate schedule in minutes: warm-up, plateau, cosine over the last 40%."""

    minutes: float
    peak: float
    step: int = 0
    share: float = 0.0
    _marked: float = 0.0

    def minutes_passed(self, minutes: float) -> bool:
        """True once every so many minutes."""
        if self.share * self.minutes - self._marked < minutes:
            return False
        self._marked = self.share * self.minutes
        return True

    def steps(self, optimizer: torch.optim.Optimizer) -> Iterator["Clock"]:
        begin = time.monotonic()
        while self.share < 1:
            self.share = min(1.0, (time.monotonic() - begin) / (60 * self.minutes))
            decay = 0.5 + 0.5 * math.cos(math.pi * max(0.0, (self.share - 0.6) / 0.4))
            for group in optimizer.param_groups:
                group["lr"] = self.peak * min(1.0, (self.step + 1) / 200) * decay
            yield self
            self.step += 1


class ExponentialAverage:
    """Exponential moving average of a model's weights, warmed up so that early weights do not linger."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._live = list(model.parameters())
        self._mean = [p.detach().clone() for p in self._live]
        self._decay, self._count = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self._count += 1
        decay = min(self._decay, self._count / (self._count + 10))
        torch._foreach_lerp_(self._mean, [p.detach() for p in self._live], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        for live, mean in zip(self._live, self._mean, strict=True):
            live.copy_(mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model's weights are the averages."""
        before = [p.detach().clone() for p in self._live]
        self.apply()
        yield
        with torch.no_grad():
            for live, value in zip(self._live, before, strict=True):
                live.copy_(value)


class Report:
    """One line every ten seconds."""

    def __init__(self, label: str) -> None:
        self._label, self._last, self._begin = label, 0.0, time.monotonic()

    def line(self, stage: str, clock: Clock, loss: Tensor) -> None:
        if time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            self.say(f"{stage}: step {clock.step} {clock.share:4.0%} loss {loss.item():.4f}")

    def say(self, text: str) -> None:
        print(f"[{self._label} {time.monotonic() - self._begin:5.0f} s] {text}", flush=True)


@dataclass(frozen=True)
class BaseParts:
    """Writes the parts of the diffusers folder, fp16 safetensors, each as soon as it is there."""

    folder: Path

    def save_vae(self, vae: AutoencoderKL) -> None:
        copy.deepcopy(vae).to("cpu").half().save_pretrained(self.folder / "vae")

    def save_diffusion(self, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
        copy.deepcopy(unet).to("cpu").half().save_pretrained(self.folder / "unet")
        copy.deepcopy(text).to("cpu").half().save_pretrained(self.folder / "text_encoder")
        new_scheduler().save_pretrained(self.folder / "scheduler")
        classes = {
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        absent = {k: [None, None] for k in ("feature_extractor", "image_encoder", "safety_checker")}
        index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
        document = {**index, **absent, "requires_safety_checker": False, **classes}
        (self.folder / "model_index.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def own_data(art: NounsArt) -> list[Shown]:
    """One Noun of every known head, its other parts at random: always the same ones."""
    rng = np.random.default_rng(0)
    seeds = [art.random_seed(rng, (head,)) for head in art.known_heads]
    return [Shown(art.compose(seed), caption(art.traits(seed))) for seed in seeds]


def write_statistics(folder: Path, art: NounsArt) -> Path:
    """Measure G₀ on the base's own data, into its folder; the same file each time on one machine."""
    data = own_data(art)
    return write_shipped(folder, base_hash(folder), measure_own(load_base(folder), data), len(data))


def sheet(folder: Path, art: NounsArt, path: Path, device: torch.device, columns: int = 8) -> None:
    """A look: known heads drawn from their captions (each second row) under the true pictures."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(5)
    seeds = [art.random_seed(rng, art.known_heads) for _ in range(4 * columns)]
    drawn = pipeline(
        [caption(art.traits(s)) for s in seeds],
        num_inference_steps=20,
        guidance_scale=2.0,
        generator=torch.Generator(device).manual_seed(0),
        output_type="np",
    ).images
    rows = []
    for r in range(4):
        part = slice(r * columns, (r + 1) * columns)
        rows.append(np.concatenate([art.compose(s) for s in seeds[part]], 1))
        rows.append(np.concatenate([(d * 255).round().astype(np.uint8) for d in drawn[part]], 1))
    image = Image.fromarray(np.concatenate(rows, 0))
    image.resize((image.width * 4, image.height * 4), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--art", type=Path, required=True, help="image-data.json of @nouns/assets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the base")
    stages = ("decoder", "diffusion", "statistics")
    parser.add_argument("--stage", choices=stages, help="do one stage only, into the same folder")
    parser.add_argument("--decoder-minutes", type=float, default=10)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device, art, report = torch.device(options.device), NounsArt.load(options.art), Report(options.out.name)
    if options.stage == "statistics":
        report.say(f"G₀ of its own data: {write_statistics(options.out, art)}")
        return
    tokenizer = train_tokenizer(art, options.out)
    sample = Nouns.on(device, art, art.known_heads).draw(4000, torch.Generator(device).manual_seed(2))[0]
    transform, parts = PatchTransform.of(sample), BaseParts(options.out)
    if options.stage != "diffusion":
        vae = new_vae(transform).to(device)
        train_decoder(vae, transform, art, device, options.decoder_minutes, options.batch, report)
        parts.save_vae(vae)
    if options.stage != "decoder":
        train_diffusion(art, transform, tokenizer, device, options.minutes, options.batch, report, parts)
        sheet(options.out, art, options.out.with_suffix(".png"), device)
        report.say(f"G₀ of its own data: {write_statistics(options.out, art)}")


def _phrases(art: NounsArt, heads: tuple[int, ...]) -> list[list[str]]:
    """Every trait in words, a list for each trait in the order of TRAITS."""
    values = (
        [art.names["heads"][i] for i in heads],
        art.names["glasses"],
        art.names["accessories"],
        art.names["bodies"],
        ("cool", "warm"),
    )
    return [[trait_phrase(t, v) for v in vs] for t, vs in zip(TRAITS, values, strict=True)]


def _merges(bpe: Tokenizer) -> list[list[str]]:
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [m.split(" ") if isinstance(m, str) else m for m in merges]


def _patches(pictures: Tensor) -> Tensor:
    """(n, 3, 32, 32) → (n, 12, 16, 16), channels in the order (dy, dx, colour)."""
    n, side = len(pictures), SIZE // 2
    cells = pictures.reshape(n, 3, side, 2, side, 2).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(n, LATENT_CHANNELS, side, side)


def _augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Recolour, flip and shift the first half of a batch."""
    half, device = len(pictures) // 2, pictures.device
    part = pictures[:half]
    channels = torch.rand(half, 3, generator=generator, device=device).argsort(1)
    part = part.gather(1, channels[:, :, None, None].expand_as(part))
    scale = torch.rand(half, 3, 1, 1, generator=generator, device=device) * 1.4 - 0.4
    shift = (torch.rand(half, 3, 1, 1, generator=generator, device=device) - 0.5) * (1 - scale.abs()) * 2
    part = part * scale + shift
    dx, dy = (int(torch.randint(-8, 9, (1,), generator=generator, device=device)) for _ in range(2))
    part = part.flip(3) if (dx + dy) % 2 else part
    return torch.cat([part.roll((dx, dy), (2, 3)), pictures[half:]])


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _step(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()

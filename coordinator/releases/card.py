"""The model card: what a person reads first, in Hugging Face's README form."""

import re

from protocol.manifest import Manifest

_FRONT = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [lora, coterie]
base_model: {base}
license: {licence}
---
"""

_BODY = """# {dao}: the collective

One LoRA adapter, merged from {count} members' adapters. Each was trained on its member's own machine, on the
NFTs that member owns; no image left any of them.

![base above, collective below, same prompts and seeds](samples.png)

## Use it
```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("{base}")
pipe.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors")
pipe("{prompt}").images[0]
```
The base must hash to `{base_hash}`. The gain is folded in: load it at scale 1.

## Where it comes from
{contributions}

{removals}{exclusions}
## How it was merged
Regression mean over the members' input statistics, exact integer sums, commitment `{commitment}`; rank {rank}
(the worst layer's tail is {tail:.2%}).{distillation} Published: {candidate}, gain {gain:g}, chosen by {scored_by}
members on images they held out.

| candidate | gain | held-out loss (median over members) |
|---|---|---|
{scores}

## Licence
{licence_text}

## Limits
It draws what its members' tokens look like, in the style of its base; it forgets a little of everything else.{change}
Provenance, verdicts and hashes are in `manifest.json`.
"""


def card(manifest: Manifest, prompts: tuple[str, ...]) -> str:
    """The card as Markdown."""
    front = _FRONT.format(base=manifest.base.name, licence=_hub_name(manifest.licence))
    return front + _BODY.format(
        dao=manifest.dao,
        count=len(manifest.contributions),
        base=manifest.base.name,
        base_hash=manifest.base.hash,
        prompt=prompts[0] if prompts else "",
        contributions=_contributions(manifest),
        removals=_removals(manifest),
        exclusions=_exclusions(manifest),
        commitment=manifest.merge.commitment,
        rank=manifest.merge.rank,
        tail=manifest.merge.tail,
        gain=manifest.merge.gain,
        scored_by=manifest.merge.scored_by,
        candidate=manifest.merge.candidate,
        change=_change(manifest.merge.base_change),
        distillation=_distillation(manifest),
        scores="\n".join(f"| {s.candidate} | {s.gain:g} | {s.loss:.4f} |" for s in manifest.merge.scores),
        licence_text=_licence(manifest),
    )


def _contributions(manifest: Manifest) -> str:
    rows = [
        f"| {c.member} | {len(c.tokens)} | {c.share:.1%} | {_influence(c.influence)} | {', '.join(c.licences)} "
        f"| `{c.contribution_id}` {c.note} |"
        for c in manifest.contributions
    ]
    return "\n".join(
        ["| member | tokens | share | influence | licences | contribution |", "|---|---|---|---|---|---|", *rows]
    )


def _distillation(manifest: Manifest) -> str:
    distillation = manifest.merge.distillation
    if distillation is None:
        return ""
    return (
        f" From there it was distilled in {manifest.plan.distillation_steps} steps: it learned what the adapters of"
        f" {distillation.teachers} members answer on pictures that these adapters drew themselves."
    )


def _change(value: float | None) -> str:
    return "" if value is None else f"\nOn pictures that the base draws of itself, its answers moved by {value:.0%}."


def _influence(value: float | None) -> str:
    """How far the collective moves without the contribution."""
    return "not measured" if value is None else f"{value:.1%}"


def _removals(manifest: Manifest) -> str:
    if not manifest.removals:
        return ""
    lines = [f"- `{r.contribution_id}` of {r.member}: {r.reason}" for r in manifest.removals]
    return "\n".join([f"## Removed since `{manifest.parent}`", *lines, "\n"])


def _exclusions(manifest: Manifest) -> str:
    if not manifest.exclusions:
        return ""
    lines = [f"- {v.collection} #{v.token.token_id}: {v.reason}" for v in manifest.exclusions]
    return "\n".join(["## Not trained on", *lines, "\n"])


def _hub_name(licence: str) -> str:
    """How Hugging Face calls the licence: it knows those of Creative Commons."""
    if licence == "CC0":
        return "cc0-1.0"
    return licence.lower() if re.fullmatch(r"CC-BY(-NC)?(-SA)?-4\.0", licence) else "other"


def _licence(manifest: Manifest) -> str:
    duties = "".join(f" Duty: {duty}." for duty in manifest.duties)
    if manifest.licence == "CC0":
        return "CC0: everything that went in is in the public domain." + duties
    return f"The strictest of what went in holds: {manifest.licence}.{duties}"

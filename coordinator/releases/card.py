"""The model card: what a person reads first, in Hugging Face's README form."""

import re
from collections.abc import Collection

from protocol.manifest import Manifest, Merge, MergedContribution
from protocol.modes import Mode

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
{how}
{given_up}
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
        how=_how(manifest),
        given_up=_given_up(manifest.merge),
        change=_held(manifest) + _change(manifest.merge.base_change),
        licence_text=_licence(manifest),
    )


def _how(manifest: Manifest) -> str:
    merge = manifest.merge
    match merge.mode:
        case Mode.OPEN:
            said = (
                f"Regression mean over the members' input statistics, exact integer sums, commitment "
                f"`{merge.commitment}`; rank {merge.rank}\n(the worst layer's tail is {merge.tail:.2%})."
                f"{_distillation(manifest)}"
            )
        case Mode.SECAGG:
            said = (
                "Secure aggregation: members masked what they sent, and the coordinator could read the sum alone. The "
                f"sum's\nwhole numbers have the commitment `{merge.commitment}`; rank {merge.rank}."
            )
        case Mode.DP:
            said = f"Mean of clipped updates with discrete Gaussian noise; rank {merge.rank}.{_privacy(merge)}"
    return said + _choice(merge, {f"without {one.contribution_id}" for one in manifest.contributions})


def _choice(merge: Merge, left_out: Collection[str]) -> str:
    shown = [one for one in merge.scores if one.candidate not in left_out]
    if not shown:
        return f" Published with gain {merge.gain:g}, fixed beforehand.\n"
    rows = "\n".join(f"| {s.candidate} | {s.gain:g} | {s.loss:.4f} |" for s in shown)
    return (
        f" Published: {merge.candidate}, gain {merge.gain:g}, chosen by {merge.scored_by}\nmembers on images they held "
        f"out.\n\n| candidate | gain | held-out loss (median over members) |\n|---|---|---|\n{rows}\n"
    )


def _privacy(merge: Merge) -> str:
    spent = merge.privacy
    if spent is None:
        return ""
    return (
        f"\nAll {spent.releases} releases together tell of any one member at most ε = {spent.epsilon:.2f} at "
        f"δ = {spent.delta:g} against its updates being zero,\nand ε = {spent.epsilon_replaced:.2f} against their "
        "being any others."
    )


def _given_up(merge: Merge) -> str:
    if not merge.gives_up:
        return ""
    return "\n".join([f"This mode (`{merge.mode}`) gives up:\n", *(f"- {one}" for one in merge.gives_up), ""])


def _contributions(manifest: Manifest) -> str:
    rows = [
        f"| {c.member} | {len(c.tokens)} | {c.share:.1%} | {_influence(c)} | {', '.join(c.licences)} "
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
        f" From there it was distilled in {distillation.steps} steps: it learned what the adapters of"
        f" {distillation.teachers} members answer on pictures that these adapters drew themselves."
    )


def _held(manifest: Manifest) -> str:
    own = manifest.merge.base_statistics
    if own is None:
        return ""
    what = "the base's own data" if own.source == "shipped" else "pictures that the base drew of itself"
    return f"\nThe merge was held to its answers on {what} (μ = {manifest.plan.base_weight:g})."


def _change(value: float | None) -> str:
    return "" if value is None else f"\nOn pictures that the base draws of itself, its answers moved by {value:.0%}."


def _influence(one: MergedContribution) -> str:
    """How far the collective moves without the contribution, and what members' scores say of that."""
    moved = "not measured" if one.influence is None else f"{one.influence:.1%}"
    return moved if one.worth is None else f"{moved}, loss {one.worth:+.4f} without it"


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

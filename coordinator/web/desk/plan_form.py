"""The form of a round's plan: every field in plain words, and from what somebody typed to a plan or to sentences.

Pure. What the fields mean exactly stands at ``protocol.grant.RoundPlan``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from protocol.grant import RoundPlan
from protocol.modes import GIVES_UP, Learned, Mode

Kind = Literal["whole", "number", "numbers", "lines", "tick", "choice", "minutes"]
MOST_TYPED = 20_000
"""Characters in one field."""


@dataclass(frozen=True)
class Field:
    """One field of the form; ``name`` is the plan's."""

    name: str
    label: str
    explain: str
    kind: Kind = "whole"
    choices: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Group:
    """Fields that belong together; what hardly anybody changes is folded away."""

    title: str
    explain: str
    fields: tuple[Field, ...]
    folded: bool = True


MODES: tuple[tuple[str, str], ...] = (
    (Mode.OPEN, "Open: the coordinator sees every contribution and checks it"),
    (Mode.SECAGG, "Secret sum: the coordinator learns only the sum of all contributions"),
    (Mode.DP, "Noised: the release tells almost nothing of any single member"),
)
MODE_COSTS: Mapping[str, tuple[str, ...]] = {
    **{str(mode): costs for mode, costs in GIVES_UP.items()},
    Mode.OPEN: ("Whoever runs the coordinator can look at what each member's adapter has learnt.",),
}
GROUPS: tuple[Group, ...] = (
    Group(
        "Who has to come, and how long it stays open",
        "The round ends earlier when everybody who can take part has contributed.",
        (
            Field(
                "quorum",
                "Members it takes",
                "With fewer contributions at the deadline the round ends without a release.",
            ),
            Field(
                "deadline_seconds",
                "Minutes until the deadline",
                "How long members may take to train and send.",
                "minutes",
            ),
        ),
        folded=False,
    ),
    Group(
        "What the coordinator may see",
        "Only modes that the policy admits can be started. What a mode hides, it pays for.",
        (
            Field(
                "mode",
                "Mode",
                "Open is the usual one: it can be checked, and a member can be taken out exactly.",
                "choice",
                MODES,
            ),
        ),
        folded=False,
    ),
    Group(
        "How members train",
        "By one rule for everybody. The defaults are what measured best on the small base; more steps take longer.",
        (
            Field("rank", "Rank", "How much an adapter can hold: 8 is usual, more is larger and slower."),
            Field(
                "steps", "Steps", "How often each member's adapter is corrected. Twice the steps take twice the time."
            ),
            Field(
                "usual_pictures",
                "Pictures that these steps are for",
                "Who trains on more makes more steps in proportion, so that each picture is seen as often.",
            ),
            Field(
                "growth_limit",
                "So many times the steps at most",
                "However many pictures; 1 is the same number of steps for everybody.",
                "number",
            ),
            Field("batch", "Pictures a step", "How many pictures each step looks at. More needs more graphics memory."),
            Field(
                "learning_rate",
                "Learning rate",
                "How far each step goes. Too high ruins pictures, too low learns nothing.",
                "number",
            ),
        ),
        folded=False,
    ),
    Group(
        "Training, finer",
        "For those who know diffusion training.",
        (
            Field(
                "drift",
                "Drift penalty",
                "What an adapter pays for changing the base's answers where it was not asked to; 0 is none.",
                "number",
            ),
            Field("min_snr", "Min-SNR gamma", "Weighs easy time steps less; 0 weighs all alike.", "number"),
            Field("noise_offset", "Noise offset", "Lets pictures become very dark or bright; 0 is none.", "number"),
            Field(
                "caption_dropout",
                "Caption dropout",
                "How often a picture is trained on without its caption, from 0 to 1.",
                "number",
            ),
            Field(
                "trait_dropout",
                "Trait dropout",
                "How often each trait is left out of a caption, from 0 to below 1.",
                "number",
            ),
            Field(
                "prior_pictures",
                "Pictures of the base's own",
                "Trained on beside the member's, so that less is forgotten; 0 is none.",
            ),
            Field(
                "prior_captions",
                "Captions of these pictures",
                "One a line, in turn; an empty line is anything.",
                "lines",
            ),
            Field("seed", "Seed", "Of everything that is drawn alike for all."),
        ),
    ),
    Group(
        "Merging, finer",
        "How contributions become one model.",
        (
            Field(
                "statistics_pictures",
                "Pictures for the statistics",
                "Drawn by each member's adapter, from captions alone; more where it trains on more, as the steps.",
            ),
            Field(
                "drawing_steps",
                "Steps of drawing these",
                "0 takes plain noise for pictures: little is lost, and nobody waits for drawing.",
            ),
            Field("statistics_rank", "Rank of the statistics", "How finely they are kept."),
            Field("regularisation", "Regularisation", "λ: keeps the merge calm where nobody has data.", "number"),
            Field(
                "tail",
                "Tail",
                "τ: the share of the merged change that may be dropped to keep the release small.",
                "number",
            ),
            Field("release_rank", "Rank of the release at most", "More is a larger file."),
            Field(
                "base_weight",
                "The base's own word",
                "μ: how much the base counts beside the members; 0 is not at all.",
                "number",
            ),
            Field(
                "distillation_steps",
                "Distillation steps for each contribution",
                "After the merge the collective learns to answer as the members' adapters do; 0 is none.",
            ),
            Field("distillation_limit", "Distillation steps at most", "However many contribute."),
            Field("distillation_rate", "Distillation rate", "How far each of these steps goes.", "number"),
            Field(
                "gains",
                "Gains to try",
                "Strengths of the merged change, with commas; members' scores choose. 0 is the base alone.",
                "numbers",
            ),
            Field(
                "score_influence",
                "Say what each contribution is worth",
                "One more merge, and one more adapter for everybody to score, for each member.",
                "tick",
            ),
        ),
    ),
    Group(
        "Private modes, finer",
        "These count only in the modes secret sum and noised.",
        (
            Field(
                "learned",
                "What members train",
                "B beside a fixed A, or the core between two fixed factors.",
                "choice",
                ((Learned.B, "B"), (Learned.CORE, "Core")),
            ),
            Field("clip", "Clip", "The greatest length of an update; longer ones are shortened.", "number"),
            Field("gain", "Gain", "Noised: what the mean is multiplied by, fixed beforehand.", "number"),
            Field("noise", "Noise", "Noised: σ over the clip. More hides more.", "number"),
            Field("delta", "Delta", "Noised: δ, well below one over the number of members.", "number"),
            Field(
                "exchange_seconds",
                "Seconds for each exchange",
                "Secret sum: how long it waits for those who are silent.",
            ),
        ),
    ),
)
FIELDS: Mapping[str, Field] = {one.name: one for group in GROUPS for one in group.fields}


def written(plan: RoundPlan) -> dict[str, str]:
    """The plan as the form shows it."""
    return {name: _shown(field, getattr(plan, name)) for name, field in FIELDS.items()}


def read(typed: Mapping[str, str]) -> tuple[RoundPlan | None, dict[str, str]]:
    """The plan, or the first thing that is wrong with each field, in a sentence. A tick that is not there is none."""
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, field in FIELDS.items():
        try:
            values[name] = _meant(field, typed.get(name, ""))
        except ValueError as error:
            wrong[name] = str(error)
    if wrong:
        return None, wrong
    try:
        return RoundPlan.model_validate(values), {}
    except ValidationError as error:
        return None, {str(one["loc"][0]): f"{_sentence(one['msg'])}" for one in reversed(error.errors()) if one["loc"]}


def _shown(field: Field, value: Any) -> str:
    match field.kind:
        case "minutes":
            return f"{value / 60:g}"
        case "numbers":
            return ", ".join(repr(float(one)) for one in value)
        case "lines":
            return "\n".join(value)
        case "tick":
            return "on" if value else ""
    return repr(float(value)) if field.kind == "number" else str(value)


def _meant(field: Field, text: str) -> Any:
    """Raises ValueError with a sentence."""
    if len(text) > MOST_TYPED:
        raise ValueError(f"This is longer than {MOST_TYPED} characters.")
    match field.kind:
        case "tick":
            return text == "on"
        case "choice":
            return text
        case "lines":
            return tuple(text.replace("\r\n", "\n").split("\n"))
        case "numbers":
            return tuple(_number(one) for one in text.split(",") if one.strip())
        case "minutes":
            return round(_number(text) * 60)
        case "number":
            return _number(text)
    if not text.strip().isascii() or not text.strip().isdigit():
        raise ValueError("This is a whole number, without a sign.")
    if len(text.strip()) > 15:
        raise ValueError("This number is too large.")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("This is a number, with a point for what is below one.") from None
    if not abs(value) < 1e15:
        raise ValueError("This number is too large.")
    return value


def _sentence(said: str) -> str:
    return said.removeprefix("Value error, ").replace("Input should be", "This has to be").rstrip(".") + "."


def groups_open(wrong: Mapping[str, str]) -> Sequence[str]:
    """Titles of the folded groups that have to be opened because something in them is wrong."""
    return [group.title for group in GROUPS if group.folded and any(one.name in wrong for one in group.fields)]

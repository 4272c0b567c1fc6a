"""What diffusers keeps of a LoRA's configuration in a file's header: rank and alpha, as one JSON text.

``load_lora_weights`` takes the scale alpha / rank from there (diffusers: ``LORA_ADAPTER_METADATA_KEY``).
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from protocol.adapter import Adapter, Factors, component_of
from protocol.errors import BadInput
from protocol.kohya import scaled

KEY = "lora_adapter_metadata"
_DENOISERS = ("unet", "transformer")


def peft_metadata(adapter: Adapter) -> dict[str, str]:
    """Rank and alpha of every layer, equal; nothing where a text encoder is adapted as well.

    Text encoders' modules are called differently from one version of transformers to the next, so they cannot be
    named here; diffusers then goes by the tensors, which says the same.
    """
    ranks: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for layer, factors in adapter.items():
        component, module = component_of(layer)
        ranks[component][module] = factors.rank
    if not ranks.keys() <= set(_DENOISERS):
        return {}
    fields: dict[str, Any] = {}
    for component, of in ranks.items():
        common = Counter(of.values()).most_common(1)[0][0]
        others = {module: rank for module, rank in sorted(of.items()) if rank != common}
        fields |= {
            f"{component}.r": common,
            f"{component}.lora_alpha": common,
            f"{component}.target_modules": sorted(of),
            f"{component}.rank_pattern": others,
            f"{component}.alpha_pattern": others,
        }
    return {KEY: json.dumps(fields, sort_keys=True)}


def folded(adapter: Adapter, metadata: Mapping[str, str]) -> dict[str, Factors]:
    """The adapter with the scale that the header names, if it names one, multiplied into its factors.

    Raises:
        BadInput: a header that cannot be read, or one of a kind that is no plain LoRA.
    """
    try:
        fields = json.loads(metadata.get(KEY, "{}"))
        return {layer: scaled(factors, _scale(layer, factors, fields), layer) for layer, factors in adapter.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"The file's {KEY} cannot be read.", "Save the LoRA anew with diffusers.") from error


def _scale(layer: str, factors: Factors, fields: Mapping[str, Any]) -> float:
    component, module = component_of(layer)
    if fields.get(f"{component}.use_dora"):
        raise BadInput("The file is DoRA, which is no plain LoRA.", "Export it as plain LoRA and try again.")
    pattern = fields.get(f"{component}.alpha_pattern") or {}
    alpha = float(pattern.get(module, fields.get(f"{component}.lora_alpha", factors.rank)))
    return alpha / (math.sqrt(factors.rank) if fields.get(f"{component}.use_rslora") else factors.rank)

"""Load a release as anyone would, with diffusers alone, and see that every one of its tensors is in the pipeline.

``python -m deploy.demo.loading BASE RELEASE`` prints {"tensors": n, "left_over": [names]}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from processes.imports import uncollected


def load(base: Path, release: Path) -> dict[str, Any]:
    """How many tensors the released file has, and which of them are not, to the bit, in the pipeline afterwards."""
    with uncollected():
        import torch
        from diffusers import StableDiffusionPipeline
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

    pipe = StableDiffusionPipeline.from_pretrained(base, local_files_only=True, use_safetensors=True)
    pipe.load_lora_weights(release)
    released = load_file(release / "pytorch_lora_weights.safetensors")
    loaded = get_peft_model_state_dict(pipe.unet, adapter_name=pipe.get_active_adapters()[0])
    inside = {f"unet.{name}": tensor for name, tensor in loaded.items()}
    left_over = sorted(n for n, t in released.items() if n not in inside or not torch.equal(inside[n].to(t), t))
    return {"tensors": len(released), "left_over": left_over}


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]), Path(sys.argv[2]))))

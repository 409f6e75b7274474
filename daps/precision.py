"""Half precision where no gradient is taken: codes are scored in bfloat16 if the processor multiplies it fast.

docs/learning.md, "Scoring in half precision".
"""

from collections.abc import Mapping
from typing import Literal

import torch

Scoring = Literal["float32", "bfloat16", "auto"]


def score_precision(scoring: Scoring, device: torch.device) -> torch.autocast:
    """The context in which a decoder scores codes on a device: matrix products in bfloat16 or in what they came in.

    Args:
        scoring: "auto" takes bfloat16 where `multiplies_bfloat16` says so.
    """
    wanted = scoring == "bfloat16" or (scoring == "auto" and multiplies_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16, without which they are emulated, and slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities: Mapping[str, object] = getattr(
            torch.cpu, "get_capabilities", dict
        )()  # PyTorch before it says nothing
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False

"""The widest floating-point numbers of a device."""

import torch


def float64_on(device: torch.device) -> torch.dtype:
    """float64; float32 on an Apple GPU (mps), which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64

"""Devices: where to train and in what precision, found out and said in a sentence."""

import torch

from stn_helpers.checks import check_choice

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16}


def pick_device(name: str = "auto") -> torch.device:
    """A device by name; "auto" is CUDA where there is one. Raises ValueError where it is not on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; expected auto, cpu or cuda") from error
    if device.type == "mps":
        raise ValueError(
            "device is 'mps', which is not supported: torch before 2.13 has no border padding there, and channels_last, "
            "which training uses, computes wrong numbers in some versions; use cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}, which is not supported; expected auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but this torch sees no CUDA GPU; use cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {name!r}, but this torch sees {torch.cuda.device_count()} CUDA GPUs, counted from 0")
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware itself computes in bfloat16. Where torch emulates it, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    ask = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(supported() for supported in ask if supported)  # a torch that says it elsewhere trains in float32


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16 by name; "auto" is bfloat16 where the hardware has it. The grid is float32 in either."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    check_choice("precision", name, ("auto", *PRECISIONS))
    return PRECISIONS[name]


def dtype_name(dtype: torch.dtype) -> str:
    """A precision as files and people call it: float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def describe_device(device: torch.device, dtype: torch.dtype) -> str:
    """What a run says of itself: "training on Tesla T4 in float32"."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return f"training on {name} in {dtype_name(dtype)}"

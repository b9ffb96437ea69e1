"""Checks: in how many dresses an argument may come, what is refused, and the sentence that says so.

The path of an image reads without them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

FAR = 1e30  # a place as far out as this is as good as infinite: a few sums and products more, and float32 overflows


def kind(value: Any) -> Any:
    """What came, in a word: a tensor's dtype, or the class of anything else."""
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


class NotFiniteError(ValueError):
    """A theta or a grid holds NaN or infinity."""


def readable(values: Tensor) -> bool:
    """Whether the numbers can be looked at: not while a compiler, an exporter, a tracer, vmap or a CUDA graph takes notes."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    values = values.detach()  # a Parameter is as readable as a Tensor
    if type(values) is not Tensor or values.is_meta:
        return False
    if values.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    try:
        values.data_ptr()  # what stands for many tensors, as in vmap, has no memory of its own
    except RuntimeError:
        return False
    return True


def finite(values: Tensor) -> Tensor:
    """Which samples hold neither NaN nor infinity nor anything beyond FAR: (N,), bool."""
    return values.detach().abs().flatten(1).amax(1) < FAR


def check_finite(values: Tensor, name: str = "theta") -> None:
    """Raise NotFiniteError, a ValueError, with the sample's number where a theta or a grid (name) is not finite.

    Border padding would hide it in the picture, and on a CPU the sampler's backward pass would end the process.
    """
    # Most often all is well, and the smallest and the largest number say so at once (NaN is both).
    if not values.numel() or not readable(values) or all(abs(end) < FAR for end in torch.aminmax(values.detach())):
        return
    sample = int((~finite(values)).nonzero()[0])
    if name == "theta":
        raise NotFiniteError(
            f"theta of sample {sample} is not finite (below {FAR:g}): {values[sample].flatten().tolist()}. "
            "Where a localization network said it, the network has diverged: lower its learning rate."
        )
    row, column = (~(values[sample].abs().amax(-1) < FAR)).nonzero()[0].tolist()
    raise NotFiniteError(
        f"{name} of sample {sample} is not finite (below {FAR:g}): the pixel in row {row}, column {column} looks at "
        f"{values[sample, row, column].tolist()}. It lies on the horizon of a homography, or a number on the way was not finite."
    )


def check_size(size: Any, name: str = "size") -> tuple[int, int]:
    """(H, W) as two positive ints, or ValueError with the argument's name."""
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError, OverflowError):
        height = width = 0
    if height < 1 or width < 1 or (height, width) != tuple(size):
        raise ValueError(f"{name} is {size!r}; expected (H, W), two positive whole numbers")
    return height, width


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """ValueError, with all that there are, where a mode, a padding, a recipe ... is none that exists."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")


def check_images(images: Any, mode: str = "bilinear") -> None:
    """ValueError where images are no tensor (N, C, H, W) of a type that can be read in this mode."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images is a {type(images).__name__}; expected a tensor (N, C, H, W), floating point")
    came = f"images are {images.dtype} with shape {tuple(images.shape)}; expected"
    if images.ndim != 4:
        raise ValueError(f"{came} (N, C, H, W). One image gets a batch of its own by images[None].")
    if images.is_complex() or not (images.is_floating_point() or mode == "nearest"):
        raise ValueError(
            f"{came} floating point. For uint8 images divide by 255 first; a mask of labels is read with mode='nearest'."
        )


def floats(value: Any) -> Tensor:
    """A tensor of floating point numbers as it is; whatever else holds numbers (a list, an array) in torch's default type."""
    given = isinstance(value, Tensor) and value.is_floating_point()
    return value if given else torch.as_tensor(value, dtype=torch.get_default_dtype())


def _column(name: str, value: Any) -> Tensor:
    """A number or one number a sample as a float tensor of shape (N,)."""
    column = floats(value)
    if column.ndim > 1:
        raise ValueError(f"{name} has shape {tuple(column.shape)}; expected a number or one number a sample, shape (N,)")
    return column.reshape(-1)


def _pair(name: str, value: Any) -> tuple[Tensor, Tensor]:
    """A number or a pair (x, y) as two columns (N,)."""
    axes = getattr(value, "ndim", 0)  # of a tensor or an array
    if isinstance(value, (tuple, list)) or axes:
        entries = list(value.T if axes == 2 else value)  # (N, 2) is x of all, then y of all
        entries = 2 * entries if axes == 2 and len(entries) == 1 else entries
        if len(entries) != 2:  # also for (N,), which for N = 2 could not be told from a pair
            came = f"shape {tuple(value.shape)}" if axes else f"{len(entries)} entries"
            raise ValueError(
                f"{name} has {came}; expected a number, a pair (x, y), or one pair a sample, shape (N, 2). "
                "One number a sample for both axes is a column, shape (N, 1)."
            )
        return _column(name, entries[0]), _column(name, entries[1])
    return _column(name, value), _column(name, value)


def columns(angle: Any, scale: Any, shear: Any, shift: Any) -> tuple[Tensor, ...]:
    """The arguments of `affine` as six columns (N,): angle, scale x and y, shear, shift x and y. See there."""
    found = [_column("angle", angle), *_pair("scale", scale), _column("shear", shear), *_pair("shift", shift)]
    # Plain numbers follow the tensors to their device.
    given = [part for value in (angle, scale, shear, shift) for part in (value if isinstance(value, (tuple, list)) else [value])]
    device = next((part.device for part in given if isinstance(part, Tensor)), found[0].device)
    try:
        return torch.broadcast_tensors(*(column.to(device) for column in found))
    except RuntimeError as error:
        raise ValueError("angle, scale, shear and shift differ in length; expected one number, or N each") from error


def check_features(features: Any, width: int | None) -> None:
    """ValueError where a localization network's answer is no batch of features (N, width); None: any width."""
    if not isinstance(features, Tensor) or features.ndim < 2 or width not in (None, features[0].numel()):
        came = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(f"localization answers with {came}; expected (N, {width}). Say features=F, the width of its answer.")

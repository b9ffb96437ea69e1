"""Sampler: read the image at the grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.grid import sampling_grid

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("border", "zeros", "reflection")


def sample(
    images: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "border",
    align_corners: bool = False,
) -> Tensor:
    """Read the images at the places of the grid.

    images: (N, C, H, W), floating point. grid: (N, h, w, 2), normalised (x, y), on the same device.
    padding_mode: what is seen outside the image: its border, zeros (black only if 0 is black), or its reflection.
    Returns (N, C, h, w), float32 or wider: half precision is slower here on a CPU and blurs the weights.
    Raises ValueError for other shapes, types, devices or names. Paper: section 3.3, equation 5. Taught in notebook 03.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype} with shape {tuple(images.shape)}; expected floating point (N, C, H, W). "
            "For uint8 images divide by 255 first."
        )
    if not grid.is_floating_point():
        raise ValueError(f"grid is {grid.dtype}; expected floating point places between -1 and 1")
    if grid.ndim != 4 or grid.shape[-1] != 2 or len(grid) != len(images):
        raise ValueError(f"grid has shape {tuple(grid.shape)}; expected ({len(images)}, H, W, 2) for {len(images)} images")
    if grid.device != images.device:
        raise ValueError(f"grid is on {grid.device} and images on {images.device}; move one to the other with .to(device)")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    if padding_mode not in PADDINGS:
        raise ValueError(f"padding_mode is {padding_mode!r}; expected one of {', '.join(PADDINGS)}")
    wide = torch.promote_types(torch.promote_types(images.dtype, grid.dtype), torch.float32)
    return F.grid_sample(images.to(wide), grid.to(wide), mode, padding_mode, align_corners)


def warp(
    images: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "border",
    align_corners: bool = False,
) -> Tensor:
    """Look at the images through theta: the grid generator and the sampler in one call.

    images: (N, C, H, W) or one image (C, H, W), floating point. theta: (N, 2, 3) or (N, 3, 3), target -> source; one theta
    serves all images and one image serves all thetas. size: target (H, W), pixels; None keeps the source's.
    Returns (N, C, h, w), or (C, h, w) for one image under one theta.
    Raises ValueError where `sampling_grid` or `sample` do. Taught in notebook 03.
    """
    single = images.ndim == 3
    images = images[None] if single else images
    grid = sampling_grid(theta, images.shape[-2:] if size is None else size, align_corners)
    many = max(len(images), len(grid))
    if len(images) != len(grid) and min(len(images), len(grid)) != 1:
        raise ValueError(f"{len(images)} images and {len(grid)} thetas; expected as many of each, or one of either")
    warped = sample(images.expand(many, *images.shape[1:]), grid.expand(many, *grid.shape[1:]), mode, padding_mode, align_corners)
    return warped[0] if single and many == 1 else warped

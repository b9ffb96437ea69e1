"""Sampler: read the image at the grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_helpers.checks import check_choice, check_finite, check_images, kind
from stn_helpers.grid import sampling_grid

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("border", "zeros", "reflection")


def sample(
    images: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "border",
    align_corners: bool = False,
    check: bool = True,
) -> Tensor:
    """Read the images at the places of the grid.

    images: (N, C, H, W), floating point; with mode="nearest" also whole numbers or bool, such as a mask of labels.
    grid: (N, h, w, 2), normalised (x, y), on the same device.
    padding_mode: what is seen outside the image: its border, zeros (black only if 0 is black), or its reflection.
    check: False skips the search for places that are not finite (it makes a GPU wait).
    Returns (N, C, h, w), float32 or wider, because half precision is slower here on a CPU and blurs the weights; a mask keeps
    its type. Raises ValueError for other shapes, types, devices or names, and for a grid that is not finite.
    Paper: section 3.3, equation 5. Taught in notebook 03.
    """
    check_choice("mode", mode, MODES)
    check_choice("padding_mode", padding_mode, PADDINGS)
    check_images(images, mode)
    if not isinstance(grid, Tensor) or not grid.is_floating_point():
        raise ValueError(f"grid is {kind(grid)}; expected floating point places between -1 and 1")
    if grid.ndim != 4 or grid.shape[-1] != 2 or grid.shape[0] != images.shape[0]:
        raise ValueError(f"grid has shape {tuple(grid.shape)}; expected ({len(images)}, H, W, 2) for {len(images)} images")
    if grid.device != images.device:
        raise ValueError(f"grid is on {grid.device} and images on {images.device}; move one to the other with .to(device)")
    if check:
        check_finite(grid, "grid")
    own = images.dtype if images.is_floating_point() else torch.float64  # which holds every label
    wide = torch.promote_types(torch.promote_types(own, grid.dtype), torch.float32)
    seen = F.grid_sample(images.to(wide), grid.to(wide), mode, padding_mode, align_corners)
    return seen if images.is_floating_point() else seen.to(images.dtype)


def warp(
    images: Tensor,
    theta: Tensor,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "border",
    align_corners: bool = False,
) -> Tensor:
    """Look at the images through theta: the grid generator and the sampler in one call.

    images: (N, C, H, W) or one image (C, H, W), as `sample` takes them. theta: (N, 2, 3) or (N, 3, 3), target -> source; one
    theta serves all images and one image serves all thetas. size: target (H, W), pixels; None keeps the source's.
    Returns (N, C, h, w), or (C, h, w) for one image under one theta.
    Raises ValueError where `sampling_grid` or `sample` do. Taught in notebook 03.
    """
    single = isinstance(images, Tensor) and images.ndim == 3
    images = images[None] if single else images
    check_images(images, mode)
    height, width = images.shape[-2:]
    grid = sampling_grid(theta, (height, width) if size is None else size, align_corners)
    count, thetas = images.shape[0], grid.shape[0]
    if count != thetas and 1 not in (count, thetas):
        raise ValueError(f"{count} images and {thetas} thetas; expected as many of each, or one of either")
    images = images.expand(thetas, -1, -1, -1) if count == 1 else images
    grid = grid.expand(count, -1, -1, -1) if thetas == 1 else grid
    warped = sample(images, grid, mode, padding_mode, align_corners, check=False)
    return warped[0] if single and thetas == 1 else warped

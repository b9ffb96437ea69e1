"""Grid generator: where each target pixel looks in the source."""

import torch
from torch import Tensor

from stn_helpers.checks import check_finite, check_size
from stn_helpers.theta import as_matrix, wide


def pixel_centres(count: int, align_corners: bool = False, like: Tensor | None = None) -> Tensor:
    """Normalised coordinates of `count` pixels in a row, (count,).

    align_corners=False: -1 and 1 are the outer edges of the first and last pixel, so the centres lie half a pixel inside.
    align_corners=True: -1 and 1 are the centres themselves.
    """
    steps = torch.arange(count, dtype=torch.float32 if like is None else like.dtype, device=getattr(like, "device", None))
    if align_corners:
        return steps * (2 / (count - 1)) - 1 if count > 1 else steps
    return (2 * steps + 1) / count - 1


def target_points(size: tuple[int, int], align_corners: bool = False, like: Tensor | None = None) -> Tensor:
    """Every target pixel's normalised place, row by row: (H * W, 2), last axis (x, y)."""
    height, width = check_size(size)
    y, x = pixel_centres(height, align_corners, like), pixel_centres(width, align_corners, like)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def sampling_grid(theta: Tensor, size: tuple[int, int], align_corners: bool = False, check: bool = True) -> Tensor:
    """Where each target pixel looks in the source, for an affine or projective theta.

    theta: (N, 2, 3) or (N, 3, 3), target -> source, normalised coordinates.
    size: target (H, W), pixels.
    check: False skips the search for values that are not finite (it makes a GPU wait).
    Returns (N, H, W, 2), last axis (x, y), float32 or wider, also inside autocast.
    Raises ValueError for another shape or a value that is not finite, of theta or of the grid, with the sample's number.
    Paper: section 3.2, equation 1. Taught in notebook 03.
    """
    height, width = check_size(size)
    matrix = wide(as_matrix(theta))  # half precision would move the grid by up to a pixel at 224 px
    if check:
        check_finite(matrix)
    y, x = pixel_centres(height, align_corners, matrix), pixel_centres(width, align_corners, matrix)
    rows = theta.shape[-2]
    # One column's part and one row's part, then a single broadcast add: no matrix product, so neither autocast nor TF32
    # can touch it, and it is faster than F.affine_grid.
    across = matrix[:, None, None, :rows, 0] * x[:, None] + matrix[:, None, None, :rows, 2]
    grid = across + matrix[:, None, None, :rows, 1] * y[:, None, None]
    if rows == 2:
        return grid
    grid = grid[..., :2] / grid[..., 2:]
    if check:
        check_finite(grid, "grid")  # a pixel on the horizon looks at infinity, though theta is finite
    return grid

"""Grid generator: where each target pixel looks in the source."""

from functools import lru_cache

import torch
from torch import Tensor

from stn_helpers.theta import Family, as_matrix, check_finite


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) as two positive ints, or ValueError."""
    try:
        height, width = (int(side) for side in size)
        whole = (height, width) == tuple(size)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or height < 1 or width < 1:
        raise ValueError(f"size is {size!r}; expected (H, W), two positive whole numbers")
    return height, width


def pixel_centres(count: int, align_corners: bool = False, like: Tensor | None = None) -> Tensor:
    """Normalised coordinates of `count` pixels in a row, (count,).

    align_corners=False: -1 and 1 are the outer edges of the first and last pixel, so the centres lie half a pixel inside.
    align_corners=True: -1 and 1 are the centres themselves. Taught in notebook 03.
    """
    steps = torch.arange(count, dtype=torch.float32 if like is None else like.dtype, device=getattr(like, "device", None))
    if align_corners:
        return steps * (2 / (count - 1)) - 1 if count > 1 else steps
    return (2 * steps + 1) / count - 1


def target_points(size: tuple[int, int], align_corners: bool = False, like: Tensor | None = None) -> Tensor:
    """Every target pixel's normalised place, row by row: (H * W, 2), last axis (x, y)."""
    height, width = check_size(size)
    y = pixel_centres(height, align_corners, like)
    x = pixel_centres(width, align_corners, like)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2)


def sampling_grid(theta: Tensor, size: tuple[int, int], align_corners: bool = False, check: bool = True) -> Tensor:
    """Where each target pixel looks in the source, for an affine or projective theta.

    theta: (N, 2, 3) or (N, 3, 3), target -> source, normalised coordinates.
    size: target (H, W), pixels.
    check: False skips the search for values that are not finite (it makes a GPU wait).
    Returns (N, H, W, 2), last axis (x, y), float32 or wider, also inside autocast.
    Raises ValueError for another shape or a value that is not finite, with the sample's number.
    Paper: section 3.2, equation 1. Taught in notebook 03.
    """
    height, width = check_size(size)
    matrix = as_matrix(theta)
    # Half precision would move the grid by up to a pixel at 224 px, so it is never made in it.
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    if check:
        check_finite(matrix)
    x = pixel_centres(width, align_corners, matrix)
    y = pixel_centres(height, align_corners, matrix)
    rows = matrix.shape[1] if theta.shape[-2] == 3 else 2
    # One column's part and one row's part, then a single broadcast add: no matrix product, so neither autocast nor TF32
    # can touch it, and it is faster than F.affine_grid.
    across = matrix[:, None, None, :rows, 0] * x[:, None] + matrix[:, None, None, :rows, 2]
    down = matrix[:, None, None, :rows, 1] * y[:, None, None]
    grid = across + down
    return grid[..., :2] / grid[..., 2:] if rows == 3 else grid


def family_grid(
    family: Family,
    params: Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
    aspect: float = 1.0,
    check: bool = True,
) -> Tensor:
    """Where each target pixel looks in the source, for the raw parameters of any family.

    params: (N, P). size: target (H, W). aspect: width / height of the source (rotation and similarity turn in pixels).
    Returns (N, H, W, 2), float32 or wider. Raises ValueError as `sampling_grid` does. Taught in notebook 03.
    """
    params = family.check(params)
    if check:
        check_finite(params)
    if family.name != "tps":
        return sampling_grid(family.matrix(params, aspect), size, align_corners, check=False)
    weights = _tps_weights(family, check_size(size), align_corners, params.device, params.dtype)
    return family.bend(weights, params).reshape(len(params), *check_size(size), 2)


@lru_cache(maxsize=16)
def _tps_weights(family: Family, size: tuple[int, int], align_corners: bool, device: torch.device, dtype: torch.dtype):
    """The plate's weights for every target pixel, solved once a size and kept on the device."""
    # They outlive this call, so they must not be inference tensors: training could not save those.
    with torch.inference_mode(False), torch.no_grad():
        points = target_points(size, align_corners, like=torch.zeros((), dtype=torch.float64))
        return family.weights(points).to(device, dtype)


def outline(family: Family, params: Tensor, per_side: int = 16, aspect: float = 1.0) -> Tensor:
    """The border of what is attended, drawn in the source: a closed line (N, 4 * per_side + 1, 2), (x, y).

    Straight sides for a matrix family, curved ones for a thin plate spline. Taught in notebook 03.
    """
    along = torch.linspace(-1, 1, per_side + 1)[:-1]
    edge = torch.ones_like(along)
    sides = [(along, -edge), (edge, along), (-along, edge), (-edge, -along)]
    points = torch.cat([torch.stack(side, dim=-1) for side in sides]).to(params.device)
    line = family.source(params, points, aspect)
    return torch.cat([line, line[:, :1]], dim=1)  # not mapped twice: a product may round its last row differently

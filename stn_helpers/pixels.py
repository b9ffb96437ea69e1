"""Pixel matrices: the way in from OpenCV, kornia, torchvision and scikit-image, and back."""

from typing import Any

import torch
from torch import Tensor

from stn_helpers.checks import check_size, floats
from stn_helpers.theta import as_matrix, invert, like, product, wide


def _from_pixels(size: tuple[int, int], align_corners: bool, device: torch.device) -> Tensor:
    """(3, 3): pixel indices (0 is the centre of the first pixel) to normalised coordinates, in double."""
    (sx, tx), (sy, ty) = ((2 / max(n - 1, 1), -float(n > 1)) if align_corners else (2 / n, 1 / n - 1) for n in size[::-1])
    return torch.tensor([[sx, 0, tx], [0, sy, ty], [0, 0, 1]], dtype=torch.float64, device=device)


def theta_from_pixels(
    matrix: Any, source: tuple[int, int], target: tuple[int, int], align_corners: bool = False, inverse_map: bool = False
) -> Tensor:
    """theta from a matrix in pixels, as OpenCV, kornia and scikit-image use them.

    matrix: (N, 2, 3), (N, 3, 3) or one of them, a tensor or whatever holds numbers. It sends source pixels to target pixels, as
    OpenCV and kornia expect; inverse_map=True (OpenCV's WARP_INVERSE_MAP): target pixels to source pixels.
    source, target: their (H, W). A pixel's index counts from 0, the centre of the first pixel; torchvision's perspective
    counts from its outer edge, so its points are larger by half a pixel. align_corners: as it is said to `warp` afterwards.
    Returns theta as many rows as came, target -> source. Raises ValueError for other shapes, or a singular matrix.
    """
    matrix = floats(matrix)
    square = as_matrix(matrix, "matrix").double()
    source_size, target_size = check_size(source, "source"), check_size(target, "target")
    look = square if inverse_map else invert(square)
    to_source = _from_pixels(source_size, align_corners, square.device)
    theta = product(product(to_source, look), torch.linalg.inv(_from_pixels(target_size, align_corners, square.device)))
    return like(theta.to(wide(matrix).dtype), matrix)


def theta_to_pixels(
    theta: Tensor, source: tuple[int, int], target: tuple[int, int], align_corners: bool = False, inverse_map: bool = False
) -> Tensor:
    """The matrix in pixels that does what theta does: the inverse of `theta_from_pixels`, whose arguments these are.

    Returns (N, 2, 3) or (N, 3, 3), source pixels -> target pixels; with inverse_map=True target -> source.
    """
    square = as_matrix(theta).double()
    source_size, target_size = check_size(source, "source"), check_size(target, "target")
    from_source = torch.linalg.inv(_from_pixels(source_size, align_corners, square.device))
    look = product(product(from_source, square), _from_pixels(target_size, align_corners, square.device))
    return like((look if inverse_map else invert(look)).to(wide(theta).dtype), theta)

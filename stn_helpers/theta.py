"""Theta: what a transformation is made of, how two follow each other, and where one sends a point.

theta maps target to source, in normalised coordinates: x and y run from -1 to 1 over the image. It says where to look.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from stn_helpers.checks import check_finite, columns, floats, kind, readable


def affine(angle: Any = 0.0, scale: Any = 1.0, shear: Any = 0.0, shift: Any = (0.0, 0.0), aspect: float = 1.0) -> Tensor:
    """theta that looks through a rotated, sheared, scaled and shifted window.

    angle: degrees, the window turns clockwise on screen (y points down), so the picture in it turns the other way.
    scale: size of the window; 0.5 looks at half the width, which zooms in.
    shear: how far x moves for each unit of y, before the rotation. No unit.
    shift: centre of the window (x, y), normalised units: 1 is half the image.
    aspect: width / height of the image, so that a rotation stays a rotation in pixels when the image is not square.
    angle and shear are a number, or one a sample, (N,). scale and shift are a number for both axes, a pair (x, y) (of numbers,
    or of numbers a sample), or a tensor or array: (2,) is one pair, (N, 2) a pair a sample, (N, 1) one number a sample.
    Returns (N, 2, 3), target -> source.
    Raises ValueError for shapes that do not fit together. Paper: section 3.2, equation 1. Taught in notebook 01.
    """
    if not 0 < aspect < math.inf:
        raise ValueError(f"aspect is {aspect!r}; expected width / height, a positive number")
    angle, scale_x, scale_y, shear, shift_x, shift_y = columns(angle, scale, shear, shift)
    angle = torch.deg2rad(angle)
    cos, sin = angle.cos(), angle.sin()
    # rotation @ shear @ scale, written out: stacking (not torch.tensor([...])) keeps the graph for gradients.
    top = torch.stack([cos * scale_x, (cos * shear - sin) * scale_y / aspect, shift_x], dim=-1)
    bottom = torch.stack([sin * scale_x * aspect, (sin * shear + cos) * scale_y, shift_y], dim=-1)
    return torch.stack([top, bottom], dim=-2)


def as_matrix(theta: Tensor, name: str = "theta") -> Tensor:
    """theta as (N, 3, 3), with the row (0, 0, 1) added where it is implied.

    theta: (N, 2, 3) or (N, 3, 3); a single (2, 3) or (3, 3) counts as N = 1. Raises ValueError for anything else.
    Taught in notebook 01.
    """
    if not isinstance(theta, Tensor) or not theta.is_floating_point():
        raise ValueError(f"{name} is {kind(theta)}; expected a floating point tensor")
    shape = tuple(theta.shape)
    if theta.ndim == 2:
        theta = theta[None]
    if theta.ndim != 3 or theta.shape[1:] not in ((2, 3), (3, 3)):
        raise ValueError(f"{name} has shape {shape}; expected (N, 2, 3) or (N, 3, 3)")
    if theta.shape[1] == 3:
        return theta
    last = theta.new_tensor([0.0, 0.0, 1.0]).expand(theta.shape[0], 1, 3)  # len() would be a constant in a trace
    return torch.cat([theta, last], dim=1)


def wide(tensor: Tensor) -> Tensor:
    """float32 or wider: half precision can neither be inverted nor place a pixel."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def like(matrix: Tensor, *origins: Tensor) -> Tensor:
    """Drop the implied row again where every origin came without it."""
    return matrix[:, :2] if all(origin.shape[-2] == 2 for origin in origins) else matrix


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The theta whose warp equals warping by `first` and then warping the result by `then`.

    Both (N, 2, 3) or (N, 3, 3). Because theta asks where to look, the product runs backwards: first @ then.
    Raises ValueError for two that do not fit together. Taught in notebook 01.
    """
    one, other = as_matrix(first), as_matrix(then)
    if (one.dtype, one.device) != (other.dtype, other.device) or len({1, one.shape[0], other.shape[0]}) > 2:
        came = " and ".join(f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (first, then))
        raise ValueError(f"first and then are {came}; expected one type and device, and as many of each or one of either")
    return like(product(one, other), first, then)


def product(one: Tensor, other: Tensor) -> Tensor:
    """one @ other, by sums, because a matrix product may be made in half precision: by autocast, TF32 or a global setting."""
    return (one[..., :, :, None] * other[..., None, :, :]).sum(-2)


def invert(theta: Tensor) -> Tensor:
    """The theta that undoes theta: source -> target.

    theta: (N, 2, 3) or (N, 3, 3). Returns the same shape. Raises ValueError where a matrix is singular, with the sample's number.
    Taught in notebook 01.
    """
    matrix = wide(as_matrix(theta))
    check_finite(matrix)
    inverse, info = torch.linalg.inv_ex(matrix)
    # LAPACK only flags an exact zero pivot; a condition number beyond float precision is singular for our purpose.
    # A shift can always be undone, however far it goes, so an affine theta is judged without it.
    core = matrix[:, :2, :2] if theta.shape[-2] == 2 else matrix
    bad = (info != 0) | ~(torch.linalg.cond(core) * torch.finfo(matrix.dtype).eps < 1)
    if readable(bad) and bad.any():
        sample = int(bad.nonzero()[0])
        raise ValueError(
            f"theta of sample {sample} is singular: it flattens the image onto a line or a point, so nothing can undo it"
        )
    return like(inverse, theta)


class Parts(NamedTuple):
    """What an affine theta is made of; each a tensor (N,). `affine(*parts)` builds it again (with the same aspect)."""

    angle: Tensor
    scale: tuple[Tensor, Tensor]
    shear: Tensor
    shift: tuple[Tensor, Tensor]


def decompose(theta: Tensor, aspect: float = 1.0) -> Parts:
    """Angle (degrees), scale (x, y), shear and shift (x, y) of an affine theta: the inverse of `affine`.

    theta: (N, 2, 3), or (N, 3, 3) with last row (0, 0, c). scale y is negative where theta mirrors the picture.
    Raises ValueError for a projective theta. Taught in notebook 01.
    """
    matrix = as_matrix(theta)
    matrix = matrix / matrix[:, 2:, 2:]
    if readable(matrix) and not torch.allclose(matrix[:, 2, :2], torch.zeros_like(matrix[:, 2, :2])):
        raise ValueError("theta is projective (its last row is not 0, 0, c); only an affine theta has one angle and scale")
    a, b, x = matrix[:, 0, 0], matrix[:, 0, 1] * aspect, matrix[:, 0, 2]
    c, d, y = matrix[:, 1, 0] / aspect, matrix[:, 1, 1], matrix[:, 1, 2]
    scale_x = torch.hypot(a, c)
    angle = torch.atan2(c, a)
    cos, sin = angle.cos(), angle.sin()
    scale_y = cos * d - sin * b
    # A window of no height has no shear.
    shear = (cos * b + sin * d) / torch.where(scale_y == 0, torch.ones_like(scale_y), scale_y)
    return Parts(torch.rad2deg(angle), (scale_x, scale_y), shear, (x, y))


CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


def cross(one: Tensor, other: Tensor) -> Tensor:
    """The cross product of two vectors, last axis (x, y): positive where the other lies clockwise of the one on screen."""
    return one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]


def convex(corners: Tensor, least: float = 0.0) -> Tensor:
    """Whether four corners (N, 4, 2) turn clockwise on screen at each of them, by an angle with a sine above least: (N,), bool."""
    edges = corners.roll(-1, dims=1) - corners
    following = edges.roll(-1, dims=1)
    return (cross(edges, following) > least * edges.norm(dim=-1) * following.norm(dim=-1)).all(1)  # false for NaN too


def projective(corners: Any) -> Tensor:
    """The homography that sends the corners of the target to the given places in the source.

    corners: (N, 4, 2) or (4, 2), normalised (x, y): top left, top right, bottom right, bottom left; mirrored is allowed.
    Returns (N, 3, 3). Raises ValueError where they are not the corners of a convex quadrilateral: three on a line, two sides
    that cross, or a corner that points inwards, because then a line of the picture would be sent to infinity.
    Taught in notebook 01.
    """
    corners = floats(corners)
    if corners.shape[-2:] != (4, 2) or corners.ndim not in (2, 3):
        raise ValueError(f"corners has shape {tuple(corners.shape)}; expected (N, 4, 2): four corners (x, y)")
    corners = wide(corners).reshape(-1, 4, 2)
    good = convex(corners, 1e-6) | convex(corners.flip(1), 1e-6)
    if readable(good) and not good.all():
        raise ValueError(
            f"corners of sample {int((~good).nonzero()[0])} make no convex quadrilateral: three of them lie on a line, two sides "
            "cross, one corner points inwards, or they are not finite; no homography sends the whole picture there"
        )
    point = pad(corners.new_tensor(CORNERS).expand_as(corners), (0, 1), value=1.0)
    blank = torch.zeros_like(point)
    # Eight equations, two a corner: source * (h31 x + h32 y + 1) = (h x)  (direct linear transform).
    rows_x = torch.cat([point, blank, -corners[..., :1] * point[..., :2]], dim=-1)
    rows_y = torch.cat([blank, point, -corners[..., 1:] * point[..., :2]], dim=-1)
    entries = torch.linalg.solve(torch.cat([rows_x, rows_y], dim=1), torch.cat([corners[..., 0], corners[..., 1]], dim=1))
    return pad(entries, (0, 1), value=1.0).reshape(-1, 3, 3)


def map_points(theta: Tensor, points: Tensor) -> Tensor:
    """Where target points look in the source.

    theta: (N, 2, 3) or (N, 3, 3). points: (M, 2) or (N, M, 2), last axis (x, y). Returns (N, M, 2).
    With `invert(theta)` it answers the other question: where a source point appears in the target.
    Raises ValueError for other shapes. Paper: section 3.2, equation 1. Taught in notebook 03.
    """
    matrix = as_matrix(theta)
    if not isinstance(points, Tensor) or points.ndim not in (2, 3) or points.shape[-1] != 2:
        came = f"has shape {tuple(points.shape)}" if isinstance(points, Tensor) else f"is a {type(points).__name__}"
        raise ValueError(f"points {came}; expected a tensor (M, 2) or (N, M, 2), last axis (x, y)")
    if points.ndim == 3 and len(points) != len(matrix) and 1 not in (len(points), len(matrix)):
        raise ValueError(f"points are for {len(points)} samples and theta has {len(matrix)}; expected as many, or one of either")
    x, y = points[..., 0:1].to(matrix), points[..., 1:2].to(matrix)
    rows = x * matrix[:, None, :, 0] + y * matrix[:, None, :, 1] + matrix[:, None, :, 2]
    return rows[..., :2] / rows[..., 2:] if theta.shape[-2] == 3 else rows[..., :2]

"""Theta: the parameters of a transformation, and the families that give them a meaning.

theta maps target to source, in normalised coordinates: x and y run from -1 to 1 over the image. It says where to look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Number = float | Sequence[float] | Tensor


def _column(name: str, value: Number, device: torch.device | None) -> Tensor:
    """A number, a list or a tensor as a float tensor of shape (N,) on the device."""
    column = torch.as_tensor(value, device=device)
    column = column if column.is_floating_point() else column.float()
    if column.ndim > 1:
        raise ValueError(f"{name} has shape {tuple(column.shape)}; expected a number or one number a sample, shape (N,)")
    return column.reshape(-1)


def _pair(name: str, value) -> tuple:
    """One number for both axes, or a pair (x, y)."""
    if not isinstance(value, (tuple, list)):
        return value, value
    if len(value) != 2:
        raise ValueError(f"{name} has {len(value)} entries; expected one number or a pair (x, y)")
    return tuple(value)


def affine(angle: Number = 0.0, scale=1.0, shear: Number = 0.0, shift=(0.0, 0.0), aspect: float = 1.0) -> Tensor:
    """theta that looks through a rotated, sheared, scaled and shifted window.

    angle: degrees, the window turns clockwise on screen (y points down), so the picture in it turns the other way.
    scale: size of the window; 0.5 looks at half the width, which zooms in. A number, or a pair (x, y).
    shear: how far x moves for each unit of y, before the rotation. No unit.
    shift: centre of the window (x, y), normalised units: 1 is half the image.
    aspect: width / height of the image, so that a rotation stays a rotation in pixels when the image is not square.
    Any of the numbers may be a tensor (N,). Returns (N, 2, 3), target -> source.
    Raises ValueError for shapes that do not fit together. Paper: section 3.2, equation 1. Taught in notebook 01.
    """
    if not 0 < aspect < math.inf:
        raise ValueError(f"aspect is {aspect!r}; expected width / height, a positive number")
    names = ("angle", "scale", "scale", "shear", "shift", "shift")
    values = (angle, *_pair("scale", scale), shear, *_pair("shift", shift))
    # Plain numbers follow the tensors to their device.
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    columns = [_column(name, value, device) for name, value in zip(names, values, strict=True)]
    try:
        angle, scale_x, scale_y, shear, shift_x, shift_y = torch.broadcast_tensors(*columns)
    except RuntimeError as error:
        raise ValueError("angle, scale, shear and shift differ in length; expected one number, or N each") from error
    angle = torch.deg2rad(angle)
    cos, sin = angle.cos(), angle.sin()
    # rotation @ shear @ scale, written out: stacking (not torch.tensor([...])) keeps the graph for gradients.
    top = torch.stack([cos * scale_x, (cos * shear - sin) * scale_y / aspect, shift_x], dim=-1)
    bottom = torch.stack([sin * scale_x * aspect, (sin * shear + cos) * scale_y, shift_y], dim=-1)
    return torch.stack([top, bottom], dim=-2)


def as_matrix(theta: Tensor) -> Tensor:
    """theta as (N, 3, 3), with the row (0, 0, 1) added where it is implied.

    theta: (N, 2, 3) or (N, 3, 3); a single (2, 3) or (3, 3) counts as N = 1. Raises ValueError for anything else.
    Taught in notebook 01.
    """
    if not isinstance(theta, Tensor) or not theta.is_floating_point():
        came = theta.dtype if isinstance(theta, Tensor) else type(theta).__name__
        raise ValueError(f"theta is {came}; expected a floating point tensor")
    shape = tuple(theta.shape)
    if theta.ndim == 2:
        theta = theta[None]
    if theta.ndim != 3 or theta.shape[1:] not in ((2, 3), (3, 3)):
        raise ValueError(f"theta has shape {shape}; expected (N, 2, 3) or (N, 3, 3)")
    if theta.shape[1] == 3:
        return theta
    last = theta.new_tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
    return torch.cat([theta, last], dim=1)


def _wide(tensor: Tensor) -> Tensor:
    """float32 or wider: half precision can neither be inverted nor place a pixel."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _like(matrix: Tensor, *origins: Tensor) -> Tensor:
    """Drop the implied row again where every origin came without it."""
    return matrix[:, :2] if all(origin.shape[-2] == 2 for origin in origins) else matrix


class NotFiniteError(ValueError):
    """A theta holds NaN or infinity."""


def check_finite(theta: Tensor) -> None:
    """Raise NotFiniteError, a ValueError, with the sample's number where theta is NaN or infinite: border padding would hide it."""
    good = theta.detach().flatten(1).isfinite().all(dim=1)
    if not good.all():
        sample = int((~good).nonzero()[0])
        raise NotFiniteError(
            f"theta of sample {sample} is not finite: {theta[sample].flatten().tolist()}. "
            "The localization network has diverged: lower its learning rate."
        )


def compose(first: Tensor, then: Tensor) -> Tensor:
    """The theta whose warp equals warping by `first` and then warping the result by `then`.

    Both (N, 2, 3) or (N, 3, 3). Because theta asks where to look, the product runs backwards: first @ then.
    Raises ValueError for two that do not fit together. Taught in notebook 01.
    """
    one, other = as_matrix(first), as_matrix(then)
    if (one.dtype, one.device) != (other.dtype, other.device) or (len(one) != len(other) and 1 not in (len(one), len(other))):
        came = " and ".join(f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (first, then))
        raise ValueError(f"first and then are {came}; expected one type and device, and as many of each or one of either")
    with torch.autocast(one.device.type, enabled=False):
        return _like(one @ other, first, then)


def invert(theta: Tensor) -> Tensor:
    """The theta that undoes theta: source -> target.

    theta: (N, 2, 3) or (N, 3, 3). Returns the same shape. Raises ValueError where a matrix is singular, with the sample's number.
    Taught in notebook 01.
    """
    matrix = _wide(as_matrix(theta))
    check_finite(matrix)
    inverse, info = torch.linalg.inv_ex(matrix)
    # LAPACK only flags an exact zero pivot; a condition number beyond float precision is singular for our purpose.
    # A shift can always be undone, however far it goes, so an affine theta is judged without it.
    core = matrix[:, :2, :2] if theta.shape[-2] == 2 else matrix
    bad = (info != 0) | ~(torch.linalg.cond(core) * torch.finfo(matrix.dtype).eps < 1)
    if bad.any():
        sample = int(bad.nonzero()[0])
        raise ValueError(
            f"theta of sample {sample} is singular: it flattens the image onto a line or a point, so nothing can undo it"
        )
    return _like(inverse, theta)


class Parts(NamedTuple):
    """What an affine theta is made of; each a tensor (N,). `affine(*parts)` builds it again (with the same aspect)."""

    angle: Tensor
    scale: tuple[Tensor, Tensor]
    shear: Tensor
    shift: tuple[Tensor, Tensor]


def decompose(theta: Tensor, aspect: float = 1.0) -> Parts:
    """Angle (degrees), scale (x, y), shear and shift (x, y) of an affine theta: the inverse of `affine`.

    theta: (N, 2, 3), or (N, 3, 3) with last row (0, 0, 1). scale y is negative where theta mirrors the picture.
    Raises ValueError for a projective theta. Taught in notebook 01.
    """
    matrix = as_matrix(theta)
    last = matrix.new_tensor([0.0, 0.0, 1.0])
    if not torch.allclose(matrix[:, 2], last.expand(len(matrix), 3)):
        raise ValueError("theta is projective (its last row is not 0, 0, 1); only an affine theta has one angle and scale")
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


def projective(corners: Tensor) -> Tensor:
    """The homography that sends the corners of the target to the given places in the source.

    corners: (N, 4, 2) or (4, 2), normalised (x, y): top left, top right, bottom right, bottom left.
    Returns (N, 3, 3). Raises ValueError where three corners lie on a line. Taught in notebook 01.
    """
    corners = torch.as_tensor(corners)
    if corners.shape[-2:] != (4, 2) or corners.ndim not in (2, 3):
        raise ValueError(f"corners has shape {tuple(corners.shape)}; expected (N, 4, 2): four corners (x, y)")
    corners = _wide(corners).reshape(-1, 4, 2)
    edges = corners - corners.roll(1, dims=1)
    following = edges.roll(-1, dims=1)
    turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
    # The sine of the angle at each corner; the comparison is false for NaN too.
    flat = ~(turns.abs() > 1e-6 * edges.norm(dim=-1) * following.norm(dim=-1)).all(dim=1)
    if flat.any():
        raise ValueError(
            f"three corners of sample {int(flat.nonzero()[0])} lie on a line, or are not finite; no homography sends a square there"
        )
    target = corners.new_tensor(CORNERS)
    one, zero = torch.ones_like(corners[..., :1]), torch.zeros_like(corners)
    point = torch.cat([target.expand_as(corners), one], dim=-1)
    blank = torch.cat([zero, 0 * one], dim=-1)
    # Eight equations, two a corner: source * (h31 x + h32 y + 1) = (h x)  (direct linear transform).
    rows_x = torch.cat([point, blank, -corners[..., :1] * point[..., :2]], dim=-1)
    rows_y = torch.cat([blank, point, -corners[..., 1:] * point[..., :2]], dim=-1)
    entries = torch.linalg.solve(torch.cat([rows_x, rows_y], dim=1), torch.cat([corners[..., 0], corners[..., 1]], dim=1))
    return torch.cat([entries, torch.ones_like(entries[:, :1])], dim=1).reshape(-1, 3, 3)


def control_points(k: int) -> Tensor:
    """K x K points on a regular grid over the target, row by row: (K*K, 2), last axis (x, y), from -1 to 1."""
    if not isinstance(k, int) or k < 2:
        raise ValueError(f"k is {k!r}; expected at least 2 control points a side")
    line = torch.linspace(-1, 1, k)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


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


def tps_kernel(squared: Tensor) -> Tensor:
    """U(r) = r^2 log r^2, the bending of a thin plate, from r^2. At r = 0 the limit is 0, where 0 * log 0 would be NaN."""
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return squared * safe.log()


@dataclass(frozen=True)
class Family:
    """How P raw numbers become a place in the source for every place in the target.

    name: affine, similarity, attention, rotation, projective or tps. identity: the P numbers that change nothing.
    `source(params, points)` is all that a grid generator needs; matrix families also have `matrix(params)`.
    Taught in notebook 01.
    """

    name: str
    identity: tuple[float, ...]

    @property
    def count(self) -> int:
        """P, how many numbers a localization network must say."""
        return len(self.identity)

    def check(self, params: Tensor) -> Tensor:
        """params if they have shape (N, P) and a floating point type, in float32 or wider; else ValueError."""
        if not params.is_floating_point():
            raise ValueError(f"params are {params.dtype}; expected a floating point tensor")
        if params.ndim != 2 or params.shape[1] != self.count:
            raise ValueError(f"params has shape {tuple(params.shape)}; the {self.name} family expects (N, {self.count})")
        return _wide(params)

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        """params (N, P) as theta (N, 2, 3) or (N, 3, 3). aspect: width / height, see `affine`."""
        params = self.check(params)
        if self.name == "affine":
            return params.reshape(-1, 2, 3)
        if self.name == "projective":
            return torch.cat([params, torch.ones_like(params[:, :1])], dim=1).reshape(-1, 3, 3)
        zero = torch.zeros_like(params[:, 0])
        if self.name == "attention":
            scale, x, y = params.unbind(1)
            rows = [scale, zero, x, zero, scale, y]
        elif self.name == "similarity":
            a, b, x, y = params.unbind(1)
            rows = [a, -b / aspect, x, b * aspect, a, y]
        else:
            cos, sin = params[:, 0].cos(), params[:, 0].sin()
            rows = [cos, -sin / aspect, zero, sin * aspect, cos, zero]
        return torch.stack(rows, dim=1).reshape(-1, 2, 3)

    def source(self, params: Tensor, points: Tensor, aspect: float = 1.0) -> Tensor:
        """Where target points (M, 2) look: (N, M, 2)."""
        return map_points(self.matrix(params, aspect), points)


@dataclass(frozen=True)
class ThinPlateSpline(Family):
    """K x K control points of the target, each with its own place in the source; a thin plate bends in between.

    params are those 2 K^2 places, (x, y) point by point. Paper: section 3.2 and appendix; Bookstein 1989.
    """

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        raise ValueError("a thin plate spline is not a matrix; use source(params, points)")

    def weights(self, points: Tensor) -> Tensor:
        """How much each control point moves each of the points (M, 2): (M, K^2), float64. The same for every sample."""
        knots = control_points(math.isqrt(self.count // 2)).double()
        inverse = torch.linalg.inv(self._system(knots))[:, : len(knots)]
        return self._basis(points.double().cpu(), knots) @ inverse

    def source(self, params: Tensor, points: Tensor, aspect: float = 1.0) -> Tensor:
        params = self.check(params)
        return self.bend(self.weights(points).to(params), params)

    def bend(self, weights: Tensor, params: Tensor) -> Tensor:
        """Where points with these weights (M, K^2) look: (N, M, 2). A matrix product, so autocast is kept away from it."""
        with torch.autocast(params.device.type, enabled=False):
            return weights @ params.reshape(len(params), self.count // 2, 2)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of a spline: an affine theta (N, 2, 3), and how hard each knot bends the plate, (N, K^2, 2), float64.

        A place looks at: affine part + sum over the knots of bend * U(distance). Taught in notebook 01.
        """
        params = self.check(params).double().cpu()
        knots, inverse, _ = self._solved(math.isqrt(self.count // 2))
        places = params.reshape(len(params), -1, 2)
        coefficients = inverse @ places
        constant, slopes = coefficients[:, len(knots)], coefficients[:, len(knots) + 1 :]
        return torch.cat([slopes.mT, constant[..., None]], dim=-1), coefficients[:, : len(knots)]

    def energy(self, params: Tensor) -> Tensor:
        """How much the plate bends, (N,): the integral of f_xx^2 + 2 f_xy^2 + f_yy^2 over the plane, for x and y together.

        0 for every affine theta. Bookstein 1989; 16 pi belongs to U = r^2 log r^2. Taught in notebook 01.
        """
        kernel = self._solved(math.isqrt(self.count // 2))[2]
        bend = self.split(params)[1]
        return 16 * math.pi * (bend * (kernel @ bend)).sum((1, 2))

    @classmethod
    @lru_cache(maxsize=16)
    def _solved(cls, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """(knots, what takes their places to the coefficients, U between knots), solved once a K."""
        with torch.inference_mode(False), torch.no_grad():  # they outlive this call
            knots = control_points(k).double()
            return knots, torch.linalg.inv(cls._system(knots))[:, : len(knots)], cls._basis(knots, knots)[:, : len(knots)]

    @staticmethod
    def _basis(points: Tensor, knots: Tensor) -> Tensor:
        """(M, K^2 + 3): the plate's bending around each knot, then 1, x, y."""
        squared = (points[:, None] - knots[None]).square().sum(-1)
        return torch.cat([tps_kernel(squared), torch.ones_like(points[:, :1]), points], dim=1)

    @classmethod
    def _system(cls, knots: Tensor) -> Tensor:
        """The (K^2 + 3) square system: pass through every knot, with no bending at infinity."""
        upper = cls._basis(knots, knots)
        side = upper[:, len(knots) :].T
        return torch.cat([upper, torch.cat([side, side.new_zeros(3, 3)], dim=1)])


IDENTITIES = {
    "affine": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "similarity": (1.0, 0.0, 0.0, 0.0),
    "attention": (1.0, 0.0, 0.0),
    "rotation": (0.0,),
    "projective": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
}


def family(name: str, k: int = 4) -> Family:
    """A family by name. k: control points a side, for "tps" only (4, as in the paper's 16).

    | name | P | raw numbers |
    |---|---|---|
    | affine | 6 | the rows of the 2 x 3 matrix |
    | similarity | 4 | a, b, x, y: a + ib is scale and angle in one |
    | attention | 3 | scale, x, y (paper, equation 2) |
    | rotation | 1 | angle, radians |
    | projective | 8 | the 3 x 3 matrix without its last entry, 1 |
    | tps | 2 K^2 | where each control point looks, (x, y) |

    Raises ValueError for another name. Taught in notebook 01.
    """
    if name == "tps":
        return ThinPlateSpline("tps", tuple(control_points(k).flatten().tolist()))
    if not isinstance(name, str) or name not in IDENTITIES:
        raise ValueError(f"family is {name!r}; expected one of {', '.join([*IDENTITIES, 'tps'])}")
    return Family(name, IDENTITIES[name])

"""Families: how P raw numbers become a place in the source for every place in the target. One small class each."""

import math
from typing import Any

import torch
from torch import Tensor

from stn_helpers.checks import check_finite, check_size, readable
from stn_helpers.grid import sampling_grid, target_points
from stn_helpers.theta import CORNERS, map_points, wide

Size = tuple[int, int]


class Family:
    """What every family offers, and all that one of your own needs: `identity` and `source`.

        class Wave(Family):
            identity = (0.0,)  # the height of the wave; its length is P

            def source(self, params, points, aspect=1.0):
                up = params[:, None, :] * torch.sin(3 * points[:, :1])  # (N, M, 1)
                return torch.cat([points[:, :1].expand_as(up), points[:, 1:] + up], dim=-1)

    name: how it is called, by itself the class's name. identity: the P numbers that change nothing.
    """

    name: str
    identity: tuple[float, ...]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = cls.__dict__.get("name", cls.__name__)

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
        return wide(params)

    def source(self, params: Tensor, points: Tensor, aspect: float = 1.0) -> Tensor:
        """Where target points (M, 2) look: (N, M, 2). aspect: width / height of the source."""
        raise NotImplementedError(f"{type(self).__name__} has no source(params, points, aspect)")

    def grid(self, params: Tensor, size: Size, align_corners: bool = False, aspect: float = 1.0) -> Tensor:
        """Where each target pixel looks, (N, H, W, 2). `family_grid` does the same and looks at the numbers first."""
        places = self.source(params, target_points(size, align_corners, like=params), aspect)
        return places.reshape(params.shape[0], *size, 2)


class MatrixFamily(Family):
    """The families whose P numbers are a matrix: they have `matrix`, and all else follows."""

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        """params (N, P) as theta (N, 2, 3) or (N, 3, 3). aspect: width / height, see `affine`."""
        raise NotImplementedError(f"{type(self).__name__} has no matrix(params, aspect)")

    def source(self, params: Tensor, points: Tensor, aspect: float = 1.0) -> Tensor:
        return map_points(self.matrix(params, aspect), points)

    def grid(self, params: Tensor, size: Size, align_corners: bool = False, aspect: float = 1.0) -> Tensor:
        return sampling_grid(self.matrix(params, aspect), size, align_corners, check=False)


def _rows(*entries: Tensor) -> Tensor:
    """Six entries (N,) as (N, 2, 3)."""
    return torch.stack(entries, dim=1).reshape(-1, 2, 3)


class Affine(MatrixFamily):
    """Six numbers, the rows of the 2 x 3 matrix."""

    name, identity = "affine", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        return self.check(params).reshape(-1, 2, 3)


class Similarity(MatrixFamily):
    """a, b, x, y: a + ib is scale and angle in one, and turns in pixels."""

    name, identity = "similarity", (1.0, 0.0, 0.0, 0.0)

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        a, b, x, y = self.check(params).unbind(1)
        return _rows(a, -b / aspect, x, b * aspect, a, y)


class Attention(MatrixFamily):
    """scale, x, y: a window with the picture's shape (paper, equation 2)."""

    name, identity = "attention", (1.0, 0.0, 0.0)

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        scale, x, y = self.check(params).unbind(1)
        zero = torch.zeros_like(x)
        return _rows(scale, zero, x, zero, scale, y)


class Rotation(MatrixFamily):
    """An angle in radians, about the middle and in pixels."""

    name, identity = "rotation", (0.0,)

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        angle = self.check(params)[:, 0]
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        return _rows(cos, -sin / aspect, zero, sin * aspect, cos, zero)


class Projective(MatrixFamily):
    """Eight numbers, the 3 x 3 matrix without its last entry, 1."""

    name, identity = "projective", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def matrix(self, params: Tensor, aspect: float = 1.0) -> Tensor:
        params = self.check(params)
        return torch.cat([params, torch.ones_like(params[:, :1])], dim=1).reshape(-1, 3, 3)


class ThinPlateSpline(Family):
    """K x K control points of the target, each with its own place in the source; a thin plate bends in between.

    params are those 2 K^2 places, (x, y) point by point. Paper: section 3.2 and appendix; Bookstein 1989.
    """

    name = "tps"

    def __init__(self, k: int = 4):
        self.k, self._knots = k, control_points(k, torch.float64, "cpu")
        self.identity = tuple(self._knots.flatten().tolist())
        # The system whose answer passes through every knot and does not bend at infinity, solved once.
        upper = self._basis(self._knots)
        side = upper[:, k**2 :].T
        self._solved = torch.linalg.inv(torch.cat([upper, torch.cat([side, side.new_zeros(3, 3)], dim=1)]))[:, : k**2]
        self._kept: tuple[Any, Any] = None, None  # the grid that was asked for last, and the weights of its pixels

    def source(self, params: Tensor, points: Tensor, aspect: float = 1.0) -> Tensor:
        return self._bend(self.weights(points), self.check(params))

    def grid(self, params: Tensor, size: Size, align_corners: bool = False, aspect: float = 1.0) -> Tensor:
        wanted = (size, align_corners, params.device)
        asked, weights = self._kept
        if asked != wanted:
            with torch.inference_mode(False), torch.no_grad():  # they outlive this call, and may serve in training
                exact = torch.zeros((), dtype=torch.float64, device="cpu")
                weights = self.weights(target_points(size, align_corners, like=exact))
                weights = weights.to(params.device, torch.float32 if params.device.type == "mps" else None)
            if readable(weights):  # nothing is kept of what an exporter or vmap makes up
                self._kept = wanted, weights
        return self._bend(weights, self.check(params)).unflatten(1, size)

    def weights(self, points: Tensor) -> Tensor:
        """How much each control point moves each of the points (M, 2): (M, K^2), float64. The same for every sample."""
        return self._basis(points.double().cpu()) @ self._solved

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of a spline: an affine theta (N, 2, 3), and how hard each knot bends the plate, (N, K^2, 2), float64.

        A place looks at: affine part + sum over the knots of bend * U(distance). Taught in notebook 01.
        """
        params = self.check(params).cpu().double()
        coefficients = self._solved @ params.reshape(params.shape[0], self.k**2, 2)
        bends, constant, slopes = coefficients.split([self.k**2, 1, 2], dim=1)
        return torch.cat([slopes.mT, constant.mT], dim=-1), bends

    def energy(self, params: Tensor) -> Tensor:
        """How much the plate bends, (N,): the integral of f_xx^2 + 2 f_xy^2 + f_yy^2 over the plane, for x and y together.

        0 for every affine theta. Bookstein 1989; 16 pi belongs to U = r^2 log r^2. Taught in notebook 01.
        """
        kernel, bends = self._basis(self._knots)[:, : self.k**2], self.split(params)[1]
        return 16 * math.pi * (bends * (kernel @ bends)).sum((1, 2))

    def _bend(self, weights: Tensor, params: Tensor) -> Tensor:
        """Where points with these weights (M, K^2) look: (N, M, 2), in the type of params.

        In float64, because a float32 product may be made in bfloat16 or TF32, which is off by pixels; and as one product, not
        one a sample, which is so much faster that it costs less than float32 did.
        """
        exact = params.float() if params.device.type == "mps" else params.double()  # MPS has no float64
        count, knots = params.shape[0], self.k**2
        columns = exact.reshape(count, knots, 2).mT.reshape(2 * count, knots)  # x of all knots, then y, sample by sample
        places = columns @ weights.to(exact).T
        return places.to(params.dtype).reshape(count, 2, weights.shape[0]).mT

    def _basis(self, points: Tensor) -> Tensor:
        """(M, K^2 + 3): the plate's bending around each knot, then 1, x, y."""
        squared = (points[:, None] - self._knots).square().sum(-1)
        return torch.cat([tps_kernel(squared), torch.ones_like(points[:, :1]), points], dim=1)


def control_points(k: int, dtype: torch.dtype = torch.float32, device: str | None = None) -> Tensor:
    """K x K points on a regular grid over the target, row by row: (K*K, 2), last axis (x, y), from -1 to 1."""
    if not isinstance(k, int) or k < 2:
        raise ValueError(f"k is {k!r}; expected at least 2 control points a side")
    line = [(2 * i - k + 1) / (k - 1) for i in range(k)]
    return torch.tensor([(x, y) for y in line for x in line], dtype=dtype, device=device)


def tps_kernel(squared: Tensor) -> Tensor:
    """U(r) = r^2 log r^2, the bending of a thin plate, from r^2. At r = 0 the limit is 0, where 0 * log 0 would be NaN."""
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return squared * safe.log()


MATRICES = {one.name: one for one in (Affine, Similarity, Attention, Rotation, Projective)}


def family(name: str, k: int = 4) -> Family:
    """A family by name. k: control points a side, for "tps" only (4, as in the paper's 16).

    affine (P = 6), similarity (4), attention (3), rotation (1), projective (8), tps (2 K^2): what the numbers are is said where
    each class is.
    Raises ValueError for another name. Taught in notebook 01.
    """
    if name == "tps":
        return ThinPlateSpline(k)
    if not isinstance(name, str) or name not in MATRICES:
        raise ValueError(f"family is {name!r}; expected one of {', '.join([*MATRICES, 'tps'])}, or a Family of your own")
    return MATRICES[name]()


def family_grid(
    family: Family, params: Tensor, size: Size, align_corners: bool = False, aspect: float = 1.0, check: bool = True
) -> Tensor:
    """Where each target pixel looks in the source, for the raw parameters of any family.

    params: (N, P). size: target (H, W). aspect: width / height of the source (rotation and similarity turn in pixels).
    check: see `sampling_grid`.
    Returns (N, H, W, 2), float32 or wider. Raises ValueError as `sampling_grid` does. Taught in notebook 01.
    """
    params = family.check(params)
    if check:
        check_finite(params)
    grid = family.grid(params, check_size(size), align_corners, aspect)
    if check:
        check_finite(grid, "grid")
    return grid


def outline(family: Family, params: Tensor, per_side: int = 16, aspect: float = 1.0) -> Tensor:
    """The border of what is attended, drawn in the source: a closed line (N, 4 * per_side + 1, 2), (x, y).

    Straight sides for a matrix family, curved ones for a thin plate spline. Taught in notebook 03.
    """
    corners = torch.tensor(CORNERS)
    along = torch.linspace(0, 1, per_side + 1)[:-1, None]
    points = torch.lerp(corners[:, None], corners.roll(-1, dims=0)[:, None], along).flatten(0, 1)
    line = family.source(family.check(params), points.to(wide(params)), aspect)
    return torch.cat([line, line[:, :1]], dim=1)  # not mapped twice: a product may round its last row differently

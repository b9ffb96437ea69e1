"""Poses: what a spatial transformer undid, as numbers. theta is what it said, pose the theta that would undo it all."""

import torch
from torch import Tensor

from stn_helpers.grid import target_points
from stn_helpers.theta import CORNERS, decompose, invert, map_points


def wrap(degrees: Tensor) -> Tensor:
    """Angles brought into -180 ... 180."""
    return (degrees + 180) % 360 - 180


def mean_angle(degrees: Tensor) -> Tensor:
    """The mean direction: of 179 and -179 it is 180, not 0."""
    radians = torch.deg2rad(degrees)
    return torch.rad2deg(torch.atan2(radians.sin().mean(), radians.cos().mean()))


def undone(theta: Tensor, pose: Tensor, period: float = 360.0) -> dict[str, float]:
    """Did it undo the rotation? theta and pose (N, 2, 3) -> numbers, angles in degrees.

    A network is free to settle on any pose, upright or not, as long as it is the same for all: `settled` is the mean angle
    left over, `residual` the mean absolute deviation from it, `before` the same without a transformer, `correlation` that of
    the angle said with the angle to be undone, 0 where one of them never changes.
    period: angles that differ by this much count as one; 90 asks of a square frame, which looks the same after a quarter
    turn. Taught in notebook 04.
    """
    turns = 360.0 / period
    said, wanted = (turns * decompose(matrix).angle for matrix in (theta, pose))
    left = wrap(said - wanted)
    settled = mean_angle(left)
    # From their own means: an angle that passes 180 must not come back at -180.
    both = torch.stack([wrap(angle - mean_angle(angle)) for angle in (said, wanted)])
    return {
        "settled": settled.item() / turns,
        "residual": wrap(left - settled).abs().mean().item() / turns,
        "before": wrap(wanted - mean_angle(wanted)).abs().mean().item() / turns,
        "correlation": torch.corrcoef(both)[0, 1].nan_to_num().item(),
    }


def blur(images: Tensor, labels: Tensor) -> float:
    """How blurred the mean image of a class is: the variance of a pixel within its class, averaged over pixels and classes.

    images: (N, C, H, W) in [0, 1]. Taught in notebook 04.
    """
    within = [images[labels == k].var(dim=0, unbiased=False).mean() for k in labels.unique()]
    return torch.stack(within).mean().item()


def overlap(theta: Tensor, pose: Tensor, side: int = 64) -> Tensor:
    """Intersection over union of what is attended and what should be, (N,), 0 to 1.

    theta, pose: (N, 2, 3). Both windows are quadrilaterals in the source; a source point lies in a window where the inverse
    theta sends it into the target. Counted on side x side points over the source. Raises ValueError for a singular theta.
    Taught in notebook 04.
    """
    points = target_points((side, side)).to(theta)
    looked, wanted = ((map_points(invert(one), points).abs() <= 1).all(-1) for one in (theta, pose))
    return (looked & wanted).sum(1) / (looked | wanted).sum(1).clamp(min=1)


def corner_drift(theta: Tensor, pose: Tensor) -> dict[str, float]:
    """How far the corners of the true image stray from one picture to the next, as seen: {"before", "after"} the transformer.

    theta: (N, 2, 3). pose: (N, 2, 3) or (N, 3, 3). In units of the image as it is seen on average: 1 is the distance from its
    middle to a corner, so zooming out gains nothing; 0 where every image is seen in one and the same pose, upright or not.
    Raises ValueError for a singular theta. Taught in notebook 06b.
    """
    corners = map_points(pose, torch.tensor(CORNERS)).to(theta)

    def drift(seen: Tensor) -> float:
        size = (seen - seen.mean(1, keepdim=True)).norm(dim=-1).mean()
        return ((seen - seen.mean(0)).norm(dim=-1).mean() / size).item()

    return {"before": drift(corners), "after": drift(map_points(invert(theta), corners))}

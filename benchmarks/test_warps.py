"""One warp, from its parameters to the picture: ours, kornia, OpenCV and scikit-image, each seen to give the same picture first.

All take one thread, bilinear interpolation, the border outside the image, and -1 and 1 at the centres of the outer pixels: the one
convention that all four can be told. Three channels, float32, and for OpenCV uint8 too.
"""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.geometry import transform as kornia
from skimage import transform as skimage

from stn_helpers.data.sets import test_card as card
from stn_helpers.families import control_points, family, family_grid
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import sample, warp
from stn_helpers.theta import affine, as_matrix, projective

TPS = family("tps")
INVERSE = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
CASES = [(name, *size) for name in ("affine", "projective", "tps") for size in ((256, 32), (1, 512))]
GROWTH = [("affine", 4**power, 32) for power in range(7)]
GROWTH += [("affine", batch, side) for batch in (1, 16) for side in (64, 128, 256, 512)]
RATES: dict[tuple[str, str], float] = {}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def some(name: str, batch: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(images (N, 3, side, side), what moves them): theta (N, 2, 3) or (N, 3, 3), or a spline's raw numbers (N, 32)."""
    random = torch.Generator().manual_seed(0)
    # Soft edges: two samplers that differ by a hundredth of a pixel must not differ in the picture.
    soft = F.avg_pool2d(card(side)[None], 5, 1, 2, count_include_pad=False)
    images = (soft * torch.linspace(0.7, 1, batch)[:, None, None, None]).contiguous()
    if name == "affine":
        return images, affine(torch.linspace(-40, 40, batch), scale=0.9, shift=(0.1, -0.05))
    if name == "projective":
        corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
        return images, projective(corners + 0.15 * torch.rand(batch, 4, 2, generator=random))
    return images, torch.tensor(TPS.identity) + 0.05 * torch.randn(batch, TPS.count, generator=random)


def grid_of(name: str, moves: torch.Tensor, side: int) -> torch.Tensor:
    """Where every target pixel looks, (N, side, side, 2)."""
    if name == "tps":
        return family_grid(TPS, moves, (side, side), align_corners=True)
    return sampling_grid(moves, (side, side), align_corners=True)


def to_pixels(theta: torch.Tensor, side: int) -> torch.Tensor:
    """theta as matrices (N, 3, 3) between pixel numbers, target -> source, float64."""
    half = (side - 1) / 2
    out = torch.tensor([[half, 0, half], [0, half, half], [0, 0, 1]], dtype=torch.float64)
    return out @ as_matrix(theta.double()) @ out.inverse()


def ours(name, images, moves):
    if name == "tps":
        return lambda: sample(images, grid_of(name, moves, images.shape[-1]), align_corners=True)
    return lambda: warp(images, moves, align_corners=True)


def by_kornia(name, images, moves):
    size, options = tuple(images.shape[-2:]), {"padding_mode": "border", "align_corners": True}
    if name == "tps":
        # Its plates are centred on the places that are looked at, ours on the knots; both pass through the same points.
        knots, places = control_points(4).repeat(len(images), 1, 1), moves.reshape(len(images), -1, 2)
        return lambda: kornia.warp_image_tps(images, places, *kornia.get_tps_transform(knots, places), **options)
    matrices = to_pixels(moves, size[0]).inverse().float()  # it asks for source -> target, and inverts that again
    if name == "affine":
        return lambda: kornia.warp_affine(images, matrices[:, :2], size, **options)
    return lambda: kornia.warp_perspective(images, matrices, size, **options)


def pictures(images) -> list[np.ndarray]:
    """What takes one image at a time gets: (H, W, 3) each."""
    return list(images.permute(0, 2, 3, 1).contiguous().numpy())


def by_opencv(name, images, moves, one=lambda picture: picture):
    side, seen = images.shape[-1], [one(picture) for picture in pictures(images)]
    if name == "tps":  # it has no spline: our grid, its sampler

        def run():
            maps = ((grid_of(name, moves, side) + 1) * ((side - 1) / 2)).numpy()
            pairs = zip(seen, maps, strict=True)
            return [cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for image, at in pairs]

        return run
    warper, rows = (cv2.warpAffine, 2) if name == "affine" else (cv2.warpPerspective, 3)
    todo = list(zip(seen, to_pixels(moves, side)[:, :rows].numpy(), strict=True))
    return lambda: [warper(image, at, (side, side), flags=INVERSE, borderMode=cv2.BORDER_REPLICATE) for image, at in todo]


def by_opencv_in_uint8(name, images, moves):
    return by_opencv(name, images, moves, lambda picture: (picture * 255).round().astype(np.uint8))


def by_skimage(name, images, moves):
    side, seen = images.shape[-1], pictures(images)
    if name == "tps":
        knots, middle = control_points(4).numpy(), (side - 1) / 2
        places = moves.reshape(len(moves), -1, 2).numpy()
        maps = [((knots + 1) * middle, (place + 1) * middle) for place in places]
        return lambda: [skimage.warp(image, spline(*at), order=1, mode="edge") for image, at in zip(seen, maps, strict=True)]
    todo = list(zip(seen, to_pixels(moves, side).numpy(), strict=True))
    return lambda: [skimage.warp(image, at, order=1, mode="edge") for image, at in todo]


def spline(target, source):
    kind = skimage.ThinPlateSplineTransform
    if hasattr(kind, "from_estimate"):
        return kind.from_estimate(target, source)
    made = kind()
    made.estimate(target, source)
    return made


BY = {"ours": ours, "kornia": by_kornia, "OpenCV": by_opencv, "OpenCV, uint8": by_opencv_in_uint8, "scikit-image": by_skimage}


def as_images(found) -> torch.Tensor:
    """A result of anyone as (N, 3, H, W) in [0, 1]."""
    if isinstance(found, list):
        found = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
    return found.float() / 255 if found.dtype == torch.uint8 else found.float()


# How far a picture may be from ours, (mean, most). Before version 5 OpenCV rounds places to 1/32 pixel.
LIMITS = {("tps", "kornia"): (0.01, 1.0)}


def check_same(name, images, moves, by, found) -> None:
    """Nobody is timed doing something else: inside the image all give our picture."""
    side = images.shape[-1]
    inside = (grid_of(name, moves, side).abs() < 1 - 2 / side).all(-1)[:, None].expand_as(images)
    apart = (as_images(found) - as_images(ours(name, images, moves)()))[inside].abs()
    mean, most = LIMITS.get((name, by), (0.002, 0.05))
    assert inside.float().mean() > 0.5 and apart.mean() < mean and apart.max() < most, (by, apart.mean(), apart.max())


def measure(benchmark, name, batch, side, by):
    images, moves = some(name, batch, side)
    run = BY[by](name, images, moves)
    check_same(name, images, moves, by, run())
    case = f"{name}, {batch:,} x {side} px"
    row = {"case": case, "by": by, "batch": batch, "side": side}
    benchmark.extra_info.update(images=batch, what=f"{case}, {by}", beside=case, row=row)
    benchmark(run)
    RATES[case, by] = batch / benchmark.stats.stats.median


@pytest.mark.benchmark(group="warps", max_time=0.5, min_rounds=5)
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(("name", "batch", "side"), CASES, ids=["-".join(map(str, case)) for case in CASES])
def test_warp(benchmark, name, batch, side, by):
    measure(benchmark, name, batch, side, by)


@pytest.mark.benchmark(group="growth", max_time=0.5, min_rounds=5)
@pytest.mark.parametrize("by", ["ours", "kornia", "OpenCV"])
@pytest.mark.parametrize(("name", "batch", "side"), GROWTH, ids=[f"{batch}-{side}" for _, batch, side in GROWTH])
def test_growth(benchmark, name, batch, side, by):
    measure(benchmark, name, batch, side, by)


def test_ours_is_never_slower_than_kornia():
    slower = {case: rate / RATES[case, "ours"] for (case, by), rate in RATES.items() if by == "kornia" and (case, "ours") in RATES}
    assert all(ratio <= 1 for ratio in slower.values()), slower

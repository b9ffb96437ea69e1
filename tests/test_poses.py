"""poses.py: what was undone, against numpy, scipy and OpenCV's polygons."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import circmean

from stn_helpers.data.poses import blur, mean_angle, overlap, undone, wrap
from stn_helpers.theta import CORNERS, affine, invert, map_points

quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**32 - 1)


def around(one, other) -> np.ndarray:
    """How far one angle is from another, on the circle."""
    return np.degrees(np.abs(np.angle(np.exp(1j * np.radians(np.subtract(one, other))))))


@quick
@given(st.floats(-1000, 1000))
def test_a_wrapped_angle_is_the_same_direction_within_half_a_turn(degrees):
    wrapped = wrap(torch.tensor(degrees, dtype=torch.float64)).item()
    assert -180 <= wrapped <= 180
    assert around(wrapped, degrees) == pytest.approx(0, abs=1e-9)


@quick
@given(st.lists(st.floats(-70, 70), min_size=1, max_size=9), st.floats(-180, 180))
def test_the_mean_angle_is_scipys(spread, middle):
    degrees = np.add(spread, middle)
    found = mean_angle(torch.tensor(degrees)).item()
    assert -180 <= found <= 180
    assert around(found, circmean(degrees, high=180, low=-180)) == pytest.approx(0, abs=1e-6)


def test_the_mean_of_179_and_minus_179_is_180():
    assert abs(mean_angle(torch.tensor([179.0, -179.0])).item()) == pytest.approx(180)


@quick
@given(seeds, st.floats(-180, 180), st.floats(-180, 180))
def test_what_was_undone_is_counted_wherever_the_network_settled(seed, settled, middle):
    random = np.random.default_rng(seed)
    wanted, left = random.uniform(-60, 60, 40), random.uniform(-9, 9, 40)
    scale, shift = torch.from_numpy(random.uniform(0.5, 1.5, 40)), torch.from_numpy(random.uniform(-1, 1, 40))
    pose = affine(torch.from_numpy(wanted + middle), scale[:, None], shift=(shift, 0.1))
    found = undone(affine(torch.from_numpy(wanted + middle + left + settled), 0.7, 0.2, shift=(0.0, shift)), pose)
    assert around(found["settled"], settled + circmean(left, 180, -180)) == pytest.approx(0, abs=1e-6)
    assert found["residual"] == pytest.approx(around(left, circmean(left, 180, -180)).mean())
    assert found["before"] == pytest.approx(around(wanted, circmean(wanted, 180, -180)).mean())
    # On a circle an angle has no zero; what is said and what is wanted are counted from their own means.
    said = wanted + left - circmean(wanted + left, 180, -180)
    assert found["correlation"] == pytest.approx(np.corrcoef(said, wanted)[0, 1])


def test_a_network_that_says_nothing_has_undone_nothing():
    pose = affine(torch.linspace(-60, 60, 50))
    found = undone(affine().expand(50, 2, 3), pose)
    assert found["residual"] == pytest.approx(found["before"]) and found["before"] > 25
    assert found["correlation"] == 0


@quick
@given(seeds)
def test_blur_is_the_mean_variance_within_a_class(seed):
    random = np.random.default_rng(seed)
    images, labels = random.random((12, 2, 3, 4)), random.choice([1, 5, 7], 12)
    slow = [((images[labels == k] - images[labels == k].mean(0)) ** 2).mean() for k in set(labels)]
    assert blur(torch.from_numpy(images), torch.from_numpy(labels)) == pytest.approx(np.mean(slow))


def test_images_alike_within_their_class_are_not_blurred():
    images = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None].expand(4, 1, 2, 2)
    assert blur(images, torch.tensor([3, 4, 3, 4])) == 0 and blur(images, torch.tensor([3, 3, 4, 4])) == 0.25


windows = st.builds(
    lambda angle, scale, high, shear, x, y: affine(angle, (scale, high), shear, (x, y)),
    st.floats(-179, 179),
    *[st.floats(0.3, 1.3)] * 2,
    st.floats(-0.5, 0.5),
    *[st.floats(-0.8, 0.8)] * 2,
)


def filled(theta: torch.Tensor, side: int = 1600) -> np.ndarray:
    """The window as OpenCV fills it on a source of side x side pixels, (side, side) bool."""
    corners = map_points(theta, torch.tensor(CORNERS))[0].numpy()
    picture = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(picture, np.round(((corners + 1) / 2 * side - 0.5) * 16).astype(np.int32), 1, shift=4)
    return picture.astype(bool)


@quick
@given(windows, windows)
def test_overlap_is_intersection_over_union_of_the_polygons_that_opencv_fills(theta, pose):
    looked, wanted = filled(theta), filled(pose)
    assume(min(looked.mean(), wanted.mean()) > 0.02)  # slivers are all edge
    (found,) = overlap(theta, pose, side=200).tolist()
    assert found == pytest.approx((looked & wanted).sum() / (looked | wanted).sum(), abs=0.02)
    assert overlap(pose, theta, side=200).item() == found


def test_overlap_of_windows_that_are_alike_shifted_and_apart():
    theta = torch.cat([affine(), affine(scale=0.5), affine(30, 0.5), affine(scale=0.25, shift=(-0.5, 0.0)), affine(shift=(9, 0))])
    pose = torch.cat([affine(), affine(scale=0.5, shift=(0.5, 0)), affine(30, 0.5), affine(scale=0.25, shift=(0.5, 0)), affine()])
    found = overlap(theta, pose)
    assert found.shape == (5,) and found.tolist() == pytest.approx([1, 1 / 3, 1, 0, 0], abs=0.01)
    nowhere = affine(shift=(9.0, 0.0))
    assert overlap(nowhere, nowhere).item() == 0  # nothing of the source is in either


def test_a_window_without_area_is_refused():
    with pytest.raises(ValueError, match="theta of sample 0 is singular"):
        overlap(affine(scale=0.0), invert(affine()))

"""Theta: building, composing, inverting and taking apart, against OpenCV, kornia, scipy and plain numpy."""

import cv2
import kornia
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as transforms
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_helpers.checks import check_finite
from stn_helpers.families import family
from stn_helpers.pixels import theta_from_pixels, theta_to_pixels
from stn_helpers.sampler import warp
from stn_helpers.theta import (
    CORNERS,
    affine,
    as_matrix,
    compose,
    convex,
    decompose,
    invert,
    map_points,
    projective,
)

quick = settings(deadline=None, max_examples=30)

# In double, a handful of multiplications of numbers near 1 loses about 1e-15; 1e-9 leaves room for
# dividing by scales of 0.3 and for the spline's system of equations, of condition 400.
CLOSE = dict(rtol=0, atol=1e-9)

# Until 0.9, the last for Python 3.10, kornia adds 1e-8 to every denominator.
KORNIA = dict(rtol=0, atol=1e-9 if tuple(map(int, kornia.__version__.split(".")[:2])) >= (0, 9) else 1e-6)

FAMILIES = {"affine": 6, "similarity": 4, "attention": 3, "rotation": 1, "projective": 8, "tps": 32}

sides = st.integers(2, 40)
scales = st.floats(0.3, 2)
shifts = st.floats(-1, 1)
aspects = st.floats(0.3, 3)
parts = st.fixed_dictionaries(
    dict(
        angle=st.floats(-179, 179),
        scale=st.tuples(scales, scales | scales.map(lambda scale: -scale)),
        shear=st.floats(-1, 1),
        shift=st.tuples(shifts, shifts),
    )
)
seeds = st.integers(0, 2**32 - 1)


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def doubles(parts: dict) -> dict:
    return {name: tuple(map(double, part)) if isinstance(part, tuple) else double(part) for name, part in parts.items()}


thetas = st.builds(lambda parts, aspect: affine(**doubles(parts), aspect=aspect), parts, aspects)


def random(seed: int, *shape: int) -> torch.Tensor:
    """Doubles in [-1, 1)."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def knots(k: int) -> torch.Tensor:
    """`control_points` in double, where the thirds of K = 4 are thirds."""
    line = np.linspace(-1, 1, k)
    return double([[x, y] for y in line for x in line])


def some_corners(seed: int) -> torch.Tensor:
    """A square with its corners pulled about by up to 0.3: always convex."""
    return double(CORNERS)[None] + 0.3 * random(seed, 1, 4, 2)


some_matrices = thetas | seeds.map(some_corners).map(projective)


def to_pixels(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Normalised (x, y) as pixel indices, align_corners=False: -1 is half a pixel before the first centre."""
    return ((points + 1) * [width, height] - 1) / 2


# Building


def test_affine_without_arguments_is_the_identity():
    assert torch.equal(affine(), torch.eye(3)[None, :2])


@quick
@given(parts, aspects)
def test_affine_is_rotation_times_shear_times_scale_in_pixels(parts, aspect):
    turn = np.deg2rad(parts["angle"])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    pixels = np.diag([aspect, 1.0])
    matrix = rotation @ np.array([[1, parts["shear"]], [0, 1]]) @ np.diag(parts["scale"])
    expected = np.column_stack([np.linalg.inv(pixels) @ matrix @ pixels, parts["shift"]])
    np.testing.assert_allclose(affine(**doubles(parts), aspect=aspect)[0], expected, **CLOSE)


@quick
@given(st.floats(-180, 180), scales, sides, sides, st.sampled_from(["affine", "similarity"]), seeds)
def test_a_rotation_is_a_rotation_in_pixels_on_non_square_images(angle, scale, width, height, name, seed):
    aspect, turn = width / height, np.deg2rad(angle)
    if name == "affine":
        theta = affine(angle=double(angle), scale=double(scale), aspect=aspect)
    else:
        theta = family(name).matrix(double([[scale * np.cos(turn), scale * np.sin(turn), 0.0, 0.0]]), aspect)
    points = random(seed, 7, 2)
    centre = ((width - 1) / 2, (height - 1) / 2)
    # OpenCV counts an angle counter-clockwise on screen; the window turns clockwise.
    oracle = cv2.getRotationMatrix2D(centre, -angle, scale)
    expected = to_pixels(points.numpy(), width, height) @ oracle[:, :2].T + oracle[:, 2]
    np.testing.assert_allclose(to_pixels(map_points(theta, points)[0].numpy(), width, height), expected, **CLOSE)


def test_many_angles_at_once_give_the_thetas_one_by_one():
    angles = [0.0, 30.0, -75.0]
    together = affine(angle=angles, scale=(2.0, [1.0, 2.0, 3.0]))
    assert torch.equal(together, torch.cat([affine(angle=a, scale=(2.0, y)) for a, y in zip(angles, (1.0, 2.0, 3.0), strict=True)]))


def test_gradients_reach_every_argument_of_affine():
    arguments = [double(value).requires_grad_() for value in (20.0, 0.8, 1.3, 0.2, 0.1, -0.3)]

    def build(angle, scale_x, scale_y, shear, x, y):
        return affine(angle, (scale_x, scale_y), shear, (x, y), aspect=1.5)

    assert torch.autograd.gradcheck(build, arguments)


@quick
@given(seeds)
def test_projective_is_opencvs_perspective_transform(seed):
    corners = some_corners(seed).float()
    oracle = cv2.getPerspectiveTransform(np.array(CORNERS, dtype=np.float32), corners[0].numpy())
    np.testing.assert_allclose(projective(corners.double())[0], oracle, **CLOSE)


@quick
@given(seeds)
def test_projective_is_kornias_perspective_transform(seed):
    corners = some_corners(seed)
    oracle = kornia.geometry.get_perspective_transform(double(CORNERS)[None], corners)
    torch.testing.assert_close(projective(corners), oracle, **CLOSE)


@quick
@given(seeds)
def test_projective_sends_the_corners_to_the_given_places(seed):
    corners = some_corners(seed)
    torch.testing.assert_close(map_points(projective(corners), double(CORNERS)), corners, **CLOSE)


def test_projective_takes_a_plain_list_and_unmoved_corners_are_the_identity():
    torch.testing.assert_close(projective(list(CORNERS)), torch.eye(3)[None], rtol=0, atol=1e-6)  # a float32 solve


@pytest.mark.parametrize("corner", range(4))
def test_three_corners_on_a_line_are_refused_with_the_samples_number(corner):
    corners = torch.tensor(CORNERS).repeat(3, 1, 1)
    corners[2, corner] = (corners[2, corner - 1] + corners[2, corner - 3]) / 2
    with pytest.raises(ValueError, match="corners of sample 2 make no convex quadrilateral: three of them lie on a line"):
        projective(corners)


# Mapping points


@quick
@given(some_matrices, seeds)
def test_map_points_is_opencvs_perspective_transform_of_points(theta, seed):
    points = random(seed, 9, 2)
    oracle = cv2.perspectiveTransform(points[None].numpy(), as_matrix(theta)[0].numpy())
    np.testing.assert_allclose(map_points(theta, points), oracle, **CLOSE)


@quick
@given(seeds)
def test_map_points_takes_points_of_each_samples_own_as_kornia_does(seed):
    theta, points = projective(torch.cat([some_corners(seed), some_corners(seed + 1)])), random(seed, 2, 5, 2)
    torch.testing.assert_close(map_points(theta, points), kornia.geometry.linalg.transform_points(theta, points), **KORNIA)


@quick
@given(some_matrices, seeds)
def test_mapping_with_the_inverse_goes_back(theta, seed):
    points = random(seed, 9, 2)
    torch.testing.assert_close(map_points(invert(theta), map_points(theta, points)), points[None], **CLOSE)


# Composing, inverting, taking apart


@quick
@given(some_matrices, some_matrices, seeds)
def test_compose_looks_through_then_and_after_that_through_first(first, then, seed):
    points = random(seed, 9, 2) / 4  # small, so that no point comes near a homography's horizon
    first, then = compose(affine(scale=0.25).double(), first), compose(affine(scale=0.25).double(), then)
    torch.testing.assert_close(map_points(compose(first, then), points), map_points(first, map_points(then, points)), **CLOSE)


@quick
@given(some_matrices)
def test_theta_composed_with_its_inverse_is_the_identity_either_way_round(theta):
    for product in (compose(theta, invert(theta)), compose(invert(theta), theta)):
        product = as_matrix(product)
        torch.testing.assert_close(product / product[:, 2:, 2:], double(np.eye(3))[None], **CLOSE)


def test_only_two_affine_thetas_compose_to_two_rows():
    two, three = affine(angle=30), projective(torch.tensor(CORNERS))
    assert [compose(a, b).shape[1] for a, b in ((two, two), (two, three), (three, two), (three, three))] == [2, 3, 3, 3]


@quick
@given(parts, aspects)
def test_decompose_gives_back_what_affine_was_built_of(parts, aspect):
    found = decompose(affine(**doubles(parts), aspect=aspect), aspect)
    # The angle is in degrees, 57 times as coarse as radians.
    torch.testing.assert_close(found.angle, double([parts["angle"]]), rtol=0, atol=1e-7)
    torch.testing.assert_close(torch.cat(found.scale), double(parts["scale"]), **CLOSE)
    torch.testing.assert_close(found.shear, double([parts["shear"]]), **CLOSE)
    assert torch.cat(found.shift).tolist() == list(parts["shift"])


@quick
@given(seeds, aspects)
def test_affine_of_the_parts_is_theta_again_for_any_theta(seed, aspect):
    theta = random(seed, 5, 2, 3)
    theta = theta[torch.linalg.det(theta[:, :, :2]).abs() > 0.05]  # a flattened picture has no shear
    torch.testing.assert_close(affine(*decompose(theta, aspect), aspect=aspect), theta, **CLOSE)


def test_decompose_takes_three_rows_and_refuses_a_projective_theta():
    assert torch.equal(decompose(as_matrix(affine(angle=30))).angle, decompose(affine(angle=30)).angle)
    bent = torch.tensor(CORNERS)
    bent[0] += 0.2
    with pytest.raises(ValueError, match="theta is projective"):
        decompose(projective(bent))


# Bad input


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 4), (5, 2, 2), (5, 4, 3), (1, 1, 2, 3)])
def test_a_theta_of_another_shape_is_named_with_its_shape(shape):
    for use in (
        as_matrix,
        invert,
        decompose,
        lambda theta: compose(affine(), theta),
        lambda theta: map_points(theta, torch.zeros(1, 2)),
    ):
        with pytest.raises(ValueError) as error:
            use(torch.zeros(shape))
        assert "theta" in str(error.value) and str(shape) in str(error.value)


@pytest.mark.parametrize(("theta", "came"), [(torch.eye(3, dtype=torch.int64), "int64"), (None, "NoneType"), ([[1, 0, 0]], "list")])
def test_a_theta_that_is_no_floating_point_tensor_is_refused(theta, came):
    with pytest.raises(ValueError, match=f"theta is .*{came}"):
        as_matrix(theta)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_theta_that_is_not_finite_is_refused_with_the_samples_number(bad):
    theta = affine(angle=[0.0] * 5)
    theta[3, 1, 2] = bad
    for use in (check_finite, invert):
        with pytest.raises(ValueError, match="theta of sample 3 is not finite"):
            use(theta)


@pytest.mark.parametrize("flat", [dict(scale=0.0), dict(scale=(1.0, 0.0)), dict(scale=(1.0, 1e-9), angle=33.0)])
def test_a_singular_theta_has_no_inverse_and_the_samples_number_is_said(flat):
    with pytest.raises(ValueError, match="theta of sample 1 is singular"):
        invert(torch.cat([affine(), affine(**flat), affine()]))


def test_a_small_but_honest_theta_has_an_inverse():
    theta = affine(scale=1e-3, angle=33.0)
    torch.testing.assert_close(compose(theta, invert(theta)), affine(), rtol=0, atol=1e-4)  # float32 times 1 / scale


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(angle=torch.zeros(2, 2)), r"angle has shape \(2, 2\)"),
        (dict(shear=torch.zeros(1, 1)), r"shear has shape \(1, 1\)"),
        (dict(scale=(1.0, 1.0, 1.0)), "scale has 3 entries"),
        (dict(shift=(1.0,)), "shift has 1 entries"),
        (dict(angle=[1.0, 2.0], shear=[1.0, 2.0, 3.0]), "differ in length"),
    ],
)
def test_affine_names_the_argument_that_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        affine(**arguments)


@pytest.mark.parametrize("shape", [(2, 3, 2), (2, 4, 3), (4,), (1, 1, 4, 2)])
def test_corners_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        projective(torch.rand(shape))
    assert "corners" in str(error.value) and str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(2,), (4, 3), (1, 1, 4, 2)])
def test_points_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        map_points(affine(), torch.zeros(shape))
    assert "points" in str(error.value) and str(shape) in str(error.value)


# At the edges


def test_plain_numbers_follow_a_tensor_to_its_device():
    assert affine(angle=torch.zeros(3, device="meta")).device.type == "meta"


def test_a_homography_whose_inverse_ends_in_zero_is_undone():
    theta, points = torch.tensor([[[1.0, 0, 0], [0, 0, 1], [0, 1, 1]]]), torch.tensor([[0.3, 0.4]])
    torch.testing.assert_close(map_points(invert(theta), map_points(theta, points))[0], points)


def test_a_far_shift_can_be_undone_in_float32():
    assert invert(affine(shift=(5000.0, 0.0)))[0, 0, 2] == -5000


def test_corners_of_a_tiny_square_are_not_on_a_line():
    tiny = torch.tensor(CORNERS) * 2e-4
    torch.testing.assert_close(map_points(projective(tiny), torch.tensor(CORNERS))[0], tiny)


def test_a_window_of_no_height_has_no_shear():
    assert decompose(affine(scale=(1.0, 0.0))).shear.tolist() == [0.0]


def test_products_stay_float32_inside_autocast():
    spline = family("tps")
    with torch.autocast("cpu", torch.bfloat16):
        assert compose(affine(10), affine(20)).dtype == torch.float32
        assert spline.source(torch.tensor([spline.identity]), torch.zeros(1, 2)).dtype == torch.float32


def test_half_precision_is_widened_where_it_could_not_be_inverted():
    torch.testing.assert_close(invert(affine(scale=0.5).bfloat16()), affine(scale=2.0))
    torch.testing.assert_close(projective(torch.tensor(CORNERS).half()), torch.eye(3)[None])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: compose(affine([0.0, 1.0]), affine([0.0, 1.0, 2.0])), r"first and then are \(2, 2, 3\)"),
        (lambda: compose(affine(), affine().double()), "torch.float64"),
        (lambda: map_points(affine([0.0, 1.0]), torch.zeros(3, 4, 2)), "points are for 3 samples and theta has 2"),
        (lambda: map_points(affine(), [[0.0, 0.0]]), "points is a list"),
        (lambda: projective(torch.full((4, 2), float("nan"))), "not finite"),
        (lambda: projective(torch.rand(3, 2)), r"corners has shape \(3, 2\)"),
        (lambda: affine(30, aspect=0), "aspect is 0"),
        (lambda: as_matrix(np.eye(3)), "theta is ndarray"),
    ],
)
def test_what_does_not_fit_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# One meaning for each way to say a pair


@pytest.mark.parametrize("name", ["shift", "scale"])
def test_a_pair_is_one_pair_in_every_dress(name):
    expected = affine(angle=20, **{name: (0.5, -0.25)})
    dresses = (
        [0.5, -0.25],
        torch.tensor([0.5, -0.25]),
        np.array([0.5, -0.25]),
        torch.tensor([[0.5, -0.25]]),
        np.array([[0.5, -0.25]]),
    )
    for dress in dresses:
        assert torch.equal(affine(angle=20, **{name: dress}), expected)
    three = torch.tensor([[0.5, -0.25], [1.0, 2.0], [0.1, 0.2]])
    one_by_one = torch.cat([affine(**{name: tuple(pair.tolist())}) for pair in three])
    for dress in (three, three.numpy(), tuple(three.unbind(1)), three.T.tolist()):
        assert torch.equal(affine(**{name: dress}), one_by_one)


@pytest.mark.parametrize("name", ["shift", "scale"])
@pytest.mark.parametrize("number", [0.5, torch.tensor(0.5), np.array(0.5), np.float64(0.5)])
def test_a_number_is_meant_for_both_axes(name, number):
    found = affine(**{name: number})
    assert torch.equal(found, affine(**{name: (0.5, 0.5)})) and found.dtype == torch.float32


@pytest.mark.parametrize("name", ["shift", "scale"])
def test_a_column_is_one_number_a_sample_for_both_axes(name):
    column = torch.tensor([[0.5], [2.0], [0.1]])
    assert torch.equal(affine(**{name: column}), affine(**{name: (column[:, 0], column[:, 0])}))


@pytest.mark.parametrize("name", ["shift", "scale"])
@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (1, 1, 2), (0,)])
def test_what_could_be_read_in_two_ways_is_refused(name, shape):
    for value in (torch.zeros(shape), np.zeros(shape)):
        with pytest.raises(ValueError) as error:
            affine(**{name: value})
        assert name in str(error.value) and str(shape) in str(error.value) and "(N, 2)" in str(error.value)


def test_angles_may_come_as_an_array():
    assert torch.equal(affine(np.array([10.0, 20.0])), affine([10.0, 20.0]))


# Matrices in pixels


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def pixel_matrix(seed: int, rows: int) -> torch.Tensor:
    """(2, rows, 3) in pixels, in double: a window about as large as the image, somewhere near it."""
    matrix = torch.eye(3).double() + 0.3 * random(seed, 2, 3, 3)
    matrix[:, :2, 2] *= 30
    matrix[:, 2, :2] /= 100
    return matrix[:, :rows]


def normalised(points: np.ndarray, size: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Pixel indices (M, 2) as normalised (x, y), from the definition; a single pixel lies in the middle."""
    sides = np.array(size[::-1])
    return np.where(sides > 1, 2 * points / np.maximum(sides - 1, 1) - 1, 0) if align_corners else (2 * points + 1) / sides - 1


@quick
@given(seeds, sizes, sizes, st.booleans(), st.sampled_from([2, 3]))
def test_theta_from_pixels_sends_each_pixel_where_opencv_does(seed, source, target, align_corners, rows):
    forward = pixel_matrix(seed, rows)
    if align_corners:
        source, target = (tuple(max(side, 2) for side in size) for size in (source, target))
    back = as_matrix(forward).inverse()  # OpenCV inverts what it is given, too
    points = np.random.default_rng(seed).uniform(-5, 40, (7, 2))
    for matrix, inverse_map in ((forward, False), (back[:, :rows], True)):
        theta = theta_from_pixels(matrix, source, target, align_corners, inverse_map)
        assert theta.shape == matrix.shape and theta.dtype == torch.float64
        found = map_points(theta, torch.from_numpy(normalised(points, target, align_corners)))
        for sample in range(2):
            looked = cv2.perspectiveTransform(points[None], back[sample].numpy())[0]
            np.testing.assert_allclose(found[sample], normalised(looked, source, align_corners), rtol=1e-7, atol=1e-7)


@quick
@given(seeds, sizes, sizes, st.booleans(), st.booleans(), st.sampled_from([2, 3]))
def test_theta_to_pixels_is_the_way_back(seed, source, target, align_corners, inverse_map, rows):
    if align_corners:
        source, target = (tuple(max(side, 2) for side in size) for size in (source, target))
    matrix, how = pixel_matrix(seed, rows), (source, target, align_corners, inverse_map)
    found = theta_to_pixels(theta_from_pixels(matrix, *how), *how)
    if rows == 3:
        found, matrix = found / found[:, 2:, 2:], matrix / matrix[:, 2:, 2:]
    torch.testing.assert_close(found, matrix, rtol=1e-7, atol=1e-6)


def picture(height: int, width: int) -> np.ndarray:
    """A smooth one, so that OpenCV's places, rounded to 1/32 pixel, matter little, and half a pixel much."""
    y, x = np.mgrid[:height, :width]
    return (np.sin(x / 2) + np.cos(y / 3 + x / 5) + 0.1 * x).astype(np.float32)


@pytest.mark.parametrize("target", [(24, 31), (40, 17)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_picture_is_opencvs_and_kornias(target, align_corners):
    image, (height, width) = picture(24, 31), target
    turn = cv2.getRotationMatrix2D((9.0, 14.0), 25, 1.3)
    tilt = cv2.getPerspectiveTransform(
        np.float32([[0, 0], [30, 0], [30, 23], [0, 23]]), np.float32([[2, 1], [27, -2], [33, 20], [-3, 25]])
    )
    batch = torch.from_numpy(image)[None, None]
    pairs = (
        (turn, cv2.warpAffine, kornia.geometry.warp_affine),
        (tilt, cv2.warpPerspective, kornia.geometry.warp_perspective),
    )
    for matrix, opencv, kornias in pairs:
        theta = theta_from_pixels(matrix, (24, 31), target, align_corners)
        assert theta.dtype == torch.float32 and theta.shape == (1, *matrix.shape)
        seen = warp(batch, theta, target, padding_mode="zeros", align_corners=align_corners)
        np.testing.assert_allclose(seen[0, 0], opencv(image, matrix, (width, height)), rtol=0, atol=0.06)
        oracle = kornias(batch, torch.from_numpy(matrix)[None].float(), target, align_corners=True)
        torch.testing.assert_close(seen, oracle, rtol=0, atol=1e-3)
        back = theta_from_pixels(matrix, (24, 31), target, align_corners, inverse_map=True)
        seen = warp(batch, back, target, padding_mode="zeros", align_corners=align_corners)
        oracle = opencv(image, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        np.testing.assert_allclose(seen[0, 0], oracle, rtol=0, atol=0.06)


def test_the_picture_is_torchvisions():
    image, half = torch.from_numpy(picture(24, 31))[None, None], np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    how = dict(interpolation=transforms.InterpolationMode.BILINEAR)
    # It turns clockwise about the middle of the picture, then moves.
    matrix = cv2.getRotationMatrix2D((15.0, 11.5), -25, 1.3) + [[0, 0, 3], [0, 0, -2]]
    seen = warp(image, theta_from_pixels(matrix, (24, 31), (24, 31)), padding_mode="zeros")
    torch.testing.assert_close(seen, transforms.affine(image, 25, [3, -2], 1.3, [0, 0], **how), rtol=0, atol=1e-3)
    start, end = [[0, 0], [30, 0], [30, 23], [0, 23]], [[2, 1], [27, -2], [33, 20], [-3, 25]]
    matrix = np.linalg.inv(half) @ cv2.getPerspectiveTransform(np.float32(start), np.float32(end)) @ half
    seen = warp(image, theta_from_pixels(matrix, (24, 31), (24, 31)), padding_mode="zeros")
    torch.testing.assert_close(seen, transforms.perspective(image, start, end, **how), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.eye(4), (3, 4), (3, 4)), r"matrix has shape \(4, 4\)"),
        ((np.eye(3), (3, 0), (3, 4)), r"source is \(3, 0\)"),
        ((np.eye(3), (3, 4), 7), "target is 7"),
        ((np.zeros((2, 3)), (3, 4), (3, 4)), "singular"),
    ],
)
def test_pixel_matrices_that_do_not_fit_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        theta_from_pixels(*arguments)


# What no homography and no product may do


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 1, 3, 2)])
def test_crossed_corners_are_refused(order):
    corners = torch.tensor(CORNERS)[None].repeat(2, 1, 1)
    corners[1] = corners[1, list(order)]
    with pytest.raises(ValueError, match="corners of sample 1 make no convex quadrilateral"):
        projective(corners)


@pytest.mark.parametrize("corner", range(4))
def test_a_corner_that_points_inwards_is_refused(corner):
    corners = torch.tensor(CORNERS)
    corners[corner] *= -0.5
    with pytest.raises(ValueError, match="corners of sample 0 make no convex quadrilateral"):
        projective(corners)


def test_a_mirrored_square_is_as_convex_as_a_square():
    mirrored = torch.tensor(CORNERS) * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(projective(mirrored), torch.diag(torch.tensor([-1.0, 1.0, 1.0]))[None])


def test_convex_asks_for_the_same_turn_everywhere_and_for_enough_of_it():
    square, flat = torch.tensor(CORNERS)[None], torch.tensor([[[-1.0, -1], [1, -1], [1.2, 0.0], [1, 1]]])
    assert convex(square).all() and not convex(square.flip(1)).any() and convex(square, 0.999).all()
    assert convex(flat, 0.1).all() and not convex(flat, 0.5).any() and not convex(square * float("nan")).any()


def test_decompose_takes_an_affine_matrix_of_any_scale():
    theta = affine(angle=30, scale=(0.5, 2.0), shift=(0.1, 0.2))
    for part, again in zip(decompose(theta), decompose(-3 * as_matrix(theta)), strict=True):
        torch.testing.assert_close(again, part)


def test_compose_is_exact_whatever_matrix_products_may_lose():
    first, then, before = affine(angle=33.0, scale=0.7), affine(angle=-71.0, shift=(0.3, 0.1)), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        torch.testing.assert_close(compose(first, then).double(), compose(first.double(), then.double()), rtol=0, atol=1e-6)
    finally:
        torch.set_float32_matmul_precision(before)

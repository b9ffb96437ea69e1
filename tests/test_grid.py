"""Grid generator: where each target pixel looks, against torch's affine_grid, numpy and scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator

from stn_helpers.grid import check_size, family_grid, outline, pixel_centres, sampling_grid, target_points
from stn_helpers.theta import affine, control_points, family, map_points

quick = settings(deadline=None, max_examples=30)

FAMILIES = ["affine", "similarity", "attention", "rotation", "projective", "tps"]
BAD_SIZES = [(0, 4), (4, -1), (4,), (4, 4, 4), (4.5, 4), 7, "44", None, (None, 4)]

sides, aligned, seeds = st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1)


def random(seed: int, *shape: int) -> torch.Tensor:
    """Doubles in [-1, 1)."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def generic(name: str, seed: int, samples: int = 2) -> torch.Tensor:
    """Raw parameters a little off the identity, in double."""
    this = family(name)
    return torch.tensor(this.identity, dtype=torch.float64) + 0.1 * random(seed, samples, this.count)


def places(height: int, width: int, align_corners: bool) -> np.ndarray:
    """(H, W, 2): every pixel's normalised (x, y), from the definition: pixel i of n lies at i / (n - 1) or (i + 1/2) / n."""

    def line(count):
        along = np.arange(count) / (count - 1) if align_corners and count > 1 else (np.arange(count) + 0.5) / count
        return 2 * along - 1

    return np.stack(np.meshgrid(line(width), line(height)), axis=-1)


@pytest.mark.filterwarnings("ignore:Since version 1.3.0")  # torch's word on a single pixel with align_corners=True
@quick
@given(seeds, sides, sides, aligned)
def test_the_grid_of_an_affine_theta_is_torchs_affine_grid(seed, height, width, align_corners):
    theta = 2 * random(seed, 3, 2, 3)
    oracle = F.affine_grid(theta, [3, 1, height, width], align_corners=align_corners)
    # Doubles of size up to 6, a handful of operations each.
    torch.testing.assert_close(sampling_grid(theta, (height, width), align_corners), oracle, rtol=0, atol=1e-12)


@quick
@given(seeds, sides, sides, aligned)
def test_the_grid_of_a_projective_theta_is_the_homography_of_each_pixel(seed, height, width, align_corners):
    theta = torch.eye(3, dtype=torch.float64) + 0.3 * random(seed, 2, 3, 3)
    points = np.concatenate([places(height, width, align_corners), np.ones((height, width, 1))], axis=-1)
    mapped = np.einsum("nij,hwj->nhwi", theta.numpy(), points)
    # The denominator is at least 1 - 3 * 0.3, so errors of 1e-15 grow a hundredfold at most.
    np.testing.assert_allclose(
        sampling_grid(theta, (height, width), align_corners), mapped[..., :2] / mapped[..., 2:], rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_identity_looks_straight_ahead(name, align_corners):
    this = family(name)
    grid = family_grid(this, torch.tensor([this.identity]), (7, 11), align_corners, aspect=11 / 7)
    np.testing.assert_allclose(grid[0], places(7, 11, align_corners), rtol=0, atol=2e-6)  # float32: 16 products of numbers below 2


def test_pixel_centres_lie_half_a_pixel_inside_or_at_the_ends():
    assert pixel_centres(4).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert pixel_centres(5, align_corners=True).tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_single_pixel_looks_at_the_middle(align_corners):
    assert sampling_grid(affine(), (1, 1), align_corners).tolist() == [[[[0, 0]]]]


@quick
@given(st.sampled_from(FAMILIES), seeds, sides, sides, aligned, st.floats(0.3, 3))
def test_the_grid_of_a_family_is_its_source_at_every_pixel(name, seed, height, width, align_corners, aspect):
    this, params = family(name), generic(name, seed)
    grid = family_grid(this, params, (height, width), align_corners, aspect)
    points = torch.from_numpy(places(height, width, align_corners)).reshape(-1, 2)
    expected = this.source(params, points, aspect).reshape(2, height, width, 2)
    torch.testing.assert_close(grid, expected, rtol=0, atol=1e-6)  # the spline's pixels are placed in float32


@quick
@given(seeds, st.integers(2, 5), sides, sides, aligned)
def test_the_grid_of_a_thin_plate_spline_is_scipys(seed, k, height, width, align_corners):
    moved = control_points(k).double() + 0.3 * random(seed, k * k, 2)
    grid = family_grid(family("tps", k), moved.reshape(1, -1), (height, width), align_corners)
    spline = RBFInterpolator(control_points(k).double().numpy(), moved.numpy(), kernel="thin_plate_spline", degree=1)
    oracle = spline(places(height, width, align_corners).reshape(-1, 2)).reshape(height, width, 2)
    np.testing.assert_allclose(grid[0], oracle, rtol=0, atol=1e-6)  # the spline's pixels are placed in float32


def test_splines_with_other_control_points_sizes_or_corners_do_not_share_weights():
    def grid(k, size, align_corners):
        return family_grid(family("tps", k), generic_spline(k), size, align_corners)

    def generic_spline(k):
        return control_points(k).reshape(1, -1) ** 3

    variants = [(2, (4, 6), False), (3, (4, 6), False), (4, (6, 4), False), (4, (4, 6), False), (4, (4, 6), True)]
    for _ in range(2):  # the second time from what was kept
        for k, size, align_corners in variants:
            points = target_points(size, align_corners)
            expected = family("tps", k).source(generic_spline(k), points).reshape(1, *size, 2)
            torch.testing.assert_close(grid(k, size, align_corners), expected, rtol=0, atol=1e-6)


# Precision


@pytest.mark.parametrize("size", [28, 224])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", FAMILIES)
def test_inside_autocast_the_grid_is_as_good_as_in_float32(name, dtype, size):
    this, params = family(name), generic(name, seed=0).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grid = family_grid(this, params, (size, size))
    assert grid.dtype == torch.float32
    # In bfloat16 it would be off by up to 4e-3; float32 itself is coarse by 1e-7 a step.
    torch.testing.assert_close(grid.double(), family_grid(this, params.double(), (size, size)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [28, 224])
@pytest.mark.parametrize("rows", [2, 3])
def test_inside_autocast_the_grid_of_a_half_precision_theta_is_as_good_as_in_float32(rows, size):
    theta = (torch.eye(3)[:rows] + 0.1 * random(0, 2, rows, 3)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grid = sampling_grid(theta, (size, size))
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid.double(), sampling_grid(theta.double(), (size, size)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_double_parameters_give_a_double_grid(name):
    assert family_grid(family(name), generic(name, 0), (3, 4)).dtype == torch.float64


def test_the_grid_is_made_where_theta_is():
    assert sampling_grid(affine().to("meta"), (3, 4), check=False).device.type == "meta"


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_through_the_grid_are_right(name, align_corners):
    def grid(params):
        return family_grid(family(name), params, (3, 4), align_corners, aspect=4 / 3)

    assert torch.autograd.gradcheck(grid, (generic(name, 0).requires_grad_(),))


def test_gradients_through_the_grid_of_a_matrix_are_right():
    for theta in (random(0, 2, 2, 3), torch.eye(3) + 0.2 * random(1, 2, 3, 3)):
        assert torch.autograd.gradcheck(lambda theta: sampling_grid(theta, (3, 4)), (theta.requires_grad_(),))


# Outline


@quick
@given(st.sampled_from(FAMILIES), seeds, st.integers(1, 9), st.floats(0.3, 3))
def test_the_outline_is_the_border_of_the_target_seen_through_theta(name, seed, per_side, aspect):
    this, params = family(name), generic(name, seed)
    steps = np.linspace(-1, 1, per_side + 1)[:-1]
    border = [(t, -1) for t in steps] + [(1, t) for t in steps] + [(-t, 1) for t in steps] + [(-1, -t) for t in steps]
    expected = this.source(params, torch.tensor([*border, (-1, -1)], dtype=torch.float64), aspect)
    torch.testing.assert_close(outline(this, params, per_side, aspect), expected, rtol=0, atol=1e-6)  # placed in float32


@pytest.mark.parametrize("name", FAMILIES)
def test_the_outline_is_closed(name):
    line = outline(family(name), generic(name, 0), per_side=5)
    assert line.shape == (2, 21, 2) and torch.equal(line[:, 0], line[:, -1])


def test_the_outline_of_a_zoom_is_the_window_that_it_looks_through():
    corners = outline(family("attention"), torch.tensor([[0.5, 0.25, -0.25]]), per_side=1)
    assert corners[0].tolist() == [[-0.25, -0.75], [0.75, -0.75], [0.75, 0.25], [-0.25, 0.25], [-0.25, -0.75]]


def test_the_outline_of_a_matrix_is_where_map_points_says():
    params = generic("affine", 0)
    middles = torch.tensor([(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)])
    torch.testing.assert_close(
        outline(family("affine"), params, per_side=2)[:, 1::2], map_points(params.reshape(-1, 2, 3), middles)
    )


# Bad input


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [2, 3])
def test_a_theta_that_is_not_finite_is_refused_with_the_samples_number(rows, bad):
    theta = torch.eye(3)[:rows].repeat(6, 1, 1)
    theta[4, rows - 1, 0] = bad
    with pytest.raises(ValueError, match="theta of sample 4 is not finite"):
        sampling_grid(theta, (3, 3))
    assert not sampling_grid(theta, (3, 3), check=False).isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_that_are_not_finite_are_refused_with_the_samples_number(name):
    this, params = family(name), generic(name, 0, samples=6)
    params[4, -1] = float("nan")
    with pytest.raises(ValueError, match="theta of sample 4 is not finite"):
        family_grid(this, params, (3, 3))
    assert family_grid(this, params, (3, 3), check=False).isnan().any()


@pytest.mark.parametrize("size", BAD_SIZES)
def test_a_size_that_is_not_two_positive_whole_numbers_is_refused(size):
    uses = (
        check_size,
        target_points,
        lambda size: sampling_grid(affine(), size),
        lambda size: family_grid(family("affine"), generic("affine", 0), size),
        lambda size: family_grid(family("tps"), generic("tps", 0), size),
    )
    for use in uses:
        with pytest.raises(ValueError) as error:
            use(size)
        assert f"size is {size!r}" in str(error.value)


def test_a_size_may_be_torchs_own():
    assert check_size(torch.rand(2, 3, 4, 5).shape[-2:]) == (4, 5)


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 2, 2), (2, 4, 3), (1, 2, 2, 3)])
def test_a_theta_of_another_shape_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError) as error:
        sampling_grid(torch.zeros(shape), (3, 3))
    assert "theta" in str(error.value) and str(shape) in str(error.value)


def test_a_theta_of_whole_numbers_is_refused():
    with pytest.raises(ValueError, match="theta is torch.int64"):
        sampling_grid(torch.zeros(1, 2, 3, dtype=torch.int64), (3, 3))


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_of_another_width_or_type_are_refused(name):
    this = family(name)
    with pytest.raises(
        ValueError, match=rf"params has shape \(2, {this.count + 1}\); the {name} family expects \(N, {this.count}\)"
    ):
        family_grid(this, torch.zeros(2, this.count + 1), (3, 3))
    with pytest.raises(ValueError, match="params are torch.int64"):
        family_grid(this, torch.zeros(2, this.count, dtype=torch.int64), (3, 3))


def test_a_spline_first_seen_while_testing_can_still_be_trained():
    spline = family("tps", k=3)
    with torch.inference_mode():
        family_grid(spline, torch.tensor([spline.identity]), (3, 5))
    params = torch.tensor([spline.identity], requires_grad=True)
    family_grid(spline, params, (3, 5)).sum().backward()
    assert params.grad.abs().max() > 0


def test_a_spline_in_double_is_as_exact_as_a_matrix_in_double():
    spline = family("tps")
    grid = family_grid(spline, torch.tensor([spline.identity], dtype=torch.float64), (3, 3))
    torch.testing.assert_close(grid, sampling_grid(affine().double(), (3, 3)), rtol=0, atol=1e-12)


def test_no_samples_give_an_empty_grid():
    assert family_grid(family("tps"), torch.zeros(0, 32), (3, 3)).shape == (0, 3, 3, 2)


def test_an_endless_size_is_refused():
    with pytest.raises(ValueError, match="size is"):
        check_size((float("inf"), 2))

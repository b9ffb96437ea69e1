"""Families: the places that raw numbers stand for, against scipy, OpenCV's relatives in test_theta, and families of one's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist
from scipy.special import xlogy

from stn_helpers.diagnose import diagnose
from stn_helpers.families import Family, control_points, family, family_grid, outline, tps_kernel
from stn_helpers.grid import sampling_grid, target_points
from stn_helpers.sampler import sample
from stn_helpers.theta import affine, map_points
from stn_helpers.transformer import SpatialTransformer, light_localization

quick = settings(deadline=None, max_examples=30)
# In double; the spline's system of equations has condition 400.
CLOSE = dict(rtol=0, atol=1e-9)
FAMILIES = {"affine": 6, "similarity": 4, "attention": 3, "rotation": 1, "projective": 8, "tps": 32}
sides, aligned, seeds = st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1)
scales, shifts, aspects = st.floats(0.3, 2), st.floats(-1, 1), st.floats(0.3, 3)


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(seed: int, *shape: int) -> torch.Tensor:
    """Doubles in [-1, 1)."""
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def knots(k: int) -> torch.Tensor:
    """`control_points` in double, where the thirds of K = 4 are thirds."""
    line = np.linspace(-1, 1, k)
    return double([[x, y] for y in line for x in line])


def places(height: int, width: int, align_corners: bool) -> np.ndarray:
    """(H, W, 2): every pixel's normalised (x, y), from the definition: pixel i of n lies at i / (n - 1) or (i + 1/2) / n."""

    def line(count):
        along = np.arange(count) / (count - 1) if align_corners and count > 1 else (np.arange(count) + 0.5) / count
        return 2 * along - 1

    return np.stack(np.meshgrid(line(width), line(height)), axis=-1)


def generic(name: str, seed: int, samples: int = 2) -> torch.Tensor:
    """Raw parameters a little off the identity, in double."""
    this = family(name)
    return double(this.identity) + 0.1 * random(seed, samples, this.count)


thetas = st.builds(
    lambda angle, scale, shear, x, y: affine(double(angle), double(scale), double(shear), double([x, y])),
    st.floats(-179, 179),
    scales,
    st.floats(-1, 1),
    shifts,
    shifts,
)


# Families


@pytest.mark.parametrize(("name", "count"), FAMILIES.items())
def test_a_family_has_its_number_of_parameters_and_its_identity_moves_nothing(name, count):
    this, points = family(name), random(0, 20, 2)
    assert this.name == name and this.count == count
    torch.testing.assert_close(this.source(double([this.identity]), points, aspect=1.7), points[None], **CLOSE)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_raw_number_of_a_family(name):
    this, points = family(name), random(0, 3, 2)
    params = (double([this.identity] * 2) + 0.1 * random(1, 2, this.count)).requires_grad_()
    assert torch.autograd.gradcheck(lambda params: this.source(params, points, 1.5), (params,))


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_parameters_are_widened_and_double_ones_kept(name):
    this, points = family(name), random(0, 3, 2)
    given_types = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    found = [this.source(torch.tensor([this.identity], dtype=dtype), points).dtype for dtype in given_types]
    assert found == [torch.float32, torch.float32, torch.float32, torch.float64]


# Thin plate splines


def scipys_plate(k: int, moved: torch.Tensor) -> RBFInterpolator:
    return RBFInterpolator(knots(k).numpy(), moved.numpy(), kernel="thin_plate_spline", degree=1)


@quick
@given(st.integers(2, 5), seeds)
def test_a_thin_plate_spline_is_scipys(k, seed):
    params, points = random(seed, 2, k * k, 2), random(seed + 1, 20, 2)
    found = family("tps", k).source(params.flatten(1), points)
    for moved, places in zip(params, found, strict=True):
        np.testing.assert_allclose(places, scipys_plate(k, moved)(points.numpy()), **CLOSE)


@quick
@given(st.integers(2, 5), seeds)
def test_a_thin_plate_spline_passes_through_its_control_points(k, seed):
    params = random(seed, 1, k * k, 2)
    torch.testing.assert_close(family("tps", k).source(params.flatten(1), knots(k)), params, **CLOSE)


@quick
@given(st.integers(2, 5), thetas, seeds)
def test_a_thin_plate_that_is_not_bent_is_affine(k, theta, seed):
    points = random(seed, 20, 2)
    moved = map_points(theta, knots(k))
    torch.testing.assert_close(family("tps", k).source(moved.flatten(1), points), map_points(theta, points), **CLOSE)


@quick
@given(st.integers(2, 5), seeds)
def test_the_two_parts_of_a_spline_add_up_to_scipys(k, seed):
    at, params, points = knots(k), random(seed, 2, k * k, 2), random(seed + 1, 20, 2)
    thetas, bends = family("tps", k).split(params.flatten(1))
    assert thetas.shape == (2, 2, 3) and bends.shape == (2, k * k, 2) and bends.dtype == torch.float64
    squared = cdist(points, at, "sqeuclidean")
    for moved, theta, bend in zip(params, thetas, bends, strict=True):
        straight = map_points(theta, points)[0].numpy()
        np.testing.assert_allclose(
            straight + xlogy(squared, squared) @ bend.numpy(), scipys_plate(k, moved)(points.numpy()), **CLOSE
        )
        # What bends adds up to nothing, nor does it tilt: far away only the affine part is left.
        np.testing.assert_allclose(np.vstack([np.ones(k * k), at.numpy().T]) @ bend.numpy(), np.zeros((3, 2)), **CLOSE)


@pytest.mark.parametrize("k", [2, 3])
def test_the_energy_is_the_integral_of_the_squared_second_derivatives(k):
    params, small, steps = random(k, 1, k * k, 2), 1e-3, np.linspace(-5, 5, 400)
    places = np.stack(np.meshgrid(np.sinh(steps), np.sinh(steps)), axis=-1).reshape(
        -1, 2
    )  # dense near the knots, 74 away at the end
    area = np.outer(np.cosh(steps), np.cosh(steps)).flatten() * (steps[1] - steps[0]) ** 2
    for moved, energy in zip(params, family("tps", k).energy(params.flatten(1)).tolist(), strict=True):
        plate = scipys_plate(k, moved)
        at = {(x, y): plate(places + [x * small, y * small]) for x in (-1, 0, 1) for y in (-1, 0, 1)}
        xx, yy = (at[step] - 2 * at[0, 0] + at[-step[0], -step[1]] for step in ((1, 0), (0, 1)))
        xy = (at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / 4
        assert energy == pytest.approx(area @ (xx**2 + 2 * xy**2 + yy**2).sum(1) / small**4, rel=0.01)


@quick
@given(st.integers(2, 5), thetas, seeds)
def test_only_what_is_bent_takes_energy_and_it_grows_with_the_square(k, theta, seed):
    spline, params = family("tps", k), random(seed, 3, 2 * k * k)
    straight = map_points(theta, knots(k)).flatten(1)
    energy = spline.energy(params)
    assert energy.shape == (3,) and (energy > 0).all()
    torch.testing.assert_close(spline.energy(params.float()), energy, rtol=1e-4, atol=0)  # and in double
    torch.testing.assert_close(spline.energy(3 * params + straight), 9 * energy)
    torch.testing.assert_close(spline.energy(straight), torch.zeros(1).double(), **CLOSE)
    torch.testing.assert_close(spline.split(straight)[0], theta, **CLOSE)


def test_control_points_run_row_by_row_x_first():
    assert control_points(3).tolist() == [[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)]


def test_the_bending_is_zero_with_a_zero_gradient_at_no_distance():
    squared = torch.zeros(1, requires_grad=True)
    tps_kernel(squared).sum().backward()
    assert tps_kernel(squared).item() == 0 and torch.isfinite(squared.grad).all()


# Grids and outlines


@quick
@given(st.floats(-4, 4), aspects)
def test_the_rotation_family_is_affine_with_that_angle(radians, aspect):
    theta = family("rotation").matrix(double([[radians]]), aspect)
    torch.testing.assert_close(theta, affine(angle=double(np.rad2deg(radians)), aspect=aspect).double(), **CLOSE)


@quick
@given(scales, shifts, shifts)
def test_the_attention_family_scales_both_axes_alike_and_shifts(scale, x, y):
    theta = family("attention").matrix(double([[scale, x, y]]))
    assert torch.equal(theta, double([[[scale, 0, x], [0, scale, y]]]))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_identity_looks_straight_ahead(name, align_corners):
    this = family(name)
    grid = family_grid(this, torch.tensor([this.identity]), (7, 11), align_corners, aspect=11 / 7)
    np.testing.assert_allclose(grid[0], places(7, 11, align_corners), rtol=0, atol=2e-6)  # float32: 16 products of numbers below 2


@quick
@given(st.sampled_from(sorted(FAMILIES)), seeds, sides, sides, aligned, st.floats(0.3, 3))
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
        return family_grid(splines[k], generic_spline(k), size, align_corners)

    def generic_spline(k):
        return control_points(k).reshape(1, -1) ** 3

    splines = {k: family("tps", k) for k in (2, 3, 4)}
    variants = [(2, (4, 6), False), (3, (4, 6), False), (4, (6, 4), False), (4, (4, 6), False), (4, (4, 6), True)]
    for _ in range(2):  # the second time from what was kept
        for k, size, align_corners in variants:
            points = target_points(size, align_corners)
            expected = family("tps", k).source(generic_spline(k), points).reshape(1, *size, 2)
            torch.testing.assert_close(grid(k, size, align_corners), expected, rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("name", FAMILIES)
def test_double_parameters_give_a_double_grid(name):
    assert family_grid(family(name), generic(name, 0), (3, 4)).dtype == torch.float64


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_through_the_grid_are_right(name, align_corners):
    def grid(params):
        return family_grid(family(name), params, (3, 4), align_corners, aspect=4 / 3)

    assert torch.autograd.gradcheck(grid, (generic(name, 0).requires_grad_(),))


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_that_are_not_finite_are_refused_with_the_samples_number(name):
    this, params = family(name), generic(name, 0, samples=6)
    params[4, -1] = float("nan")
    with pytest.raises(ValueError, match="theta of sample 4 is not finite"):
        family_grid(this, params, (3, 3))
    assert family_grid(this, params, (3, 3), check=False).isnan().any()


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


@quick
@given(st.sampled_from(sorted(FAMILIES)), seeds, st.integers(1, 9), st.floats(0.3, 3))
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


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_of_another_width_or_type_are_refused(name):
    this = family(name)
    for shape in ((2, this.count + 1), (this.count,), (1, 1, this.count)):
        with pytest.raises(ValueError) as error:
            this.source(torch.zeros(shape), torch.zeros(1, 2))
        assert all(word in str(error.value) for word in ("params", name, str(shape), f"(N, {this.count})"))
    with pytest.raises(ValueError, match="params are torch.int64"):
        this.source(torch.zeros(1, this.count, dtype=torch.int64), torch.zeros(1, 2))


@pytest.mark.parametrize("name", ["afine", "", "TPS", None])
def test_an_unknown_family_is_refused_and_the_known_ones_are_listed(name):
    with pytest.raises(ValueError) as error:
        family(name)
    assert repr(name) in str(error.value) and all(known in str(error.value) for known in FAMILIES)


@pytest.mark.parametrize("k", [1, 0, -4])
def test_too_few_control_points_are_refused(k):
    with pytest.raises(ValueError, match=f"k is {k}"):
        family("tps", k)


# A family of one's own


class Wave(Family):
    """As in `Family`'s own words: every column is pushed up and down, the more the larger the one number."""

    identity = (0.0,)

    def source(self, params, points, aspect=1.0):
        up = params[:, None, :] * torch.sin(3 * points[:, :1])
        return torch.cat([points[:, :1].expand_as(up), points[:, 1:] + up], dim=-1)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_family_of_ones_own_works_everywhere_with_no_change_elsewhere(align_corners):
    wave, height = Wave(), torch.tensor([[0.0], [0.2]])
    grid = family_grid(wave, height, (5, 7), align_corners)
    assert torch.equal(grid[0], sampling_grid(affine(), (5, 7), align_corners)[0])
    x, y = torch.from_numpy(places(5, 7, align_corners)).unbind(-1)
    torch.testing.assert_close(grid[1], torch.stack([x, y + 0.2 * torch.sin(3 * x)], dim=-1).float())
    assert outline(wave, height).shape == (2, 65, 2)
    torch.testing.assert_close(outline(wave, height, per_side=1)[1, 1], torch.tensor([1.0, 0.2 * np.sin(3) - 1]).float())

    net = torch.nn.Sequential()
    net.stn = SpatialTransformer(light_localization(1, 4), wave, align_corners=align_corners)
    noise = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(noise), noise, rtol=0, atol=1e-5)
    assert [finding.name for finding in diagnose(net, noise)] == ["not moved yet"]
    net.stn.to_theta.bias.data.fill_(0.2)
    grid = family_grid(wave, height[1:].expand(2, 1), (9, 9), align_corners)
    torch.testing.assert_close(net(noise), sample(noise, grid, align_corners=align_corners))
    assert "family=Wave" in repr(net)
    exported = torch.export.export(net, (noise,)).module()
    torch.testing.assert_close(exported(noise), net(noise))


def test_an_unfinished_family_says_what_is_missing():
    class Unfinished(Family):
        identity = (0.0,)

    with pytest.raises(NotImplementedError, match="Unfinished has no source"):
        family_grid(Unfinished(), torch.zeros(1, 1), (3, 3))


@pytest.mark.parametrize("wrong", [Wave, "Wave", 3])
def test_only_a_family_or_a_known_name_is_taken(wrong):
    with pytest.raises(ValueError, match="family is"):
        SpatialTransformer(light_localization(), wrong)


def test_a_spline_is_as_exact_as_its_thirds():
    assert family("tps").identity[2] == -1 / 3
    points = random(0, 50, 2)
    torch.testing.assert_close(family("tps").source(double([family("tps").identity]), points)[0], points, rtol=0, atol=1e-13)

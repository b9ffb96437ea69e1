"""Grid generator: where each target pixel looks, against torch's affine_grid, numpy and scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_helpers.checks import check_size
from stn_helpers.families import family, family_grid
from stn_helpers.grid import pixel_centres, sampling_grid, target_points
from stn_helpers.theta import affine

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


def test_pixel_centres_lie_half_a_pixel_inside_or_at_the_ends():
    assert pixel_centres(4).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert pixel_centres(5, align_corners=True).tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_single_pixel_looks_at_the_middle(align_corners):
    assert sampling_grid(affine(), (1, 1), align_corners).tolist() == [[[[0, 0]]]]


# Precision


@pytest.mark.parametrize("size", [28, 224])
@pytest.mark.parametrize("rows", [2, 3])
def test_inside_autocast_the_grid_of_a_half_precision_theta_is_as_good_as_in_float32(rows, size):
    theta = (torch.eye(3)[:rows] + 0.1 * random(0, 2, rows, 3)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grid = sampling_grid(theta, (size, size))
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid.double(), sampling_grid(theta.double(), (size, size)), rtol=0, atol=2e-6)


def test_the_grid_is_made_where_theta_is():
    assert sampling_grid(affine().to("meta"), (3, 4), check=False).device.type == "meta"


def test_gradients_through_the_grid_of_a_matrix_are_right():
    for theta in (random(0, 2, 2, 3), torch.eye(3) + 0.2 * random(1, 2, 3, 3)):
        assert torch.autograd.gradcheck(lambda theta: sampling_grid(theta, (3, 4)), (theta.requires_grad_(),))


# Bad input


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rows", [2, 3])
def test_a_theta_that_is_not_finite_is_refused_with_the_samples_number(rows, bad):
    theta = torch.eye(3)[:rows].repeat(6, 1, 1)
    theta[4, rows - 1, 0] = bad
    with pytest.raises(ValueError, match="theta of sample 4 is not finite"):
        sampling_grid(theta, (3, 3))
    assert not sampling_grid(theta, (3, 3), check=False).isfinite().all()


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


def test_an_endless_size_is_refused():
    with pytest.raises(ValueError, match="size is"):
        check_size((float("inf"), 2))

"""Sampler: reading the image at the grid, against torch, scipy, OpenCV and kornia."""

import subprocess
import sys

import cv2
import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from stn_helpers.checks import NotFiniteError
from stn_helpers.families import family, family_grid
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import MODES, PADDINGS, sample, warp
from stn_helpers.theta import CORNERS, affine, compose, invert, projective

quick = settings(deadline=None, max_examples=30)

# Until 0.9, the last for Python 3.10, kornia adds 1e-8 to every denominator.
KORNIA = dict(rtol=0, atol=1e-9 if tuple(map(int, kornia.__version__.split(".")[:2])) >= (0, 9) else 1e-6)

FAMILIES = ["affine", "similarity", "attention", "rotation", "projective", "tps"]
# What scipy calls our paddings. Reflection turns about the outer pixel's edge, or about its centre with align_corners.
SCIPY = {"border": "nearest", "zeros": "grid-constant", "reflection": "reflect"}

sides, aligned, seeds = st.integers(2, 12), st.booleans(), st.integers(0, 2**32 - 1)
every_way = pytest.mark.parametrize("align_corners", [False, True])
every_padding = pytest.mark.parametrize("padding_mode", PADDINGS)
every_mode = pytest.mark.parametrize("mode", MODES)


def images(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    """Noise in [0, 1): neighbours differ by less than 1, so a place off by d pixels is a value off by less than 2 d."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generic_theta(seed: int, samples: int = 2, rows: int = 2) -> torch.Tensor:
    """In double, off the identity in every entry, and looking past the border here and there."""
    return torch.eye(3, dtype=torch.float64)[:rows] + 0.3 * (2 * images(seed, samples, rows, 3) - 1)


def to_pixels(size: tuple[int, int]) -> np.ndarray:
    """The 3 x 3 matrix from normalised coordinates to pixel indices, align_corners=True: -1 is pixel 0, 1 the last one."""
    height, width = size
    return np.array([[(width - 1) / 2, 0, (width - 1) / 2], [0, (height - 1) / 2, (height - 1) / 2], [0, 0, 1]])


# The identity


@every_mode
@every_padding
@every_way
def test_the_identity_changes_nothing(mode, padding_mode, align_corners):
    noise = images(0, 2, 3, 28, 41, dtype=torch.float32)
    seen = warp(noise, affine(), mode=mode, padding_mode=padding_mode, align_corners=align_corners)
    # float32 places are off by 4e-6 pixels at 41 pixels; nearest rounds that away.
    torch.testing.assert_close(seen, noise, rtol=0, atol=0 if mode == "nearest" else 2e-5)


@every_way
@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_identity_changes_nothing(name, align_corners):
    this, noise = family(name), images(0, 2, 3, 28, 41, dtype=torch.float32)
    grid = family_grid(this, torch.tensor([this.identity] * 2), (28, 41), align_corners, aspect=41 / 28)
    torch.testing.assert_close(sample(noise, grid, align_corners=align_corners), noise, rtol=0, atol=1e-4)  # 2e-6 * 41 / 2 pixels


# Against other samplers


@every_mode
@every_padding
@every_way
def test_warp_is_torchs_affine_grid_and_grid_sample(mode, padding_mode, align_corners):
    noise, theta = images(0, 4, 3, 9, 7), generic_theta(1, samples=4)
    for height, width in ((9, 7), (4, 3), (15, 22), (2, 13)):
        grid = F.affine_grid(theta, [4, 3, height, width], align_corners=align_corners)
        oracle = F.grid_sample(noise, grid, mode, padding_mode, align_corners)
        seen = warp(noise, theta, (height, width), mode, padding_mode, align_corners)
        torch.testing.assert_close(seen, oracle, rtol=0, atol=1e-12)  # doubles


@quick
@given(seeds, sides, sides, sides, sides, st.sampled_from(PADDINGS), aligned, st.sampled_from([2, 3]))
def test_bilinear_reading_is_scipys(seed, height, width, tall, wide, padding_mode, align_corners, rows):
    noise = images(seed, 1, 1, height, width)
    grid = sampling_grid(generic_theta(seed + 1, 1, rows), (tall, wide), align_corners)
    seen = sample(noise, grid, padding_mode=padding_mode, align_corners=align_corners)
    x, y = grid[0].numpy().transpose(2, 0, 1)
    if align_corners:
        column, row = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
    else:
        column, row = (x + 1) / 2 * width - 0.5, (y + 1) / 2 * height - 0.5
    outside = "mirror" if padding_mode == "reflection" and align_corners else SCIPY[padding_mode]
    oracle = map_coordinates(noise[0, 0].numpy(), [row, column], order=1, mode=outside)
    np.testing.assert_allclose(seen[0, 0], oracle, rtol=0, atol=1e-9)  # doubles; scipy folds a far place with a few more steps


@quick
@given(seeds, st.sampled_from(["bilinear", "bicubic"]))
def test_reading_inside_the_image_is_opencvs_remap(seed, mode):
    # Places on 1/32 pixel, to which OpenCV 4 rounds them; two pixels from the border, where bicubic still sees four neighbours.
    random = torch.Generator().manual_seed(seed)
    column, row = (torch.randint(64, (side - 3) * 32, (6, 5), generator=random) / 32 for side in (14, 11))
    noise = images(seed, 1, 1, 11, 14, dtype=torch.float32)
    grid = torch.stack([2 * column / 13 - 1, 2 * row / 10 - 1], dim=-1)[None]
    how = cv2.INTER_LINEAR if mode == "bilinear" else cv2.INTER_CUBIC
    oracle = cv2.remap(noise[0, 0].numpy(), column.numpy(), row.numpy(), how)
    np.testing.assert_allclose(sample(noise, grid, mode, align_corners=True)[0, 0], oracle, rtol=0, atol=2e-5)  # float32 places


@quick
@given(seeds, sides, sides, sides, sides, st.sampled_from(PADDINGS))
def test_warp_is_kornias_warp_affine(seed, height, width, tall, wide, padding_mode):
    noise, theta = images(seed, 2, 3, height, width), generic_theta(seed + 1)
    bottom = np.broadcast_to([[[0.0, 0.0, 1.0]]], (2, 1, 3))
    # kornia's matrix says where a source pixel goes, in pixels: the inverse of theta.
    look = to_pixels((height, width)) @ np.concatenate([theta.numpy(), bottom], 1) @ np.linalg.inv(to_pixels((tall, wide)))
    move = torch.from_numpy(np.linalg.inv(look)[:, :2])
    oracle = kornia.geometry.warp_affine(noise, move, (tall, wide), "bilinear", padding_mode, align_corners=True)
    seen = warp(noise, theta, (tall, wide), padding_mode=padding_mode, align_corners=True)
    torch.testing.assert_close(seen, oracle, **KORNIA)  # doubles, two more inversions of well-behaved matrices


@quick
@given(seeds, sides, sides, sides, sides, st.sampled_from(PADDINGS))
def test_a_projective_warp_is_kornias_warp_perspective(seed, height, width, tall, wide, padding_mode):
    noise = images(seed, 1, 3, height, width)
    theta = projective(torch.tensor(CORNERS, dtype=torch.float64) + 0.3 * (2 * images(seed + 1, 1, 4, 2) - 1))
    look = to_pixels((height, width)) @ theta.numpy() @ np.linalg.inv(to_pixels((tall, wide)))
    move = torch.from_numpy(np.linalg.inv(look))
    oracle = kornia.geometry.warp_perspective(noise, move, (tall, wide), "bilinear", padding_mode, align_corners=True)
    seen = warp(noise, theta, (tall, wide), padding_mode=padding_mode, align_corners=True)
    torch.testing.assert_close(seen, oracle, **KORNIA)


# Turns, shifts, sizes


@every_padding
@pytest.mark.parametrize("side", [1, 6, 7])
@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_are_exactly_rot90(turns, side, padding_mode):
    noise = images(0, 2, 3, side, side, dtype=torch.float32)
    # The window turns clockwise, so the picture in it turns counter-clockwise, as in rot90.
    turned = torch.rot90(noise, turns, (-2, -1))
    assert torch.equal(warp(noise, affine(angle=90 * turns), mode="nearest", padding_mode=padding_mode), turned)
    torch.testing.assert_close(warp(noise, affine(angle=90 * turns), padding_mode=padding_mode), turned, rtol=0, atol=1e-5)


@every_way
def test_a_quarter_turn_of_a_wide_image_into_a_tall_one_is_exactly_rot90(align_corners):
    noise = images(0, 2, 3, 4, 9)
    seen = warp(noise, affine(angle=90), (9, 4), mode="nearest", align_corners=align_corners)
    assert torch.equal(seen, torch.rot90(noise, 1, (-2, -1)))


def test_with_the_aspect_a_quarter_turn_of_a_wide_image_keeps_its_pixels_square():
    noise = images(0, 1, 1, 5, 11)
    seen = warp(noise, affine(angle=90, aspect=11 / 5), mode="nearest", padding_mode="zeros")
    # Only the 5 x 5 pixels in the middle have something to see; the rest looks above and below the image.
    expected = torch.zeros_like(noise)
    expected[..., 3:8] = torch.rot90(noise[..., 3:8], 1, (-2, -1))
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(("across", "down"), [(1, 0), (0, 1), (-2, 3)])
def test_a_shift_of_whole_pixels_looks_so_many_pixels_further(across, down):
    noise = images(0, 1, 1, 6, 8)
    seen = warp(noise, affine(shift=(2 * across / 8, 2 * down / 6)))
    rows, columns = (torch.arange(6) + down).clamp(0, 5), (torch.arange(8) + across).clamp(0, 7)
    torch.testing.assert_close(seen, noise[:, :, rows][..., columns], rtol=0, atol=1e-6)  # the shift is a float32


def test_warping_twice_is_warping_by_the_composition():
    noise, turn, aside = images(0, 1, 1, 8, 8), affine(angle=90), affine(shift=(2 * 3 / 8, 0.0))
    for first, then in ((turn, aside), (aside, turn)):
        twice = warp(warp(noise, first, mode="nearest"), then, mode="nearest")
        assert torch.equal(warp(noise, compose(first, then), mode="nearest"), twice)
    assert not torch.equal(compose(turn, aside), compose(aside, turn))


def test_warping_by_the_inverse_undoes_a_quarter_turn():
    noise, theta = images(0, 1, 1, 7, 7), affine(angle=90)
    assert torch.equal(warp(warp(noise, theta, mode="nearest"), invert(theta), mode="nearest"), noise)


def test_a_scale_of_one_half_shows_the_middle_half_twice_as_large():
    noise = images(0, 1, 1, 8, 8)
    assert torch.equal(
        warp(noise, affine(scale=0.5), mode="nearest"), noise[..., 2:6, 2:6].repeat_interleave(2, -1).repeat_interleave(2, -2)
    )


def test_half_the_size_is_the_mean_of_two_by_two_pixels():
    noise = images(0, 2, 3, 8, 12)
    torch.testing.assert_close(warp(noise, affine(), (4, 6)), F.avg_pool2d(noise, 2), rtol=0, atol=1e-5)  # float32 grid


@every_way
@pytest.mark.parametrize("size", [(9, 20), (5, 7), (3, 2), (16, 4)])
def test_another_size_is_torchs_interpolation(size, align_corners):
    noise = images(0, 2, 3, 5, 7)
    oracle = F.interpolate(noise, size, mode="bilinear", align_corners=align_corners)
    seen = warp(noise, affine().double(), size, align_corners=align_corners)
    torch.testing.assert_close(seen, oracle, rtol=0, atol=1e-12)


def test_outside_is_black_with_zeros_and_the_last_pixel_with_border():
    noise, away = images(0, 1, 1, 4, 4) + 1, affine(shift=(10.0, 0.0))
    assert warp(noise, away, padding_mode="zeros").eq(0).all()
    assert torch.equal(warp(noise, away), noise[..., -1:].expand(1, 1, 4, 4))


# Batches


def test_one_theta_serves_all_images_and_one_image_all_thetas():
    noise, thetas = images(0, 3, 2, 5, 6), generic_theta(1, samples=3)
    assert torch.equal(warp(noise, thetas[:1]), torch.cat([warp(noise[i : i + 1], thetas[:1]) for i in range(3)]))
    assert torch.equal(warp(noise[:1], thetas), torch.cat([warp(noise[:1], thetas[i : i + 1]) for i in range(3)]))
    assert torch.equal(warp(noise, thetas), torch.cat([warp(noise[i : i + 1], thetas[i : i + 1]) for i in range(3)]))


def test_an_image_without_a_batch_comes_back_without_one():
    noise, thetas = images(0, 2, 5, 6), generic_theta(1, samples=3)
    assert torch.equal(warp(noise, thetas[0]), warp(noise[None], thetas[:1])[0])
    assert torch.equal(warp(noise, thetas), warp(noise[None], thetas))


def test_a_batch_of_none_stays_a_batch_of_none():
    assert warp(images(0, 0, 3, 5, 6), affine()[:0], (2, 4)).shape == (0, 3, 2, 4)


# Precision and gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_images_are_read_in_float32(dtype):
    half, theta = images(0, 2, 3, 28, 28).to(dtype), generic_theta(1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = warp(half, theta)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, warp(half.float(), theta))


@every_way
@every_padding
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_through_grid_and_sampler_are_right(name, padding_mode, align_corners):
    this = family(name)
    # Off the identity, where every place would lie on a pixel's centre: a kink of the bilinear kernel.
    params = torch.tensor(this.identity) + 0.3 * (2 * images(3, 2, this.count) - 1)

    def look(noise, params):
        grid = family_grid(this, params, (3, 4), align_corners, aspect=4 / 5)
        return sample(noise, grid, padding_mode=padding_mode, align_corners=align_corners)

    assert torch.autograd.gradcheck(look, (images(4, 2, 2, 5, 4).requires_grad_(), params.requires_grad_()))


def test_gradients_through_a_bicubic_warp_are_right():
    arguments = images(0, 2, 1, 5, 4).requires_grad_(), generic_theta(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda noise, theta: warp(noise, theta, (3, 4), mode="bicubic"), arguments)


# Bad input


@pytest.mark.parametrize("shape", [(4,), (4, 4), (3, 4, 4), (1, 1, 3, 4, 4)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        sample(torch.zeros(shape), torch.zeros(1, 2, 2, 2))
    assert "images" in str(error.value) and str(shape) in str(error.value)


def test_images_of_bytes_are_refused_and_the_way_on_is_said():
    for use in (lambda noise: sample(noise, torch.zeros(1, 2, 2, 2)), lambda noise: warp(noise, affine())):
        with pytest.raises(ValueError, match=r"images are torch.uint8 .* divide by 255"):
            use(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 2, 3), (2, 2, 2, 2), (1, 1, 2, 2, 2)])
def test_a_grid_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as error:
        sample(torch.zeros(1, 3, 4, 4), torch.zeros(shape))
    assert "grid" in str(error.value) and str(shape) in str(error.value)


def test_a_grid_on_another_device_is_refused_and_both_are_named():
    with pytest.raises(ValueError, match="grid is on meta and images on cpu"):
        sample(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2, 2, device="meta"))


def test_images_on_another_device_than_theta_are_refused():
    with pytest.raises(ValueError, match="grid is on cpu and images on meta"):
        warp(torch.zeros(1, 3, 4, 4, device="meta"), affine())


@pytest.mark.parametrize("mode", ["linear", "BILINEAR", "", None])
def test_an_unknown_mode_is_refused_and_the_known_ones_are_listed(mode):
    with pytest.raises(ValueError) as error:
        warp(torch.zeros(1, 3, 4, 4), affine(), mode=mode)
    assert f"mode is {mode!r}" in str(error.value) and all(
        known in str(error.value) for known in ("bilinear", "nearest", "bicubic")
    )


@pytest.mark.parametrize("padding_mode", ["zero", "reflect", "", None])
def test_an_unknown_padding_is_refused_and_the_known_ones_are_listed(padding_mode):
    with pytest.raises(ValueError) as error:
        warp(torch.zeros(1, 3, 4, 4), affine(), padding_mode=padding_mode)
    message = str(error.value)
    assert f"padding_mode is {padding_mode!r}" in message and all(known in message for known in ("border", "zeros", "reflection"))


@pytest.mark.parametrize(("count", "thetas"), [(2, 3), (3, 2)])
def test_as_many_thetas_as_images_or_one(count, thetas):
    with pytest.raises(ValueError, match=f"{count} images and {thetas} thetas"):
        warp(torch.zeros(count, 3, 4, 4), affine(angle=[0.0] * thetas))


@pytest.mark.parametrize("size", [(4,), (4, 0), (2.5, 2), 3])
def test_a_bad_size_is_refused(size):
    with pytest.raises(ValueError) as error:
        warp(torch.zeros(1, 3, 4, 4), affine(), size)
    assert f"size is {size!r}" in str(error.value)


@every_padding
def test_a_theta_that_is_not_a_number_is_refused_also_where_padding_would_hide_it(padding_mode):
    theta = affine(angle=[0.0] * 3)
    theta[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="theta of sample 1 is not finite"):
        warp(torch.zeros(3, 3, 4, 4), theta, padding_mode=padding_mode)


def test_a_grid_of_whole_numbers_is_refused():
    with pytest.raises(ValueError, match="grid is torch.int64"):
        sample(torch.rand(1, 1, 3, 3), torch.zeros(1, 2, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("size", [0, ()])
def test_an_empty_size_is_refused_and_not_taken_for_none(size):
    with pytest.raises(ValueError, match="size is"):
        warp(torch.rand(1, 1, 3, 3), affine(), size=size)


# Places that are not finite


def run(code: str) -> subprocess.CompletedProcess:
    """In a process of its own, because what is refused here used to end it."""
    return subprocess.run([sys.executable, "-c", "import torch\n" + code], capture_output=True, text=True, timeout=120)


@every_padding
@every_mode
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_a_place_that_is_not_finite_is_refused_with_sample_and_pixel(padding_mode, mode, bad):
    grid = torch.zeros(3, 4, 5, 2)
    grid[2, 1, 3, 0] = bad
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(NotFiniteError, match="grid of sample 2 is not finite .*: the pixel in row 1, column 3"):
            sample(torch.rand(3, 1, 6, 6), grid.to(dtype), mode, padding_mode)
    assert sample(torch.rand(3, 1, 6, 6), grid.clamp(-9, 9).nan_to_num(), mode, padding_mode).shape == (3, 1, 4, 5)


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_a_readers_own_spline_without_the_guard_ends_in_an_error_and_not_in_the_process(padding_mode):
    done = run(f"""
from stn_helpers import sample
grid = torch.zeros(2, 3, 3, 2, requires_grad=True)
r2 = (grid - grid[:, 1:2, 1:2].detach()).square().sum(-1, keepdim=True)
try:
    sample(torch.rand(2, 1, 5, 5), grid + r2 * r2.log(), padding_mode={padding_mode!r}).sum().backward()
except ValueError as error:
    print(error)
""")
    assert done.returncode == 0 and "grid of sample 0 is not finite" in done.stdout, done.stderr


@every_padding
def test_a_far_place_that_is_let_through_has_a_backward_pass(padding_mode):
    """FAR is chosen so that the sampler's arithmetic stays finite up to it."""
    done = run(f"""
from stn_helpers.sampler import sample
from stn_helpers.checks import FAR
for dtype in (torch.float32, torch.float64):
    for align_corners in (False, True):
        for mode in ("bilinear", "nearest", "bicubic"):
            for sign in (-1, 1):
                grid = torch.full((1, 3, 3, 2), 0.999 * sign * FAR, dtype=dtype, requires_grad=True)
                images = torch.rand(1, 2, 4096, 3, dtype=dtype, requires_grad=True)
                seen = sample(images, grid, mode, {padding_mode!r}, align_corners)
                seen.sum().backward()
                assert seen.isfinite().all() and images.grad.isfinite().all(), (dtype, mode, sign)
print("through")
""")
    assert done.returncode == 0 and done.stdout.strip() == "through", done.stderr


@every_padding
def test_a_homography_whose_horizon_crosses_a_pixel_is_refused(padding_mode):
    theta = torch.eye(3).repeat(4, 1, 1)
    theta[3, 2, 0] = 1.25  # 1 + 1.25 x is 0 at x = -0.8, the first of five centres
    for use in (
        lambda: warp(torch.rand(4, 1, 5, 5), theta, padding_mode=padding_mode),
        lambda: sampling_grid(theta, (5, 5)),
        lambda: family_grid(family("projective"), theta.flatten(1)[:, :8], (5, 5)),
    ):
        with pytest.raises(NotFiniteError, match="grid of sample 3 is not finite .*row 0, column 0"):
            use()
    assert warp(torch.rand(4, 1, 6, 6), theta, padding_mode=padding_mode).isfinite().all()


@every_padding
@pytest.mark.parametrize("rows", [2, 3])
def test_a_theta_beyond_all_measure_is_refused(padding_mode, rows):
    theta = torch.eye(3)[:rows].repeat(2, 1, 1)
    theta[1, 0, 0] = 1e38
    with pytest.raises(NotFiniteError, match="theta of sample 1 is not finite"):
        warp(torch.rand(2, 1, 5, 5), theta, padding_mode=padding_mode)


def test_a_theta_that_no_network_said_is_not_said_to_come_from_one():
    with pytest.raises(NotFiniteError) as error:
        warp(torch.rand(1, 1, 5, 5), affine(float("nan")))
    assert "Where a localization network said it" in str(error.value)


def test_a_learned_theta_is_looked_at_too():
    with pytest.raises(NotFiniteError, match="theta of sample 0"):
        warp(torch.rand(1, 1, 5, 5), torch.nn.Parameter(affine(float("nan"))))


# Masks and other guests


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64])
@every_padding
def test_a_mask_of_labels_is_read_by_the_nearest_and_keeps_its_type(dtype, padding_mode):
    mask = (1000 * images(0, 2, 1, 7, 9)).long()
    mask = (mask > 500) if dtype == torch.bool else mask.clamp(max=torch.iinfo(dtype).max).to(dtype)
    theta = affine(angle=[20.0, -50.0], scale=0.8)
    seen = warp(mask, theta, mode="nearest", padding_mode=padding_mode)
    assert seen.dtype == dtype
    assert torch.equal(seen, warp(mask.double(), theta.double(), mode="nearest", padding_mode=padding_mode).to(dtype))
    assert torch.equal(warp(mask, affine(), mode="nearest"), mask)


def test_labels_beyond_what_float32_can_hold_come_through():
    labels = torch.tensor([2**24 + 1, 2**40 + 3]).reshape(1, 1, 1, 2)
    assert torch.equal(warp(labels, affine(), mode="nearest"), labels)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_mask_in_another_mode_is_refused_and_both_ways_on_are_said(mode):
    with pytest.raises(ValueError, match="torch.int64 .* divide by 255 first; a mask of labels is read with mode='nearest'"):
        warp(torch.zeros(1, 1, 4, 4, dtype=torch.int64), affine(), mode=mode)


@pytest.mark.parametrize(("images", "came"), [(np.zeros((1, 3, 4, 4)), "ndarray"), ([[0.0]], "list"), (None, "NoneType")])
def test_what_is_no_tensor_is_named(images, came):
    for use in (lambda: warp(images, affine()), lambda: sample(images, torch.zeros(1, 2, 2, 2))):
        with pytest.raises(ValueError, match=f"images is a {came}; expected a tensor"):
            use()
    with pytest.raises(ValueError, match="grid is ndarray"):
        sample(torch.zeros(1, 1, 3, 3), np.zeros((1, 2, 2, 2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_images_on_a_half_grid_are_read_in_float32(dtype):
    half, grid = images(0, 2, 3, 28, 28).to(dtype), sampling_grid(generic_theta(1).float(), (9, 9)).to(dtype)
    seen = sample(half, grid)
    assert seen.dtype == torch.float32 and torch.equal(seen, sample(half.float(), grid.float()))

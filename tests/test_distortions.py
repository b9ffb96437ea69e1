"""distortions.py: how an image lies on its canvas, against scipy; what lies about it; and that its pose undoes it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label, map_coordinates
from scipy.stats import chisquare, kstest, uniform

from stn_helpers.data.distortions import DISTORTIONS, Distortion, distorted, distortion
from stn_helpers.data.sets import Images, load
from stn_helpers.sampler import warp
from stn_helpers.theta import affine, decompose, invert


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=random(7))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 180), st.floats(0.4, 1.5), st.sampled_from([None, 12, 31]))
def test_an_image_lies_where_scipy_puts_it_by_its_pose(seed, degrees, low, canvas):
    images, side = noise(3, 2, 15, 15), canvas or 15
    bent, poses = Distortion(degrees, 30, (low, low + 0.4), canvas)(images, random(seed))
    assert bent.shape == (3, 2, side, side) and bent.dtype == torch.uint8 and poses.shape == (3, 2, 3)
    rows, columns = np.indices((side, side))
    place = np.stack([(2 * columns + 1) / side - 1, (2 * rows + 1) / side - 1])
    for image, laid, pose in zip(images.numpy(), bent.numpy(), poses.double().numpy(), strict=True):
        x, y = np.tensordot(np.linalg.inv(pose[:, :2]), place - pose[:, 2, None, None], axes=1)
        where = [((y + 1) * 15 - 1) / 2, ((x + 1) * 15 - 1) / 2]
        expected = [map_coordinates(channel.astype(float), where, order=1, mode="grid-constant") for channel in image]
        np.testing.assert_allclose(laid, expected, rtol=0, atol=0.55)  # half for rounding; float32 places for the rest


def test_a_positive_angle_turns_clockwise_on_screen():
    images = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    images[..., 4, 8] = 255  # right
    bent, _ = Distortion(middle=90)(images, random())
    assert bent[0, 0].nonzero().tolist() == [[8, 4]]  # below


def test_angles_sizes_and_places_are_uniform_and_independent():
    count = 4000
    _, poses = Distortion(50, 20, (0.7, 1.2), canvas=12)(torch.zeros(count, 1, 7, 7, dtype=torch.uint8), random(1))
    angle, (size, high), shear, (x, y) = decompose(poses)
    torch.testing.assert_close(size, high)
    torch.testing.assert_close(shear, torch.zeros(count), rtol=0, atol=1e-6)
    x, y = x / (1 - size), y / (1 - size)  # the centre stops where the image's edge meets the canvas's
    values = np.stack([angle, size * 12 / 7, x, y])
    for found, (low, high) in zip(values, ((-30, 70), (0.7, 1.2), (-1, 1), (-1, 1)), strict=True):
        assert kstest(found, uniform(low, high - low).cdf).pvalue > 0.01
    together = np.corrcoef(values) - np.eye(4)
    assert abs(together).max() < 4 / count**0.5


def test_an_image_larger_than_its_canvas_lies_in_the_middle():
    _, poses = Distortion(scale=(1.5, 2))(noise(20, 1, 9, 9), random())
    assert (poses[:, :, 2] == 0).all() and (poses[:, 0, 0] >= 1.5).all()


def test_looking_through_the_pose_gives_the_image_back():
    line = torch.arange(28) - 13.5
    middles = 8 * torch.rand(2, 50, 1, 1, generator=random()) - 4
    images = (255 * torch.exp(-((line - middles[0]) ** 2 + (line[:, None] - middles[1]) ** 2) / 32))[:, None].to(torch.uint8)
    bent, poses = Distortion(180, 0, (0.8, 1.5), 60)(images, random())
    wrong = (warp(bent.float(), poses, size=(28, 28)) - images).abs()
    assert wrong.max() < 12 and wrong.mean() < 1  # read twice between the pixels


def test_looking_through_the_pose_of_a_perspective_gives_the_image_back():
    """The picture is a plane of gray: its corners land where the pose says, and it reads the same through it."""
    ramp = torch.linspace(20, 220, 28).expand(1, 1, 28, 28)
    images = torch.cat([ramp, ramp.mT]).round().to(torch.uint8).repeat(20, 1, 1, 1)
    bent, poses = DISTORTIONS["perspective"](images, random())
    inside = Distortion(scale=(0.75, 1.0), corners=5)(torch.full_like(images, 255), random())[0]
    seen, whole = (warp(canvas.float(), poses, size=(28, 28), padding_mode="zeros") for canvas in (bent, inside))
    wrong = (seen - images)[whole > 254].abs()  # what left the canvas, or was blended with the black around it, is lost
    assert len(wrong) > 0.4 * images.numel() and wrong.max() < 15 and wrong.mean() < 1


def test_a_disc_keeps_what_lies_in_the_inscribed_circle_and_nothing_else():
    bent, poses = DISTORTIONS["rotated disc"](torch.full((50, 3, 32, 32), 255, dtype=torch.uint8), random())
    plain, same = DISTORTIONS["rotated"](torch.full((50, 3, 32, 32), 255, dtype=torch.uint8), random())
    rows, columns = np.indices((32, 32)) - 15.5
    circle, core = (torch.from_numpy(rows**2 + columns**2 <= radius**2) for radius in (16, 15))
    assert torch.equal(poses, same) and torch.equal(bent, plain * circle)
    assert (bent[..., core] == 255).all() and not bent[..., ~circle].any()  # alike, however it was turned


def test_a_piece_of_clutter_is_6_x_6_from_the_middle_of_any_other_image_and_lies_anywhere():
    shades = torch.arange(28, dtype=torch.uint8) + 1
    which = torch.arange(1, 6, dtype=torch.uint8)[:, None, None].expand(5, 28, 28)
    coded = torch.stack([which, shades[:, None].expand(5, 28, 28), shades.expand(5, 28, 28)], dim=1)  # image, row, column
    make, generator = Distortion(scale=(1e-6, 1e-6), canvas=20, clutter=1), random(3)  # the image itself is too small to see
    pieces = []
    for canvas, own in ((c, k) for _ in range(80) for k, c in enumerate(make(coded, generator)[0])):
        down, across = (places.min().item() for places in canvas[0].nonzero(as_tuple=True))
        piece = canvas[:, down : down + 6, across : across + 6].long()
        image, row, column = piece[:, 0, 0].tolist()
        assert (canvas != 0).all(0).sum() == 36 and (piece[0] == image).all()
        assert (piece[1] == row + torch.arange(6)[:, None]).all() and (piece[2] == column + torch.arange(6)).all()
        pieces.append((down, across, row - 1, column - 1, (image - 1 - own) % 5))
    inside = range(5, 18)  # up to the 23rd of 28 pixels, as far from one edge as from the other
    for found, wanted in zip(zip(*pieces, strict=True), (range(15), range(15), inside, inside, range(1, 5)), strict=True):
        assert set(found) == set(wanted)
        assert chisquare([found.count(value) for value in wanted]).pvalue > 0.01


def test_there_are_as_many_pieces_as_asked_for():
    bent, _ = Distortion(scale=(1e-6, 1e-6), canvas=300, clutter=8)(torch.full((40, 1, 28, 28), 9, dtype=torch.uint8), random())
    counts = [label(canvas[0].numpy())[1] for canvas in bent]
    assert max(counts) == 8 and np.median(counts) == 8  # two may touch
    assert (bent != 0).sum((1, 2, 3)).max() == 8 * 36


def test_the_brighter_one_is_on_top():
    images = torch.tensor([40, 120, 200], dtype=torch.uint8)[:, None, None, None].expand(3, 1, 28, 28)
    bent, _ = Distortion(clutter=30)(images, random())
    assert [canvas.unique().tolist() for canvas in bent] == [[40, 120, 200], [120, 200], [200]]


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_distortion_is_decided_by_its_generator_alone(name):
    images = noise(6, 1, 28, 28)
    kept, before, make = images.clone(), torch.get_rng_state(), distortion(name)
    (one, pose), (again, same), (other, _) = (make(images, random(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, again) and torch.equal(pose, same)
    assert torch.equal(one, other) == (name == "upright") == torch.equal(one, images)
    assert torch.equal(images, kept) and torch.equal(torch.get_rng_state(), before)
    single, pose = make(images[:1], random())
    shape = (1, 32) if make.knots else (1, 3, 3) if make.corners and not make.undone else (1, 2, 3)
    assert single.shape == (1, *one.shape[1:]) and single.dtype == torch.uint8 and pose.shape == shape


def test_the_distortions_that_have_a_name():
    assert DISTORTIONS["cluttered"].clutter == 4
    digits = load("digits", train=False)
    (bent, turned), (_, one_way), (littered, cluttered) = (distorted(digits, n) for n in ("turned", "turned one way", "cluttered"))
    assert bent.images.shape == (360, 1, 28, 28) and littered.images.shape == (360, 1, 48, 48)
    angles = [decompose(poses).angle for poses in (turned, one_way, cluttered)]
    ends = [value for angle in angles for value in (angle.min().item(), angle.max().item())]
    assert ends == pytest.approx([-60, 60, 0, 120, 0, 0], abs=2)
    assert (cluttered[:, 0, 0].aminmax()) == pytest.approx((0.7 * 28 / 48, 1.2 * 28 / 48), rel=0.01)


def test_a_distorted_set_keeps_its_labels_and_repeats_with_its_seed():
    some = Images("some", noise(7, 1, 28, 28), torch.arange(7), ("a", "b"))
    bent, poses = distorted(some, "turned", seed=1)
    assert (bent.name, bent.classes, len(poses)) == ("some, turned", ("a", "b"), 7) and torch.equal(bent.labels, some.labels)
    laid = warp(some.images.float(), invert(poses), padding_mode="zeros")
    assert torch.equal(laid.round(), bent.images.float()) and len(poses.unique(dim=0)) == 7
    again, other = distorted(some, "turned", seed=1)[0], distorted(some, "turned", seed=2)[0]
    assert torch.equal(bent.images, again.images) and not torch.equal(bent.images, other.images)


def test_a_distorted_set_is_made_from_500_images_at_a_time():
    """Clutter comes from the same 500: with another number, shipped figures would be of other pictures."""
    some = load("digits", train=True).subset(slice(510))
    bent, generator = distorted(some, "cluttered")[0], random(1000)
    for part in (slice(0, 500), slice(500, 510)):
        assert torch.equal(bent.images[part], DISTORTIONS["cluttered"](some.images[part], generator)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_distorted_set_is_the_same_on_every_device():
    some = load("digits", train=False)
    (here, poses), (there, same) = distorted(some, "rts"), distorted(some.to("cuda"), "rts")
    assert there.images.is_cuda and same.is_cuda
    assert torch.equal(here.images, there.images.cpu()) and torch.equal(poses, same.cpu())


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="images are 20 x 40; a distortion expects square ones"):
        DISTORTIONS["rotated"](noise(2, 1, 20, 40), random())


def test_upright_is_the_set_as_it_is():
    some = Images("some", noise(3, 1, 9, 9), torch.arange(3), ())
    same, poses = distorted(some, "upright")
    assert same is some and torch.equal(poses, torch.eye(3)[:2].expand(3, 2, 3))


@pytest.mark.parametrize("call", [distortion, lambda name: distorted(Images("", noise(2, 1, 9, 9), torch.arange(2), ()), name)])
def test_an_unknown_distortion_is_refused_with_the_known_ones(call):
    with pytest.raises(ValueError, match=f"distortion is 'bent'; expected one of {', '.join(DISTORTIONS)}"):
        call("bent")


@pytest.mark.parametrize("name", ["rotated", "rotated disc", "rts", "perspective"])
def test_an_undone_image_is_the_upright_one_again(name):
    """Resampled twice, and cut off where the canvas ended: near it, and far nearer than what was not turned back."""
    images = load("digits", train=False).images[:50]
    bent, _ = distortion(name)(images, torch.Generator().manual_seed(0))
    undone, pose = distortion(f"{name}, undone")(images, torch.Generator().manual_seed(0))
    wanted = F.interpolate(images.float(), size=undone.shape[-2:], mode="bilinear", align_corners=False)
    away = [(seen.float() - wanted).abs().mean() for seen in (undone, F.interpolate(bent.float(), size=undone.shape[-2:]))]
    assert away[0] < 0.35 * away[1]
    assert torch.equal(pose, affine().expand(50, 2, 3))

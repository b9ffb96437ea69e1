"""paper.py and its distortions: the networks against their listing, the sets against the paper's definitions and scipy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_name import PAPERS, Given, arm, build
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates
from scipy.stats import kstest, norm, uniform
from torch import nn

from stn_helpers.data.distortions import DISTORTIONS, Distortion, distorted
from stn_helpers.data.sets import load
from stn_helpers.families import control_points
from stn_helpers.theta import CORNERS, decompose, map_points
from stn_helpers.training.trainer import Trainer
from studies.networks import PlacedNet, fitting_width
from studies.paper_table import FAMILIES, LONG, PARAMETERS, SETS, STUDY, TEN, paper_net
from studies.runner import run_study
from studies.study import attended, pose_spread, straightened

every_network = pytest.mark.parametrize("name", PAPERS)
WITH_ST = [name for name in PAPERS if not name.endswith("None")]
ARMS = {name: arm for name, arm in STUDY.arms.items() if arm.recipe == TEN and "halved" not in name}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def canvas_of(name: str) -> int:
    return PAPERS[name].args[1]


def pictures(side: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=random(1))


def size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def shaken(name: str) -> PlacedNet:
    """A network whose transformer looks elsewhere for every image."""
    network = build(name, 2).eval()
    with torch.no_grad():
        network.transformer.to_theta.weight.normal_(generator=random(2))
    return network


# The networks


@pytest.mark.parametrize("canvas", [28, 42, 60])
def test_there_are_eight_networks_on_every_canvas_and_all_have_one_size(canvas):
    names = [name for name in PAPERS if canvas_of(name) == canvas]
    assert len(names) == 2 * (1 + len(FAMILIES))
    sizes = [size(build(name)) for name in names]
    assert max(sizes) < 1.01 * min(sizes) and all(abs(count - PARAMETERS) < 0.005 * PARAMETERS for count in sizes)


@every_network
def test_every_network_is_the_papers_listing(name):
    body, canvas, family = PAPERS[name].args
    network = build(name)
    parts = [tuple(weight.shape) for weight in network.classifier.parameters() if weight.ndim > 1]
    seen = canvas // 2 if family and canvas > 28 else canvas
    width = parts[1][0]
    if body == "fcn":
        assert parts == [(width, seen * seen), (width, width), (10, width)]
    else:
        left = {28: 4, 42: 36, 60: 100, 21: 1, 30: 9}[seen]  # 9 x 9, half, 7 x 7, half
        assert parts == [(32, 1, 9, 9), (width, 32, 7, 7), (10, width * left)]
    looks = [tuple(weight.shape) for weight in network.transformer.parameters() if weight.ndim > 1]
    count = {"affine": 6, "projective": 8, "tps": 32}.get(family)
    if family is None:
        assert looks == []
    elif body == "fcn":
        assert looks == [(32, canvas * canvas), (32, 32), (count, 32)]
    else:
        left = {28: 1, 42: 16, 60: 81}[canvas]  # half, 5 x 5, half, 5 x 5
        assert looks == [(20, 1, 5, 5), (20, 20, 5, 5), (20, 20 * left), (count, 20)]


def numbers(module: nn.Module):
    return iter(list(module.parameters()))


def classified(body: str, seen: torch.Tensor, weights) -> torch.Tensor:
    """The classifiers, written out with torch's functions."""
    if body == "fcn":
        for _ in range(2):
            seen = F.relu(F.linear(seen.flatten(1), next(weights), next(weights)))
    else:
        for _ in range(2):
            seen = F.max_pool2d(F.relu(F.conv2d(seen, next(weights), next(weights))), 2, ceil_mode=True)
    return F.linear(seen.flatten(1), next(weights), next(weights))


def localized(body: str, seen: torch.Tensor, weights) -> torch.Tensor:
    """The localization networks and the layer to theta, written out with torch's functions."""
    if body == "cnn":
        seen = F.conv2d(F.avg_pool2d(seen, 2), next(weights), next(weights))
        seen = F.conv2d(F.max_pool2d(F.relu(seen), 2), next(weights), next(weights)).relu()
    else:
        seen = F.relu(F.linear(seen.flatten(1), next(weights), next(weights)))
    seen = F.relu(F.linear(seen.flatten(1), next(weights), next(weights)))
    return F.linear(seen, next(weights), next(weights))


@pytest.mark.parametrize("name", [name for name in PAPERS if "projective" not in name and "tps" not in name])
@torch.no_grad()
def test_a_network_answers_as_one_written_out_with_torchs_functions(name):
    body, canvas, family = PAPERS[name].args
    network, seen = shaken(name) if family else build(name).eval(), pictures(canvas)
    if family:
        head, rest = numbers(network.transformer.to_theta), numbers(network.transformer.localization)
        theta = localized(body, seen, iter([*rest, *head])).reshape(-1, 2, 3)
        assert theta.std(0).max() > 0.01  # another one for each image
        grid = F.affine_grid(theta, list(seen.shape), align_corners=False)
        seen = F.grid_sample(seen, grid, padding_mode="zeros", align_corners=False)
        seen = F.avg_pool2d(seen, 2) if canvas > 28 else seen
    torch.testing.assert_close(network(pictures(canvas)), classified(body, seen, numbers(network.classifier)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", WITH_ST)
@torch.no_grad()
def test_before_training_a_transformer_changes_nothing(name):
    network, seen = build(name).eval(), pictures(canvas_of(name))
    plain = F.avg_pool2d(seen, 2) if canvas_of(name) > 28 else seen
    torch.testing.assert_close(network(seen), network.trunk(plain), rtol=0, atol=1e-4)  # identity in float32


@pytest.mark.parametrize("name", WITH_ST)
def test_the_loss_reaches_the_localization_network(name):
    network = shaken(name)
    F.cross_entropy(network(pictures(canvas_of(name))), torch.arange(3)).backward()
    assert all(weight.grad.isfinite().all() and weight.grad.abs().max() > 0 for weight in network.parameters())


@pytest.mark.parametrize("name", ["fcn-42-None", "cnn-60-None", "cnn-42-affine"])
@torch.no_grad()
def test_a_smaller_image_is_laid_in_the_middle_of_a_black_canvas(name):
    canvas, small = canvas_of(name), pictures(28)
    large, edge = torch.zeros(3, 1, canvas, canvas), (canvas - 28) // 2
    large[..., edge : edge + 28, edge : edge + 28] = small
    network = build(name).eval()
    assert torch.equal(network(small), network(large))
    assert network(pictures(27)).shape == (3, 10)  # an odd number of pixels is left over


# Widths


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2), st.integers(60, 3000))
def test_a_width_is_the_one_that_trying_all_of_them_finds(before, after, layers, count):
    def make(width):
        return nn.Sequential(nn.Linear(before, width), *[nn.Linear(width, width)] * min(layers, 1), nn.Linear(width, after))

    tried = {width: abs(size(make(width)) - count) for width in range(1, 200)}
    found = fitting_width(make, count)
    assert tried.get(found) == min(tried.values()) or found >= 200


def test_a_width_is_found_without_drawing_a_number():
    before = torch.get_rng_state()
    fitting_width(lambda width: nn.Linear(10, width), 1000)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_count_that_no_width_keeps_to_is_refused():
    with pytest.raises(ValueError, match="wanted is 100; this network has 101 parameters at its narrowest"):
        fitting_width(lambda width: nn.Linear(100, width), 100)
    assert fitting_width(lambda width: nn.Linear(100, width), 101) == 1


# Bad input


@pytest.mark.parametrize(("body", "canvas"), [("rnn", 28), ("fcn", 32), ("cnn", "28")])
def test_an_unknown_body_or_canvas_is_refused(body, canvas):
    with pytest.raises(ValueError, match=f"are '{body}' and {canvas!r}; expected fcn or cnn, and one of \\(28, 42, 60\\)"):
        paper_net(body, canvas)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family is 'spline'"):
        paper_net("fcn", 28, "spline")


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 29, 29), (2, 1, 28, 29), (1, 28, 28), (2, 28, 28, 1), (28,)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        build("cnn-28-None")(torch.zeros(shape))
    assert f"{shape}; this network expects (N, 1, H, W) with at least 1 pixels a side, at most 28" in str(error.value)


# The paper's sets


def black(count: int) -> torch.Tensor:
    return torch.zeros(count, 1, 28, 28, dtype=torch.uint8)


def agrees(found, distribution) -> bool:
    return kstest(np.asarray(found).ravel(), distribution.cdf).pvalue > 0.01


def test_r_is_turned_by_up_to_90_degrees():
    bent, poses = DISTORTIONS["rotated"](black(4000), random(1))
    angle, (wide, high), _, (x, y) = decompose(poses)
    assert bent.shape[-1] == 28 and agrees(angle, uniform(-90, 180))
    assert torch.allclose(wide, torch.ones(())) and torch.allclose(high, torch.ones(())) and not x.any() and not y.any()


def test_rts_is_turned_by_up_to_45_degrees_scaled_and_anywhere_on_42_pixels():
    bent, poses = DISTORTIONS["rts 42"](black(4000), random(2))
    angle, (wide, high), _, (x, y) = decompose(poses)
    torch.testing.assert_close(wide, high)
    assert bent.shape[-1] == 42 and agrees(angle, uniform(-45, 90)) and agrees(wide * 42 / 28, uniform(0.7, 0.5))
    assert agrees(x / (1 - wide), uniform(-1, 2)) and agrees(y / (1 - wide), uniform(-1, 2))


def test_tc_is_anywhere_on_60_pixels_among_six_pieces_of_clutter():
    bent, poses = DISTORTIONS["cluttered 60"](black(4000), random(3))
    angle, (wide, high), _, (x, y) = decompose(poses)
    assert bent.shape[-1] == 60 and not angle.any()
    assert torch.allclose(wide, torch.tensor(28 / 60)) and torch.allclose(high, torch.tensor(28 / 60))
    assert agrees(x / (1 - wide), uniform(-1, 2)) and agrees(y / (1 - wide), uniform(-1, 2))
    tiny = replace(DISTORTIONS["cluttered 60"], scale=(1e-6, 1e-6))  # the image itself is too small to see
    littered, _ = tiny(torch.full((500, 1, 28, 28), 9, dtype=torch.uint8), random(3))
    assert (littered != 0).sum((1, 2, 3)).max() == 6 * 36


def test_p_is_scaled_and_its_corners_are_moved_by_a_normal_of_5_pixels_where_the_image_does_not_fold():
    perspective, count = DISTORTIONS["perspective"], 4000
    straight, moved, gently = (corners_of(replace(perspective, corners=pixels), count) for pixels in (1e-9, 5.0, 1.0))
    size, centre = (straight[:, 2, 0] - straight[:, 0, 0]) / 2, straight.mean(1)
    assert agrees(size, uniform(0.75, 0.25)) and agrees(centre[:, 0] / (1 - size), uniform(-1, 2))
    assert agrees((gently - straight) * 14, norm())  # of one pixel hardly any image folds: the whole normal
    away = (moved - straight) * 14
    assert abs(away.mean((0, 1))).max() < 0.1 and 3.5 < away.std() < 5  # of five the widest are drawn again
    edges = moved.roll(-1, 1) - moved
    following = edges.roll(-1, 1)
    assert (edges[..., 0] * following[..., 1] > edges[..., 1] * following[..., 0]).all()  # clockwise on screen, none folded


def corners_of(make: Distortion, count: int) -> torch.Tensor:
    """Where the corners of the images lie on the canvas: (count, 4, 2), from one and the same sizes and places."""
    bent, poses = make(black(count), random(8))
    assert bent.shape[-1] == 28 and poses.shape == (count, 3, 3)
    return map_points(poses.double(), torch.tensor(CORNERS))


def test_e_is_scaled_and_its_16_control_points_are_moved_by_a_normal_1_5_pixels():
    elastic, count = DISTORTIONS["elastic"], 4000
    bent, poses = elastic(black(count), random(4))
    _, straight = replace(elastic, knots=1e-12)(black(count), random(4))  # the same sizes and places, before they are bent
    assert bent.shape[-1] == 28 and poses.shape == straight.shape == (count, 32)
    places, straight = (pose.double().reshape(count, 16, 2) for pose in (poses, straight))
    spread, centre = (straight[:, -1, 0] - straight[:, 0, 0]) / 2, (straight[:, -1] + straight[:, 0]) / 2
    torch.testing.assert_close(straight, control_points(4) * spread[:, None, None] + centre[:, None])  # regular, 4 x 4
    assert agrees(1 / spread, uniform(0.75, 0.25))
    shift = -centre / spread[:, None] / (1 - 1 / spread[:, None])
    assert agrees(shift[:, 0], uniform(-1, 2)) and agrees(shift[:, 1], uniform(-1, 2))
    moved = (places - straight) / spread[:, None, None] * 14 / 1.5  # on the canvas, in pixels, of 1.5
    assert agrees(moved, norm()) and all(agrees(column, norm()) for column in (moved[..., 0], moved[..., 1], moved[:, 0]))
    together = np.corrcoef(np.c_[moved.reshape(count, 32), spread].T) - np.eye(33)
    assert abs(together).max() < 5 / count**0.5


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.floats(0, 90), st.floats(0.6, 1.2), st.sampled_from([None, 12, 31]))
def test_a_bent_image_lies_where_scipys_thin_plate_puts_it(seed, degrees, low, canvas):
    images = torch.randint(256, (2, 2, 15, 15), dtype=torch.uint8, generator=random(7))
    side = canvas or 15
    bent, poses = Distortion(degrees, 20, (low, low + 0.4), canvas, knots=1.5)(images, random(seed))
    assert bent.shape == (2, 2, side, side) and bent.dtype == torch.uint8 and poses.shape == (2, 32)
    line = np.linspace(-1, 1, 4)
    knots = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    centres = (2 * np.arange(side) + 1) / side - 1
    asked = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    for image, laid, pose in zip(images.numpy(), bent.numpy(), poses.double().numpy().reshape(2, 16, 2), strict=True):
        x, y = RBFInterpolator(knots, pose, kernel="thin_plate_spline", degree=1)(asked).T.reshape(2, side, side)
        where = [((y + 1) * 15 - 1) / 2, ((x + 1) * 15 - 1) / 2]
        expected = [map_coordinates(channel.astype(float), where, order=1, mode="grid-constant") for channel in image]
        np.testing.assert_allclose(laid, expected, rtol=0, atol=0.55)  # half for rounding; float32 places for the rest


def test_a_plate_that_is_not_bent_lays_an_image_as_a_matrix_does():
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8, generator=random(7))
    make = Distortion(40, 0, (0.7, 1.2), 42)
    (one, _), (other, _) = make(images, random(5)), replace(make, knots=1e-12)(images, random(5))
    assert (one.int() - other.int()).abs().max() <= 1  # rounded from places in float32


def test_a_set_bent_piece_by_piece_keeps_its_splines():
    digits = load("digits", train=False).subset(slice(7))
    bent, poses = distorted(digits, "elastic", seed=3)
    again, same = distorted(digits, "elastic", seed=3)
    assert poses.shape == (7, 32) and torch.equal(poses, same) and torch.equal(bent.images, again.images)
    assert len(poses.unique(dim=0)) == 7 and torch.equal(bent.labels, digits.labels)


# The study


def test_the_study_has_every_cell_of_the_papers_table():
    assert SETS.keys() == {"R", "RTS", "P", "E", "TC"}
    for letters in SETS:
        families = FAMILIES if letters != "TC" else ("affine",)
        rows = ["FCN", "CNN", *(f"ST-{body} {family}" for body in ("FCN", "CNN") for family in families)]
        assert [name for name in ARMS if name.startswith(f"{letters}, ")] == [f"{letters}, {row}" for row in rows]
    assert len(ARMS) == 4 * 8 + 4


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_has_the_network_that_its_name_says_and_is_against_the_same_body_without_a_transformer(name):
    arm, (letters, row) = ARMS[name], name.split(", ")
    body, canvas, family = (*arm.network.args, None)[:3]
    assert row == (f"ST-{body.upper()} {family}" if family else body.upper())
    assert (arm.train_on, canvas) == SETS[letters]
    bent, _ = DISTORTIONS[arm.test](black(1), random())
    assert bent.shape[-1] == canvas
    assert arm.against == ("" if family is None else f"{letters}, {body.upper()}")
    assert not family or ARMS[arm.against].network.args == (body, canvas)


def test_all_arms_are_trained_as_in_the_paper_but_for_the_schedule():
    assert (TEN.optimizer, TEN.batch_size, TEN.weight_decay) == ("sgd", 256, 0)
    assert not TEN.flips and not TEN.crop_pixels and not TEN.label_smoothing  # a mirrored 2 is no 2


def test_the_papers_whole_schedule_is_there_on_request():
    long = {name.removesuffix(", 640 epochs"): arm for name, arm in STUDY.arms.items() if arm.recipe == LONG}
    assert long.keys() == ARMS.keys() and all(arm.on_request for arm in long.values())
    assert all(long[name].described() == ARMS[name].described() and long[name].test == ARMS[name].test for name in ARMS)
    assert not {name for name in STUDY.choose() if "640" in name}
    assert LONG == replace(TEN, epochs=640, lr=0.01, momentum=0.0, one_cycle=False, thirds=True)
    assert LONG.epochs * (60_000 // 256) == pytest.approx(150_000, rel=0.01)


@pytest.mark.parametrize("name", ["E, FCN", "E, CNN", "RTS, ST-FCN tps", "TC, ST-CNN affine", "P, ST-CNN projective"])
def test_a_network_learns_one_batch_by_heart(name):
    bent, _ = distorted(load("digits", train=True).subset(slice(32)), ARMS[name].test)
    recipe = replace(TEN, epochs=1, batch_size=32)
    losses = Trainer(ARMS[name].build(), bent.subset(torch.arange(32 * 80) % 32), recipe, seed=0).run_epoch().losses
    assert losses[0] == pytest.approx(np.log(10), abs=0.1) and losses[-1] < 0.5


@pytest.mark.parametrize("name", ["rotated", "perspective"])
def test_a_row_says_what_a_matrix_undid(name):
    test = load("digits", train=False)
    model = shaken("fcn-28-affine")
    everything = attended(model, Given(test), arm(name), 0)
    del everything["spread"]
    assert straightened(model, Given(test), arm(name), 0) == everything and "corners" in everything
    assert pose_spread(model, test)["angle"][1] > 0


def test_a_projective_theta_has_corners_but_no_one_angle():
    test, model = load("digits", train=False), build("fcn-28-projective")
    assert straightened(model, Given(test), arm("rotated"), 0).keys() == {"corners"} and pose_spread(model, test) == {}


@pytest.mark.parametrize(("model", "name"), [("fcn-28-None", "rotated"), ("fcn-28-tps", "rotated"), ("fcn-28-affine", "elastic")])
def test_where_theta_or_pose_is_no_matrix_nothing_is_said_of_it(model, name):
    test = load("digits", train=False)
    assert straightened(build(model), Given(test), arm(name), 0) == {}


def test_a_spline_has_no_pose_to_spread():
    assert pose_spread(build("cnn-28-tps"), load("digits", train=False)) == {}


def test_the_runner_takes_every_kind_of_arm(tmp_path):
    arms = ["R, FCN", "R, ST-FCN affine", "P, ST-FCN projective", "E, ST-FCN tps", "RTS, ST-FCN tps", "TC, ST-FCN affine"]
    options = {"device": "cpu", "assets": tmp_path, "runs": tmp_path / "runs", "progress": False}
    runs = run_study(replace(STUDY, data="digits"), seeds=1, arms=arms, epochs=1, **options)["runs"]
    assert [run["arm"] for run in runs] == [name for name in ARMS if name in arms]
    for run in runs:
        assert run["precision"] == "bfloat16"
        assert np.isfinite(run["history"][0]["train_loss"]) and run["tests"].keys() == {"upright", ARMS[run["arm"]].test}
    assert {run["arm"]: bool(run.get("theta")) for run in runs if "theta" in run} == {
        "R, ST-FCN affine": True,
        "RTS, ST-FCN tps": False,
        "P, ST-FCN projective": False,
        "E, ST-FCN tps": False,
        "TC, ST-FCN affine": True,
    }

"""The exercises of notebooks 04 to 08c: each check takes the solution and refuses wrong answers, and cures run on any device."""

import ast
import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

from stn_helpers.data import as_float, distorted, load, undone
from stn_helpers.families import control_points, family, family_grid
from stn_helpers.sampler import warp
from stn_helpers.theta import affine, compose, decompose, map_points
from stn_helpers.training import RECIPES, fit
from stn_helpers.transformer import SpatialTransformer, light_localization
from studies.addition import Parallel
from studies.networks import digit_classifier
from studies.study import ASSETS, get, restore

NOTEBOOKS = {path.stem.split("_")[0]: path for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb")}


@cache
def code(number: str) -> list[str]:
    """The code cells of a notebook."""
    cells = json.loads(NOTEBOOKS[number].read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def cell_with(number: str, words: str) -> str:
    """The one code cell in which these words stand."""
    (found,) = [source for source in code(number) if words in source]
    return found


def function(number: str, name: str, space: dict):
    """A function of a notebook, made in `space`, and nothing else of its cell."""
    tree = ast.parse(cell_with(number, f"def {name}("))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    exec(compile(tree, name, "exec"), space)
    return space[name]


@cache
def digits(distortion: str, count: int = 60) -> SimpleNamespace:
    """Some bent test digits: .images in [0, 1], .labels, .poses, .set."""
    bent, poses = distorted(load("digits", train=False).subset(slice(count)), distortion)
    return SimpleNamespace(set=bent, images=as_float(bent.images), labels=bent.labels, poses=poses)


def of_04() -> dict:
    seen = digits("turned", 360)
    space = {"torch": torch, "affine": affine, "decompose": decompose, "SpatialTransformer": SpatialTransformer, "nn": nn}
    space |= {"undone": undone, "images": seen.images, "poses": seen.poses, "turned": seen.set, "SMOKE": True}
    return space | {"theta": seen.poses, "wrap": lambda degrees: (degrees + 180) % 360 - 180}


def of_04b() -> dict:
    """The notebook's own networks and measures, untrained unless asked for."""
    space = {"torch": torch, "nn": nn, "SpatialTransformer": SpatialTransformer, "light_localization": light_localization}
    space |= {"digit_classifier": digit_classifier, "load": load, "distorted": distorted, "as_float": as_float}
    space |= {"fit": fit, "RECIPES": RECIPES, "replace": replace, "print": lambda *words: None}
    exec(cell_with("04b", "class Net("), space)
    trained = space["practise"]
    space["practise"] = lambda net, **changes: net.eval()
    space["healthy"] = space["network"]()
    for words in ("def contrast(", "def names(", "class Sigmoid(", "class Tanh(", "class Bounded("):
        exec(cell_with("04b", words), space)
    return space | {"practise": partial(trained, epochs=1)}


def of_07() -> dict:
    space = {"torch": torch, "affine": affine, "family_grid": family_grid, "plate": family("tps"), "SMOKE": True}
    return space | {"load": load, "distorted": distorted, "as_float": as_float, "STUDY": get("paper_table")}


def of_08() -> dict:
    seen, transformer = digits("rotated"), restore(ASSETS / "checkpoints" / "deep_two_looks.safetensors").transformer
    transformer.requires_grad_(False)
    space = {"torch": torch, "nn": nn, "warp": warp, "undone": undone, "affine": affine, "compose": compose, "print": print}
    space |= {"transformer": transformer, "images": seen.images, "poses": seen.poses, "upright": digits("upright").images}
    space["says"] = lambda pictures: transformer.to_theta(transformer.localization(pictures)).reshape(-1, 2, 3)
    exec(cell_with("08", "def check_looks("), space)
    function("08", "look_again_solution", space)
    return space


def of_08b() -> dict:
    addition = get("addition")
    bent, _ = distorted(addition.prepare(load("digits", train=False)).subset(slice(100)), "rts 42 apart")
    net = restore(ASSETS / "checkpoints" / "addition_two.safetensors")
    return {"torch": torch, "nn": nn, "Parallel": Parallel, "net": net, "shown": as_float(bent.images), "bent_pairs": bent}


def of_08c() -> dict:
    from studies import colocalise

    eyes = restore(ASSETS / "checkpoints" / "colocalise_encoder.safetensors").requires_grad_(False).classifier
    images, _ = colocalise.of_one_digit(load("digits", train=False), digit=6, name="cluttered 84")
    return {"torch": torch, "eyes": eyes, "images": images, "SMOKE": True, "distance": colocalise.distance, "package": colocalise}


SPACES = {"04": of_04, "04b": of_04b, "07": of_07, "08": of_08, "08b": of_08b, "08c": of_08c}


def untrained(kind: str) -> nn.Module:
    return nn.Sequential(SpatialTransformer(light_localization(1, 8), kind, size=(28, 28)), digit_classifier())


def mean_pull(seen, elsewhere, margin=1.0):
    """With the diagonal, which is no pair."""
    hinge = 1 - seen @ seen.T - (1 - (seen * elsewhere).sum(-1))[:, None] + margin
    return (hinge > 0).float().mean()


def wrong_pull(seen, elsewhere, margin=1.0):
    """With the wrong sign."""
    hinge = (1 - (seen * elsewhere).sum(-1))[:, None] - (1 - seen @ seen.T) + margin
    return (hinge[~torch.eye(len(seen), dtype=torch.bool)] > 0).float().mean()


def size(pixels: int, width: int) -> int:
    return pixels * width + width * width + 10 * width  # without biases


def resampled(pictures, says, looks):
    theta = says(pictures)
    for _ in range(looks - 1):
        theta = compose(says(warp(pictures, theta, padding_mode="zeros")), theta)
    return theta


WRONG = {
    ("04", "check_mean"): [
        lambda degrees: 15.0,
        lambda degrees: degrees.mean(),
        lambda degrees: -torch.rad2deg(torch.atan2(torch.deg2rad(degrees).sin().mean(), torch.deg2rad(degrees).cos().mean())),
        lambda degrees: torch.rad2deg(torch.atan2(torch.deg2rad(degrees).cos().mean(), torch.deg2rad(degrees).sin().mean())),
    ],
    ("04", "check_box"): [
        lambda s, x, y, w: (),
        lambda s, x, y, w: (0, 0, w, w),
        lambda s, x, y, w: ((x - s + 1) / 2 * w, (y - s + 1) / 2 * w),
        lambda s, x, y, w: tuple((edge + 1) / 2 * w for edge in (y - s, x - s, y + s, x + s)),
        lambda s, x, y, w: tuple((edge + 1) / 2 * w for edge in (x + s, y + s, x - s, y - s)),
        lambda s, x, y, w: tuple((1 - edge) / 2 * w for edge in (x + s, y + s, x - s, y - s)),
        lambda s, x, y, w: tuple(edge * w for edge in (x - s, y - s, x + s, y + s)),
    ],
    ("04", "check_turn"): [
        lambda theta: affine().expand(len(theta), 2, 3),
        lambda theta: theta,
        lambda theta: affine(-decompose(theta).angle),
        lambda theta: affine(decompose(theta).angle, scale=(1.0, 0.5)),
        lambda theta: affine(decompose(theta).angle, scale=(0.5, 1.0)),
        lambda theta: affine(decompose(theta).angle, shear=0.1),
        lambda theta: affine(decompose(theta).angle, shift=(0.0, 0.1)),
        lambda theta: affine(decompose(theta).angle)[:1],
    ],
    ("04", "check_similarity"): [
        lambda: untrained("similarity"),
        lambda: untrained("affine"),
        lambda: digit_classifier(),
    ],
    ("04b", "check_bounded"): [
        lambda raw: raw.new_tensor([1, 0, 0, 0, 1, 0]).expand_as(raw),
        lambda raw: raw.new_tensor([1, 0, 0, 0, 1, 0]) + raw.tanh(),
        lambda raw: raw.new_tensor([1, 0, 0, 0, 1, 0]) + 0.5 * raw,
        lambda raw: torch.where(raw.new_tensor([1, 0, 0, 0, 1, 0]).bool(), 2 ** -raw.tanh(), raw.tanh()),
        lambda raw: torch.where(raw.new_tensor([1, 0, 0, 0, 1, 0]).bool(), 2 ** raw.tanh(), raw.tanh() * 0),
        lambda raw: torch.where(raw.new_tensor([1, 0, 0, 0, 1, 0]).bool(), 2 ** raw.tanh(), raw.tanh().flip(1)),
        lambda raw: torch.where(raw.new_tensor([1, 0, 0, 0, 1, 0]).bool(), 2 ** raw.tanh().flip(1), raw.tanh()),
        lambda raw: raw.tanh(),
    ],
    ("04b", "check_moves"): [
        lambda net, x: True,
        lambda net, x: False,
        lambda net, x: net.transformer.to_theta.bias.requires_grad,
        lambda net, x: net.transformer.params(x).std() > 0,
    ],
    ("04b", "check_fence"): [lambda: SpatialTransformer],
    ("07", "check_spline"): [
        lambda theta: control_points(4).flatten().expand(len(theta), 32),
        lambda theta: map_points(theta, control_points(4)),
        lambda theta: map_points(theta, control_points(4)).flip(-1).flatten(1),
        lambda theta: map_points(theta, control_points(4)).mT.flatten(1),
        lambda theta: map_points(theta, -control_points(4)).flatten(1),
    ],
    ("07", "check_width"): [
        lambda pixels, count: 349,
        lambda pixels, count: min(range(1, 2000), key=lambda width: abs(size(pixels, width) - count)) - 1,
        lambda pixels, count: min(range(1, 2000), key=lambda width: abs(pixels * width - count)),
    ],
    ("07", "check_trained"): [lambda: get("paper_table").arms["R, ST-FCN affine"].build(0)],
    ("08", "check_looks"): [
        lambda pictures, says, looks: affine().expand(len(pictures), 2, 3),
        lambda pictures, says, looks: says(pictures),
        resampled,
        lambda pictures, says, looks: says(pictures)[:1],
    ],
    ("08", "check_operations"): [
        lambda n, k, a, b: 1_254_400,
        lambda n, k, a, b: 2 * n * n * b * k * k * a,
        lambda n, k, a, b: (n - k + 1) ** 2 * b * k * k * a,
        lambda n, k, a, b: 2 * (n - k) ** 2 * b * k * k * a,
        lambda n, k, a, b: 2 * (k - n + 1) ** 2 * b * n * n * a,
    ],
    ("08", "check_mirror"): [
        lambda: affine(),
        lambda: affine(scale=(1.0, -1.0)),
        lambda: affine(scale=(-1.0, -1.0)),
        lambda: affine(90.0),
        lambda: affine(scale=(-1.0, 1.0), shift=(0.1, 0.0)),
    ],
    ("08", "check_left"): [lambda looks: [45.0] * looks, lambda looks: list(range(looks)), lambda looks: [25.0]],
    ("08b", "check_counts"): [
        lambda counts: 0.6931471805599453,
        lambda counts: torch.tensor(float(len(counts))).log().item(),
        lambda counts: sum(c / sum(counts) * torch.tensor(c / sum(counts)).log().item() for c in counts),
        lambda counts: -torch.tensor(max(counts) / sum(counts)).log().item(),
    ],
    ("08b", "check_channels"): [lambda n: 4, lambda n: n, lambda n: 2 * n, lambda n: n + 2],
    ("08b", "check_holding"): [
        lambda before, after: [0, 1],
        lambda before, after: [row.index(min(row)) for row in after],
        lambda before, after: [row.index(max(row)) for row in after],
        lambda before, after: [row.index(min(row)) if min(row) < max(before) else None for row in after],
        lambda before, after: [0 if row[0] < before[0] else 1 if row[1] < before[1] else None for row in zip(*after, strict=True)],
        lambda before, after: [],
    ],
    ("08b", "check_without"): [lambda channel: 100.0, lambda channel: 0.0],
    ("08c", "check_iou"): [
        lambda s, x, y: 1,
        lambda s, x, y: max(0, s - x) * max(0, s - y) / (2 * s * s - max(0, s - x) * max(0, s - y)),
        lambda s, x, y: (s - abs(x)) * (s - abs(y)) / (2 * s * s - (s - abs(x)) * (s - abs(y))),
        lambda s, x, y: max(0, s - abs(x)) * max(0, s - abs(y)) / s**2,
        lambda s, x, y: max(0, s - abs(x)) / (s + abs(x)),
    ],
    ("08c", "check_pulling"): [lambda *given: 0.0, lambda *given: 1.0, lambda *given: 2 / 3, mean_pull, wrong_pull],
}
SOLVED = {
    ("04", "check_mean"): "mean_direction_solution",
    ("04", "check_box"): "box_in_pixels_solution",
    ("04", "check_turn"): "pure_turn_solution",
    ("04b", "check_bounded"): "bounded_solution",
    ("04b", "check_moves"): "moves_solution",
    ("07", "check_spline"): "as_spline_solution",
    ("07", "check_width"): "width_solution",
    ("08", "check_looks"): "look_again_solution",
    ("08", "check_operations"): "operations_solution",
    ("08", "check_mirror"): "mirror_solution",
    ("08", "check_left"): "left_after_solution",
    ("08b", "check_counts"): "loss_solution",
    ("08b", "check_channels"): "channels_solution",
    ("08b", "check_holding"): "holding_solution",
    ("08b", "check_without"): "right_without_solution",
    ("08c", "check_iou"): "iou_of_shifted_solution",
    ("08c", "check_pulling"): "still_pulling_solution",
}


def check_of(number: str, name: str) -> tuple:
    """(the check, the names that it knows): its whole cell is run, as a reader runs it."""
    space = SPACES[number]()
    exec(cell_with(number, f"def {name}("), space)
    return space[name], space


@pytest.mark.parametrize(("number", "name"), WRONG)
def test_a_check_refuses_wrong_answers_and_says_so(number, name):
    check, _ = check_of(number, name)
    for place, answer in enumerate(WRONG[number, name]):
        verdict = check(answer)
        assert verdict.startswith("Not yet: "), (place, verdict)


@pytest.mark.parametrize(("number", "name"), SOLVED)
def test_a_check_takes_the_solution(number, name):
    check, space = check_of(number, name)
    space |= {"map_points": map_points, "control_points": control_points, "compose": compose}
    assert check(function(number, SOLVED[number, name], space)) == "Right."


@pytest.mark.parametrize("number", SPACES)
def test_every_exercise_is_tried_and_its_hint_and_solution_leave_the_reader_alone(number):
    cells = code(number)
    stubs = [source for source in cells if "\n    ...\n" in source]
    checks = {name for source in stubs for name in [node.name for node in ast.parse(source).body if hasattr(node, "name")]}
    tried = {name for where, name in WRONG if where == number}
    # Of 08c's third, whose answer is a search of some seconds, the notebook runs the solution.
    assert tried | {"check_untrained"} >= {name for name in checks if name.startswith("check_")}
    readers = {node.name for source in stubs for node in ast.parse(source).body if ast.unparse(node).endswith("\n    ...")}
    assert len(readers) == len(stubs)
    for source in cells:
        if source not in stubs:
            names = {node.name for node in ast.walk(ast.parse(source.replace("!git", "pass  #"))) if hasattr(node, "name")}
            assert not names & readers


@pytest.mark.parametrize("name", ["Bounded", "bounded_solution"])
def test_a_fence_of_notebook_04b_makes_no_tensor_on_another_device(name):
    space = of_04b()
    function("04b", "bounded_solution", space)
    with FakeTensorMode(), torch.device("cuda"):
        if name == "Bounded":
            made = space["Bounded"](light_localization(1, 8), features=32).params(torch.zeros(3, 1, 28, 28))
        else:
            made = space[name](torch.zeros(3, 6))
    assert made.device.type == "cuda" and made.shape == (3, 6)
    with FakeTensorMode(), pytest.raises(Exception, match="device"):  # noqa: B017, what the fence did before
        torch.tensor([1.0] * 6) + torch.zeros(3, 6, device="cuda")


# What these notebooks measure


def test_ink_is_alike_where_digits_lie_alike_and_says_by_how_much_they_do_not():
    from studies.paper_table import ink

    bar = torch.zeros(1, 1, 41, 41)
    bar[..., 10:31, 19:22] = 1  # upright, 21 high and 3 wide, in the middle
    kinds = torch.zeros(4, dtype=torch.int64)
    assert all(value == pytest.approx(0, abs=1e-4) for value in ink(bar.expand(4, 1, 41, 41), kinds).values())
    moved = torch.cat([bar, bar.roll(6, 3), bar.roll(6, 2), bar.roll((6, 6), (2, 3))])
    radius = ((21**2 - 1 + 3**2 - 1) / 12) ** 0.5
    found = ink(moved, kinds)
    assert found["centre"] == pytest.approx(18**0.5 / radius, rel=1e-3) and found["lean"] == pytest.approx(0, abs=1e-3)
    turned = torch.cat([bar, bar.mT])  # of two classes each is as its class is, of one it is not
    assert ink(turned, torch.tensor([0, 1]))["lean"] == pytest.approx(0, abs=1e-3)
    tilted = warp(bar.expand(3, 1, 41, 41), affine(torch.tensor([-30.0, 0.0, 30.0])), padding_mode="zeros")
    assert ink(tilted, kinds[:3])["lean"] == pytest.approx(20, abs=1)
    assert ink(moved.repeat_interleave(2, 3), kinds)["height"] == pytest.approx(0, abs=1e-4)
    half = torch.cat([bar, F.pad(F.interpolate(bar, scale_factor=0.5, mode="area"), (10, 11, 10, 11))])
    assert ink(half, kinds[:2])["height"] == pytest.approx((0.5 / 2**0.5) / 0.75, rel=0.05)


def test_black_views_have_finite_ink():
    from studies.paper_table import ink

    assert all(value == value for value in ink(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)).values())


def test_after_its_last_look_a_network_has_left_what_its_row_says():
    seen, deep = digits("rotated"), get("deep")
    net = restore(ASSETS / "checkpoints" / "deep_two_looks.safetensors")
    sets = SimpleNamespace(bent=lambda name: (seen.set, seen.poses))
    found = deep.measure(net, sets, deep.arms["turned, two looks"], 0)
    assert len(found["looks"]) == 2 and found["looks"][-1] == pytest.approx(found["undone"]["residual"])
    assert "looks" not in deep.measure(restore(ASSETS / "checkpoints" / "deep_plain.safetensors"), sets, None, 0)


def test_max_pooling_changes_no_weight_and_halving_reads_means():
    from studies.networks import digit_net
    from studies.paper_table import paper_net

    with torch.random.fork_rng():
        nets = []
        for pool in ("average", "max"):
            torch.manual_seed(0)
            nets.append(digit_net(None, pool=pool))
    assert all(torch.equal(*pair) for pair in zip(*(net.state_dict().values() for net in nets), strict=True))
    images = torch.rand(2, 1, 48, 48)
    assert not torch.allclose(nets[0](images), nets[1](images))
    halved, canvas = paper_net("cnn", 42, halved=True), torch.rand(2, 1, 42, 42)
    means = F.avg_pool2d(canvas, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(halved(canvas), halved(means))

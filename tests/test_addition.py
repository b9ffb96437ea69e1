"""addition.py: pairs and their sums, each digit bent on its own, networks of one size, and which transformer finds which digit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_name import Given, build
from scipy.stats import kstest, uniform

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import DISTORTIONS, distorted
from stn_helpers.data.poses import corner_drift
from stn_helpers.data.sets import load
from stn_helpers.theta import decompose
from studies.addition import PARAMETERS, STARTS, STUDY, Parallel, addition_net, pairs, who_finds_which
from studies.networks import PlacedNet
from studies.runner import run_study

every_kind = pytest.mark.parametrize("kind", STARTS)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 3, side: int = 42) -> torch.Tensor:
    return torch.rand(count, 2, side, side, generator=random(1))


def shaken(kind: str) -> PlacedNet:
    """A network whose transformers look elsewhere for every image."""
    network = build(f"sum-{kind}", 2).eval()
    with torch.no_grad():
        for transformer in network.transformer.each:
            transformer.to_theta.weight.normal_(std=0.3, generator=random(2))
    return network


# The pairs


def test_a_pair_is_two_digits_and_their_sum():
    digits = load("digits", train=False)
    both = pairs(digits)
    assert both.images.shape == (len(digits), 2, 28, 28) and both.images.dtype == torch.uint8
    assert torch.equal(both.images[:, 0], digits.images[:, 0]) and both.name == "digits pairs"
    places = {image.numpy().tobytes(): k for k, image in enumerate(digits.images[:, 0])}
    other = [places[image.numpy().tobytes()] for image in both.images[:, 1]]
    assert both.labels.tolist() == [int(digits.labels[k] + digits.labels[j]) for k, j in enumerate(other)]
    assert both.classes == tuple(str(total) for total in range(19)) and set(both.labels.tolist()) <= set(range(19))
    # Every digit is a second one once, and hardly ever beside itself.
    assert len(set(other)) == len(places) and np.mean(np.array(other) == np.arange(len(other))) < 0.05


def test_the_same_seed_gives_the_same_pairs():
    digits = load("digits", train=False)
    assert torch.equal(pairs(digits).images, pairs(digits).images)
    assert not torch.equal(pairs(digits).images, pairs(digits, seed=1).images)


def test_each_digit_has_a_pose_of_its_own():
    bent, poses = DISTORTIONS["rts 42 apart"](torch.zeros(3000, 2, 28, 28, dtype=torch.uint8), random(2))
    assert bent.shape == (3000, 2, 42, 42) and poses.shape == (6000, 2, 3)
    angle, (wide, high), _, (x, _) = decompose(poses)
    torch.testing.assert_close(wide, high)
    assert kstest(angle, uniform(-45, 90).cdf).pvalue > 0.01 and kstest(wide * 42 / 28, uniform(0.7, 0.5).cdf).pvalue > 0.01
    one, other = angle.reshape(3000, 2).T.numpy()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_a_pose_belongs_to_its_channel():
    both = pairs(load("digits", train=False).subset(slice(20)))
    bent, poses = distorted(both, "rts 42 apart")
    alone, expected = DISTORTIONS["rts 42"](both.images.flatten(0, 1)[:, None], random(1000))
    assert torch.equal(bent.images.flatten(0, 1), alone[:, 0]) and torch.equal(poses, expected)


# The networks


def test_all_networks_have_one_size():
    sizes = [sum(weight.numel() for weight in build(f"sum-{kind}").parameters()) for kind in STARTS]
    assert all(abs(size - PARAMETERS) < 0.01 * PARAMETERS for size in sizes)


@pytest.mark.parametrize(("kind", "scales", "shifts"), [
    ("one", [1.0], [(0.0, 0.0)]),
    ("two", [1.0, 1.0], [(0.0, 0.0)] * 2),
    ("tiles", [0.75, 0.75], [(-0.25, -0.25), (0.25, 0.25)]),
])  # fmt: skip
@torch.no_grad()
def test_every_transformer_starts_at_its_tile_and_the_classifier_gets_all_views(kind, scales, shifts):
    network, images = build(f"sum-{kind}").eval(), pictures()
    views = network.transformer(images)
    assert views.shape == (3, 2 * len(scales), 42, 42)
    for transformer, view, scale, shift in zip(network.transformer.each, views.split(2, dim=1), scales, shifts, strict=True):
        theta = torch.tensor([[scale, 0, shift[0]], [0, scale, shift[1]]]).expand(3, 2, 3)
        assert torch.equal(transformer.family.matrix(transformer.params(images)), theta)
        grid = F.affine_grid(theta, [3, 2, 42, 42], align_corners=False)
        torch.testing.assert_close(view, F.grid_sample(images, grid, padding_mode="zeros", align_corners=False), rtol=0, atol=1e-4)
    torch.testing.assert_close(network(images), network.trunk(F.avg_pool2d(views, 2)))


@every_kind
def test_the_loss_reaches_every_weight(kind):
    network = build("sum-" + kind, 1)
    with torch.no_grad():
        for transformer in getattr(network.transformer, "each", []):
            transformer.to_theta.weight.normal_(std=0.3, generator=random(2))
    F.cross_entropy(network(pictures(4)), torch.tensor([0, 5, 9, 18])).backward()
    assert all(weight.grad.abs().max() > 0 for weight in network.parameters())


@torch.no_grad()
def test_a_smaller_picture_is_laid_in_the_middle():
    large = torch.zeros(3, 2, 42, 42)
    large[..., 7:35, 7:35] = pictures(side=28)
    network = build("sum-fcn").eval()
    assert torch.equal(network(pictures(side=28)), network(large)) and network(large).shape == (3, 19)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'three'; expected one of fcn, cnn, one, two, tiles"):
        addition_net("three")


@pytest.mark.parametrize("shape", [(2, 1, 42, 42), (2, 2, 43, 43), (2, 2, 42, 44), (2, 42, 42)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        build("sum-two")(torch.zeros(shape))
    assert f"{shape}; this network expects (N, 2, H, W) with at least 1 pixels a side, at most 42" in str(error.value)


# What is measured


def test_a_transformer_that_turns_with_one_digit_is_seen_to_find_that_one():
    both = pairs(load("digits", train=False).subset(slice(60)))
    bent, poses = distorted(both, "rts 42 apart")
    first, second = poses.reshape(60, 2, 2, 3).unbind(1)
    network = build("sum-two").eval()
    images = as_float(bent.images)
    which = lambda seen: [int((images == one).flatten(1).all(1).nonzero()[0]) for one in seen]  # noqa: E731
    for transformer, wanted in zip(network.transformer.each, (first, second), strict=True):
        transformer.params = lambda seen, wanted=wanted: wanted[which(seen)].flatten(1)
    drift = who_finds_which(network, Given(both), STUDY.arms["two STs"], 0)["drift"]
    assert np.diag(drift["after"]).max() < 1e-5 and min(drift["after"][0][1], drift["after"][1][0]) > 0.3
    assert drift["before"] == [corner_drift(first, one)["before"] for one in (first, second)]


def test_without_transformers_there_is_nothing_to_find():
    both = pairs(load("digits", train=False).subset(slice(10)))
    assert who_finds_which(build("sum-cnn"), Given(both), STUDY.arms["CNN"], 0) == {}


# The study


def test_a_transformer_that_collapsed_ends_no_study():
    network, both = build("sum-two").eval(), pairs(load("digits", train=False).subset(slice(20)))
    torch.nn.init.zeros_(network.transformer.each[1].to_theta.bias)
    after = who_finds_which(network, Given(both), STUDY.arms["two STs"], 0)["drift"]["after"]
    assert after[1] is None and len(after[0]) == 2


def test_the_study_holds_every_network_against_the_plain_one():
    arms = STUDY.arms
    assert [arm.network.args for arm in arms.values()] == [(kind,) for kind in STARTS]
    assert all(arm.train_on == arm.test == "rts 42 apart" for arm in arms.values())
    assert {name for name, arm in arms.items() if not arm.against} == {"FCN"}


def test_the_runner_trains_on_pairs(tmp_path):
    options = {"device": "cpu", "assets": tmp_path, "runs": tmp_path / "runs", "progress": False, "precision": "float32"}
    runs = run_study(replace(STUDY, data="digits"), seeds=1, arms=["FCN", "two STs"], epochs=1, **options)["runs"]
    assert [run["data"] for run in runs] == ["digits pairs"] * 2 and "drift" not in runs[0]
    assert np.array(runs[1]["drift"]["after"]).shape == (2, 2) and runs[1]["tests"].keys() == {"rts 42 apart", "upright"}


def test_transformers_side_by_side_stack_their_views():
    network = shaken("two")
    images = pictures()
    views = network.transformer(images)
    assert isinstance(network.transformer, Parallel)
    assert torch.equal(views, torch.cat([transformer(images) for transformer in network.transformer.each], dim=1))
    assert not torch.equal(views[:, :2], views[:, 2:])

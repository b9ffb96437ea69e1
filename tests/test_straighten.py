"""straighten.py: what is measured in a network that knows all, in one that knows nothing, and in one that straightens bars."""

import json

import pytest
import torch
from by_name import Given, arm
from torch import nn

from stn_helpers.data.distortions import distorted
from stn_helpers.data.poses import blur, undone
from stn_helpers.data.sets import Images, load
from stn_helpers.theta import decompose
from stn_helpers.transformer import SpatialTransformer
from studies.networks import PlacedNet, digit_net
from studies.straighten import LeanReader, measure, read_lean


class Axis(SpatialTransformer):
    """Turns a bar upright: its angle is read off the second moments of the image."""

    def __init__(self):
        super().__init__(nn.Flatten(), "rotation", padding_mode="zeros", features=1)

    def params(self, images):
        ink, x = images[:, 0], torch.linspace(-1, 1, images.shape[-1])
        y = x[:, None]
        xx, xy, yy = ((ink * weight).sum((1, 2)) for weight in (x * x + 0 * y, x * y, y * y + 0 * x))
        return torch.atan2(-2 * xy, yy - xx)[:, None] / 2


class Knows(SpatialTransformer):
    """Says what it was told of each image."""

    def __init__(self, family: str, says):
        super().__init__(nn.Flatten(), family, size=(28, 28), padding_mode="zeros", features=1)
        self.says = says

    def params(self, images):
        return self.says


def network(transformer) -> PlacedNet:
    net = digit_net(None)
    net.transformer = transformer
    return net


@pytest.fixture(scope="module")
def digits():
    return load("digits", train=True).subset(slice(96)), load("digits", train=False).subset(slice(80))


@pytest.fixture(scope="module")
def bars():
    """Upright bars of several widths."""
    images = torch.zeros(768, 1, 28, 28, dtype=torch.uint8)
    for k, image in enumerate(images):
        image[:, 4:24, 13 - k % 3 : 15 + k % 3] = 255
    return Images("bars", images, torch.zeros(768, dtype=torch.int64), ("bar",))


# The reader


def test_a_reader_trains_its_own_weights_and_not_the_transformers():
    transformer = digit_net("affine").transformer
    reader = LeanReader(transformer, feed=True)
    own = {id(p) for p in reader.parameters()}
    assert not own & {id(p) for p in transformer.parameters()} and reader.head.in_features == 32 + 6
    reader(torch.rand(5, 1, 28, 28)).sum().backward()
    assert all(p.grad is None for p in transformer.parameters()) and reader.head.weight.grad is not None
    assert LeanReader(transformer, False).head.in_features == LeanReader(None, False).head.in_features == 32


@pytest.mark.parametrize("feed", [False, True])
def test_a_reader_sees_what_the_transformer_gives_and_theta_only_where_it_is_fed(feed, bars):
    bent = distorted(bars, "turned")[0].images[:5].float() / 255
    transformer = Axis()
    reader, plain = LeanReader(transformer, feed), LeanReader(None, False)
    plain.trunk, plain.head.weight, plain.head.bias = reader.trunk, nn.Parameter(reader.head.weight[:, :32]), reader.head.bias
    expected = plain(transformer(bent)) + (transformer.params(bent) @ reader.head.weight[:, 32:].T if feed else 0)
    torch.testing.assert_close(reader(bent), expected)
    assert expected.shape == (5, 2) and not torch.allclose(plain(bent), expected)


def test_the_lean_is_lost_by_straightening_and_comes_back_with_theta(bars):
    ways, test = ((None, False), (Axis(), False), (Axis(), True)), bars.subset(slice(200))
    as_it_is, straight, fed = (read_lean(*way, Given(test, bars), 1, epochs=5) for way in ways)
    assert as_it_is > 90 and fed > 85 and straight < 60


def test_a_reader_is_decided_by_its_seed_and_leaves_the_random_state_alone(digits, monkeypatch):
    before, asked = torch.get_rng_state(), []
    monkeypatch.setattr("studies.straighten.distorted", lambda data, *how: asked.append(how) or distorted(data, *how))
    sets = Given(digits[1], digits[0])
    one, again, other = (read_lean(None, False, sets, seed, epochs=1) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == again != other
    assert asked == [("turned", 1), ("turned", 1), ("turned", 2)]  # trained on angles of its own, tested on those that all share
    assert (0.8 * one) == pytest.approx(round(0.8 * one), abs=1e-4)  # so many of 80, in percent


# The measures


def test_one_that_knows_every_pose_undoes_it_all(digits):
    _, test = digits
    bent, poses = distorted(test, "turned one way")
    angle = torch.deg2rad(decompose(poses).angle)[:, None]
    found = measure(network(Knows("rotation", angle)), Given(test), arm("turned one way"), 0)
    assert found.keys() == {"undone", "blur"}
    assert found["undone"]["residual"] == pytest.approx(0, abs=1e-3) and found["undone"]["correlation"] == pytest.approx(1)
    assert found["blur"]["before"] == pytest.approx(blur(bent.images / 255, test.labels))
    upright = blur(test.images / 255, test.labels)
    assert found["blur"]["after"] == pytest.approx(upright, rel=0.2) and found["blur"]["before"] > 1.5 * upright


def test_one_that_knows_every_place_overlaps_with_all_of_it(digits):
    _, poses = distorted(digits[1], "cluttered")
    right = torch.stack([poses[:, 0, 0], poses[:, 0, 2], poses[:, 1, 2]], dim=1)
    assert measure(network(Knows("attention", right)), Given(digits[1]), arm("cluttered"), 0) == {
        "overlap": {"mean": 1.0, "above_half": 100.0}
    }
    whole = torch.tensor([[1.0, 0.0, 0.0]]).expand(80, 3)
    found = measure(network(Knows("attention", whole)), Given(digits[1]), arm("cluttered"), 0)["overlap"]
    assert found["mean"] == pytest.approx((poses[:, 0, 0] ** 2).mean().item(), abs=0.01) and found["above_half"] == 0
    half = torch.where(torch.arange(80)[:, None] < 60, right, whole)
    assert measure(network(Knows("attention", half)), Given(digits[1]), arm("cluttered"), 0)["overlap"]["above_half"] == 75


def test_on_turned_images_the_lean_is_read_in_three_ways(digits, monkeypatch):
    asked = []
    monkeypatch.setattr("studies.straighten.read_lean", lambda *inputs: asked.append(inputs) or float(len(asked)))
    monkeypatch.setattr("studies.straighten.turning", lambda *inputs: [30.0, 7.0])
    net = network(Knows("rotation", torch.linspace(-1, 1, 80)[:, None])).train()
    sets = Given(digits[1], digits[0])
    found = measure(net, sets, arm("turned"), 4)
    assert found.keys() == {"undone", "blur", "lean", "turning"} and not net.training
    assert found["undone"] == undone(net.transformer.family.matrix(net.transformer.says), distorted(digits[1], "turned")[1])
    assert found["lean"] == {"as it is": 1.0, "straightened": 2.0, "and theta": 3.0}
    eye = net.transformer
    assert asked == [(None, False, sets, 4), (eye, False, sets, 4), (eye, True, sets, 4)]


def test_a_network_without_a_transformer_has_nothing_to_measure(digits):
    assert measure(digit_net(None), Given(digits[1]), arm("turned"), 0) == {}


def test_what_is_measured_of_an_untrained_network_can_be_written_down(digits):
    for name in ("upright", "turned one way", "cluttered"):
        json.dumps(measure(digit_net("affine"), Given(digits[1]), arm(name), 0), allow_nan=False)


def test_a_transformer_that_collapsed_ends_no_study(digits):
    nothing = network(Knows("attention", torch.tensor([[0.0, 0.3, 0.1]]).expand(80, 3)))
    assert measure(nothing, Given(digits[1]), arm("cluttered"), 0) == {}

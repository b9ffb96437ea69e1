"""colocalise.py: the loss written out pair by pair, windows that stay on the canvas, the paper's set, a search that succeeds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_name import Given, arm, build
from scipy.stats import kstest, uniform
from torch import nn

from stn_helpers.data.distortions import DISTORTIONS
from stn_helpers.data.poses import overlap
from stn_helpers.data.sets import load
from stn_helpers.theta import decompose
from studies import colocalise as module
from studies.colocalise import Finder, MeanPlaces, colocalise, encode, measure, of_one_digit, random_windows, triplet_loss


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def classifier():
    return build("digit-plain", 1).eval().classifier


# The loss


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_the_loss_is_the_mean_hinge_over_all_pairs_written_out(margin):
    seen, elsewhere = torch.randn(2, 5, 7, generator=random(), dtype=torch.float64) / 3
    one, own = seen.tolist(), elsewhere.tolist()
    hinges = []
    for n in range(5):
        for m in range(5):
            if n != m:
                between, away = (1 - sum(a * b for a, b in zip(one[n], other, strict=True)) for other in (one[m], own[n]))
                hinges.append(max(0.0, between - away + margin))
    assert triplet_loss(seen, elsewhere, margin).item() == pytest.approx(math.fsum(hinges) / 20)


def test_the_loss_is_zero_where_all_agree_and_none_looks_like_what_lies_elsewhere():
    same, other = torch.tensor([[1.0, 0, 0]] * 3), torch.tensor([[0, 1.0, 0]] * 3)
    assert triplet_loss(same, other) == 0 and triplet_loss(same, same) == 1
    assert triplet_loss(torch.eye(3), same) == pytest.approx(1 + 1 / 3)


@pytest.mark.parametrize(("one", "other"), [((3,), (3,)), ((1, 4), (1, 4)), ((3, 4), (3, 5)), ((3, 4), (2, 4))])
def test_encodings_that_do_not_fit_are_refused(one, other):
    with pytest.raises(ValueError) as error:
        triplet_loss(torch.zeros(one), torch.zeros(other))
    assert f"{one} and {other}; expected (N, F) twice, with N at least 2" in str(error.value)


# The encoding


def test_an_empty_crop_has_no_direction_and_no_crop_is_longer_than_one(classifier):
    crops = torch.cat([torch.zeros(2, 1, 28, 28), torch.rand(20, 1, 28, 28, generator=random())])
    found = encode(classifier, crops)
    assert found[:2].abs().max() < 1e-5 and (found[2:].norm(dim=1) > 0.1).all() and (found.norm(dim=1) < 1).all()
    # So looking at nothing, everywhere, costs the whole margin.
    assert triplet_loss(found[:2], found[:2]).item() == pytest.approx(1, abs=1e-5)


def test_an_encoding_is_both_hidden_layers_counted_from_black(classifier):
    crop, black = torch.rand(1, 1, 28, 28, generator=random()), torch.zeros(1, 1, 28, 28)
    parts = []
    for hidden in (classifier[:7], classifier[:9]):
        away = (hidden(crop) - hidden(black)).detach().double().numpy().ravel()
        parts.append(away / (1 + np.linalg.norm(away)) / math.sqrt(2))
    np.testing.assert_allclose(encode(classifier, crop).detach()[0], np.concatenate(parts), rtol=0, atol=1e-6)


# The windows


class Says(nn.Module):
    """A localization network whose features are noise."""

    def forward(self, images):
        return torch.randn(len(images), 32, generator=random())


def test_a_finder_starts_in_the_middle_and_never_leaves_the_canvas():
    finder, images = Finder(), torch.zeros(50, 1, 84, 84)
    torch.testing.assert_close(finder.params(images), torch.tensor([[1 / 3, 0, 0]]).expand(50, 3))
    assert finder(images).shape == (50, 1, 28, 28) and not finder.to_theta.bias.requires_grad
    finder.localization = Says()
    with torch.no_grad():
        finder.to_theta.weight.normal_(generator=random(1))
    raw, params = finder.to_theta(Says()(images)), finder.params(images)
    torch.testing.assert_close(params, torch.cat([torch.full((50, 1), 1 / 3), raw[:, 1:].tanh() * 2 / 3], dim=1))
    assert raw.abs().max() > 5 and (params[:, 1:].abs() + params[:, :1] <= 1 + 1e-6).all()


def test_a_spot_on_a_map_is_said_where_it_lies_and_an_even_map_says_the_middle():
    maps = torch.zeros(2, 3, 4, 8)
    maps[0, 1, 3, 0], maps[1, 2, 1, 6] = 100, 100
    said = MeanPlaces()(maps)
    torch.testing.assert_close(said[0], torch.tensor([0, 0, -7 / 8, 3 / 4, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(said[1], torch.tensor([0, 0, 0, 0, 5 / 8, -1 / 4]), atol=1e-6, rtol=0)


def test_while_it_learns_windows_are_shaken_and_stay_on_the_canvas(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "warp", lambda images, theta, size, padding_mode: seen.append((theta, size, padding_mode)))
    finder = Finder()
    finder.shaken(torch.zeros(4000, 1, 84, 84), random())
    ((theta, size, padding),) = seen
    assert (size, padding) == ((28, 28), "zeros") and torch.allclose(theta[:, 0, 0], torch.tensor(1 / 3))
    for place in (theta[:, 0, 2], theta[:, 1, 2]):
        assert place.mean().abs() < 0.01 and place.std().item() == pytest.approx(0.15, rel=0.05)
    monkeypatch.setattr(module, "SHAKE", 2.0)
    finder.shaken(torch.zeros(100, 1, 84, 84), random())
    assert seen[1][0][:, :, 2].abs().max().item() == pytest.approx(2 / 3)


def test_random_windows_are_anywhere_on_the_canvas():
    angle, (wide, high), shear, (x, y) = decompose(random_windows(4000, random()))
    assert not angle.any() and not shear.any() and torch.allclose(wide, torch.tensor(1 / 3)) and torch.equal(wide, high)
    for place in (x, y):
        assert kstest(np.asarray(place), uniform(-2 / 3, 4 / 3).cdf).pvalue > 0.01
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.05


# The set


@pytest.mark.parametrize(("name", "pieces"), [("scattered 84", 0), ("cluttered 84", 16)])
def test_the_set_is_the_papers(name, pieces):
    images = torch.full((2000, 1, 28, 28), 9, dtype=torch.uint8)
    bent, poses = DISTORTIONS[name](images, random(3))
    angle, (wide, high), _, (x, y) = decompose(poses)
    assert bent.shape == (2000, 1, 84, 84) and not angle.any()
    assert torch.allclose(wide, torch.tensor(28 / 84)) and torch.allclose(high, torch.tensor(28 / 84))
    for place in (x, y):
        assert kstest(np.asarray(place), uniform(-2 / 3, 4 / 3).cdf).pvalue > 0.01
    drawn = (bent != 0).sum((1, 2, 3))
    # Between pixels, a digit touches one row and one column more.
    assert drawn.max() <= 29 * 29 + pieces * 36 and drawn.min() >= 28 * 28
    alone = DISTORTIONS["scattered 84"](images, random(3))[0]
    beside = (drawn - (alone != 0).sum((1, 2, 3))).float().mean()
    # A piece of 6 x 6 pixels mostly falls beside the digit and beside the other pieces.
    assert beside == 0 if pieces == 0 else 0.7 * pieces * 36 < beside < pieces * 36


def test_pictures_of_one_digit_come_with_their_windows():
    digits = load("digits", train=False)
    images, poses = of_one_digit(digits, 7, "cluttered 84")
    count = int((digits.labels == 7).sum())
    assert images.shape == (count, 1, 84, 84) and poses.shape == (count, 2, 3)
    assert images.dtype == torch.float32 and 0.9 < images.max() <= 1
    again, _ = of_one_digit(digits, 7, "cluttered 84")
    assert torch.equal(images, again)
    _, later = of_one_digit(digits, 7, "cluttered 84", 100)
    assert len(later) == int((digits.labels[100:] == 7).sum()) and not torch.equal(later, poses[-len(later) :])


def test_what_is_measured_are_test_images_that_no_search_had_seen(monkeypatch):
    asked = []

    def pretend(data, digit, name, first=0):
        asked.append((data, first))
        return torch.zeros(2, 1, 84, 84), random_windows(2, random())

    monkeypatch.setattr(module, "of_one_digit", pretend)
    monkeypatch.setattr(module, "_search", lambda classifier, images, steps, seed: (random_windows(2, random()), 1.0))
    digits = load("digits", train=False)
    measure(build("digit-plain"), Given(digits), arm("upright"), 0)
    assert [first for _, first in asked] == [2000] * 20 and all(data.labels is digits.labels for data, _ in asked)


# The search


def spots(count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright cross anywhere on each canvas, and where."""
    cross = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    cross[:, :, 4:24, 12:16] = cross[:, :, 12:16, 4:24] = 255
    bent, poses = DISTORTIONS["scattered 84"](cross, random(1))
    return bent / 255, poses


def test_a_search_lowers_its_loss_and_finds_what_all_pictures_have(classifier):
    images, poses = spots()
    losses, shares = [], []

    def look(step, finder, loss):
        losses.append(loss)
        with torch.no_grad():
            shares.append(overlap(finder.family.matrix(finder.params(images)), poses).mean().item())

    finder = colocalise(classifier, images, 120, 0, look)
    assert len(losses) == 120 and np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.02
    assert shares[0] < 0.3 and shares[-1] > 0.6 and not finder.training


def test_a_search_is_decided_by_its_seed_and_leaves_all_else_as_it_was(classifier):
    images, before = spots()[0], torch.get_rng_state()
    kept = [weight.clone() for weight in classifier.parameters()]
    one, again, other = (colocalise(classifier, images, 3, seed).state_dict() for seed in (1, 1, 2))
    name = "to_theta.weight"
    assert torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name])
    assert torch.equal(torch.get_rng_state(), before)
    for weight, old in zip(classifier.parameters(), kept, strict=True):
        assert torch.equal(weight, old) and weight.grad is None


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (4, 3, 84, 84), (1, 84, 84), (4, 84, 84, 1)])
def test_other_images_are_refused(shape, classifier):
    with pytest.raises(ValueError) as error:
        colocalise(classifier, torch.zeros(shape), 1)
    assert f"torch.float32 with shape {shape}; expected floating point (N, 1, 84, 84)" in str(error.value)


def test_images_of_whole_numbers_are_refused(classifier):
    with pytest.raises(ValueError, match="images are torch.uint8"):
        colocalise(classifier, torch.zeros(4, 1, 84, 84, dtype=torch.uint8), 1)


def test_a_row_has_ten_digits_a_set_and_what_chance_would_find(monkeypatch):
    monkeypatch.setattr(module, "STEPS", {"scattered 84": 2, "cluttered 84": 1})
    monkeypatch.setattr(module, "FRESH", 0)
    digits = load("digits", train=False)
    found = measure(build("digit-plain"), Given(digits), arm("upright"), 0)
    assert found.keys() == {"found", "chance", "settled", "off", "loss"}
    for row in found.values():
        assert row.keys() == {"scattered 84", "cluttered 84"} and all(len(column) == 10 for column in row.values())
    assert all(0 <= share <= 40 for column in found["chance"].values() for share in column)


def test_a_shift_that_all_windows_share_is_off_and_not_found_but_settled(monkeypatch):
    digits = load("digits", train=False)

    class Beside(Finder):
        def params(self, images):
            right = torch.stack([self.poses[:, 0, 0], self.poses[:, 0, 2] - 12 / 42, self.poses[:, 1, 2]], dim=1)
            return right

    def pretend(classifier, images, steps, seed, after_step):
        finder = Beside()
        finder.poses = next(poses for pictures, poses in known if torch.equal(pictures, images))
        for step in range(steps):
            after_step(step + 1, finder, 5.0 if step < steps - 10 else 0.25)
        return finder

    known = [of_one_digit(digits, digit, name) for name in module.STEPS for digit in range(10)]
    monkeypatch.setattr(module, "FRESH", 0)
    monkeypatch.setattr(module, "colocalise", pretend)
    found = measure(build("digit-plain"), Given(digits), arm("upright"), 0)
    for name in module.STEPS:
        # What hangs out of the canvas counts neither way, so a digit at its edge may count as found.
        assert max(found["found"][name]) < 30 and found["settled"][name] == [100.0] * 10
        assert found["off"][name] == [12.0] * 10 and found["loss"][name] == [0.25] * 10


def test_what_is_measured_may_lie_on_another_device_and_the_callers_network_stays_there(monkeypatch):
    monkeypatch.setattr(module, "STEPS", {"scattered 84": 1, "cluttered 84": 1})
    monkeypatch.setattr(module, "FRESH", 0)
    digits, brought = load("digits", train=False), []

    class Elsewhere(Given):
        """A test set that has to be brought to the processor, as from a GPU."""

        @property
        def test(self):
            return SimpleNamespace(to=lambda device: brought.append(device) or digits)

        @test.setter
        def test(self, value):
            pass

    model = build("digit-plain").double()
    monkeypatch.setattr(module, "_search", lambda classifier, images, steps, seed: (random_windows(len(images), random()), 1.0))
    measure(model, Elsewhere(digits), arm("upright"), 0)
    assert brought == ["cpu"] and all(weight.dtype == torch.float64 for weight in model.parameters()) and model.training

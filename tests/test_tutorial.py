"""tutorial.py: the network of the tutorial against its listing, its twins, and the shipped study."""

import json

import pytest
import torch
import torch.nn.functional as F
from by_name import TUTORIALS, build
from torch import Tensor, nn

from studies.networks import CIFAR10_MEAN, CIFAR10_STD, PlacedNet
from studies.study import ASSETS
from studies.tutorial import STUDY, tutorial_net

TWINS = ["tutorial-plain", "tutorial-frozen", "tutorial-no-warp"]


def images(count: int = 4) -> Tensor:
    """Noise in [0, 1)."""
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def size(module: nn.Module, trainable: bool = False) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)


class Listing(nn.Module):
    """The network's listing, and behind it the tutorial's classifier with 3 channels and 500 features. Images come normalised."""

    def __init__(self, padding_mode: str):
        super().__init__()
        self.padding_mode = padding_mode
        self.conv1 = nn.Conv2d(3, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(500, 50)
        self.fc2 = nn.Linear(50, 10)
        self.localization = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=7),
            nn.MaxPool2d(2, stride=2),
            nn.ReLU(True),
            nn.Conv2d(64, 128, kernel_size=5),
            nn.MaxPool2d(2, stride=2),
            nn.ReLU(True),
        )
        self.fc_loc = nn.Sequential(nn.Linear(128 * 4 * 4, 256), nn.ReLU(True), nn.Linear(256, 3 * 2))

    def grid(self, x: Tensor) -> Tensor:
        xs = self.localization(x)
        xs = xs.view(-1, xs.size(1) * xs.size(2) * xs.size(3))
        return F.affine_grid(self.fc_loc(xs).view(-1, 2, 3), x.size(), align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.grid_sample(x, self.grid(x), padding_mode=self.padding_mode, align_corners=True)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = x.view(-1, 500)
        x = F.relu(self.fc1(x))
        x = F.dropout(x, training=self.training)
        return self.fc2(x)


def normalised(seen: Tensor) -> Tensor:
    return (seen - torch.tensor(CIFAR10_MEAN)[:, None, None]) / torch.tensor(CIFAR10_STD)[:, None, None]


def pair(padding_mode: str, zoom: float, spread: float) -> tuple[PlacedNet, Listing]:
    """Our network and the listing with equal weights, and thetas around a zoom that differ from image to image."""
    ours, listing = build("tutorial").eval(), Listing(padding_mode).eval()
    head = ours.transformer.to_theta
    with torch.no_grad():
        head.weight.normal_(std=spread, generator=torch.Generator().manual_seed(1))
        head.bias.copy_(torch.tensor([zoom, 0.0, 0.0, 0.0, zoom, 0.0]))
        # Both list their weights in the order of the layers: classifier, localization, theta.
        for mine, theirs in zip(ours.parameters(), listing.parameters(), strict=True):
            theirs.copy_(mine)
    return ours, listing


@torch.no_grad()
def test_the_network_is_the_listing_where_theta_stays_inside():
    ours, listing = pair("zeros", zoom=0.6, spread=0.02)
    grid = listing.grid(normalised(images()))
    assert grid.abs().max() < 1 and grid.std(dim=0).max() > 0.01  # inside, and another place for each image
    # float32 through four layers of at most 2,048 products; logits are of size 0.1.
    torch.testing.assert_close(ours(images()), listing(normalised(images())), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_network_is_the_listing_with_border_padding_everywhere():
    ours, listing = pair("border", zoom=1.4, spread=0.3)
    assert listing.grid(normalised(images())).abs().max() > 1.5
    torch.testing.assert_close(ours(images()), listing(normalised(images())), rtol=0, atol=1e-5)


def test_gradients_are_those_of_the_listing():
    ours, listing = pair("border", zoom=0.8, spread=0.1)
    for network, seen in ((ours, images()), (listing, normalised(images()))):
        F.cross_entropy(network(seen), torch.arange(4)).backward()
    for mine, theirs in zip(ours.parameters(), listing.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=2e-5)  # of size 0.5, float32 sums of thousands


def test_the_parts_have_the_listings_numbers_of_parameters():
    network = build("tutorial")
    assert size(network.classifier) == 31_340 and size(network.transformer) == 740_486
    assert size(network) == size(network, trainable=True) == 31_340 + 740_486


def test_the_dropout_rates_are_the_tutorials_and_can_be_set():
    def rates(**options):
        return [layer.p for layer in build("tutorial", **options).modules() if isinstance(layer, (nn.Dropout, nn.Dropout2d))]

    assert rates() == [0.5, 0.5]
    assert [layer.p for layer in tutorial_net().modules() if isinstance(layer, (nn.Dropout, nn.Dropout2d))] == [0.0, 0.0]
    assert rates(conv_dropout=0.1, dropout=0.2) == [0.1, 0.2]


@pytest.mark.parametrize("twin", TWINS)
def test_twins_start_from_the_very_same_classifier(twin):
    one, other = (build(name, seed=7).classifier.state_dict() for name in ("tutorial", twin))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("twin", ["tutorial", "tutorial-frozen"])
@torch.no_grad()
def test_before_training_a_transformer_changes_no_logit(twin):
    # Identity with align_corners=True: places in float32, off by 2e-6 pixels.
    torch.testing.assert_close(build(twin).eval()(images()), build("tutorial-plain").eval()(images()), rtol=0, atol=1e-5)


def test_a_frozen_transformer_has_nothing_to_train():
    network = build("tutorial-frozen")
    assert size(network, trainable=True) == size(build("tutorial-plain")) == 31_340
    assert size(network) == size(build("tutorial"))
    network(images()).sum().backward()
    assert all(weight.grad is None for weight in network.transformer.parameters())
    assert all(weight.grad is not None for weight in network.classifier.parameters())


@torch.no_grad()
def test_without_a_warp_the_same_localization_network_speaks_to_the_logits_instead():
    network, plain = build("tutorial-no-warp").eval(), build("tutorial-plain").eval()
    extra = network.extra(normalised(images()))
    torch.testing.assert_close(network(images()), plain(images()) + extra, rtol=0, atol=1e-5)
    # The same 738,944 weights as before theta, then ten numbers in place of six.
    assert extra.abs().max() > 0 and size(network.extra) == 740_486 + 257 * (10 - 6)


def test_an_unknown_kind_of_transformer_is_refused():
    with pytest.raises(ValueError, match="transformer is 'thawed'; expected learned, fixed, frozen, no-warp or None"):
        tutorial_net("thawed")


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (3, 32, 32), (2, 32, 32, 3)])
@pytest.mark.parametrize("name", TUTORIALS)
def test_images_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError) as error:
        build(name)(torch.zeros(shape))
    assert f"images have shape {shape}; this network expects (N, 3, " in str(error.value)


# The study


def test_the_study_is_matched_and_complete():
    runs = json.loads((ASSETS / "results/tutorial.json").read_text())["runs"]
    arms = {run["arm"] for run in runs}
    assert arms == set(STUDY.arms)
    for arm in arms:
        mine = [run for run in runs if run["arm"] == arm]
        assert sorted(run["seed"] for run in mine) == [0, 1, 2]
        assert all(run["images"] == [50000, 10000] and len(run["history"]) == 20 for run in mine)
        assert all(run["test_accuracy"] == pytest.approx(run["history"][-1]["test_accuracy"], abs=1e-4) for run in mine)

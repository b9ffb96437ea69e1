"""networks.py: the classifiers that studies share, a transformer in every place, and weights from the seed alone."""

import pytest
import torch
from by_name import DIGITS, NETWORKS, PAPERS, SPREAD, STUDIED, build
from torch import Tensor, nn

from stn_helpers.training.recipes import RECIPES
from stn_helpers.transformer import SpatialTransformer
from studies.networks import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    PLACES,
    Normalize,
    Residual,
    cifar_net,
    pad_to,
    strong_classifier,
    tutorial_classifier,
    tutorial_localization,
)
from studies.study import Arm

every_network = pytest.mark.parametrize("name", NETWORKS)


def images(count: int = 4) -> Tensor:
    """Noise in [0, 1)."""
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def size(module: nn.Module, trainable: bool = False) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad or not trainable)


def normalised(seen: Tensor) -> Tensor:
    return (seen - torch.tensor(CIFAR10_MEAN)[:, None, None]) / torch.tensor(CIFAR10_STD)[:, None, None]


def test_the_tutorials_classifier_has_its_shapes():
    assert size(tutorial_classifier()) == 31_340
    seen, found = images(2), []
    for layer in tutorial_classifier():
        seen = layer(seen)
        if isinstance(layer, (nn.MaxPool2d, nn.Linear)):
            found.append(tuple(seen.shape[1:]))
    assert found == [(10, 14, 14), (20, 5, 5), (50,), (10,)]


@every_network
def test_every_one_gives_finite_logits_an_image(name):
    adds = name.startswith("sum")  # two digits, a channel each, and their sum, 0 to 18
    channels = 2 if adds else 1 if name in [*DIGITS, *PAPERS] else 3
    logits = build(name)(images()[:, :channels] if channels == 3 else images()[:, :channels, :28, :28])
    assert logits.shape == (4, 19 if adds else 10) and logits.isfinite().all()


# Seeds


@every_network
def test_weights_depend_on_the_seed_and_on_nothing_else(name):
    def weights(seed):
        return torch.cat([weight.detach().flatten() for weight in build(name, seed=seed).parameters()])

    torch.rand(3)  # the global generator has moved on
    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_an_arm_builds_from_its_seed_and_leaves_the_global_generator_where_it_was():
    arm, before = Arm(STUDIED["small-light"], RECIPES["good"]), torch.get_rng_state()
    one, again, other = (torch.cat([weight.flatten() for weight in arm.build(seed).parameters()]) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


# Bad input


@pytest.mark.parametrize("side", [28, 48])
@pytest.mark.parametrize("name", DIGITS)
def test_a_canvas_of_any_size_goes_through_the_digits_networks(name, side):
    assert build(name)(torch.rand(2, 1, side, side)).shape == (2, 10)


def test_the_wider_twin_has_as_many_parameters_as_the_transformer_adds():
    with_st, plain, wide = (size(build(name)) for name in ("digit", "digit-plain", "digit-wide"))
    assert plain < with_st <= wide < 1.05 * with_st


REFUSED = [(name, shape) for name in DIGITS for shape in [(2, 3, 28, 28), (1, 28, 28), (2, 28, 28, 1)]]
REFUSED += [(name, shape) for name in STUDIED for shape in [(2, 1, 32, 32), (2, 3, 31, 32), (2, 3, 32, 31), (3, 32, 32)]]


@pytest.mark.parametrize(("name", "shape"), REFUSED)
def test_images_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError) as error:
        build(name)(torch.zeros(shape))
    assert f"images have shape {shape}; this network expects (N, " in str(error.value)


def test_building_seeds_no_gpu(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    Arm(STUDIED["small-plain"], RECIPES["good"]).build(3)
    assert not seeded


# The arms of the CIFAR-10 study

every_classifier = pytest.mark.parametrize("classifier", ["small", "strong"])
CHANGES_NOTHING = ["light", "heavy", "frozen", "feature", "window", "two"]


@torch.no_grad()
def test_the_small_classifier_is_the_tutorials():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = tutorial_classifier().eval()
    assert torch.equal(build("small-plain", 3).eval()(images()), theirs(Normalize()(images())))


@torch.no_grad()
def test_the_strong_classifier_is_resnet_9():
    net, seen = nn.Sequential(*strong_classifier()).eval(), []
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d):
            conv.register_forward_hook(lambda conv, _, out: seen.append((conv.in_channels, *out.shape[1:3])))
    net(images())
    # Channels in and out, and the side of the map.
    first, second = [(3, 64, 32), (64, 128, 32), *2 * [(128, 128, 16)]], [(128, 256, 16), (256, 512, 8), *2 * [(512, 512, 4)]]
    assert seen == first + second and size(net) == 6_573_130
    last = next(layer for layer in net.modules() if isinstance(layer, nn.Linear))
    last.weight.zero_()
    last.bias.fill_(8)
    assert torch.equal(net(images()), torch.ones(4, 10))


@torch.no_grad()
def test_there_is_a_way_around_two_convolutions():
    block, maps = Residual(5).eval(), torch.rand(2, 5, 4, 4)
    assert torch.equal(block(maps), maps + block.inside[1](block.inside[0](maps)))
    assert sum(isinstance(layer, nn.Conv2d) for layer in block.modules()) == 2


@every_classifier
@pytest.mark.parametrize("side", [32, 48])
@torch.no_grad()
def test_a_larger_canvas_goes_through_every_arm(classifier, side):
    for arm in PLACES:
        assert build(f"{classifier}-{arm}")(torch.rand(2, 3, side, side)).shape == (2, 10)


@every_classifier
def test_arms_start_from_the_very_same_classifier(classifier):
    def start(arm):
        network = build(f"{classifier}-{arm}", 5)
        return [*network.stem.parameters(), *network.trunk.parameters()]

    for arm in PLACES:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(start(arm), start("plain"), strict=True))


@every_classifier
@pytest.mark.parametrize("arm", CHANGES_NOTHING)
@torch.no_grad()
def test_before_training_no_arm_with_a_transformer_changes_a_logit(classifier, arm):
    ours, plain = build(f"{classifier}-{arm}", 2).eval(), build(f"{classifier}-plain", 2).eval()
    torch.testing.assert_close(ours(images()), plain(images()), rtol=0, atol=1e-4)


@every_classifier
def test_the_arms_have_their_transformers_where_their_names_say(classifier):
    for arm in PLACES:
        network = build(f"{classifier}-{arm}")
        at_input, inside = (isinstance(place, SpatialTransformer) for place in (network.transformer, network.inner))
        assert at_input == (arm not in ("plain", "no-warp", "feature", "window"))
        assert inside == (arm in ("feature", "window", "two"))
        assert (network.extra is not None) == (arm == "no-warp")
        learns = [weight.requires_grad for weight in network.transformer.parameters()]
        assert not any(learns) if arm in ("frozen", "random") else all(learns)


@every_classifier
@torch.no_grad()
def test_the_first_map_is_bent_by_the_inner_transformer_alone(classifier):
    network = build(f"{classifier}-feature").eval()
    network.inner.to_theta.bias.copy_(torch.tensor([-1.0, 0, 0, 0, 1, 0]))  # mirrored left to right
    stem = network.stem(network.normalize(images()))
    torch.testing.assert_close(network(images()), network.trunk(stem.flip(-1)), rtol=0, atol=1e-4)


@every_classifier
def test_a_window_on_a_feature_map_is_six_numbers_that_serve_every_image(classifier):
    network = build(f"{classifier}-window")
    assert network.inner.to_theta.bias.requires_grad and size(network) == size(build(f"{classifier}-plain")) + 12
    with torch.no_grad():
        network.inner.to_theta.bias.add_(torch.arange(6) / 10)
        params = network.inner.params(network.stem(images()))
    assert torch.equal(params, torch.tensor([1.0, 0.1, 0.2, 0.3, 1.4, 0.5]).expand(4, 6))


@every_classifier
@torch.no_grad()
def test_no_warp_spends_the_localization_network_on_the_logits(classifier):
    network, plain, light = (build(f"{classifier}-{arm}").eval() for arm in ("no-warp", "plain", "light"))
    extra = network.extra(normalised(images()))
    assert extra.abs().max() > 0
    torch.testing.assert_close(network(images()), plain(images()) + extra, rtol=0, atol=1e-4)
    assert size(network) - size(light) == 33 * (10 - 6)


@torch.no_grad()
def test_a_random_theta_has_the_spread_it_was_given_and_is_its_mean_when_tested():
    full = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)) / 10
    spread = {"mean": SPREAD["mean"], "covariance": (full @ full.T).tolist()}
    network = cifar_net("small", "random", spread)
    black = torch.zeros(20_000, 3, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = network.train().transformer.params(black)
    torch.testing.assert_close(drawn.mean(0), torch.tensor(spread["mean"]), rtol=0, atol=0.01)
    torch.testing.assert_close(torch.cov(drawn.T), torch.tensor(spread["covariance"]), rtol=0, atol=0.005)
    assert torch.equal(network.eval().transformer.params(black[:2]), torch.tensor([spread["mean"]] * 2))


@torch.no_grad()
def test_a_random_theta_of_no_spread_stands_still():
    network = cifar_net("small", "random", {"mean": SPREAD["mean"], "covariance": torch.zeros(6, 6).tolist()}).train()
    assert torch.equal(network.transformer.params(images()), torch.tensor([SPREAD["mean"]] * 4))


def test_a_random_theta_without_its_spread_is_refused():
    with pytest.raises(ValueError, match="a random theta needs its spread"):
        cifar_net("small", "random")


def test_an_unknown_arm_or_classifier_is_refused_with_the_known_ones():
    for classifier, arm, said in (
        ("small", "none", "place is 'none'; expected one of plain, light"),
        ("tiny", "light", "classifier is 'tiny'; expected one of small, strong"),
    ):
        with pytest.raises(ValueError, match=said):
            cifar_net(classifier, arm)


def test_a_shuffled_transformer_shows_each_picture_through_the_window_of_another():
    network = build("small-shuffled")
    torch.nn.init.normal_(network.transformer.to_theta.weight, std=0.02)
    images = torch.rand(4, 3, 32, 32)
    own = SpatialTransformer.params(network.transformer, images)
    assert torch.equal(network.transformer.params(images), own.roll(1, 0))
    assert not torch.allclose(own[0], own[1], atol=1e-5)


def test_a_smaller_picture_is_laid_in_the_middle_of_a_black_canvas():
    images = torch.rand(2, 1, 28, 27)
    canvas = pad_to(images, 42)
    assert canvas.shape == (2, 1, 42, 42) and torch.equal(canvas[:, :, 7:35, 7:34], images)
    assert canvas.sum() == pytest.approx(images.sum().item(), rel=1e-6) and pad_to(canvas, 42) is canvas


def test_a_classifier_is_its_stem_and_its_trunk_layer_by_layer():
    network = build("digit")
    assert len(network.classifier) == 10 and network.classifier[0] is network.stem[0] and network.classifier[3] is network.trunk[0]


@pytest.mark.parametrize(("size", "features"), [(18, 128), (32, 2048), (48, 8192)])
def test_the_tutorials_localization_network_fits_its_picture(size, features):
    network = tutorial_localization(3, size)
    assert network[-2].in_features == features and network(torch.rand(2, 3, size, size)).shape == (2, 256)
    with pytest.raises(ValueError, match="size is 17; this network needs images of at least 18"):
        tutorial_localization(3, 17)

"""diagnose: every failure made on purpose, called by its name and by no other, and gone once it is cured."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import distorted
from stn_helpers.data.sets import load
from stn_helpers.diagnose import CURES, Finding, diagnose
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import fit
from stn_helpers.transformer import SpatialTransformer, light_localization
from studies.networks import Blind, Normalize, digit_net

FAMILIES = ["affine", "similarity", "attention", "rotation", "projective", "tps"]
every_family = pytest.mark.parametrize("family", FAMILIES)
NOT_MOVED, SAME, DEAD = ["not moved yet"], ["same for every picture"], ["dead start"]

TRAIN = load("digits", train=True)
TURNED, _ = distorted(load("digits", train=False), "turned")
IMAGES, LABELS = as_float(TURNED.images[:200]), TURNED.labels[:200]


# The networks: a good one, and one for each mistake


class DigitNet(nn.Module):
    """The network of notebook 04, with its two parts in plain sight."""

    def __init__(self, family: str | None = "affine"):
        super().__init__()
        made = digit_net(family)
        self.classifier, self.transformer = made.classifier, made.transformer

    def forward(self, images):
        return self.classifier(self.transformer(images))


class NormalizedFirst(DigitNet):
    """The warp sees normalised pictures: black is -0.86."""

    def forward(self, images):
        return super().forward((images - 0.31) / 0.36)


class NormalizedBehind(DigitNet):
    """The warp sees pictures in [0, 1]."""

    def forward(self, images):
        return self.classifier((self.transformer(images) - 0.31) / 0.36)


class Saturated(SpatialTransformer):
    """The identity through a sigmoid: 1 is sigmoid(20), 0 is sigmoid(-20)."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.to_theta.bias.data = 20 * (2 * self.to_theta.bias.data - 1)

    def params(self, images):
        return super().params(images).sigmoid()


class Squashed(SpatialTransformer):
    """tanh on theta."""

    def params(self, images):
        return super().params(images).tanh()


class Bounded(SpatialTransformer):
    """The cure of both: something small on top of the identity."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        nn.init.zeros_(self.to_theta.bias)

    def params(self, images):
        return torch.tensor(self.family.identity) + 0.5 * super().params(images).tanh()


class RandomStart(SpatialTransformer):
    """The last layer as nn.Linear makes it."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.to_theta.reset_parameters()


class RowsSwapped(SpatialTransformer):
    """y before x."""

    def params(self, images):
        return super().params(images).reshape(-1, 2, 3).flip(1).flatten(1)


class Detached(SpatialTransformer):
    def params(self, images):
        return super().params(images).detach()


class Nearest(SpatialTransformer):
    """A sampler that has no gradient for its grid."""

    def forward(self, images):
        grid = self.grid(images, self.params(images))
        return F.grid_sample(images, grid, "nearest", "zeros", align_corners=False)


class Raw(SpatialTransformer):
    """What most code does: no check, and border padding."""

    def forward(self, images):
        grid = F.affine_grid(self.params(images).reshape(-1, 2, 3), images.shape, align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def network(make=SpatialTransformer, family="affine", net=DigitNet, padding_mode="zeros", seed=3, **options) -> DigitNet:
    """The network of notebook 04, with another transformer in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = net(None)
        built.transformer = make(light_localization(1, 8), family, (28, 28), padding_mode=padding_mode, **options)
    return built


def practise(net: DigitNet, epochs: int = 4, seed: int = 3, **changes) -> DigitNet:
    """Train it as notebook 04 does, for less long."""
    recipe = replace(RECIPES["digits"], epochs=epochs, **changes)
    fit(net, TRAIN, TURNED.subset(slice(100)), recipe, seed, "cpu", "float32", progress=False, train_on="turned")
    return net


SGD = dict(optimizer="sgd", lr=0.03, momentum=0.9, one_cycle=False)  # far too fast for this localization network


def say(net: DigitNet, *numbers: float) -> DigitNet:
    """Make the transformer answer these raw numbers whatever it sees."""
    with torch.no_grad():
        net.transformer.to_theta.weight.zero_()
        net.transformer.to_theta.bias.copy_(torch.tensor(numbers))
    return net


def names(net: nn.Module, images=IMAGES, labels=LABELS) -> list[str]:
    """What is found, which must be the same with and without labels."""
    found = [finding.name for finding in diagnose(net, images, labels)]
    assert found == [finding.name for finding in diagnose(net, images)]
    return found


def measured(net: nn.Module, name: str, **options) -> str:
    (sentence,) = [finding.measured for finding in diagnose(net, IMAGES, **options) if finding.name == name]
    return sentence


@pytest.fixture(scope="module")
def trained() -> DigitNet:
    return practise(network())


@pytest.fixture
def healthy(trained) -> DigitNet:
    return copy.deepcopy(trained)


# Health


def test_a_network_that_trained_well_is_healthy(healthy):
    assert names(healthy) == []


@pytest.mark.parametrize("family", ["similarity", "attention", "rotation", "projective", "tps"])
def test_in_every_family(family):
    assert names(practise(network(family=family, seed=2), epochs=3, seed=2)) == []


@every_family
def test_before_the_first_step_it_has_not_moved(family):
    net = network(family=family)
    assert names(net) == NOT_MOVED
    assert "gradient" not in measured(net, "not moved yet")
    assert float(measured(net, "not moved yet", labels=LABELS).split()[-1].rstrip(".")) > 1e-5


def test_a_transformer_that_no_optimizer_knows_has_not_moved_after_training_either():
    net = network()
    net.transformer.requires_grad_(False)
    assert names(practise(net, epochs=1)) == NOT_MOVED


@pytest.mark.parametrize("numbers", [(1 + 1e-5, 0, 0, 0, 1, 0), (1, 0, 0, 0, 1, -1e-5)])
def test_a_step_of_the_smallest_optimizer_counts_as_moving(numbers):
    assert names(say(network(), *numbers)) == []


@every_family
@pytest.mark.parametrize("make", [SpatialTransformer, Bounded])
def test_one_picture_is_enough_and_a_healthy_start_is_never_called_ill(make, family):
    assert names(network(make, family), IMAGES[:1], LABELS[:1]) == NOT_MOVED


def test_one_picture_of_a_healthy_network(healthy):
    assert not [k for k in range(20) if names(healthy, IMAGES[k : k + 1], LABELS[k : k + 1])]


def test_a_blank_picture_says_nothing_against_it(healthy):
    assert names(healthy, torch.zeros(1, 1, 28, 28), LABELS[:1]) == []


def test_nor_does_it_hide_what_is_wrong():
    images, labels = torch.cat([torch.zeros(3, 1, 28, 28), IMAGES]), torch.cat([LABELS[:3], LABELS])
    assert names(say(network(), 1, 0, 9, 0, 1, 9), images, labels) == ["collapsed"]
    assert names(say(network(family="attention"), 0.4, 0.5, 0.5), images, labels) == ["zoomed in"]


def test_many_copies_of_one_picture_look_alike_and_that_is_no_finding(healthy):
    assert names(healthy, IMAGES[:1].expand(8, -1, -1, -1), LABELS[:1].expand(8)) == []


# 1. What lies outside the picture


def test_zeros_behind_normalised_pictures_are_a_gray_frame_and_normalising_behind_the_warp_cures_it():
    ill = practise(network(net=NormalizedFirst), epochs=3)
    assert names(ill) == ["gray frame"]
    assert "black is -0.86" in measured(ill, "gray frame")
    ill.transformer.padding_mode = "border"
    assert names(ill) == []
    assert names(practise(network(net=NormalizedBehind), epochs=3)) == []


def test_the_frame_is_named_only_where_zeros_are_seen_and_are_not_black():
    turned = (0.5**0.5, -(0.5**0.5), 0, 0.5**0.5, 0.5**0.5, 0)  # by 45 degrees: 17 % of the view lies outside
    assert names(say(network(net=NormalizedFirst), *turned)) == ["gray frame"]
    assert names(say(network(net=NormalizedFirst, padding_mode="border"), *turned)) == []
    assert names(say(network(), *turned)) == []
    assert names(say(network(net=NormalizedFirst), 0.9, 0, 0, 0, 0.9, 0)) == []
    assert names(say(network(net=NormalizedFirst), 1.1, 0, 0, 0, 1.1, 0)) == ["gray frame"]


def test_too_fast_it_zooms_out_with_border_padding_too_and_a_slower_localization_network_does_not():
    ill = practise(network(net=NormalizedBehind, padding_mode="border"), epochs=6, **SGD)
    assert {"looks past the picture", "collapsed"} & set(names(ill))
    cured = practise(network(net=NormalizedBehind, padding_mode="border"), epochs=6, localization=0.3, **SGD)
    assert names(cured) == []


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_a_window_that_reaches_far_out(padding):
    ill = say(network(padding_mode=padding), 1.5, 0, 0, 0, 1.5, 0)
    assert names(ill) == ["looks past the picture"]
    assert "56%" in measured(ill, "looks past the picture") and "1.50 pictures wide" in measured(ill, "looks past the picture")
    assert names(say(network(padding_mode=padding), 1, 0, 0.75, 0, 1, 0)) == ["looks past the picture"]
    assert names(say(network(padding_mode=padding), 1.15, 0, 0, 0, 1.15, 0)) == []


def test_it_is_the_median_picture_that_counts():
    class Strays(SpatialTransformer):
        share = 0.6

        def params(self, images):
            far = torch.arange(len(images)) < self.share * len(images)
            return super().params(images) + 0.6 * far[:, None] * torch.tensor([0.0, 0, 1, 0, 0, 1])

    net = network(Strays)
    assert names(net) == ["looks past the picture"]
    net.transformer.share = 0.4
    assert names(net) == []


# 2. Too large a learning rate


def test_far_too_large_a_rate_collapses_it(trained):
    ill = practise(network(), epochs=1, localization=1000)
    assert names(ill) == ["collapsed"]
    assert "0.0%" in measured(ill, "collapsed")
    assert names(trained) == []


def test_relus_that_a_large_rate_has_killed_say_the_same_for_every_picture(healthy):
    assert {"same for every picture", "collapsed"} & set(names(practise(network(), localization=30)))
    healthy.transformer.localization[6].bias.data.fill_(-100)
    assert names(healthy) == SAME
    assert names(healthy, IMAGES[:1], LABELS[:1]) == []


def test_a_corner_and_a_flat_spot_are_collapsed_too():
    speck = say(network(family="attention", padding_mode="border"), 0.001, 0, 0)
    assert names(speck) == ["no identity in the bias", "collapsed"]
    assert names(say(network(padding_mode="border"), 1, 0, 5, 0, 1, 5)) == ["collapsed"]
    assert names(say(network(), 40, 0, 0, 0, 40, 0)) == ["collapsed"]


def test_a_transformer_that_cannot_see_is_not_called_ill_for_one_window():
    with torch.random.fork_rng(devices=[]):
        net = DigitNet(None)
        net.transformer = SpatialTransformer(Blind(), size=(28, 28), features=1)
    assert names(practise(net, epochs=1)) == []


# 3. A dead start


def test_the_identity_through_a_saturated_sigmoid_is_dead_and_stays_so():
    ill = network(Saturated)
    before = ill.transformer.params(IMAGES)
    assert names(ill) == DEAD
    assert names(practise(ill, epochs=2)) == DEAD
    torch.testing.assert_close(ill.transformer.params(IMAGES), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [Detached, Nearest])
def test_a_graph_that_is_cut_is_dead_too(make):
    assert names(network(make)) == DEAD
    assert "theta moves by 0," in measured(network(Detached), "dead start")
    assert "theta moves by 1, and the view by 0." in measured(network(Nearest), "dead start")


def test_a_classifier_that_is_dead_is_not_the_transformers_fault(healthy):
    nn.init.zeros_(healthy.classifier[-1].weight)
    assert names(healthy) == []


# 4. tanh


@every_family
def test_tanh_never_reaches_the_identity(family):
    ill = network(Squashed, family)
    if family == "rotation":  # its identity is 0, and tanh has that
        assert names(ill) == NOT_MOVED
    else:
        assert names(ill) == ["identity out of reach"]
        assert "0.76 and stays between -1.00 and 1.00" in measured(ill, "identity out of reach")
    assert names(network(Bounded, family)) == NOT_MOVED


def test_nor_after_training_and_bounded_around_the_identity_all_is_well():
    assert names(practise(network(Squashed), epochs=3)) == ["identity out of reach"]
    assert names(practise(network(Bounded), epochs=3)) == []


@pytest.mark.parametrize("squash", [F.softplus, lambda answer: 1 - F.softplus(-answer)])
def test_a_squash_with_one_end_keeps_the_identity_away_too(squash):
    class Positive(SpatialTransformer):
        def params(self, images):
            return squash(super().params(images))

    assert names(network(Positive))[0] == "identity out of reach"
    stays = measured(network(Positive), "identity out of reach").split(";")[0].split("between ")[1]
    assert stays.startswith("0.00 and") or stays.endswith("and 1.00")


def test_a_bound_that_holds_the_identity_is_fine():
    class Clamped(SpatialTransformer):
        def params(self, images):
            return super().params(images).clamp(-1, 1)

    class Wide(SpatialTransformer):
        def params(self, images):
            return 2 * torch.tanh(torch.atanh(torch.tensor(0.5)) * super().params(images))

    assert names(network(Clamped)) == NOT_MOVED
    assert names(network(Wide)) == NOT_MOVED


# 5. No identity start


def test_a_random_start_is_named_before_training_and_after(trained):
    ill = network(RandomStart)
    assert names(ill) == ["no identity in the bias", "zoomed in"]
    assert names(practise(ill, epochs=2))[:2] == ["no identity in the bias", "zoomed in"]
    assert names(trained) == []


@pytest.mark.parametrize("family", ["similarity", "attention", "projective", "tps"])
def test_a_random_start_in_other_families(family):
    assert names(network(RandomStart, family))[0] == "no identity in the bias"


def test_for_a_rotation_it_is_a_turn_of_ten_degrees_at_most_and_harmless():
    assert names(network(RandomStart, "rotation")) == []


def test_an_identity_that_was_eaten_reads_the_same():
    assert names(say(network(), 0.34, 0, 0, 0, 0.34, 0)) == ["no identity in the bias"]
    assert names(say(network(), 0.37, 0, 0, 0, 0.37, 0)) == []
    ill = say(network(), 0.34, 0, 0, 0, 0.34, 0)
    ill.transformer.to_theta.weight.data[0, 0] = 1e-6
    assert names(ill) == ["no identity in the bias"]
    assert "0.34 of" in measured(say(network(), 0.34, 0, 0, 0, 0.34, 0), "no identity in the bias")


# 6. Mirrored or shrunk


def test_rows_in_the_wrong_order_mirror_every_picture(trained):
    ill = practise(network(RowsSwapped), epochs=2)
    assert names(ill) == ["mirrored"]
    assert "100%" in measured(ill, "mirrored")
    assert names(trained) == []


def test_a_mirror_that_was_learned_from_a_random_start():
    assert names(practise(network(RandomStart, seed=1), epochs=2, seed=1))[-1] == "mirrored"


def test_mirrors_of_both_axes_are_a_turn():
    assert names(say(network(), -1, 0, 0, 0, 1, 0)) == ["mirrored"]
    assert names(say(network(), 1, 0, 0, 0, -1, 0)) == ["mirrored"]
    assert names(say(network(), -1, 0, 0, 0, -1, 0)) == []


def test_a_mirror_is_found_in_a_spline_and_a_homography():
    spline = network(family="tps")
    points = torch.tensor(spline.transformer.family.identity).reshape(-1, 2) * torch.tensor([-1.0, 1.0])
    assert names(say(spline, *points.flatten().tolist())) == ["mirrored"]
    assert names(say(network(family="projective"), -1, 0, 0, 0, 1, 0, 0, 0.1)) == ["mirrored"]


def test_one_mirrored_picture_among_many_is_no_pattern(healthy):
    class Odd(SpatialTransformer):
        mirrored = 10

        def params(self, images):
            theta = super().params(images)
            flipped = torch.arange(len(theta))[:, None] < self.mirrored
            return torch.where(flipped, theta * torch.tensor([-1.0, 1, 1, -1, 1, 1]), theta)

    healthy.transformer.__class__ = Odd
    assert names(healthy) == []
    Odd.mirrored = 40
    assert names(healthy) == ["mirrored"]
    assert "20%" in measured(healthy, "mirrored")


def test_a_window_on_a_small_part_of_what_is_drawn():
    ill = say(network(family="attention"), 0.4, 0.5, 0.5)
    assert names(ill) == ["zoomed in"]
    assert "0.40 pictures wide" in measured(ill, "zoomed in")
    assert names(say(network(family="attention"), 0.7, 0, 0)) == []


def test_a_narrow_window_on_all_that_is_drawn_is_a_find():
    far = torch.zeros(40, 1, 70, 70)
    far[:, :, 4:32, 30:58] = IMAGES[:40]
    finder = say(network(family="attention"), 0.4, 18 / 70, -34 / 70)
    assert names(finder, far, LABELS[:40]) == []


# 7. Not finite


@pytest.mark.parametrize("make", [Raw, SpatialTransformer])
def test_one_broken_step_leaves_a_theta_that_is_not_finite_and_border_padding_hides_it(make):
    ill = network(make, padding_mode="border")
    F.cross_entropy(ill(IMAGES), LABELS).backward()
    with torch.no_grad():
        for weight in ill.transformer.to_theta.parameters():
            weight -= 1e39 * weight.grad
    assert not ill.transformer.params(IMAGES).isfinite().all()
    if make is Raw:
        assert F.cross_entropy(ill(IMAGES), LABELS).isfinite()
    assert names(ill) == ["not finite"]
    assert "and 0 of the pictures" in measured(ill, "not finite")


def test_one_theta_in_many_is_enough_and_a_broken_picture_is_told(healthy):
    images = IMAGES.clone()
    images[7, 0, 3, 3] = torch.nan
    assert [finding.measured for finding in diagnose(healthy, images)] == [
        "1 of 200 thetas are not finite, and 1 of the pictures are not."
    ]


def test_a_theta_so_large_that_its_grid_is_infinite():
    assert names(say(network(padding_mode="border"), 3e38, 3e38, 3e38, 0, 1, 0)) == ["not finite"]


# What it leaves alone, and what it takes


class Stem(nn.Module):
    """A transformer in the middle: behind a convolution with batch normalisation, dropout and a random jitter."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.transformer = SpatialTransformer(light_localization(4, 4), "similarity", size=(9, 14), align_corners=True)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9 * 14, 5))

    def forward(self, images):
        return self.head(self.transformer(self.stem(images) + 0.01 * torch.rand(1)))


def test_it_leaves_the_model_as_it_was():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, images, labels = Stem(), torch.rand(6, 3, 12, 20), torch.arange(6) % 5
        net.train()
        net.stem[2].eval()
        net(images).sum().backward()
        modes = [module.training for module in net.modules()]
        grads = [weight.grad.clone() for weight in net.parameters()]
        state, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        assert names(net, images, labels) == NOT_MOVED
        assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(net.parameters(), grads, strict=True))
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())
    assert all(weight.requires_grad for weight in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_also_where_something_goes_wrong(healthy):
    healthy.train()
    with pytest.raises(ValueError, match="images are torch.float64"):
        diagnose(healthy, IMAGES[:2].double())
    assert all(module.training for module in healthy.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in healthy.modules())


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_inside_any_gradient_mode(healthy, around):
    ill = network(Saturated)
    with around():
        images, labels = IMAGES.clone(), LABELS.clone()
        assert names(healthy, images, labels) == []
        assert names(ill, images, labels) == DEAD


def test_it_works_frozen_and_with_pictures_that_want_gradients(healthy):
    healthy.requires_grad_(False)
    images = IMAGES.clone().requires_grad_()
    assert names(healthy, images) == []
    assert images.grad is None


def test_it_takes_normalize_before_and_other_sizes():
    net = nn.Sequential()
    net.normalize = Normalize((0.5,) * 3, (0.25,) * 3)
    net.transformer = SpatialTransformer(light_localization(3, 4), "rotation", size=(5, 7), padding_mode="zeros")
    net.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 7, 4))
    noise = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    assert names(net, noise, torch.arange(3)) == NOT_MOVED


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_works_on_a_gpu(healthy):
    state = torch.cuda.get_rng_state()
    assert names(healthy.cuda(), IMAGES.cuda(), LABELS.cuda()) == []
    assert names(network(RowsSwapped).cuda(), IMAGES.cuda(), LABELS.cuda()) == ["mirrored"]
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_it_finds_the_one_transformer_wherever_it_is(healthy):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.stn, self.classifier = healthy.transformer, healthy.classifier

        def forward(self, images):
            return self.classifier(self.stn(images))

    assert names(Other()) == []
    say(healthy, 1, 0, 0, 0, -1, 0)
    assert names(Other()) == names(healthy) == ["mirrored"]
    assert [finding.name for finding in diagnose(healthy.transformer, IMAGES)] == ["mirrored"]


def test_of_several_one_is_named():
    good, ill = network(), say(network(), 1, 0, 0, 0, -1, 0)
    both = nn.Sequential(good.transformer, ill.transformer)
    with pytest.raises(ValueError, match="model holds 2 SpatialTransformers"):
        diagnose(both, IMAGES)
    found = [[finding.name for finding in diagnose(both, IMAGES, transformer=one)] for one in both]
    assert found == [NOT_MOVED, ["mirrored"]]
    both.transformer = both[1]
    assert [finding.name for finding in diagnose(both, IMAGES)] == ["mirrored"]
    with pytest.raises(ValueError, match="transformer="):
        diagnose(good, IMAGES, transformer=ill.transformer)


@pytest.mark.parametrize("wrap", [lambda layer: nn.Sequential(layer, nn.Identity()), nn.utils.parametrizations.weight_norm])
def test_a_layer_around_to_theta_changes_no_finding(healthy, wrap):
    healthy.transformer.to_theta = wrap(healthy.transformer.to_theta)
    assert names(healthy) == []
    ill = network()
    ill.transformer.to_theta = nn.Sequential(ill.transformer.to_theta, nn.Tanh())
    assert names(ill) == ["identity out of reach"]


def test_a_model_without_a_transformer_is_refused():
    for model in (DigitNet(None), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="model holds 0 SpatialTransformers"):
            diagnose(model, IMAGES)


def test_a_transformer_that_is_never_called_is_refused():
    class Idle(DigitNet):
        def forward(self, images):
            return self.classifier(images)

    with pytest.raises(ValueError, match="never called"):
        diagnose(network(net=Idle), IMAGES)


def test_a_finding_reads_as_two_lines():
    (finding,) = diagnose(say(network(), 1, 0, 0, 0, -1, 0), IMAGES)
    assert isinstance(finding, Finding)
    assert str(finding) == f"mirrored: The determinant is negative for 100% of the pictures.\n  {CURES['mirrored']}"

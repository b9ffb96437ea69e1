"""The spatial transformer as a module: where it starts, what learns first, and what it refuses."""

import copy

import pytest
import torch
import torchvision.transforms.v2.functional as transforms
from torch import nn

from stn_helpers.families import family
from stn_helpers.sampler import warp
from stn_helpers.theta import affine
from stn_helpers.transformer import Blind, Normalize, SpatialTransformer, light_localization, seed_localization

FAMILIES = ["affine", "similarity", "attention", "rotation", "projective", "tps"]
every_family = pytest.mark.parametrize("name", FAMILIES)


def images(count: int = 3, height: int = 12, width: int = 20) -> torch.Tensor:
    """Noise in [0, 1)."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def transformer(family="affine", **options) -> SpatialTransformer:
    """A small one; its localization network's weights come from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpatialTransformer(light_localization(width=4), family, **options)


def say(module: SpatialTransformer, *numbers: float) -> SpatialTransformer:
    """Make it answer these raw numbers whatever it sees."""
    with torch.no_grad():
        module.to_theta.bias.copy_(torch.tensor(numbers))
    return module


def gradient_sizes(module: nn.Module) -> list[float]:
    return [float(weight.grad.abs().max()) for weight in module.parameters()]


# Where it starts


@every_family
def test_it_starts_by_saying_exactly_the_identity(name):
    module, noise = transformer(name), images()
    assert torch.equal(module.params(noise), torch.tensor([family(name).identity] * 3))
    # Places in float32: a spline's are off by 2e-6, which is 2e-5 pixels at width 20.
    torch.testing.assert_close(module(noise), noise, rtol=0, atol=5e-5)


@every_family
def test_at_the_first_step_only_to_theta_learns_and_localization_from_the_second(name):
    module, noise = transformer(name), images()

    def step():
        module.zero_grad()
        (module(noise) * torch.linspace(-1, 1, 20)).square().sum().backward()
        with torch.no_grad():
            for weight in module.parameters():
                weight -= 1e-4 * weight.grad

    step()
    assert min(gradient_sizes(module.to_theta)) > 0
    assert max(gradient_sizes(module.localization)) == 0
    step()
    assert min(gradient_sizes(module.localization)) > 0


def test_gradients_reach_the_images_too():
    noise = images().requires_grad_()
    transformer()(noise).sum().backward()
    assert noise.grad.abs().min() > 0


# What it does


@pytest.mark.parametrize("size", [None, (12, 20), (5, 7), (30, 31)])
@every_family
def test_the_output_has_the_size_that_was_asked_for(name, size):
    assert transformer(name, size=size)(images()).shape == (3, 3, *(size or (12, 20)))


def test_another_family_is_one_word_and_localization_stays_the_same():
    one, other = transformer("affine"), transformer(family="tps")
    assert (one.to_theta.out_features, other.to_theta.out_features) == (6, 32)
    assert [weight.shape for weight in one.localization.parameters()] == [
        weight.shape for weight in other.localization.parameters()
    ]
    assert other(images()).shape == one(images()).shape


def test_a_family_may_come_as_an_object_with_its_own_number_of_control_points():
    module = transformer(family("tps", k=3))
    assert module.to_theta.out_features == 18
    torch.testing.assert_close(module(images()), images(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["border", "zeros", "reflection"])
def test_it_warps_by_the_theta_that_it_says(padding_mode, align_corners):
    theta = affine(angle=30, scale=1.5, shift=(0.5, -0.2))
    options = dict(size=(9, 8), padding_mode=padding_mode, align_corners=align_corners)
    module = say(transformer(**options), *theta.flatten().tolist())
    assert torch.equal(module(images()), warp(images(), theta, **options))


def test_the_rotation_family_turns_in_pixels_on_wide_images():
    module = say(transformer("rotation"), torch.pi / 2)
    turned = torch.rot90(images()[..., 4:16], 1, (-2, -1))
    torch.testing.assert_close(module(images())[..., 4:16], turned, rtol=0, atol=1e-5)  # float32 places


def test_the_similarity_family_turns_in_pixels_on_wide_images():
    module = say(transformer("similarity"), 0.0, 1.0, 0.0, 0.0)
    turned = torch.rot90(images()[..., 4:16], 1, (-2, -1))
    torch.testing.assert_close(module(images())[..., 4:16], turned, rtol=0, atol=1e-5)


@every_family
def test_inside_autocast_theta_and_grid_stay_in_float32(name):
    identity = torch.tensor(family(name).identity)
    exact = identity + 1 / 1024  # bfloat16 has 8 bits: near 1 it knows nothing between 1 and 1 + 1/128
    module, seen = say(transformer(name), *exact.tolist()), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module.localization(seen).dtype == torch.bfloat16
        params = module.params(seen)
        assert module.grid(seen, params).dtype == module(seen).dtype == torch.float32
        assert torch.equal(params, exact.expand(3, -1))
        inside = module(seen)
    torch.testing.assert_close(inside, module(seen), rtol=0, atol=0)


def test_inside_autocast_gradients_reach_to_theta_in_float32():
    module = transformer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(images()).square().sum().backward()
    assert module.to_theta.weight.grad.dtype == torch.float32 and module.to_theta.weight.grad.abs().max() > 0


def test_training_and_evaluation_see_the_same():
    module = say(transformer(), 0.8, 0.1, 0.2, -0.1, 0.9, 0.0)
    assert torch.equal(module.train()(images()), module.eval()(images()))


def test_a_copy_by_state_dict_says_the_same():
    module = transformer()
    with torch.no_grad():
        module.to_theta.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(transformer())
    assert not torch.equal(other(images()), module(images()))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(images()), module(images()))


# Localization networks


def shapes(module: nn.Sequential, seen: torch.Tensor, *kinds: type) -> list[tuple[int, ...]]:
    """The shapes that leave the layers of these kinds, without the batch."""
    found = []
    for layer in module:
        seen = layer(seen)
        if isinstance(layer, kinds):
            found.append(tuple(seen.shape[1:]))
    return found


def test_the_seeds_localization_has_the_seeds_shapes():
    found = shapes(seed_localization(), torch.zeros(2, 3, 32, 32), nn.Conv2d, nn.MaxPool2d, nn.Linear)
    assert found == [(64, 26, 26), (64, 13, 13), (128, 9, 9), (128, 4, 4), (256,)]


def test_the_seeds_localization_with_theta_has_740486_parameters():
    module = SpatialTransformer(seed_localization())
    assert sum(weight.numel() for weight in module.parameters()) == 740_486


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 40), (2, 18)])
def test_the_seeds_localization_fits_other_square_images(channels, size):
    assert seed_localization(channels, size)(torch.zeros(2, channels, size, size)).shape == (2, 256)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 60), (33, 17)])
def test_the_light_localization_takes_images_of_any_size(height, width):
    assert light_localization(channels=2)(torch.zeros(3, 2, height, width)).shape == (3, 32)


def test_normalize_is_torchvisions_and_leaves_nothing_in_a_checkpoint():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    torch.testing.assert_close(Normalize(mean, std)(images()), transforms.normalize(images(), mean, std), rtol=0, atol=1e-6)
    assert not Normalize(mean, std).state_dict()


# Bad input


def test_weights_that_are_not_numbers_are_refused_with_the_samples_number():
    module = transformer()
    with torch.no_grad():
        module.to_theta.weight[2, 5] = float("nan")
    with pytest.raises(ValueError, match="theta of sample 0 is not finite"):
        module(images())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_one_diverged_sample_is_named(name, training):
    noise = images(5)
    noise[3, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="theta of sample 3 is not finite"):
        transformer(name).train(training)(noise)


def test_a_localization_without_a_linear_layer_is_refused_and_features_is_the_way_on():
    localization = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    with pytest.raises(ValueError, match="localization has no Linear layer.*features=F"):
        SpatialTransformer(localization)
    torch.testing.assert_close(SpatialTransformer(localization, features=12)(images()), images(), rtol=0, atol=5e-5)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family is 'homography'"):
        transformer("homography")


@pytest.mark.parametrize(
    ("options", "message"), [(dict(padding_mode="black"), "padding_mode is 'black'"), (dict(size=(8, 0)), "size is")]
)
def test_a_bad_padding_or_size_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transformer(**options)(images())


def test_images_too_small_for_the_seeds_localization_network_are_refused():
    assert seed_localization(size=18)(torch.rand(1, 3, 18, 18)).shape == (1, 256)
    with pytest.raises(ValueError, match="size is 17"):
        seed_localization(size=17)


def test_a_blind_localization_network_learns_one_window_for_every_image():
    module = SpatialTransformer(Blind(), features=1)
    noise = images()
    module(noise).square().sum().backward()
    assert module.to_theta.bias.grad.abs().max() > 0
    with torch.no_grad():
        module.to_theta.bias -= 0.1 * module.to_theta.bias.grad
    theta = module.params(noise)
    assert torch.equal(theta, theta[:1].expand(3, 6)) and not torch.equal(theta[0], torch.tensor(family("affine").identity))

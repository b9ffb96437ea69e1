"""The spatial transformer as a module: where it starts, what learns first, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from stn_helpers.checks import NotFiniteError
from stn_helpers.families import family
from stn_helpers.sampler import PADDINGS, warp
from stn_helpers.theta import affine
from stn_helpers.transformer import SpatialTransformer, light_localization, parameter_groups

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


@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 60), (33, 17)])
def test_the_light_localization_takes_images_of_any_size(height, width):
    assert light_localization(channels=2)(torch.zeros(3, 2, height, width)).shape == (3, 32)


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
    with pytest.raises(ValueError, match="features is None; expected F, .* or a Linear layer"):
        SpatialTransformer(localization)
    torch.testing.assert_close(SpatialTransformer(localization, features=12)(images()), images(), rtol=0, atol=5e-5)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family is 'homography'"):
        transformer("homography")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(padding_mode="black"), "padding_mode is 'black'.*border, zeros, reflection"),
        (dict(size=(8, 0)), r"size is \(8, 0\)"),
        (dict(size=28), "size is 28"),
        (dict(features=0), "features is 0"),
        (dict(features="12"), "features is '12'"),
        (dict(family=None), "family is None"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        transformer(**options)


class LastIsNotLast(nn.Module):
    """Its last Linear layer is not the last that runs."""

    def __init__(self):
        super().__init__()
        self.answer, self.first = nn.Linear(3 * 4, 7), nn.Linear(3, 12)

    def forward(self, images):
        return self.answer(self.first(images.mean((2, 3))))


@pytest.mark.parametrize("localization", [LastIsNotLast(), nn.Sequential(LastIsNotLast(), nn.Unflatten(1, (7, 1)))])
def test_a_localization_of_another_width_is_named_and_features_is_the_way_on(localization):
    with pytest.raises(ValueError, match=r"localization answers with shape \(3, 7.*\); expected \(N, 12\).*features=F"):
        SpatialTransformer(localization)(images())
    assert SpatialTransformer(localization, features=7)(images()).shape == (3, 3, 12, 20)


def test_a_localization_that_answers_no_tensor_is_named():
    class Pair(LastIsNotLast):
        def forward(self, images):
            return super().forward(images), None

    with pytest.raises(ValueError, match="localization answers with a tuple"):
        SpatialTransformer(Pair(), features=7)(images())


def test_features_with_two_axes_of_one_pixel_are_features():
    pooled = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1))
    module = SpatialTransformer(pooled, features=5)
    module.to_theta.weight.data.normal_(std=0.1)
    twin = SpatialTransformer(nn.Sequential(pooled, nn.Flatten()), features=5)
    twin.load_state_dict({key.replace("localization", "localization.0"): value for key, value in module.state_dict().items()})
    module.load_state_dict(module.state_dict())
    assert torch.equal(module(images()), twin(images()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: (255 * x).byte(), "images are torch.uint8 .* divide by 255"),
        (lambda x: (255 * x).long(), "images are torch.int64 .* divide by 255"),
        (lambda x: x.double(), "images are torch.float64 and localization's weights {torch.float32}"),
        (lambda x: x.half(), "images are torch.float16 and localization's weights {torch.float32}"),
        (lambda x: x[0], r"images are torch.float32 with shape \(3, 12, 20\).*images\[None\]"),
        (lambda x: x.numpy(), "images is a ndarray"),
    ],
)
def test_images_that_do_not_fit_get_the_samplers_sentence(wrong, said):
    with pytest.raises(ValueError, match=said):
        transformer()(wrong(images()))


def test_another_number_of_channels_is_still_torchs_own_error():
    with pytest.raises(RuntimeError, match="channels"):
        transformer()(images()[:, :2])


class LowRank(nn.Module):
    """A layer that learns beside another, as LoRA does."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)
        nn.init.zeros_(self.up.weight), nn.init.zeros_(self.up.bias)

    def forward(self, features):
        return self.base(features) + self.up(self.down(features))


@pytest.mark.parametrize(
    "wrap", [LowRank, lambda layer: nn.Sequential(layer, nn.Identity()), nn.utils.parametrizations.weight_norm]
)
def test_to_theta_may_be_wrapped(wrap):
    module = say(transformer(), 0.8, 0.1, 0.2, -0.1, 0.9, 0.0)
    module.to_theta.weight.data.normal_(std=0.1)
    expected = module(images())
    module.to_theta = wrap(module.to_theta)
    torch.testing.assert_close(module(images()), expected, rtol=0, atol=1e-5)


def test_a_hook_on_to_theta_sees_theta():
    module, seen = transformer(), []
    module.to_theta.register_forward_hook(lambda layer, given, said: seen.append(said))
    module(images())
    assert torch.equal(seen[0], torch.tensor([family("affine").identity] * 3))


def test_it_says_what_it_is():
    said = repr(nn.Sequential(transformer("tps", size=(5, 7), padding_mode="zeros"), transformer()))
    assert "family=tps, size=(5, 7), padding_mode=zeros, align_corners=False" in said
    assert "family=affine, size=as it comes, padding_mode=border" in said


# Numbers that are not finite


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("training", [True, False])
def test_a_finite_theta_whose_grid_is_not_is_refused_before_it_can_end_the_process(padding_mode, training):
    module = SpatialTransformer(nn.Flatten(), "projective", features=25, padding_mode=padding_mode).train(training)
    say(module, 1, 0, 0, 0, 1, 0, 1.25, 0)
    with pytest.raises(NotFiniteError, match="grid of sample 0 is not finite"):
        module(torch.rand(2, 1, 5, 5)).sum().backward()
    spline = SpatialTransformer(nn.Flatten(), "tps", features=25, padding_mode=padding_mode).train(training)
    say(spline, *[1e38] * 32)
    with pytest.raises(NotFiniteError, match="theta of sample 0 is not finite"):
        spline(torch.rand(2, 1, 5, 5)).sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_training_does_not_wait_and_testing_can_be_captured():
    module, noise = transformer("tps").cuda(), images().cuda()
    module(noise), module.eval()(noise)
    torch.cuda.set_sync_debug_mode("error")
    try:
        module.train()(noise).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    module.eval()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        expected = module(noise)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            found = module(noise)
        graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(found, expected)
    module.to_theta.bias.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError):
        module(noise)


# For an optimizer


def test_parameter_groups_give_the_transformer_its_rate_and_spare_the_biases():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(transformer()), nn.Linear(2, 2))
    net[0].bias.requires_grad_(False)
    groups = parameter_groups(net, 0.5, localization=0.1, weight_decay=0.01, localization_decay=3.0)
    found = {id(weight): (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    own = {id(weight) for weight in net[1].parameters()}
    for weight in net.parameters():
        rate, decay = (0.05, 0.03) if id(weight) in own else (0.5, 0.01)
        expected = (pytest.approx(rate), pytest.approx(decay) if weight.ndim > 1 else 0.0)
        assert (found.pop(id(weight)) == expected) if weight.requires_grad else id(weight) not in found
    assert not found and sum(len(group["params"]) for group in groups) == 2 * 3 + 2 + 3
    torch.optim.AdamW(groups, lr=0.5).step()


def test_parameter_groups_of_its_own_change_nothing_but_the_decay_of_biases():
    groups = parameter_groups(transformer(), 0.5)
    assert {group["lr"] for group in groups} == {0.5} and {group["weight_decay"] for group in groups} == {0.0}

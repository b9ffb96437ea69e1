"""deep.py: looks in a row against matrices multiplied by hand, a warp of a warp, and networks written out with torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_name import build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stn_helpers.data.sets import load
from stn_helpers.theta import affine
from stn_helpers.training.trainer import Trainer
from stn_helpers.transformer import SpatialTransformer
from studies.deep import BRIEF, STUDY, RefiningTransformer

LOOKS = ["digit-looks-1", "digit-looks-2", "digit-looks-2-resampled", "digit-map"]


class Says(nn.Module):
    """A localization network whose features are what it is told, look by look."""

    def __init__(self, thetas: list[torch.Tensor]):
        super().__init__()
        self.thetas, self.asked = thetas, []

    def forward(self, images):
        self.asked.append(images)
        return self.thetas[len(self.asked) - 1].flatten(1)


def told(thetas: list[torch.Tensor], **options) -> RefiningTransformer:
    """A refining transformer that corrects by these thetas."""
    transformer = RefiningTransformer(Says(thetas), len(thetas), features=6, **options).double().requires_grad_(False)
    with torch.no_grad():
        transformer.to_theta.weight.copy_(torch.eye(6))
        transformer.to_theta.bias.zero_()
    return transformer


def smooth(count: int = 2, side: int = 40) -> torch.Tensor:
    """Blobs that fade out towards the edge, float64."""
    across = torch.linspace(-1, 1, side, dtype=torch.float64)
    x, y = across.expand(side, side), across[:, None].expand(side, side)
    blobs = [torch.exp(-((x - 0.2 * k) ** 2 + 2 * (y + 0.1 * k) ** 2) / 0.08) * (1 + x) for k in range(count)]
    return torch.stack(blobs)[:, None]


thetas = st.builds(
    lambda angle, scale, x, y: affine(torch.tensor([angle, -angle], dtype=torch.float64), scale, shift=(x, y)),
    st.floats(-40, 40),
    st.floats(0.8, 1.2),
    st.floats(-0.2, 0.2),
    st.floats(-0.2, 0.2),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(thetas, min_size=1, max_size=4))
def test_looks_are_the_products_of_their_corrections(corrections):
    found = told(corrections).looks(smooth())
    product = np.eye(3)[None]
    for theta, correction in zip(found, corrections, strict=True):
        whole = np.concatenate([correction.numpy(), np.broadcast_to([[[0, 0, 1.0]]], (2, 1, 3))], axis=1)
        product = product @ whole
        np.testing.assert_allclose(theta, product[:, :2], rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(thetas, thetas)
def test_a_composed_warp_is_the_warp_of_a_warp_but_for_what_interpolation_blurs(first, then):
    images = smooth()
    composed, resampled = (told([first, then], resample=way, padding_mode="zeros")(images) for way in (False, True))
    # Bilinear reading errs by an eighth of the second derivative a pixel squared: about 0.03 of these blobs, once a reading.
    assert (composed - resampled).abs().max() < 0.1 * images.max()
    grid = F.affine_grid(first, list(images.shape), align_corners=False)
    once = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    grid = F.affine_grid(then, list(images.shape), align_corners=False)
    torch.testing.assert_close(resampled, F.grid_sample(once, grid, padding_mode="zeros", align_corners=False), rtol=0, atol=1e-6)


@torch.no_grad()
def test_what_has_left_the_frame_comes_back_only_if_theta_is_composed():
    images = torch.rand(1, 1, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    away, back = affine(shift=(1.0, 0.0)).double(), affine(shift=(-1.0, 0.0)).double()
    composed, resampled = (told([away, back], resample=way, padding_mode="zeros")(images) for way in (False, True))
    torch.testing.assert_close(composed, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(resampled[..., 10:], images[..., 10:], rtol=0, atol=1e-6)
    assert not resampled[..., :10].any()


@pytest.mark.parametrize("resample", [False, True])
def test_each_look_sees_what_the_looks_before_it_made(resample):
    images, turns = smooth(), [affine(torch.tensor([20.0, -10.0])).double(), affine(scale=0.9).double().expand(2, 2, 3)]
    transformer = told([*turns, turns[0]], resample=resample)
    transformer.looks(images)
    asked = transformer.localization.asked
    assert torch.equal(asked[0], images)
    grid = F.affine_grid(turns[0], list(images.shape), align_corners=False)
    once = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(asked[1], once, rtol=0, atol=1e-6)


@torch.no_grad()
def test_one_look_is_a_plain_transformer():
    one, plain = build("digit-looks-1", 3).transformer, build("digit-looks-1", 3).transformer
    plain.__class__ = SpatialTransformer
    for each in (one, plain):
        each.to_theta.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    images = torch.rand(3, 1, 42, 42)
    torch.testing.assert_close(one(images), plain(images), rtol=0, atol=1e-6)
    assert one(images).shape == (3, 1, 28, 28)


@pytest.mark.parametrize("name", LOOKS)
@torch.no_grad()
def test_before_training_a_transformer_changes_no_logit(name):
    images = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(build(name, 5)(images), build("digit-plain", 5)(images), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_transformer_on_the_map_bends_the_map_alone():
    network, images = build("digit-map").eval(), torch.rand(3, 1, 28, 28)
    network.inner.to_theta.bias.copy_(torch.tensor([-1.0, 0, 0, 0, 1, 0]))  # mirrored left to right
    mirrored = network.classifier[:3](images).flip(-1)
    torch.testing.assert_close(network(images), network.classifier[3:](mirrored), rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", None])
def test_less_than_one_look_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps!r}; expected how often to look, a whole number from 1 up"):
        RefiningTransformer(nn.Linear(2, 2), steps)


@pytest.mark.parametrize("name", LOOKS)
def test_a_network_learns_one_batch_by_heart(name):
    digits = load("digits", train=True).subset(slice(32))
    losses = Trainer(build(name), digits.subset(torch.arange(64 * 50) % 32), BRIEF, seed=0).run_epoch().losses
    assert losses[0] == pytest.approx(np.log(10), abs=0.3) and losses[-1] < 1.5 < losses[0]


def test_every_arm_is_against_the_network_without_a_transformer():
    assert {name for name, arm in STUDY.arms.items() if not arm.against} == {"turned, no ST"}
    assert {arm.train_on for arm in STUDY.arms.values()} == {"rotated"}

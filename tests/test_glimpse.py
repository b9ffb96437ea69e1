"""glimpse.py: a glance chooses by the summary and reads the canvas, and what it costs is time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_name import Given, arm, build

from stn_helpers.data.batches import as_float
from stn_helpers.data.sets import load
from stn_helpers.theta import affine
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer
from studies import glimpse as module
from studies.glimpse import STUDY, cost, glance


@torch.no_grad()
def test_a_glance_chooses_by_the_summary_and_reads_the_canvas():
    transformer, canvas = glance(24), torch.rand(2, 1, 56, 56)
    transformer.to_theta.weight.normal_(generator=torch.Generator().manual_seed(2))
    blocks = F.avg_pool2d(canvas, 2)
    assert torch.equal(transformer.params(canvas), transformer.params(blocks)) and transformer(canvas).shape == (2, 1, 24, 24)
    size, x, y = transformer.params(canvas).unbind(1)
    theta = affine(scale=size[:, None], shift=(x, y))
    grid = F.affine_grid(theta, [2, 1, 24, 24], align_corners=False)
    read = F.grid_sample(canvas, grid, padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(transformer(canvas), read, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_summary_of_28_pixels_changes_nothing_and_fewer_pixels_or_more_layers_do():
    images = torch.rand(4, 1, 28, 28)
    plain = build("digit-plain", 5)(images)
    torch.testing.assert_close(build("digit-summary", 5)(images), plain, rtol=0, atol=1e-5)
    assert not any(torch.allclose(build(name, 5)(images), plain, atol=1e-3) for name in ("digit-deeper", "digit-glance-24"))


@pytest.mark.parametrize("name", ["digit-deeper", "digit-glance-24", "digit-summary"])
def test_a_network_learns_one_batch_by_heart(name):
    digits, recipe = load("digits", train=True).subset(slice(32)), replace(RECIPES["digits"], epochs=1)
    losses = Trainer(build(name), digits.subset(torch.arange(64 * 50) % 32), recipe, seed=0).run_epoch().losses
    assert losses[0] == pytest.approx(np.log(10), abs=0.3) and losses[-1] < 1.5 < losses[0]


def test_what_a_network_costs_is_time_and_leaves_it_able_to_train():
    network = build("digit-glance-24")
    found = cost(network, Given(load("digits", train=False)), arm("cluttered"), 0)["milliseconds"]
    assert 0 < found["forward"] < found["training"]
    assert all(weight.requires_grad for weight in network.parameters())


def test_on_a_gpu_the_clock_is_read_once_all_its_work_is_done(monkeypatch):
    """A stand-in for a card: a clock of our own that only its synchronize moves on."""
    waited, network = [], build("digit-plain").eval()

    class OnCard(torch.Tensor):
        is_cuda = True

    digits = load("digits", train=False).subset(slice(20))
    monkeypatch.setattr(module, "as_float", lambda images: as_float(images).as_subclass(OnCard))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(module.time, "perf_counter", lambda: len(waited))
    found = cost(network, Given(digits), arm("cluttered"), 0)["milliseconds"]
    assert found == {"forward": 1000.0, "training": 1000.0} and len(waited) == 24  # before and after each of twelve


def test_the_cost_is_measured_where_network_and_pictures_lie():
    given = Given(load("digits", train=False).subset(slice(20)))
    bent, poses = given.bent("cluttered")
    given.bent = lambda name: (bent.to("meta"), poses)
    assert cost(build("digit-glance-24").to("meta"), given, arm("cluttered"), 0)["milliseconds"]["training"] >= 0


def test_every_arm_is_against_the_whole_canvas():
    assert {name for name, arm in STUDY.arms.items() if not arm.against} == {"whole canvas"}

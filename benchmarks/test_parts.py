"""What the parts of the tutorial network cost, forward and backward, on a batch of 64 pictures."""

import pytest
import torch

from stn_helpers.sampler import sample
from studies.study import get

BATCH = 64


def parts():
    """{part: a function that runs it forward and backward}; the first is the whole network."""
    torch.manual_seed(0)
    net = get("tutorial").arms["with ST"].build().to(memory_format=torch.channels_last).train()
    images = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    st = net.transformer
    theta = st.params(images).detach().requires_grad_()
    grid = st.grid(images, theta).detach().requires_grad_()
    return {
        "the whole network": lambda: net(images).sum().backward(),
        "localization network": lambda: st.params(images).sum().backward(),
        "grid": lambda: st.grid(images, theta).sum().backward(),
        "sampler": lambda: sample(images, grid, align_corners=True).sum().backward(),
        "classifier": lambda: net.classifier(images).sum().backward(),
    }


@pytest.mark.benchmark(group="parts")
@pytest.mark.parametrize("what", parts())
def test_part(benchmark, what):
    run = parts()[what]
    benchmark.extra_info.update(images=BATCH, what=what)
    benchmark.pedantic(run, rounds=30, warmup_rounds=5)

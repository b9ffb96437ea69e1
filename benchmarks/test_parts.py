"""What the parts of the tutorial network cost, forward and backward, on a batch of 64 pictures."""

import pytest
import torch

from studies.study import get
from studies.timed import step_parts

BATCH = 64


def parts():
    """{part: a function that runs it forward and backward}; the first is the whole network."""
    torch.manual_seed(0)
    net = get("tutorial").arms["with ST"].build().to(memory_format=torch.channels_last)
    return step_parts(net, torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last))


@pytest.mark.benchmark(group="parts")
@pytest.mark.parametrize("what", parts())
def test_part(benchmark, what):
    run = parts()[what]
    benchmark.extra_info.update(images=BATCH, what=what)
    benchmark.pedantic(run, rounds=30, warmup_rounds=5)

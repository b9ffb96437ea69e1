"""Training the tutorial network: the loop that people copy, against ours. Same network, same batch size."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from stn_helpers.data.batches import batches
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer
from studies.study import get
from studies.timed import copied_loop

BATCH, STEPS, ROUNDS = 64, 40, 5
ARM = get("tutorial").arms["tutorial's recipe, with ST"]


def our_loop(data, dtype, device="cpu"):
    """`Trainer`, as `fit` drives it, with flips and crops."""
    recipe = replace(RECIPES["tutorial"], flips=True, crop_pixels=4)
    trainer = Trainer(ARM.build().to(device), data.to(device), recipe, seed=0, dtype=dtype)
    trainer.model.train()
    stream = iter(())

    def run():
        nonlocal stream
        for _ in range(STEPS):
            batch = next(stream, None)
            if batch is None:
                stream = batches(trainer.train, BATCH, trainer.generator, recipe.flips, recipe.crop_pixels)
                batch = next(stream)
            trainer.step(*batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()

    return run


LOOPS = {
    "the loop people copy": lambda data: copied_loop(ARM.build(), data, 0, STEPS),
    "the loop people copy, 2 loader workers": lambda data: copied_loop(ARM.build(), data, 2, STEPS),
    "ours, float32": lambda data: our_loop(data, torch.float32),
    "ours, bfloat16": lambda data: our_loop(data, torch.bfloat16),
}
if torch.cuda.is_available():
    LOOPS["ours, bfloat16, CUDA"] = lambda data: our_loop(data, torch.bfloat16, "cuda")


@pytest.mark.benchmark(group="training")
@pytest.mark.parametrize("what", LOOPS)
def test_training(benchmark, train_set, what):
    run = LOOPS[what](train_set)
    benchmark.extra_info.update(images=BATCH * STEPS, what=what)
    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)


def test_peak_memory(note, train_set):
    """The most memory that a process holds while it trains an epoch on all of CIFAR-10, data included."""
    pytest.importorskip("resource", reason="this system has no getrusage")
    code = (
        "import resource, sys\n"
        "from studies.__main__ import main\n"
        "main(['train', 'tutorial', 'with ST', '--epochs', '1', '--stand-in', '--device', 'cpu', '--out', sys.argv[1]])\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
    peak = int(done.stdout.split("peak")[-1]) / 1e9
    note["peak_memory_gb"] = round(peak, 2)
    assert peak < 2.5

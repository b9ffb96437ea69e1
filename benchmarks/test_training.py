"""Training the tutorial network: the loop that people copy, against ours. Same network, same batch size."""

import subprocess
import sys
from dataclasses import replace
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from timeit import repeat

import pytest
import torch

from stn_helpers.data.batches import batches
from stn_helpers.training.devices import dtype_name, pick_precision
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer
from studies.networks import mflop
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


def test_one_epoch_from_a_terminal(note, train_set):
    """`train` for one epoch, start-up and evaluation included: its memory, and how many times as fast as the copied loop."""
    pytest.importorskip("resource", reason="this system has no getrusage")
    code = (
        "import resource, sys\n"
        "from studies.__main__ import main\n"
        "main(['train', 'tutorial', 'with ST', '--epochs', '1', '--stand-in', '--device', 'cpu', '--out', sys.argv[1]])\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)\n"
    )
    with TemporaryDirectory() as out:
        began = perf_counter()
        done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
        ours = perf_counter() - began
    run = LOOPS["the loop people copy"](train_set)
    theirs = median(repeat(run, number=1, repeat=3)) * len(train_set) / (BATCH * STEPS)
    peak = int(done.stdout.split("peak")[-1]) / 1e9
    note.update(peak_memory_gb=round(peak, 2), epoch_over_copied_loop=round(theirs / ours, 2))
    assert peak < 2.5


def test_share_of_the_peak(note, train_set):
    """A training step's arithmetic a second, as a share of what a large matrix product reaches in the same minute."""
    dtype = pick_precision("auto", torch.device("cpu"))
    step, large = our_loop(train_set, dtype), torch.rand(2048, 2048).to(dtype)
    seconds = median(repeat(step, number=1, repeat=3)) / STEPS
    peak = 2 * 2048**3 / min(repeat(lambda: large @ large, number=2, repeat=5)) * 2
    flop = 3e6 * BATCH * mflop(ARM.build(), train_set)  # a backward pass takes twice a forward pass
    note["share_of_peak"] = {
        "precision": dtype_name(dtype),
        "peak_gflop_s": round(peak / 1e9),
        "share": round(flop / seconds / peak, 3),
    }

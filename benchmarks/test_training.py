"""Training the tutorial network: the loop that people copy, against ours. Same network, same batch size."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from stn_helpers.data.batches import batches
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer
from studies.networks import CIFAR10_MEAN, CIFAR10_STD
from studies.study import get

BATCH, STEPS, ROUNDS = 64, 40, 5
ARM = get("tutorial").arms["tutorial's recipe, with ST"]


class PerImage(Dataset):
    """What torchvision's CIFAR10 does with an image when it is asked for one."""

    def __init__(self, data):
        self.images, self.labels = data.images.permute(0, 2, 3, 1).numpy(), data.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, k):
        return self.transform(Image.fromarray(self.images[k])), self.labels[k]


def copied_loop(data, workers: int):
    """DataLoader, PIL transforms image by image, contiguous tensors, .item() in each step."""
    loader = DataLoader(PerImage(data), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    net = ARM.build().train()
    net.normalize = torch.nn.Identity()  # its loader has normalised already
    net.transformer.localization[0] = torch.nn.Identity()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    stream = iter(loader)

    def run():
        nonlocal stream
        running = 0.0
        for _ in range(STEPS):
            batch = next(stream, None)
            if batch is None:
                stream = iter(loader)
                batch = next(stream)
            images, labels = batch
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
        return running

    return run


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
    "the loop people copy": lambda data: copied_loop(data, workers=0),
    "the loop people copy, 2 loader workers": lambda data: copied_loop(data, workers=2),
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

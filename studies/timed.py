"""Timed: what `make bench` times on a CPU and `make gpu` on a card: the loop that people copy, and the parts of a step."""

from collections.abc import Callable

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from stn_helpers.data.sets import Images
from stn_helpers.sampler import sample

from .networks import CIFAR10_MEAN, CIFAR10_STD


class PerImage(Dataset):
    """What torchvision's CIFAR10 does with an image when it is asked for one."""

    def __init__(self, data: Images):
        self.images, self.labels = data.images.permute(0, 2, 3, 1).cpu().numpy(), data.labels.tolist()
        moves = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()
        self.transform = transforms.Compose([*moves, transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[k])), self.labels[k]


def copied_loop(net: nn.Module, data: Images, workers: int, steps: int) -> Callable[[], float]:
    """A function that takes so many steps, on the network's device, and returns the losses' sum.

    DataLoader, PIL transforms image by image, batches of 64, contiguous tensors, float32, plain SGD, .item() in each step.
    net: the tutorial network; it is changed, because this loader has normalised already.
    """
    net.normalize = net.transformer.localization[0] = nn.Identity()
    device, optimizer = next(net.train().parameters()).device, SGD(net.parameters(), lr=0.01)
    loader = DataLoader(PerImage(data), batch_size=64, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    stream = iter(())

    def run() -> float:
        nonlocal stream
        running = 0.0
        for _ in range(steps):
            batch = next(stream, None)
            if batch is None:
                stream = iter(loader)
                batch = next(stream)
            images, labels = (tensor.to(device) for tensor in batch)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
        return running

    return run


def step_parts(net: nn.Module, images: Tensor) -> dict[str, Callable[[], None]]:
    """{part of the tutorial network: a function that runs it forward and backward}; the first is the whole network."""
    transformer = net.train().transformer
    theta = transformer.params(images).detach().requires_grad_()
    grid = transformer.grid(images, theta).detach().requires_grad_()
    return {
        "the whole network": lambda: net(images).sum().backward(),
        "localization network": lambda: transformer.params(images).sum().backward(),
        "grid": lambda: transformer.grid(images, theta).sum().backward(),
        "sampler": lambda: sample(images, grid, align_corners=True).sum().backward(),
        "classifier": lambda: net.classifier(images).sum().backward(),
    }

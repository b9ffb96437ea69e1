"""Make the pictures in assets/ that the project draws itself: `make figures`. Needs CIFAR-10."""

import torch

from stn_helpers.checkpoint import fill, load_weights, write_whole
from stn_helpers.classifiers import build
from stn_helpers.data import load
from stn_helpers.grid import outline
from stn_helpers.plots import before_after, png
from stn_helpers.studies import ASSETS


def cifar10_attended() -> None:
    """Test images, where the shipped network looks in them, and what its classifier then sees."""
    path = ASSETS / "checkpoints" / "cifar10_seed_stn.safetensors"
    net = build("seed").eval()
    fill(net, load_weights(path)[0], path)
    test = load("cifar10", train=False)
    # The second test image of each of the first eight classes: chosen by number, not by looks.
    images = test.images[[int((test.labels == k).nonzero()[1]) for k in range(8)]].float() / 255
    with torch.no_grad():
        theta, seen = net.transformer.params(images), net.transformer(images)
    fig = before_after(images, seen, outline(net.transformer.family, theta), align_corners=True)
    write_whole(ASSETS / "cifar10_attended.png", png(fig))


if __name__ == "__main__":
    cifar10_attended()

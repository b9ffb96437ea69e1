"""A spatial transformer in one file, torch alone: copy what you need.

It learns to read ten letters that are turned by up to 60 degrees, from their names alone, and prints how far they are off
before and behind the transformer:  python examples/minimal.py   (a minute on a laptop)
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LETTERS = {  # 5 x 5 dots, row by row; none of them is another one turned
    "A": "01110 10001 11111 10001 10001",
    "E": "11111 10000 11110 10000 11111",
    "F": "11111 10000 11110 10000 10000",
    "G": "01111 10000 10011 10001 01111",
    "J": "00111 00010 00010 10010 01100",
    "K": "10001 10010 11100 10010 10001",
    "P": "11110 10001 11110 10000 10000",
    "R": "11110 10001 11110 10010 10001",
    "T": "11111 00100 00100 00100 00100",
    "Y": "10001 01010 00100 00100 00100",
}


class SpatialTransformer(nn.Module):
    """Localization network -> theta -> grid -> sampler. theta says where each output pixel looks in the input."""

    def __init__(self, localization: nn.Module, features: int):
        super().__init__()
        self.localization = localization
        self.to_theta = nn.Linear(features, 6)
        # Start at the identity: zero weights, and "change nothing" as the bias. Otherwise the first pictures are noise.
        nn.init.zeros_(self.to_theta.weight)
        with torch.no_grad():
            self.to_theta.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, enabled=False):  # half precision would move the grid by parts of a pixel
            theta = self.to_theta(self.localization(images).float()).reshape(-1, 2, 3)
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        # The same align_corners in both calls. Zeros are black here, because the images are not normalised yet.
        return F.grid_sample(images, grid.to(images), padding_mode="zeros", align_corners=False), theta


class Net(nn.Module):
    """A transformer and a small classifier: (N, 1, 28, 28) -> (logits, theta)."""

    def __init__(self, classes: int = 10):
        super().__init__()
        look = nn.Sequential(
            *(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.GELU(), nn.Conv2d(8, 16, 5, stride=2, padding=2), nn.GELU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 32), nn.GELU()),
        )
        self.transformer = SpatialTransformer(look, 32)
        self.classifier = nn.Sequential(
            *(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
            *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, classes)),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen, theta = self.transformer(images)
        return self.classifier(seen), theta


def letters(count: int, generator: torch.Generator, degrees: float = 60) -> tuple[Tensor, Tensor, Tensor]:
    """(images (N, 1, 28, 28), labels (N,), angle (N,), radians): letters turned at random, with much noise on them."""
    dots = torch.tensor([[float(dot) for dot in rows.replace(" ", "")] for rows in LETTERS.values()]).reshape(-1, 1, 5, 5)
    clean = F.pad(F.interpolate(dots, size=(15, 15)), (7, 6, 7, 6))
    labels = torch.randint(len(clean), (count,), generator=generator)
    angle = (2 * torch.rand(count, generator=generator) - 1) * math.radians(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3)
    images = F.grid_sample(clean[labels], F.affine_grid(turn, [count, 1, 28, 28], align_corners=False), align_corners=False)
    return (images + 0.5 * torch.randn(images.shape, generator=generator)).clamp(0, 1), labels, angle


def spread(angle: Tensor) -> float:
    """Mean absolute deviation from the mean, degrees. Any one pose will do: nothing asks for an upright one."""
    return math.degrees((angle - angle.mean()).abs().mean())


def main(steps: int) -> tuple[float, float, float]:
    """Train, print and return (accuracy, degrees off before, degrees off behind the transformer)."""
    torch.manual_seed(0)
    net, generator = Net(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        images, labels, _ = letters(64, generator)
        loss = F.cross_entropy(net(images)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.2f}")
    images, labels, angle = letters(1000, generator)
    with torch.inference_mode():
        logits, theta = net.eval()(images)
    # A letter that was turned by a is seen turned by a + what theta turns.
    left = angle + torch.atan2(theta[:, 1, 0], theta[:, 0, 0])
    right = 100 * (logits.argmax(1) == labels).float().mean().item()
    print(f"{right:.1f} % right; off by {spread(angle):.0f} degrees before the transformer, by {spread(left):.0f} behind it")
    return right, spread(angle), spread(left)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    main(parser.parse_args().steps)

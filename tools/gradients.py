"""The opening pictures of notebooks 02, a network that reads angles, and 03b, how every pixel pulls at theta."""

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from stn_helpers.data.sets import load
from stn_helpers.families import outline
from stn_helpers.grid import sampling_grid, target_points
from stn_helpers.sampler import sample, warp
from stn_helpers.show.plots import LOOK, ORANGE, SKY, before_after, draw
from stn_helpers.theta import affine, map_points
from stn_helpers.transformer import SpatialTransformer, light_localization

SMALLER = affine(scale=1.4)  # a black frame around the digit, so that it has room to turn
TURNED = affine(angle=30, scale=1.1)
RATE = 0.2  # of the gradient descent on theta
STEPS = (0, 20, 200)


def misplaced_digit() -> tuple[Tensor, Tensor]:
    """A digit turned and shrunk, and the same digit upright: both (1, 28, 28) in [0, 1]."""
    test = load("digits", train=False)
    digit = test.images[int((test.labels == 2).nonzero()[0])].float() / 255
    upright = warp(digit, SMALLER, padding_mode="zeros")
    return warp(upright, TURNED), upright


def pulls(picture: Tensor, target: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Where each target pixel looks, and where the loss wants it to look instead: two tensors (H * W, 2), (x, y)."""
    grid = sampling_grid(theta, picture.shape[-2:]).requires_grad_()
    loss = F.mse_loss(sample(picture[None], grid)[0], target)
    (gradient,) = torch.autograd.grad(loss, grid)
    return grid.detach().reshape(-1, 2), -gradient.reshape(-1, 2)


def descend(picture: Tensor, target: Tensor, steps: int) -> list[Tensor]:
    """theta (1, 2, 3) before each step of gradient descent from the identity, and after the last."""
    theta = affine()
    path = [theta]
    for _ in range(steps):
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.mse_loss(warp(picture, theta), target), theta)
        theta = (theta - RATE * gradient).detach()
        path.append(theta)
    return path


def arrows(ax: Axes, points: Tensor, moves: Tensor, size: tuple[int, int], longest: float, color: str) -> None:
    """Arrows over an image of this size: from the points (M, 2), the longest `longest` pixels long. Tiny ones are left out."""
    high, wide = size
    half = torch.tensor([wide / 2, high / 2])
    start, move = (points + 1) * half - 0.5, moves * half
    length = move.norm(dim=1)
    kept = length > 0.08 * length.max()
    start, move = start[kept], move[kept] / length.max() * longest
    drawn = ax.quiver(
        *start.T.numpy(), *move.T.numpy(), angles="xy", scale_units="xy", scale=1, color=color, width=0.0075,
        headwidth=3.6, headlength=4, headaxislength=3.6, minlength=0.1, zorder=3,
    )  # fmt: skip
    drawn.set_path_effects([Stroke(linewidth=0.9, foreground="black"), Normal()])


def theta_gradient() -> Figure:
    """A misplaced digit with an arrow at every pixel, the one step of theta that they sum to, and where 200 steps lead."""
    picture, target = misplaced_digit()
    size = picture.shape[-2:]
    path = descend(picture, target, STEPS[-1])
    points, wanted = pulls(picture, target, path[0])
    coarse = target_points((9, 9))
    # The chain rule: theta's gradient is the sum of every pull times (x, y, 1) of the target point it belongs to.
    homogeneous = torch.cat([target_points(size), torch.ones(len(points), 1)], dim=1)
    step = (wanted.T @ homogeneous)[None]
    assert torch.allclose(step, (path[1] - path[0]) / RATE, atol=1e-5)

    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(10.4, 3.75), layout="constrained")
        left, middle, right = fig.subfigures(1, 3, width_ratios=(1, 1, 0.98))
        for part, title in ((left, "each pixel says where it would rather look"), (middle, "theta adds them up: one step for all")):
            ax = part.subplots()
            draw(ax, picture, title)
            if part is left:
                arrows(ax, points, wanted, size, 4.5, ORANGE)
            else:
                arrows(ax, coarse, map_points(step, coarse)[0], size, 3.4, SKY)
        small = right.subplots(2, 2)
        seen = [warp(picture, path[k]) for k in STEPS]
        names = ["before", *(f"after {k} steps" for k in STEPS[1:]), "the goal"]
        for ax, image, name in zip(small.flat, [*seen, target], names, strict=True):
            draw(ax, image, name)
    return fig


def angle_reader(steps: int = 300) -> Figure:
    """The opening picture of notebook 02: turned digits, the window of the angle that a small network reads, and what it shows."""
    train, test = (warp(load("digits", train=part).images.float() / 255, SMALLER, padding_mode="zeros") for part in (True, False))

    def turned(digits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        degrees = 120 * torch.rand(len(digits), generator=generator) - 60
        return warp(digits, affine(angle=degrees)), -degrees.deg2rad()[:, None]

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = SpatialTransformer(light_localization(channels=1), family="rotation")
    optimizer = torch.optim.Adam(reader.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for _ in range(steps):
        pictures, answers = turned(train[torch.randint(len(train), (96,), generator=generator)], generator)
        optimizer.zero_grad()
        F.mse_loss(reader.params(pictures), answers).backward()
        optimizer.step()
        schedule.step()
    pictures, _ = turned(test[:7], torch.Generator().manual_seed(1))  # the first seven: chosen by number, not by looks
    with torch.no_grad():
        angle, seen = reader.params(pictures), reader(pictures)
    return before_after(pictures, seen, outline(reader.family, angle))

"""The project's own drawing of a spatial transformer: one image walks through its three parts."""

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from stn_helpers.data.sets import test_card
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import warp
from stn_helpers.show.plots import BLUE, GREEN, LOOK, RED, grid_lines, pixels
from stn_helpers.theta import affine, invert

INK, LINE = "#222222", "#555555"
WIDE, HIGH, SIDE = 15.6, 6.0, 2.9  # inches: the drawing, and a picture in it


def spatial_transformer() -> Figure:
    """Localization network -> theta -> grid generator -> sampler, with a real image, a real theta and its real output.

    Theta is not learned here: it is the window that undoes the tilt of the test card. Taught in notebook 03.
    """
    theta = affine(angle=-30, scale=0.6, shift=(0.08, -0.05))
    image = tilted_card(theta)
    output, grid = warp(image, theta), sampling_grid(theta, (7, 7), align_corners=True)[0]
    with matplotlib.rc_context(LOOK):
        fig = Figure(figsize=(WIDE, HIGH))
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(0, HIGH))
        ax.axis("off")
        left, middle, right, low, top = 0.15, 6.85, WIDE - SIDE - 0.15, 0.65, 4.95
        half, line, gap = SIDE / 2, low + SIDE / 2, 0.1
        picture(ax, image, left, low, "input U")
        picture(ax, image, middle, low, "sampling grid on U")
        picture(ax, output, right, low, "output V")
        lattice(ax, grid, middle, low)
        part(ax, left + half, top, "localization\nnetwork", BLUE, wide=2.7)
        part(ax, middle + half, top, "grid\ngenerator", RED, wide=2.7)
        part(ax, (middle + SIDE + right) / 2, line, "sampler", GREEN, wide=1.75, high=0.9)
        numbers(ax, theta[0], (left + middle) / 2 + half, top)
        arrow(ax, (left + half, low + SIDE + gap), (left + half, top - 0.62 - gap))
        arrow(ax, (left + half + 1.35 + gap, top), (left + half + 1.9, top))
        arrow(ax, (middle + half - 1.9, top), (middle + half - 1.35 - gap, top))
        arrow(ax, (middle + half, top - 0.62 - gap), (middle + half, low + SIDE + gap))
        arrow(ax, (left + SIDE + gap, line), (middle - gap, line))
        arrow(ax, (middle + SIDE + gap, line), ((middle + SIDE + right - 1.75) / 2 - gap, line))
        arrow(ax, ((middle + SIDE + right + 1.75) / 2 + gap, line), (right - gap, line))
    return fig


def tilted_card(theta: Tensor) -> Tensor:
    """The test card on a plain wall, hung so that theta looks exactly at it: (3, 160, 160)."""
    wall = torch.tensor([0.33, 0.36, 0.40]).reshape(3, 1, 1)
    # Drawn at the size at which it will be seen: shrinking a finer one would alias.
    return warp(test_card(96) - wall, invert(theta), size=(160, 160), padding_mode="zeros") + wall


def picture(ax: Axes, image: Tensor, x: float, y: float, name: str) -> None:
    """An image with its lower left corner at (x, y), and its name below."""
    ax.imshow(pixels(image), cmap="gray", vmin=0, vmax=1, extent=(x, x + SIDE, y, y + SIDE), interpolation="nearest", zorder=1)
    ax.add_patch(Rectangle((x, y), SIDE, SIDE, fill=False, edgecolor=LINE, linewidth=1.5, zorder=2))
    ax.text(x + SIDE / 2, y - 0.12, name, ha="center", va="top", fontsize=22, color=INK)
    ax.set(xlim=(0, WIDE), ylim=(0, HIGH), aspect="auto")


def lattice(ax: Axes, grid: Tensor, x: float, y: float) -> None:
    """The sampling grid (h, w, 2) over a picture at (x, y)."""
    for line in grid_lines(grid):
        across, down = ((line + 1) / 2 * SIDE).unbind(-1)
        ax.plot(x + across, y + SIDE - down, color=RED, linewidth=1.6, zorder=3)


def part(ax: Axes, x: float, y: float, name: str, color: str, wide: float, high: float = 1.25) -> None:
    """One of the three parts: a rounded box around (x, y)."""
    box = FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, boxstyle="round,pad=0,rounding_size=0.18", color=color, zorder=4)
    ax.add_patch(box)
    ax.text(x, y, name, ha="center", va="center", fontsize=22, weight="bold", color="white", linespacing=1.1, zorder=5)


def numbers(ax: Axes, theta: Tensor, x: float, y: float) -> None:
    """theta (2, 3) as a matrix around (x, y)."""
    for row, dy in zip(theta.tolist(), (0.24, -0.24), strict=True):
        for value, dx in zip(row, (-0.42, 0.4, 1.27), strict=True):
            text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
            ax.text(x + dx, y + dy, text, ha="right", va="center", fontsize=19, color=INK)
    for side in (-1, 1):
        edge = x + side * 1.36
        inward = edge - side * 0.1
        ax.plot([inward, edge, edge, inward], [y + 0.52, y + 0.52, y - 0.52, y - 0.52], color=INK, linewidth=1.8)
    ax.text(x, y + 0.56, "theta", ha="center", va="bottom", fontsize=22, color=INK)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A straight arrow."""
    style = {"arrowstyle": "-|>", "mutation_scale": 24, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(start, end, linewidth=2.6, color=LINE, **style))

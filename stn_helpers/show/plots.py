"""Figures, in one look: opaque white, Okabe-Ito colours that colour-blind readers can tell apart, cividis for maps."""

from collections.abc import Sequence
from html import escape

import matplotlib
import matplotlib.colors
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = "#000000 #E69F00 #56B4E9 #009E73 #F0E442 #0072B2 #D55E00 #CC79A7".split()
GRAY = "#767676"  # dark enough to be read on white
PAPER = 0.93  # how bright
SHOWN = 90  # pixels of the page for an inch of a figure, which is drawn finer
LOOK = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 144,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK]),
    "axes.grid": False,
    "legend.frameon": False,
    "image.cmap": "gray",
    "image.interpolation": "nearest",
}


def figure(rows: int = 1, columns: int = 1, width: float = 3.0, height: float = 2.6, **options) -> tuple[Figure, np.ndarray]:
    """(figure, axes (rows, columns)) in the series' look. width and height: inches an axis."""
    with matplotlib.rc_context(LOOK):
        # A bare Figure, not pyplot's: nothing global holds on to it, and no backend shows it a second time.
        fig = Figure(figsize=(columns * width, rows * height), layout="constrained")
        return fig, fig.subplots(rows, columns, squeeze=False, **options)


def show(picture: Figure | Sequence[Tensor], alt: str, titles: Sequence[str] = ()) -> None:
    """Show a figure, or a row of images, in the notebook, with `alt` stored for readers who cannot see it.

    Raises ValueError where alt is empty.
    """
    Screen().show(picture, alt, titles)


class Screen:
    """One place on the page: the first `show` makes it, each later one replaces what stands there."""

    def __init__(self):
        self.handles = None

    def show(self, picture: Figure | Sequence[Tensor], alt: str, titles: Sequence[str] = ()) -> None:
        """As the function `show`."""
        from IPython.display import display

        if not alt.strip():
            raise ValueError("alt is empty; say in a sentence what the picture shows")
        fig = picture if isinstance(picture, Figure) else image_row(picture, titles)
        wide, high = (round(SHOWN * inches) for inches in fig.get_size_inches())
        about = {"image/png": {"alt": alt, "width": wide, "height": high}}
        # nbconvert's pages do not read that alt: there this says it, to readers who listen.
        heard = {"text/html": f'<span role="img" aria-label="{escape(alt)}"></span>', "text/plain": ""}
        bundles = ({"image/png": png(fig), "text/plain": alt}, about), (heard, {})
        if self.handles is None:
            self.handles = [display(data, raw=True, metadata=more, display_id=True) for data, more in bundles]
        else:
            for handle, (data, more) in zip(self.handles, bundles, strict=True):
                handle.update(data, raw=True, metadata=more)


def png(fig: Figure, dpi: int = LOOK["figure.dpi"]) -> bytes:
    """The figure as PNG bytes, in at most 256 colours: that takes two fifths of the room."""
    import io

    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(LOOK):
        fig.savefig(buffer, format="png", dpi=dpi)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def gif(frames: Sequence[Figure], milliseconds: int) -> bytes:
    """Figures of one size as a looping animation, GIF bytes. milliseconds: how long each stands."""
    import io

    from PIL import Image

    pictures = [Image.open(io.BytesIO(png(fig, SHOWN))).convert("RGB") for fig in frames]
    # One palette for all frames, from the first, middle and last: a palette a frame would shimmer.
    sheet = Image.new("RGB", (pictures[0].width, 3 * pictures[0].height))
    for k, picture in enumerate((pictures[0], pictures[len(pictures) // 2], pictures[-1])):
        sheet.paste(picture, (0, k * picture.height))
    palette = sheet.quantize(colors=64)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format="gif", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True)
    return buffer.getvalue()


def pixels(image: Tensor) -> np.ndarray:
    """One image (C, H, W) or (H, W), uint8 or in [0, 1], as matplotlib draws it: (H, W) or (H, W, 3)."""
    image = image.detach().cpu()
    if image.ndim == 3:
        image = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    return image.numpy() if image.dtype == torch.uint8 else image.float().clamp(0, 1).numpy()


def draw(ax: Axes, image: Tensor, title: str = "") -> None:
    """An image on an axis, without ticks. Gray images are drawn from black at 0 to white at the top of their type."""
    top = 255 if image.dtype == torch.uint8 else 1
    ax.imshow(pixels(image), cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")


def draw_line(
    ax: Axes, points: Tensor, size: tuple[int, int], align_corners: bool = False, color: str = ORANGE, width: float = 1.8
):
    """A line of normalised points (M, 2), last axis (x, y), over an image of size (H, W) that is already drawn."""
    high, wide = size
    x, y = points.detach().cpu().unbind(-1)
    for_pixel = (lambda v, n: (v + 1) / 2 * (n - 1)) if align_corners else (lambda v, n: (v + 1) / 2 * n - 0.5)
    (line,) = ax.plot(for_pixel(x, wide), for_pixel(y, high), color=color, linewidth=width, clip_on=False)
    line.set_in_layout(False)  # a line that leaves the picture must not shift the page
    ax.set(xlim=(-0.2 * wide, 1.2 * wide - 0.5), ylim=(1.2 * high - 0.5, -0.2 * high))


def grid_lines(grid: Tensor, lines: int = 9) -> list[Tensor]:
    """Rows and columns of a sampling grid (H, W, 2), evenly chosen with both ends: `lines` of each, as lines of points (M, 2)."""
    height, width = grid.shape[:2]
    rows = torch.linspace(0, height - 1, min(lines, height)).round().long()
    columns = torch.linspace(0, width - 1, min(lines, width)).round().long()
    return [*grid[rows], *grid[:, columns].unbind(1)]


def draw_grid(ax: Axes, grid: Tensor, size: tuple[int, int], lines: int = 9, align_corners: bool = False) -> None:
    """A sampling grid (H, W, 2) over an image of size (H, W) that is already drawn; its top row, target row 0, is blue."""
    for k, line in enumerate(grid_lines(grid, lines)):
        draw_line(ax, line, size, align_corners, color=BLUE if k == 0 else RED, width=2.4 if k == 0 else 0.9)


def two_inks(pair: Tensor) -> Tensor:
    """Two channels (2, H, W) in [0, 1], 0 is paper, as one picture, (3, H, W): the first orange, the second blue.

    The paper is a little gray, so that its edge is seen on a white page. Where both inks are, it is nearly black.
    """
    # What a full layer of each ink leaves of the light, channel by channel.
    inks = [torch.tensor(matplotlib.colors.to_rgb(color))[:, None, None] for color in (ORANGE, BLUE)]
    layers = [1 - layer.clamp(0, 1) * (1 - ink.to(layer)) for layer, ink in zip(pair.detach(), inks, strict=True)]
    return PAPER * layers[0] * layers[1]


def image_row(images: Sequence[Tensor], titles: Sequence[str] = (), side: float = 1.6) -> Figure:
    """Images side by side, each with its title."""
    fig, axes = figure(1, len(images), side, side + 0.25)
    for ax, image, title in zip(axes[0], images, [*titles, *[""] * len(images)], strict=False):
        draw(ax, image, title)
    return fig


def image_rows(rows: dict[str, Sequence[Tensor]], titles: Sequence[str] = (), side: float = 1.15) -> Figure:
    """Rows of images, each row under one name; titles: one an image, row after row."""
    many = max(len(images) for images in rows.values())
    fig, axes = figure(len(rows), many, side, side + (0.2 if titles else 0))
    remaining = iter(titles)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            draw(ax, image, next(remaining, ""))
        line[0].text(-0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", rotation=90)
    return fig


def grids_and_views(pictures: dict[str, Tensor], rows: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """Pictures on top, each under its title; below, a row for each name: its grid on each picture, and what is seen through it.

    rows: {name: (grids (N, h, w, 2), views (N, C, h, w))} for the N pictures.
    """
    fig, axes = figure(1 + len(rows), 2 * len(pictures), 1.15, 1.15)
    for k, (title, picture) in enumerate(pictures.items()):
        draw(axes[0, 2 * k], picture, title)
        axes[0, 2 * k + 1].axis("off")
        for line, (grids, views) in zip(axes[1:], rows.values(), strict=True):
            draw(line[2 * k], picture)
            draw_grid(line[2 * k], grids[k], picture.shape[-2:], lines=6)
            draw(line[2 * k + 1], views[k])
    for line, name in zip(axes[1:], rows, strict=True):
        line[0].text(-0.05, 0.5, name, transform=line[0].transAxes, ha="right", va="center", rotation=90)
    return fig


def before_after(images: Tensor, seen: Tensor, lines: Tensor, align_corners: bool = False, note: str = "") -> Figure:
    """Images with the outline of what is attended; below each, what the sampler returns for it."""
    fig, axes = figure(2, len(images), 1.25, 1.3)
    for k, (above, below) in enumerate(axes.T):
        draw(above, images[k])
        draw_line(above, lines[k], images.shape[-2:], align_corners)
        draw(below, seen[k])
    axes[0, 0].text(-0.05, 0.5, "it looks here", transform=axes[0, 0].transAxes, ha="right", va="center", rotation=90)
    axes[1, 0].text(-0.05, 0.5, "and sees this", transform=axes[1, 0].transAxes, ha="right", va="center", rotation=90)
    if note:
        fig.suptitle(note, fontsize=10)
    return fig


def curves(histories: dict[str, list[dict]], epochs: int, note: str = "") -> Figure:
    """Loss and accuracy over the epochs, one colour a run: training dotted, test solid."""
    fig, axes = figure(1, 2, 4.2, 2.9)
    colors = [BLUE, ORANGE, GREEN, RED, PINK, SKY]
    for (name, history), color in zip(histories.items(), colors, strict=False):
        x = [row["epoch"] for row in history]
        for ax, key in zip(axes[0], ("loss", "accuracy"), strict=True):
            ax.plot(x, [row[f"train_{key}"] for row in history], ":", color=color, label=f"{name}, training")
            ax.plot(x, [row[f"test_{key}"] for row in history], "-", color=color, label=f"{name}, test", marker=".")
    for ax, label in zip(axes[0], ("loss", "accuracy, %"), strict=True):
        ax.set(xlabel="epoch", ylabel=label, xlim=(0.5, epochs + 0.5))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 1].legend(loc="lower right", fontsize=8)
    if note:
        fig.suptitle(note, fontsize=10)
    return fig


def confusion_map(counts: Tensor, classes: Sequence[str], note: str = "") -> Figure:
    """How often class i (row) was called class j (column), in percent of the row."""
    share = 100 * counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    fig, axes = figure(1, 1, 5.4, 4.6)
    ax = axes[0, 0]
    image = ax.imshow(share.numpy(), cmap="cividis", vmin=0, vmax=100)
    ax.set(xlabel="called", ylabel="is", title=note)
    ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    ax.set_yticks(range(len(classes)), classes)
    for i in range(len(classes)):
        for j in range(len(classes)):
            if share[i, j] >= 0.5:
                ink = "black" if share[i, j] > 50 else "white"
                ax.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color=ink, fontsize=8)
    fig.colorbar(image, ax=ax, label="% of the row", shrink=0.8)
    return fig


def histograms(columns: dict[str, Tensor], marks: dict[str, float], note: str = "") -> Figure:
    """One histogram a quantity; a dashed line at `marks`, the value that changes nothing."""
    fig, axes = figure(1, len(columns), 2.6, 2.4)
    for ax, (name, values) in zip(axes[0], columns.items(), strict=True):
        ax.hist(values.cpu().numpy(), bins=60, color=BLUE)
        ax.axvline(marks[name], color=RED, linestyle="--", linewidth=1.2)
        ax.set(xlabel=name, yticks=[])
    axes[0, 0].set_ylabel("images")
    if note:
        fig.suptitle(note, fontsize=10)
    return fig


def draw_gains(ax: Axes, gains: dict[str, dict], title: str = "", most: float | None = None) -> None:
    """Paired differences in points, a row each: {name: {"mean", "low", "high"}}, low and high None for a single seed.
    A row without a difference, {}, stays empty, so that the panels of several sets keep their rows in line.

    A dot is the mean, a bar its 95 % interval. Blue helps, red hurts, gray is an interval that holds zero or is not known.
    most: points to either side that are drawn; of what goes on beyond, the numbers are written.
    """
    ax.axvline(0, color=BLACK, linewidth=0.8)
    for row, gain in enumerate(gains.values()):
        if not gain:
            continue
        known = gain["low"] is not None
        color = BLUE if known and gain["low"] > 0 else RED if known and gain["high"] < 0 else GRAY
        low, high = (gain["low"], gain["high"]) if known else (gain["mean"], gain["mean"])
        ax.plot([low, high], [row, row], color=color, linewidth=2.4, solid_capstyle="butt")
        ax.plot(gain["mean"], row, "o", color=color, markersize=6)
        if most and max(-low, high) > most:
            words = f"{gain['mean']:+.1f}  ({low:+.1f} to {high:+.1f})" if known else f"{gain['mean']:+.1f}"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            ax.text(-0.97 * most, row, words, va="center", color=color, fontsize=8, bbox=box)
    ax.set_yticks(range(len(gains)), gains)
    ax.set(xlabel="points gained", title=title, ylim=(len(gains) - 0.5, -0.5))
    if most:
        ax.set_xlim(-most, most)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)

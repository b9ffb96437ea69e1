"""The pictures in assets/ that the project draws itself: `make figures`, or one by name, `python -m tools.figures NAME`."""

import json
import math
import sys
from contextlib import redirect_stdout

import nbformat
import torch
import torch.nn.functional as F
from IPython.core.inputtransformer2 import TransformerManager
from matplotlib.patches import Rectangle
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import make_grid

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import distorted
from stn_helpers.data.files import write_whole
from stn_helpers.data.sets import load, test_card
from stn_helpers.families import control_points, family, family_grid, outline
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import sample
from stn_helpers.show.plots import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PINK,
    before_after,
    draw,
    draw_grid,
    draw_line,
    figure,
    gif,
    image_rows,
    png,
    two_inks,
)
from stn_helpers.theta import affine, decompose, invert, map_points, projective
from stn_helpers.training.trainer import fit
from studies import addition
from studies import straighten as straightening
from studies.colocalise import STEPS, Finder, colocalise, of_one_digit
from studies.paper_table import ERRORS
from studies.paper_table import SETS as MNIST_SETS
from studies.study import ASSETS, restore

from .diagram import spatial_transformer
from .gradients import angle_reader, theta_gradient

SPLINE = family("tps", 4)
KNOTS = control_points(4)


def cifar10_attended() -> bytes:
    """CIFAR-10 test images, where the shipped network looks in them, and what its classifier then sees. Needs CIFAR-10."""
    net, test = shipped("tutorial_stn"), load("cifar10", train=False)
    # The second test image of each of the first eight classes: chosen by number, not by looks.
    images = as_float(test.images[[int((test.labels == k).nonzero()[1]) for k in range(8)]])
    with torch.no_grad():
        theta, seen = net.transformer.params(images), net.transformer(images)
    return png(before_after(images, seen, outline(net.transformer.family, theta), align_corners=True))


def transformations() -> bytes:
    """One picture and one sampling grid under each kind of transformation: where theta looks, and what is seen."""
    card = test_card(128)
    bend = KNOTS + 0.16 * torch.stack([torch.sin(2.4 * KNOTS[:, 1] + 0.5), torch.sin(2.4 * KNOTS[:, 0])], dim=1)
    kinds = {
        "identity": affine(),
        "translation": affine(shift=(0.35, -0.2)),
        "scale": affine(scale=0.6),
        "rotation": affine(angle=30.0),
        "shear": affine(shear=0.5),
        "projective": projective(torch.tensor([[-0.45, -0.8], [0.45, -0.8], [1.1, 0.9], [-1.1, 0.9]])),
    }
    grids = {name: sampling_grid(theta, (128, 128)) for name, theta in kinds.items()}
    grids["thin plate spline"] = family_grid(SPLINE, bend.flatten()[None], (128, 128))
    fig, axes = figure(2, len(grids), 1.4, 1.5)
    for (above, below), (name, grid) in zip(axes.T, grids.items(), strict=True):
        draw(above, card, name)
        draw_grid(above, grid[0], (128, 128), lines=7)
        draw(below, sample(card[None], grid)[0])
    for ax, words in zip(axes[:, 0], ("theta looks here", "and this is seen"), strict=True):
        ax.text(-0.08, 0.5, words, transform=ax.transAxes, ha="right", va="center", rotation=90)
    return png(fig)


def spline_inverse(params: torch.Tensor) -> torch.Tensor:
    """The spline that undoes a spline, (1, P): through the places that `params` sends to the knots, found by fixed-point steps."""
    places = KNOTS[None]
    for _ in range(60):
        places = places - 0.5 * (SPLINE.source(params, places[0]) - KNOTS)
    return places.flatten(1)


def affine_tps() -> bytes:
    """Digits turned, affinely distorted and bent, with the grid that undoes it, and what is seen through that grid."""
    digits = load("digits", train=False)
    picks = [int((digits.labels == k).nonzero()[0]) for k in (2, 4, 5)]
    images = F.pad(digits.images[picks].float() / 255, (6, 6, 6, 6))
    images = F.interpolate(gaussian_blur(images, 5, 1.0), size=(160, 160), mode="bicubic", align_corners=False).clamp(0, 1)
    wobble = torch.randn(16, 2, generator=torch.Generator().manual_seed(4)) * 0.14
    size, frames = images.shape[-2:], []
    for k in range(30):
        swing = math.sin(2 * math.pi * k / 30)
        matrices = [affine(angle=60 * swing), affine(angle=20 * swing, scale=(1 + 0.3 * swing, 1.0), shear=0.6 * swing)]
        bend = (KNOTS + swing * wobble).flatten()[None]
        there = [*(sampling_grid(theta, size) for theta in matrices), family_grid(SPLINE, bend, size)]
        back = [*(sampling_grid(invert(theta), size) for theta in matrices), family_grid(SPLINE, spline_inverse(bend), size)]
        bent = sample(images, torch.cat(there), padding_mode="zeros")
        undone = sample(bent, torch.cat(back), padding_mode="zeros")
        fig, axes = figure(2, 3, 1.7, 1.7)
        for column, name in enumerate(("rotation", "affine", "thin plate spline")):
            draw(axes[0, column], bent[column], name)
            draw_grid(axes[0, column], back[column][0], size, lines=7)
            draw(axes[1, column], undone[column])
        for ax, words in zip(axes[:, 0], ("the digit moves,\ntheta follows", "and it stands still"), strict=True):
            ax.text(-0.08, 0.5, words, transform=ax.transAxes, ha="right", va="center", rotation=90)
        frames.append(fig)
    return gif(frames, milliseconds=80)


def straighten() -> bytes:
    """The same sixteen test digits after every epoch: as they are, and as the network sees them. Trained here, seed 0."""
    turned, _ = distorted(load("digits", train=False), "turned")
    arm = straightening.STUDY.arms["with ST"]
    net, sixteen = arm.build(), as_float(turned.images[:16])
    seen = [sixteen]  # before the first step the transformer changes nothing

    def look(history: list[dict]) -> None:
        with torch.no_grad():
            seen.append(net.eval().transformer(sixteen))

    train, how = load("digits", train=True), {"train_on": arm.train_on, "progress": False, "after_epoch": look}
    history = fit(net, train, turned, arm.recipe, **how)
    frames = []
    for epoch, after in enumerate(seen):
        right = f" ({history[epoch - 1]['test_accuracy']:.0f} % right)" if epoch else ""
        fig, axes = figure(2, 1, 5.4, 1.75)
        draw(axes[0, 0], make_grid(sixteen, nrow=8, pad_value=1), "digits, as they are")
        draw(axes[1, 0], make_grid(after, nrow=8, pad_value=1), f"as the network sees them, epoch {epoch}{right}")
        for ax in axes[:, 0]:
            ax.set_title(ax.get_title(), loc="left")
            ax.set_title("")
        frames.append(fig)
    return gif([frames[0]] * 4 + frames + [frames[-1]] * 8, milliseconds=200)


def shipped(name: str) -> torch.nn.Module:
    """A network with the weights that a study published."""
    return restore(ASSETS / "checkpoints" / f"{name}.safetensors")


def boxes() -> bytes:
    """Windows on eight cluttered canvases while they search for what all share, as in notebook 08c. Needs MNIST."""
    images, poses = of_one_digit(load("mnist", train=False), 6, "cluttered 84")
    film: list[tuple[int, torch.Tensor]] = []

    def note(step: int, finder: Finder, loss: float) -> None:
        if step % 5 == 0:
            with torch.no_grad():
                film.append((step, finder.family.matrix(finder.params(images[:8]))))

    colocalise(shipped("colocalise_encoder").classifier, images, STEPS["cluttered 84"], 0, note)
    film.insert(0, (0, affine(scale=1 / 3).expand(8, 2, 3)))
    corners, frames = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]), []
    for step, theta in film:
        fig, axes = figure(2, 4, 1.45, 1.45)
        for ax, image, window in zip(axes.flat, images, map_points(theta, corners), strict=False):
            draw(ax, image)
            draw_line(ax, window, (84, 84))
            ax.set(xlim=(-0.5, 83.5), ylim=(83.5, -0.5))
        fig.suptitle(f"step {step}", fontsize=10)
        frames.append(fig)
    return gif([frames[0]] * 3 + frames + [frames[-1]] * 10, milliseconds=120)


def glimpse() -> bytes:
    """Cluttered canvases, the window that the shipped network chose from their summary, and what is read through it."""
    net = shipped("glimpse_24")
    canvases, _ = distorted(load("digits", train=False), "cluttered 60")
    images = as_float(canvases.images[:8])  # the first eight, and no other choice
    with torch.no_grad():
        raw, seen = net.transformer.params(images), net.transformer(images)
    return png(before_after(images, seen, outline(net.transformer.family, raw)))


def gallery(notebook: str) -> bytes:
    """The figure of a notebook's cell that is tagged "gallery", by the notebook's own cells, so that it is written only once."""
    book = nbformat.read(ASSETS.parent / "notebooks" / f"{notebook}.ipynb", as_version=4)
    scope: dict = {}
    for cell in book.cells:
        if cell.cell_type == "code":
            with redirect_stdout(None):
                exec(TransformerManager().transform_cell(cell.source), scope)
        if "gallery" in cell.metadata.get("tags", []):
            break
    return png(scope["fig"])


def two_worlds() -> bytes:
    """CIFAR-10 in perspective and at random angle, size and place: where the slow transformers look, and what they see."""
    fig, axes = figure(4, 8, 1.1, 1.1)
    for pair, name in zip(axes.reshape(2, 2, 8), ("perspective", "rts"), strict=True):
        net, (bent, _) = shipped(f"cifar10_{name}_slow"), distorted(load("cifar10", train=False), name)
        images = as_float(bent.images[:8])  # the first eight, and no other choice
        with torch.no_grad():
            windows, views = outline(net.transformer.family, net.transformer.params(images)), net.transformer(images)
        for above, below, image, window, view in zip(*pair, images, windows, views, strict=True):
            draw(above, image)
            draw_line(above, window, image.shape[-2:])
            draw(below, view)
        for ax, words in zip(pair[:, 0], (name, "and seen"), strict=True):
            ax.text(-0.05, 0.5, words, transform=ax.transAxes, ha="right", va="center", rotation=90)
    return png(fig)


def it_can_turn() -> bytes:
    """Turned CIFAR-10 test images, and the same as the network of notebook 06c turned them back. Needs CIFAR-10."""
    bent, poses = distorted(load("cifar10", train=False), "rotated round")
    far = decompose(poses).angle.abs() > 45
    # Of each class the first that is turned by more than 45 degrees: chosen by number, not by looks.
    images = as_float(bent.images[[int((far & (bent.labels == k)).nonzero()[0]) for k in range(10)]])
    with torch.no_grad():
        seen = shipped("turned_round").transformer(images)
    return png(image_rows({"turned": images, "turned back": seen}))


def two_at_once() -> bytes:
    """Pairs of digits with the windows of two transformers that were trained side by side, and what each of them sees."""
    net = shipped("addition_two")
    pairs, _ = distorted(addition.pairs(load("mnist", train=False)).subset(slice(8)), "rts 42 apart")
    images = as_float(pairs.images)
    eyes = net.transformer.each
    with torch.no_grad():
        windows, views = zip(*((outline(eye.family, eye.params(images)), eye(images)) for eye in eyes), strict=True)
    fig, axes = figure(3, len(images), 1.25, 1.3)
    for k, (above, *below) in enumerate(axes.T):
        draw(above, two_inks(images[k]), f"sum {pairs.labels[k]}")
        for ax, window, view, color in zip(below, windows, views, (GREEN, PINK), strict=True):
            draw_line(above, window[k], images.shape[-2:], color=color)
            draw(ax, two_inks(view[k]))
            ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, color=color, linewidth=2.5))
    for ax, words in zip(axes[:, 0], ("two digits", "one looks here", "and one here"), strict=True):
        ax.text(-0.05, 0.5, words, transform=ax.transAxes, ha="right", va="center", rotation=90)
    return png(fig)


def paper_table() -> bytes:
    """The errors of the paper's Table 1, the paper's beside this project's, set by set."""
    summary = {row["arm"]: row for row in json.loads((ASSETS / "results" / "paper_table.json").read_text())["summary"]}
    fig, axes = figure(1, len(MNIST_SETS), 2.3, 2.9, sharey=True)
    models = list(ERRORS)
    for k, (ax, letters) in enumerate(zip(axes[0], MNIST_SETS, strict=True)):
        for y, model in enumerate(models):
            row, theirs = summary.get(f"{letters}, {model}"), ERRORS[model][k]
            if row is None or theirs is None:
                continue
            mean, color = 100 - row["mean"], BLUE if model.startswith("ST") else GRAY
            ax.plot([theirs, mean], [y, y], color="#cccccc", linewidth=1.5, zorder=0)
            ax.plot(theirs, y, "D", color=ORANGE, markersize=5, label="the paper")
            ax.plot(mean, y, "o", color=color, markersize=6.5, label="ours, with ST" if color == BLUE else "ours, without")
        ax.set(xscale="log", title=letters, xlabel="error, %", ylim=(len(models) - 0.5, -0.5))
        ax.set_xticks([1, 3, 10], ["1", "3", "10"])
        ax.xaxis.set_minor_formatter("")
        ax.grid(axis="y", color="#eeeeee")
    axes[0, 0].set_yticks(range(len(models)), models)
    named = dict(zip(*axes[0, 0].get_legend_handles_labels()[::-1], strict=True))
    fig.legend(named.values(), named.keys(), loc="outside upper center", ncols=3)
    return png(fig)


FIGURES = {
    "Transformations.png": transformations,
    "AffineTPS.gif": affine_tps,
    "spatial_transformer.png": lambda: png(spatial_transformer()),
    "theta_gradient.png": lambda: png(theta_gradient()),
    "angle_reader.png": lambda: png(angle_reader()),
    "straighten.gif": straighten,
    "failures.png": lambda: gallery("04b_seven_ways_to_fail"),
    "cifar10_attended.png": cifar10_attended,
    "does_it_help.png": lambda: gallery("06_does_it_help"),
    "glimpse.png": glimpse,
    "paper_table.png": paper_table,
    "two_worlds.png": two_worlds,
    "it_can_turn.png": it_can_turn,
    "two_at_once.png": two_at_once,
    "colocalise.gif": boxes,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or FIGURES:
        write_whole(ASSETS / name, FIGURES[name]())
        print(f"assets/{name}")

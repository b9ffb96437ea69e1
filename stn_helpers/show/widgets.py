"""Widgets: an explorer of theta to drag, sliders for the size of the output, and pictures to leaf through.

The explorer is explorer.js. With a kernel and anywidget, a small extra, Python reads and sets its theta; without them it is the
same page, alone. The sliders use only what ipywidgets 7.7 (Colab) and 8 have in common.
"""

import base64
import io
import math
import sys
from contextlib import contextmanager
from functools import lru_cache
from html import escape

import ipywidgets
import torch
import torch.nn.functional as F
import traitlets
from PIL import Image
from torch import Tensor

from stn_helpers.checks import check_finite
from stn_helpers.families import control_points
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import PADDINGS, sample
from stn_helpers.show.explorer import (
    SIDE,
    check_picture,
    default_pictures,
    explorer_html,
    moved,
    page_options,
    script,
    slider_ranges,
)
from stn_helpers.show.plots import BLUE, RED
from stn_helpers.theta import affine, as_matrix, decompose

try:
    import anywidget
except ImportError:  # an extra: without it the explorer is a page that does not talk to Python
    anywidget = None

SENTENCE = "Run this cell, and here are sliders to play with. The figure above makes the same point without them."
VIEW = "application/vnd.jupyter.widget-view+json"
ALONE = "anywidget is not installed, so Python does not see what you move here; “Copy as Python” takes it along."
# explorer.js, and how it talks to the kernel: `at`, where the sliders stand, goes both ways, once a frame at most.
SCRIPT = """
export default {
  async render({model, el}) {
    const host = el.appendChild(Object.assign(document.createElement("div"), {className: "stn-explorer"}));
    const explorer = await mount(host, {...model.get("options"), start: model.get("at")}, (at, aspect) => {
      model.set({at, aspect});
      model.save_changes();
    });
    const follow = () => explorer.set(model.get("at"));
    model.on("change:at", follow);
    return () => model.off("change:at", follow);
  },
};
"""


class Explorer(anywidget.AnyWidget if anywidget else traitlets.HasTraits):
    """A window on a picture, to be moved by hand. Subclasses say what theta is.

    theta: a trait, so explorer.theta is read, set, and watched with explorer.observe(f, "theta").
    at: where the sliders stand, {name: value}; aspect: width / height of the chosen picture.
    pictures: {name: (C, H, W) in [0, 1] or uint8} to choose from; None for a test card, a digit and a photograph.
    presets: {label: {slider: value}}, one button each; None for those of the series.
    Raises ValueError for a picture that is none, and for a preset that names no slider or leaves its range.
    """

    kind, k = "matrix", 3
    _esm = script() + SCRIPT
    options = traitlets.Dict().tag(sync=True)
    at = traitlets.Dict().tag(sync=True)
    aspect = traitlets.Float(1.0).tag(sync=True)
    theta = traitlets.Any()

    def __init__(self, pictures=None, presets=None):
        given = page_options(self.kind, pictures, self.k, presets)
        first = next(iter((default_pictures() if pictures is None else pictures).values()))
        self._following = False
        self._pictures, self.presets = pictures, given["presets"]
        self.ranges = slider_ranges(self.kind, self.k)
        self.start = {name: float(name.startswith("scale")) for name in self.ranges}
        super().__init__(options=given, aspect=first.shape[2] / first.shape[1], at=dict(self.start))

    # --- what a subclass says ---

    def _theta(self) -> Tensor:
        """theta of the sliders."""
        raise NotImplementedError

    def _sliders(self, theta: Tensor) -> dict[str, float]:
        """The sliders of a theta."""
        raise NotImplementedError

    def _checked(self, theta) -> Tensor:
        """A theta of this kind, with one sample; else ValueError."""
        raise NotImplementedError

    # --- what a notebook uses ---

    def set(self, **values: float) -> None:
        """Move sliders: explorer.set(angle=30). Raises ValueError for an unknown one or one out of range, and moves none."""
        self.at = {**self.at, **moved(values, self.ranges, "set")}

    def reset(self) -> None:
        """Back to where nothing changes."""
        self.at = dict(self.start)

    def __repr__(self) -> str:
        return SENTENCE

    def _repr_mimebundle_(self, **_) -> dict:
        """What a cell shows. A page with a kernel takes the live view; all else, the saved notebook too, is a page alone."""
        words = {"text/plain": SENTENCE}
        live = {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}} if anywidget else {}
        if live and "google.colab" in sys.modules:  # which of two Colab would show is written nowhere, so it gets one
            return {**words, **live}
        note = {} if anywidget else {"note": ALONE}
        page = explorer_html(self.kind, self._pictures, self.k, self.presets, self._moved(), sentence=SENTENCE, **note)
        return {**words, "text/html": page, **live}

    def _ipython_display_(self, **_) -> None:
        """ipywidgets 7 puts itself on the page, and would never ask for the bundle."""
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

    def _moved(self) -> dict[str, float]:
        return {name: value for name, value in self.at.items() if value != self.start.get(name)}

    # --- at and theta follow each other ---

    @traitlets.validate("theta")
    def _check_theta(self, proposal) -> Tensor:
        return self._checked(proposal.value)

    @traitlets.observe("at", "aspect")
    def _at_moved(self, _) -> None:
        self._follow("theta", lambda: self._theta())

    @traitlets.observe("theta")
    def _theta_moved(self, change) -> None:
        self._follow("at", lambda: self._sliders(change.new))

    def _follow(self, name: str, value) -> None:
        if not self._following:
            self._following = True
            try:
                setattr(self, name, value())
            finally:
                self._following = False


class MatrixExplorer(Explorer):
    """The matrix families: angle, scale, shear, shift and tilt, or four corners. `theta` is (1, 2, 3), with a tilt (1, 3, 3).

    pictures, presets and errors: see `Explorer`. Taught in notebook 01.
    """

    def _theta(self) -> Tensor:
        at = {**self.start, **self.at}
        window = affine(at["angle"], (at["scale_x"], at["scale_y"]), at["shear"], (at["shift_x"], at["shift_y"]), self.aspect)
        far = at["perspective_x"], at["perspective_y"]
        if far == (0, 0):
            return window
        tilt = torch.eye(3)
        tilt[2, :2] = torch.tensor(far)
        return as_matrix(window) @ tilt

    def _checked(self, theta) -> Tensor:
        matrix = as_matrix(theta)
        check_finite(matrix)
        if len(matrix) != 1 or matrix[0, 2, 2] == 0:
            raise ValueError(f"theta is {theta.tolist()}; expected one matrix, (1, 2, 3) or (1, 3, 3), whose last entry is not 0")
        matrix = (matrix / matrix[:, 2:, 2:]).detach().cpu().float()
        return matrix if matrix[0, 2, :2].any() else matrix[:, :2]

    def _sliders(self, theta: Tensor) -> dict[str, float]:
        matrix = as_matrix(theta).double()
        far, centre = matrix[0, 2, :2], matrix[:, :2, 2:]
        window = torch.cat([matrix[:, :2, :2] - centre * far, centre], dim=2)  # theta is this window, tilted first
        angle, scale, shear, shift = decompose(window, self.aspect)
        values = (angle, *scale, shear, *shift, *far)
        return {name: round(float(value), 4) for name, value in zip(self.ranges, values, strict=True)}


class SplineExplorer(Explorer):
    """A thin plate spline: drag K x K control points to where they look. `theta` is (1, 2 K^2), for family "tps".

    k: control points a side, 2 to 5. pictures, presets and errors: see `Explorer`. Taught in notebook 01.
    """

    kind = "spline"

    def __init__(self, k: int = 3, pictures=None, presets=None):
        self.k = k
        super().__init__(pictures, presets)

    def _theta(self) -> Tensor:
        """Where each control point looks, (x, y) point by point."""
        at = {**self.start, **self.at}
        return control_points(self.k).flatten()[None] + torch.tensor([at[name] for name in self.ranges])

    def _checked(self, theta) -> Tensor:
        count = 2 * self.k * self.k
        if not isinstance(theta, Tensor) or theta.shape not in ((1, count), (count,)) or not theta.isfinite().all():
            came = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise ValueError(f"theta is {came}; expected {count} finite numbers, shape (1, {count})")
        return theta.detach().cpu().float().reshape(1, count)

    def _sliders(self, theta: Tensor) -> dict[str, float]:
        moves = (theta - control_points(self.k).flatten())[0].tolist()
        return {name: round(move, 4) for name, move in zip(self.ranges, moves, strict=True)}


ROOM = 1.5  # the source is drawn with room around it, from -ROOM to ROOM
SCREEN = 144  # pixels on the page for the target; the source is drawn as large
LABEL, CONTROL, WIDE = "170px", "372px", 430  # widths on the page; the numbers are WIDE pixels wide


def jpeg(image: Tensor) -> bytes:
    """One image (C, H, W) in [0, 1] as JPEG bytes; at 128 pixels some 5 kB, where a PNG of a photograph has 40."""
    buffer = io.BytesIO()
    whole = image.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)
    whole = whole[0] if len(whole) == 1 else whole.permute(1, 2, 0).contiguous()  # three times as fast as leaving it to PIL
    Image.fromarray(whole.numpy()).save(buffer, format="jpeg", quality=88, subsampling=0)
    return buffer.getvalue()


@contextmanager
def one_thread():
    """Many threads for a warp of 0.3 ms wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def zone_plate() -> Tensor:
    """Rings that grow finer outwards, to 4 pixels a ring at the sides. Sampled too coarsely they show rings that are not there."""
    across = torch.linspace(-1, 1, SIDE)
    squared = across.square() + across.square()[:, None]
    return (0.5 + 0.5 * torch.cos(math.pi * SIDE / 8 * squared)).expand(3, -1, -1)


def number_slider(label: str, value: float, low: float, high: float, step: float = 0.01):
    """A float slider whose label says its unit; the same width for all."""
    whole = isinstance(step, int)
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(
        value=value,
        min=low,
        max=high,
        step=step,
        description=label,
        readout_format="d" if whole else ".0f" if step == 1 else ".2f",
        style={"description_width": LABEL},
        layout={"width": CONTROL},
    )


def dropdown(label: str, options) -> ipywidgets.Dropdown:
    """A list to choose from, as wide as a slider."""
    return ipywidgets.Dropdown(options=options, description=label, style={"description_width": LABEL}, layout={"width": CONTROL})


class OutputExplorer(ipywidgets.VBox):
    """How many pixels the target has, how large the window is, and what is seen outside the source. `theta` is (1, 2, 3).

    pictures: {name: (C, H, W) in [0, 1] or uint8}; None for rings, a test card, a digit and a photograph.
    presets: {label: {slider: value}}, one button each. Raises ValueError as `MatrixExplorer` does. Taught in notebook 03.
    """

    presets = {
        "20 pixels": {"size": 20},
        "oversample": {"size": 256, "scale": 0.25},
        "zoom out": {"scale": 1.5},
    }

    def __init__(self, pictures=None, presets=None):
        self.sliders = {
            "size": number_slider("output size, pixels", SIDE, 4, 256, 1),
            "scale": number_slider("window scale, × width", 1.0, 0.1, 2.0),
            "angle": number_slider("angle, degrees", 0.0, -180.0, 180.0, 1.0),
        }
        self.start = {name: slider.value for name, slider in self.sliders.items()}
        self.presets = {**self.presets} if presets is None else presets
        for label, values in self.presets.items():
            self._check(values, f"preset {label!r}")
        pictures = {"rings": zone_plate(), **default_pictures()} if pictures is None else pictures
        if not isinstance(pictures, dict) or not pictures:
            raise ValueError(f"pictures is a {type(pictures).__name__}; expected at least one {{name: tensor (C, H, W)}}")
        self._pictures = {name: check_picture(name, picture) for name, picture in pictures.items()}
        self._busy = False
        self._build()
        super().__init__([self._style, self._buttons, self._views, self._message])
        self._choose()

    # --- what a notebook uses ---

    @property
    def picture(self) -> Tensor:
        """The chosen source, (C, H, W) in [0, 1]."""
        return self._pictures[self._choice.value]

    @property
    def theta(self) -> Tensor:
        """(1, 2, 3), target -> source."""
        return affine(
            self.sliders["angle"].value, self.sliders["scale"].value, aspect=self.picture.shape[2] / self.picture.shape[1]
        )

    @property
    def size(self) -> tuple[int, int]:
        """The target's (H, W), pixels; the longer side is what the slider says."""
        high, wide = self.picture.shape[1:]
        longer = self.sliders["size"].value / max(high, wide)
        return max(1, round(longer * high)), max(1, round(longer * wide))

    @property
    def step(self) -> float:
        """Source pixels from one sample to the next."""
        return self.sliders["scale"].value * self.picture.shape[-1] / self.size[1]

    def set(self, **values: float) -> None:
        """Move sliders, all in one step: explorer.set(angle=30). Raises ValueError for an unknown one or one out of range."""
        self._check(values, "set")
        self._busy = True
        try:
            for name, value in values.items():
                self.sliders[name].value = value
        finally:
            self._busy = False
        self._draw()

    def reset(self, _=None) -> None:
        """Back to where all sliders started."""
        self.set(**self.start)

    __repr__ = Explorer.__repr__

    # --- how it is built ---

    def _check(self, values: dict[str, float], who: str) -> None:
        moved(values, {name: (slider.min, slider.max) for name, slider in self.sliders.items()}, who)

    def _build(self) -> None:
        """All widgets, each with a fixed size, so that nothing on the page moves while a slider does."""
        self._choice = dropdown("picture", list(self._pictures))
        self._choice.observe(self._choose, "value")
        self.padding = dropdown("padding", PADDINGS)
        self.smooth = ipywidgets.Checkbox(
            description="smooth the source first", style={"description_width": LABEL}, layout={"width": CONTROL}
        )
        controls = [*self.sliders.values(), self.padding, self.smooth]
        for control in controls:
            control.observe(self._draw, "value")
        buttons = [self._button("reset", self.reset)]
        buttons += [self._button(label, lambda _, values=values: self._preset(values)) for label, values in self.presets.items()]
        self._buttons = ipywidgets.Box(buttons, layout={"flex_flow": "row wrap"})
        self._controls = ipywidgets.VBox([self._choice, *controls])
        # The drawing and the numbers below it are one widget, for each widget that changes costs a message. It is as wide as the
        # numbers, and the target stands in its free corner, beside the drawing.
        frame = round(ROOM * SCREEN)
        self._source = ipywidgets.HTML(layout={"width": f"{WIDE}px", "height": f"{frame + 140}px", "flex": "0 0 auto"})
        self._image = ipywidgets.Image(
            format="jpeg", layout={"width": f"{SCREEN}px", "height": f"{SCREEN}px", "object_fit": "contain"}
        )
        self._image.add_class("stn-target")
        self._image.add_class("stn-sharp")  # the pixels of a small target are to be seen
        corner = {"height": f"{frame}px", "align_items": "center", "margin": f"0 0 0 {frame + 10 - WIDE}px", "flex": "0 0 auto"}
        target = ipywidgets.Box([self._image], layout=corner)
        names = [ipywidgets.HTML(f"<b>{name}</b>", layout={"width": f"{frame + 8}px"}) for name in ("source", "target")]
        pictures = ipywidgets.VBox([ipywidgets.Box(names), ipywidgets.Box([self._source, target])], layout={"margin": "0 8px"})
        # Where there is no room beside the sliders, the pictures go below them.
        self._views = ipywidgets.Box([self._controls, pictures], layout={"flex_flow": "row wrap"})
        self._message = ipywidgets.HTML(layout={"height": "3em", "overflow": "auto"})
        self._style = ipywidgets.HTML(layout={"height": "0px", "margin": "0"})

    @staticmethod
    def _button(label: str, action) -> ipywidgets.Button:
        button = ipywidgets.Button(description=label, layout={"width": "auto"})
        button.on_click(action)
        return button

    def _preset(self, values: dict[str, float]) -> None:
        """A preset starts from rest, so that it looks the same whatever was there before."""
        self.set(**{**self.start, **values})

    def _choose(self, _=None) -> None:
        """A new picture: its pixels are sent once, as the background of the drawing."""
        wide, high = self._shape()
        data = base64.b64encode(jpeg(self.picture)).decode()
        self._style.value = (
            f"<style>.stn-{self.model_id}{{background:#e4e4e4 url(data:image/jpeg;base64,{data}) center/"
            f"{100 * wide / ROOM:.2f}% {100 * high / ROOM:.2f}% no-repeat}}.stn-sharp{{image-rendering:pixelated}}</style>"
        )
        self._draw()

    def _shape(self) -> tuple[float, float]:
        """The source's (width, height), the longer side as 1."""
        high, wide = self.picture.shape[1:]
        return wide / max(high, wide), high / max(high, wide)

    def _draw(self, _=None) -> None:
        """One step: everything that follows from the sliders."""
        if self._busy:
            return
        try:
            with one_thread(), torch.inference_mode():
                grid = sampling_grid(self.theta, self.size)
                numbers, sentence = self._facts(grid)
                picture, drawing = jpeg(self._target(grid)), self._drawing(grid[0])
        except Exception as error:  # said under the sliders, where the reader looks, and raised all the same
            self._say(f"{type(error).__name__}: {error}")
            raise
        # All is computed before any of it is shown: a step that fails leaves no half of itself on the page.
        self._image.value = picture
        style = "line-height:1.25;margin:6px 0 0;white-space:pre;overflow-x:auto"
        self._source.value = f'{drawing}<pre style="{style}">{escape(numbers)}</pre>'
        self._say(sentence)

    def _say(self, sentence: str) -> None:
        self._message.value = f'<div role="status" style="line-height:1.3">{escape(sentence)}</div>'

    def _drawing(self, grid: Tensor) -> str:
        """The sampling grid (h, w, 2) as SVG over the source; blue is its top row."""
        high, wide = grid.shape[:2]
        rows = grid[spread(high, 9)][:, spread(wide, 2)]
        columns = grid[spread(high, 2)][:, spread(wide, 9)].transpose(0, 1)
        shape = grid.new_tensor(self._shape())
        # What is nowhere stays at the edge. The sliders reach 60; cut off nearer, a line would lean.
        lines = [(some * shape).nan_to_num(nan=99.0).clamp(-99, 99).tolist() for some in (rows, columns)]
        paths = [path(line) for some in lines for line in some]
        box = f"{-ROOM} {-ROOM} {2 * ROOM} {2 * ROOM}"
        return (
            f'<svg class="stn-{self.model_id}" viewBox="{box}" width="{ROOM * SCREEN:.0f}" height="{ROOM * SCREEN:.0f}" role="img"'
            ' aria-label="the source, and over it the sampling grid" fill="none" stroke-linejoin="round">'
            f'<path d="{"".join(paths)}" stroke="#fff" stroke-width=".03" stroke-opacity=".6"/>'
            f'<path d="{"".join(paths)}" stroke="{RED}" stroke-width=".013"/>'
            f'<path d="{paths[0]}" stroke="{BLUE}" stroke-width=".05"/></svg>'
        )

    def _target(self, grid: Tensor) -> Tensor:
        """What is seen through the grid, (C, h, w)."""
        source = self.picture[None]
        if self.smooth.value and self.step > 1:
            # A mean over one step, centred, by as many source pixels as fit: what finer detail there was is gone before sampling.
            source = box_blur(source, self.step)
        return sample(source, grid, padding_mode=self.padding.value)[0]

    def _facts(self, grid: Tensor) -> tuple[str, str]:
        """(the numbers as plain text of constant height, a sentence or "")."""
        high, wide = self.size
        outside = 100 * (grid.abs() > 1).any(-1).float().mean().item()
        lines = matrix_text("theta, target → source", as_matrix(self.theta)[0])
        lines += ["", f"target {wide} × {high} pixels,"]
        lines += [f"samples {self.step:.2f} source pixels apart, {outside:.0f} % of them outside"]
        far = self.step > 1.5 and not self.smooth.value
        words = "Each sample reads the four pixels around it. What lies between two samples is never read: aliasing."
        return "\n".join(lines), words if far else ""


@lru_cache
def spread(count: int, most: int) -> Tensor:
    """Up to `most` indices, evenly over 0 ... count - 1, both ends among them."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def path(points: list) -> str:
    """A line of points (x, y) as the d of an SVG path."""
    return "M" + "L".join([f"{x:.3f} {y:.3f}" for x, y in points])


def matrix_text(title: str, matrix: Tensor) -> list[str]:
    """A 3 x 3 matrix as four lines of text."""
    return [title, *("".join(f"{number(value):>8}" for value in row) for row in matrix.tolist())]


def number(value: float) -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 1000 else f"{value:.0e}"


def box_blur(images: Tensor, width: float) -> Tensor:
    """Images (N, C, H, W) averaged over an odd window of about `width` pixels a side; the edge is repeated."""
    half = max(1, round((width - 1) / 2))
    return F.avg_pool2d(F.pad(images, [half] * 4, mode="replicate"), 2 * half + 1, stride=1)


class Frames(ipywidgets.VBox):
    """A slider over pictures that were made before: epochs of a training, steps of a descent.

    pictures: PNG bytes, all of one size, as `plots.png` gives them. label: what the slider counts, from 0.
    Raises ValueError where there are none. Taught in notebook 04.
    """

    def __init__(self, pictures: list[bytes], label: str):
        if not pictures:
            raise ValueError("pictures is empty; expected at least one PNG")
        self.slider = ipywidgets.IntSlider(value=0, min=0, max=len(pictures) - 1, description=label)
        self.image = ipywidgets.Image(value=pictures[0], format="png")
        self.image.layout.width, self.image.layout.height = (f"{side}px" for side in Image.open(io.BytesIO(pictures[0])).size)
        self.slider.observe(lambda change: setattr(self.image, "value", pictures[change["new"]]), "value")
        super().__init__([self.slider, self.image])

    __repr__ = Explorer.__repr__

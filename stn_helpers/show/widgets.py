"""Live sliders: move one, and the window, the picture and the numbers move together.

Only what ipywidgets 7.7 (Colab) and 8 have in common. One step sends a small JPEG, a few lines of SVG and a table.
"""

import base64
import io
import math
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache
from html import escape

import ipywidgets
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stn_helpers.data.sets import available, load, test_card
from stn_helpers.families import control_points, family, family_grid
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import PADDINGS, sample
from stn_helpers.show.explorer import MATRIX_PRESETS, check_picture, explorer_html, moved, spline_presets
from stn_helpers.show.plots import BLUE, RED, YELLOW
from stn_helpers.theta import affine, as_matrix, decompose, invert

SIDE = 128  # pixels of the target
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


def from_data(name: str) -> Tensor:
    """The first test image of a data set, enlarged."""
    return enlarge(load(name, train=False).images[0].float() / 255)


def enlarge(picture: Tensor) -> Tensor:
    """A small picture, smoothly enlarged to SIDE pixels."""
    return F.interpolate(picture[None], size=(SIDE, SIDE), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def zone_plate() -> Tensor:
    """Rings that grow finer outwards, to 4 pixels a ring at the sides. Sampled too coarsely they show rings that are not there."""
    across = torch.linspace(-1, 1, SIDE)
    squared = across.square() + across.square()[:, None]
    return (0.5 + 0.5 * torch.cos(math.pi * SIDE / 8 * squared)).expand(3, -1, -1)


def default_pictures() -> dict[str, Callable[[], Tensor]]:
    """A test card, a digit, and a CIFAR-10 image where the data is there; each made when it is first chosen."""
    found = {"test card": lambda: test_card(SIDE), "a digit": lambda: from_data("digits")}
    if available("cifar10"):
        found["CIFAR-10: a test image"] = lambda: from_data("cifar10")
    return found


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


class Explorer(ipywidgets.VBox):
    """Sliders, the source with the sampling grid over it, the target, and the numbers. Subclasses say what theta is.

    pictures: {name: (C, H, W) in [0, 1] or uint8} to choose from; None for a test card, a digit and a CIFAR-10 image.
    presets: {label: {slider: value}}, one button each.
    Raises ValueError for a picture that is none, and for a preset that names no slider or leaves its range.
    """

    presets: dict[str, dict[str, float]] = {}
    joints = 2  # points of a drawn grid line: a matrix keeps lines straight

    def __init__(self, sliders: dict, pictures=None, presets=None):
        self.sliders = sliders
        self.start = {name: slider.value for name, slider in sliders.items()}
        self.presets = {**self.presets} if presets is None else presets
        for label, values in self.presets.items():
            self._check(values, f"preset {label!r}")
        if pictures is not None and not isinstance(pictures, dict):
            raise ValueError(f"pictures is a {type(pictures).__name__}; expected {{name: tensor (C, H, W)}}")
        self._pictures = {
            name: picture if callable(picture) else check_picture(name, picture)
            for name, picture in (default_pictures() if pictures is None else pictures).items()
        }
        if not self._pictures:
            raise ValueError("pictures is empty; expected at least one {name: tensor (C, H, W)}")
        self._busy = False
        self._build()
        super().__init__([self._style, self._buttons, self._views, self._message])
        self._choose()

    # --- what a subclass says ---

    def fit(self, side: int) -> tuple[int, int]:
        """The target's (H, W), pixels, with this many on the longer side."""
        return max(1, round(side * self._high)), max(1, round(side * self._wide))

    @property
    def theta(self) -> Tensor:
        """What the sliders say now."""
        raise NotImplementedError

    def grid(self, theta: Tensor) -> Tensor:
        """The sampling grid of the target, (1, h, w, 2)."""
        raise NotImplementedError

    def facts(self, theta: Tensor, grid: Tensor) -> tuple[str, str]:
        """(the numbers as plain text of constant height, a sentence or "")."""
        raise NotImplementedError

    def target(self, grid: Tensor) -> Tensor:
        """What is seen through the grid, (C, h, w)."""
        return sample(self.picture[None], grid)[0]

    def marks(self) -> str:
        """More SVG over the source."""
        return ""

    def without_kernel(self) -> str:
        """HTML that stands in for this in a saved notebook, or "" where there is none and a sentence must do."""
        return ""

    # --- what a notebook uses ---

    @property
    def picture(self) -> Tensor:
        """The chosen source, (C, H, W) in [0, 1]."""
        return self._picture

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

    def __repr__(self) -> str:
        return "Run this cell, and here are sliders to play with. The figure above makes the same point without them."

    def _repr_mimebundle_(self, **_) -> dict:
        """What a cell shows. A page with a kernel takes the live view; all else is for readers of what was saved."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = {"text/plain": repr(self), "application/vnd.jupyter.widget-view+json": view}
        # Which of two Colab would show is written nowhere, so it gets one.
        still = "" if "google.colab" in sys.modules else self.without_kernel()
        return {**bundle, "text/html": still} if still else bundle

    if not hasattr(ipywidgets.Widget, "_repr_mimebundle_"):

        def _ipython_display_(self, **_) -> None:
            """ipywidgets 7 puts itself on the page, and would never ask for the bundle."""
            from IPython.display import display

            display(self._repr_mimebundle_(), raw=True)

    # --- how it is built ---

    def _still(self, kind: str, **options) -> str:
        """`without_kernel` for a kind that there is: the sliders where they stand, the chosen picture, and those at hand."""
        at_hand = {name: picture for name, picture in self._pictures.items() if isinstance(picture, Tensor)}
        start = {name: slider.value for name, slider in self.sliders.items() if slider.value != self.start[name]}
        pictures = {self._choice.value: self.picture, **at_hand}
        return explorer_html(kind, pictures, presets=self.presets, start=start, sentence=repr(self), **options)

    def _check(self, values: dict[str, float], who: str) -> None:
        moved(values, {name: (slider.min, slider.max) for name, slider in self.sliders.items()}, who)

    def _build(self) -> None:
        """All widgets, each with a fixed size, so that nothing on the page moves while a slider does."""
        self._choice = dropdown("picture", list(self._pictures))
        self._choice.observe(self._choose, "value")
        for slider in self.sliders.values():
            slider.observe(self._draw, "value")
        buttons = [self._button("reset", self.reset)]
        buttons += [self._button(label, lambda _, values=values: self._preset(values)) for label, values in self.presets.items()]
        self._buttons = ipywidgets.Box(buttons, layout={"flex_flow": "row wrap"})
        self._controls = ipywidgets.VBox([self._choice, *self.sliders.values()])
        # The drawing and the numbers below it are one widget, for each widget that changes costs a message. It is as wide as the
        # numbers, and the target stands in its free corner, beside the drawing.
        frame = round(ROOM * SCREEN)
        self._source = ipywidgets.HTML(layout={"width": f"{WIDE}px", "height": f"{frame + 140}px", "flex": "0 0 auto"})
        self._image = ipywidgets.Image(
            format="jpeg", layout={"width": f"{SCREEN}px", "height": f"{SCREEN}px", "object_fit": "contain"}
        )
        self._image.add_class("stn-target")
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

    def _choose(self, change=None) -> None:
        """A new picture: its pixels are sent once, as the background of the drawing."""
        if self._busy:
            return
        with self._spoken():
            name = self._choice.value
            found = self._pictures[name]
            try:
                self._picture = self._pictures[name] = check_picture(name, found()) if callable(found) else found
            except Exception:
                if change is not None:  # the list goes on naming what is drawn
                    self._busy = True
                    self._choice.value = change["old"]
                    self._busy = False
                raise
            height, width = self._picture.shape[-2:]
            self._wide, self._high = width / max(height, width), height / max(height, width)
            data = base64.b64encode(jpeg(self._picture)).decode()
            self._style.value = (
                f"<style>.stn-{self.model_id}{{background:#e4e4e4 url(data:image/jpeg;base64,{data}) center/"
                f"{100 * self._wide / ROOM:.2f}% {100 * self._high / ROOM:.2f}% no-repeat}}"
                ".stn-sharp{image-rendering:pixelated}</style>"
            )
        self._draw()

    def _draw(self, _=None) -> None:
        """One step: everything that follows from the sliders."""
        if self._busy:
            return
        with self._spoken(), one_thread(), torch.inference_mode():
            theta = self.theta
            grid = self.grid(theta)
            numbers, sentence = self.facts(theta, grid)
            numbers = f'<pre style="line-height:1.25;margin:6px 0 0;white-space:pre;overflow-x:auto">{escape(numbers)}</pre>'
            picture, drawing = jpeg(self.target(grid)), self._drawing(grid[0])
            # All is computed before any of it is shown: a step that fails leaves no half of itself on the page.
            self._image.value = picture
            self._source.value = drawing + numbers
            self._say(sentence)

    @contextmanager
    def _spoken(self):
        """An error is said under the sliders, where the reader looks, and raised all the same, so that a test sees it."""
        try:
            yield
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")
            raise

    def _say(self, sentence: str) -> None:
        self._message.value = f'<div role="status" style="line-height:1.3">{escape(sentence)}</div>'

    def _drawing(self, grid: Tensor) -> str:
        """The sampling grid (h, w, 2) as SVG over the source; blue is its top row."""
        high, wide = grid.shape[:2]
        rows = grid[spread(high, 9)][:, spread(wide, self.joints)]
        columns = grid[spread(high, self.joints)][:, spread(wide, 9)].transpose(0, 1)
        shape = grid.new_tensor([self._wide, self._high])
        # What is nowhere stays at the edge. The sliders reach 60; cut off nearer, a line would lean.
        lines = [(some * shape).nan_to_num(nan=99.0).clamp(-99, 99).tolist() for some in (rows, columns)]
        paths = [path(line) for some in lines for line in some]
        box = f"{-ROOM} {-ROOM} {2 * ROOM} {2 * ROOM}"
        return (
            f'<svg class="stn-{self.model_id}" viewBox="{box}" width="{ROOM * SCREEN:.0f}" height="{ROOM * SCREEN:.0f}" role="img"'
            ' aria-label="the source, and over it the sampling grid" fill="none" stroke-linejoin="round">'
            f'<path d="{"".join(paths)}" stroke="#fff" stroke-width=".03" stroke-opacity=".6"/>'
            f'<path d="{"".join(paths)}" stroke="{RED}" stroke-width=".013"/>'
            f'<path d="{paths[0]}" stroke="{BLUE}" stroke-width=".05"/>{self.marks()}</svg>'
        )


@lru_cache
def spread(count: int, most: int) -> Tensor:
    """Up to `most` indices, evenly over 0 ... count - 1, both ends among them."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def path(points: list) -> str:
    """A line of points (x, y) as the d of an SVG path."""
    return "M" + "L".join([f"{x:.3f} {y:.3f}" for x, y in points])


def matrix_text(title: str, matrix: Tensor | None) -> list[str]:
    """A 3 x 3 matrix as four lines of text of the same width; dots where there is none."""
    rows = [["."] * 3] * 3 if matrix is None else [[number(value) for value in row] for row in matrix.tolist()]
    return [f"{title:<26}", *("".join(f"{entry:>8}" for entry in row).ljust(26) for row in rows)]


def number(value: float) -> str:
    """Two decimals, and no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 1000 else f"{value:.0e}"


class MatrixExplorer(Explorer):
    """The matrix families: angle, scale, shear, shift, and two perspective terms. `theta` is (1, 2, 3), with those (1, 3, 3).

    pictures, presets and errors: see `Explorer`. Taught in notebook 01.
    """

    presets = MATRIX_PRESETS

    def __init__(self, pictures=None, presets=None):
        sliders = {
            "angle": number_slider("angle, degrees", 0.0, -180.0, 180.0, 1.0),
            "scale_x": number_slider("scale x, × width", 1.0, -2.0, 2.0),
            "scale_y": number_slider("scale y, × height", 1.0, -2.0, 2.0),
            "shear": number_slider("shear, x for each y", 0.0, -1.0, 1.0),
            "shift_x": number_slider("shift x, half widths", 0.0, -1.0, 1.0),
            "shift_y": number_slider("shift y, half heights", 0.0, -1.0, 1.0),
            "perspective_x": number_slider("tilt x, 1/half width", 0.0, -0.45, 0.45),
            "perspective_y": number_slider("tilt y, 1/half height", 0.0, -0.45, 0.45),
        }
        super().__init__(sliders, pictures, presets)

    @property
    def theta(self) -> Tensor:
        """(1, 2, 3), target -> source; (1, 3, 3) where a perspective term is not 0."""
        if self._far == (0, 0):
            return self._window
        tilt = torch.eye(3)
        tilt[2, :2] = torch.tensor(self._far)
        return as_matrix(self._window) @ tilt

    @property
    def _window(self) -> Tensor:
        """theta without its perspective, (1, 2, 3)."""
        at = {name: slider.value for name, slider in self.sliders.items()}
        return affine(at["angle"], (at["scale_x"], at["scale_y"]), at["shear"], (at["shift_x"], at["shift_y"]), self._aspect)

    @property
    def _far(self) -> tuple[float, float]:
        return self.sliders["perspective_x"].value, self.sliders["perspective_y"].value

    @property
    def _aspect(self) -> float:
        return self._wide / self._high

    def grid(self, theta: Tensor) -> Tensor:
        return sampling_grid(theta, self.fit(SIDE))

    def without_kernel(self) -> str:
        return self._still("matrix")

    def facts(self, theta: Tensor, grid: Tensor) -> tuple[str, str]:
        matrix = as_matrix(theta)
        try:
            inverse, sentence = invert(matrix)[0], ""
        except ValueError as error:
            inverse, sentence = None, f"No inverse: {error}."
        far = self._far
        angle, (wide, high), shear, (x, y) = decompose(theta if far == (0, 0) else self._window, self._aspect)
        area = (wide * high).item()
        if not sentence and area < 0:
            sentence = "The window is turned over: the picture is mirrored."
        sides = zip(matrix_text("theta, target → source", matrix[0]), matrix_text("its inverse", inverse), strict=True)
        turn = round(angle.item())
        window = (
            f"the window: angle {180 if turn == -180 else turn}°, scale {number(wide.item())} × {number(high.item())}, "
            f"shear {number(shear.item())},\n"
            f"    centre ({number(x.item())}, {number(y.item())}), perspective ({number(far[0])}, {number(far[1])}),\n"
            f"    area × {number(area)}"
        )
        return "\n".join(["   ".join(pair) for pair in sides] + ["", window]), sentence


class SplineExplorer(Explorer):
    """A thin plate spline: choose one of K x K control points and say where it looks. `theta` is (1, 2 K^2), for family "tps".

    k: control points a side, 2 to 5. pictures and errors: see `Explorer`. Taught in notebook 01.
    """

    joints = 13  # a bent line

    def __init__(self, k: int = 3, pictures=None, presets=None):
        if not isinstance(k, int) or not 2 <= k <= 5:
            raise ValueError(f"k is {k!r}; expected 2 to 5 control points a side")
        self.k, self.family = k, family("tps", k)
        sliders = {
            f"{axis}{point}": number_slider(f"move {axis}, half {'width' if axis == 'x' else 'height'}s", 0.0, -1.0, 1.0)
            for point in range(1, k * k + 1)
            for axis in "xy"
        }
        self.point = number_slider("control point", k * k // 2 + 1, 1, k * k, 1)
        super().__init__(sliders, pictures, spline_presets(k) if presets is None else presets)

    def _build(self) -> None:
        """As in `Explorer`, but only the sliders of the chosen point are on the page."""
        super()._build()
        self._pair = ipywidgets.VBox()
        self._controls.children = [self._choice, self.point, self._pair]
        self.point.observe(self._turn_to, "value")
        self._turn_to()

    def _turn_to(self, change=None) -> None:
        self._pair.children = [self.sliders[f"{axis}{self.point.value}"] for axis in "xy"]
        if change is not None:
            self._draw()

    @property
    def theta(self) -> Tensor:
        """(1, 2 K^2): where each control point looks, (x, y) point by point."""
        moves = torch.tensor([slider.value for slider in self.sliders.values()])
        return control_points(self.k).flatten()[None] + moves

    def grid(self, theta: Tensor) -> Tensor:
        return family_grid(self.family, theta, self.fit(SIDE))

    def without_kernel(self) -> str:
        return self._still("spline", k=self.k)

    def marks(self) -> str:
        """The control points where they look; the chosen one is filled."""
        places = (self.theta.reshape(-1, 2) * torch.tensor([self._wide, self._high])).tolist()
        fills = [YELLOW if point == self.point.value else "#fff" for point in range(1, len(places) + 1)]
        return "".join(
            f'<circle cx="{x:.3f}" cy="{y:.3f}" r=".06" stroke="#000" stroke-width=".02" fill="{fill}"/>'
            for (x, y), fill in zip(places, fills, strict=True)
        )

    def facts(self, theta: Tensor, grid: Tensor) -> tuple[str, str]:
        flat, bend = self.family.split(theta)
        lines = matrix_text("its affine part", as_matrix(flat)[0])
        x, y = self.theta.reshape(-1, 2)[self.point.value - 1].tolist()
        hardest = int(bend[0].norm(dim=1).argmax()) + 1
        energy = self.family.energy(theta).item()
        at = f", most at point {hardest}" if energy > 0.005 else ""
        lines += ["", f"point {self.point.value} looks at ({x:.2f}, {y:.2f})", f"bending energy {energy:.2f}{at}"]
        return "\n".join(lines), self._trouble(grid[0])

    def _trouble(self, grid: Tensor) -> str:
        """Two control points in one place, or a sheet that folds over itself: neither can be undone."""
        places = self.theta.reshape(-1, 2)
        apart = torch.cdist(places, places) + 9 * torch.eye(len(places))
        if apart.min() < 1e-3:
            one, other = sorted(divmod(int(apart.argmin()), len(places)))
            return f"No inverse: control points {one + 1} and {other + 1} look at the same place, so what lies between is lost."
        right, down = grid[:-1, 1:] - grid[:-1, :-1], grid[1:, :-1] - grid[:-1, :-1]
        turned = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0] < 0
        if not turned.any():
            return ""
        share = 100 * turned.float().mean().item()
        return f"No inverse: the sheet folds over itself, {math.ceil(share)} % of it is turned over, and parts are seen twice."


class OutputExplorer(Explorer):
    """How many pixels the target has, how large the window is, and what is seen outside the source. `theta` is (1, 2, 3).

    pictures, presets and errors: see `Explorer`. Taught in notebook 03.
    """

    presets = {
        "20 pixels": {"size": 20},
        "oversample": {"size": 256, "scale": 0.25},
        "zoom out": {"scale": 1.5},
    }

    def __init__(self, pictures=None, presets=None):
        sliders = {
            "size": number_slider("output size, pixels", SIDE, 4, 256, 1),
            "scale": number_slider("window scale, × width", 1.0, 0.1, 2.0),
            "angle": number_slider("angle, degrees", 0.0, -180.0, 180.0, 1.0),
        }
        self.padding = dropdown("padding", PADDINGS)
        self.smooth = ipywidgets.Checkbox(
            description="smooth the source first", style={"description_width": LABEL}, layout={"width": CONTROL}
        )
        pictures = {"rings": zone_plate, **default_pictures()} if pictures is None else pictures
        super().__init__(sliders, pictures, presets)

    def _build(self) -> None:
        super()._build()
        self._controls.children = [*self._controls.children, self.padding, self.smooth]
        for control in (self.padding, self.smooth):
            control.observe(self._draw, "value")
        self._image.add_class("stn-sharp")  # the pixels of a small target are to be seen

    @property
    def theta(self) -> Tensor:
        """(1, 2, 3), target -> source."""
        return affine(self.sliders["angle"].value, self.sliders["scale"].value, aspect=self._wide / self._high)

    @property
    def size(self) -> tuple[int, int]:
        """The target's (H, W), pixels; the longer side is what the slider says."""
        return self.fit(self.sliders["size"].value)

    @property
    def step(self) -> float:
        """Source pixels from one sample to the next."""
        return self.sliders["scale"].value * self.picture.shape[-1] / self.size[1]

    def grid(self, theta: Tensor) -> Tensor:
        return sampling_grid(theta, self.size)

    def target(self, grid: Tensor) -> Tensor:
        source = self.picture[None]
        if self.smooth.value and self.step > 1:
            # A mean over one step, centred, by as many source pixels as fit: what finer detail there was is gone before sampling.
            source = box_blur(source, self.step)
        return sample(source, grid, padding_mode=self.padding.value)[0]

    def facts(self, theta: Tensor, grid: Tensor) -> tuple[str, str]:
        high, wide = self.size
        outside = 100 * (grid.abs() > 1).any(-1).float().mean().item()
        lines = matrix_text("theta, target → source", as_matrix(theta)[0])
        lines += [
            "",
            f"target {wide} × {high} pixels,",
            f"samples {self.step:.2f} source pixels apart, {outside:.0f} % of them outside",
        ]
        if self.step <= 1.5 or self.smooth.value:
            return "\n".join(lines), ""
        return "\n".join(
            lines
        ), "Each sample reads the four pixels around it. What lies between two samples is never read: aliasing."


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

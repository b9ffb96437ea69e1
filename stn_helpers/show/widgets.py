"""Widgets: the explorer in its three kinds, to drag, and pictures to leaf through.

The explorer is explorer.js. With a kernel and anywidget, a small extra, Python reads and sets its theta; without them it is the
same page, alone. `Frames` uses only what ipywidgets 7.7 (Colab) and 8 have in common.
"""

import io
import math
import sys

import ipywidgets
import torch
import traitlets
from PIL import Image
from torch import Tensor

from stn_helpers.checks import check_finite
from stn_helpers.families import control_points
from stn_helpers.show import explorer as page
from stn_helpers.show.plots import LOOK, SHOWN
from stn_helpers.theta import affine, as_matrix, decompose

try:
    import anywidget
except ImportError:  # an extra: without it the explorer is a page that does not talk to Python
    anywidget = None

SENTENCE = "Run this cell, and here are sliders to play with. The figure above makes the same point without them."
VIEW = "application/vnd.jupyter.widget-view+json"
ALONE = "anywidget is not installed, so Python does not see what you move here; “Copy as Python” takes it along."


class Explorer(anywidget.AnyWidget if anywidget else traitlets.HasTraits):
    """A window on a picture, to be moved by hand. Subclasses say what theta is.

    theta: a trait, so explorer.theta is read, set, and watched with explorer.observe(f, "theta").
    at: where the sliders stand, {name: value}; aspect: width / height of the chosen picture; source: its (H, W) on the page.
    pictures: {name: (C, H, W) in [0, 1] or uint8} to choose from; None for a test card, a digit and a photograph.
    presets: {label: {slider: value}}, one button each; None for those of the series.
    Raises ValueError for a picture that is none, and for a preset that names no slider or leaves its range.
    """

    kind, k, _following = "matrix", 3, False
    _esm = page.script() + page.script("widget.js")
    options = traitlets.Dict().tag(sync=True)
    at = traitlets.Dict().tag(sync=True)
    aspect = traitlets.Float(1.0).tag(sync=True)
    source = traitlets.List().tag(sync=True)
    theta = traitlets.Any()

    def __init__(self, pictures=None, presets=None):
        given = page.page_options(self.kind, pictures, self.k, presets)
        first = next(iter((page.default_pictures(self.kind) if pictures is None else pictures).values()))
        self._pictures, self.presets = pictures, given["presets"]
        self.ranges = page.slider_ranges(self.kind, self.k)
        rest = {slider["name"]: slider["value"] for slider in given["sliders"]}
        self.start = {name: float(rest.get(name, 0)) for name in self.ranges}
        source = list(page.picture_bytes("the first", first).shape[:2])
        super().__init__(options=given, aspect=first.shape[2] / first.shape[1], source=source, at=dict(self.start))

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
        self.at = {**self.at, **page.moved(values, self.ranges, "set")}

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
        at = {name: value for name, value in self.at.items() if value != self.start.get(name)}
        alone = page.explorer_html(self.kind, self._pictures, self.k, self.presets, at, sentence=SENTENCE, **note)
        return {**words, "text/html": alone, **live}

    def _ipython_display_(self, **_) -> None:
        """ipywidgets 7 puts itself on the page, and would never ask for the bundle."""
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)

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
        return {name: round(float(value), 4) for (name, *_), value in zip(page.SLIDERS["matrix"], values, strict=True)}


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


class OutputExplorer(MatrixExplorer):
    """How many pixels the target has, how large the window is, and what is seen outside the source. `theta` is (1, 2, 3).

    pictures: None for rings, a test card, a digit and a photograph. presets and errors: see `Explorer`. Taught in notebook 03.
    """

    kind = "output"

    @property
    def size(self) -> tuple[int, int]:
        """The target's (H, W), pixels; the longer side is what the slider says."""
        return tuple(max(1, math.floor(self.at["size"] * side / max(self.source) + 0.5)) for side in self.source)

    @property
    def step(self) -> float:
        """Source pixels from one sample to the next."""
        return self.at["scale"] * max(self.source) / self.at["size"]

    def _theta(self) -> Tensor:
        return affine(self.at["angle"], self.at["scale"], aspect=self.aspect)

    def _checked(self, theta) -> Tensor:
        matrix = super()._checked(theta)
        at = self._sliders(matrix)
        turned = affine(at["angle"], at["scale"], aspect=self.aspect)
        if matrix.shape != turned.shape or not torch.allclose(matrix, turned, atol=1e-3):
            raise ValueError(f"theta is {matrix.tolist()}; expected a window that only turns and grows: affine(angle, scale)")
        return matrix

    def _sliders(self, theta: Tensor) -> dict[str, float]:
        found = super()._sliders(theta)
        return {**self.at, **page.moved({"angle": found["angle"], "scale": found["scale_x"]}, self.ranges, "theta")}


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
        shown = (round(side * SHOWN / LOOK["figure.dpi"]) for side in Image.open(io.BytesIO(pictures[0])).size)
        self.image.layout.width, self.image.layout.height = (f"{side}px" for side in shown)
        self.slider.observe(lambda change: setattr(self.image, "value", pictures[change["new"]]), "value")
        super().__init__([self.slider, self.image])

    __repr__ = Explorer.__repr__

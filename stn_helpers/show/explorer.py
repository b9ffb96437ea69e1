"""The theta explorer: explorer.js and what it is told, as one piece of HTML that needs no kernel and no network."""

import base64
import hashlib
import io
import json
import math
import re
from functools import lru_cache
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stn_helpers.data.sets import load, test_card
from stn_helpers.families import control_points

SIDE = 128  # a larger picture is made smaller, on its longer side
LOSSLESS = 6_000  # bytes; a picture whose PNG is larger, a photograph, goes as a JPEG
TITLES = {"matrix": "a matrix", "spline": "a thin plate spline", "output": "the size of the output"}
SENTENCE = "Here are sliders to play with, in a browser that runs scripts."

# name, label, lowest, highest, step, where nothing changes.
SLIDERS = {
    "matrix": (
        ("angle", "angle, degrees", -180, 180, 1, 0),
        ("scale_x", "scale x, × width", -2, 2, 0.01, 1),
        ("scale_y", "scale y, × height", -2, 2, 0.01, 1),
        ("shear", "shear, x for each y", -1, 1, 0.01, 0),
        ("shift_x", "shift x, half widths", -1, 1, 0.01, 0),
        ("shift_y", "shift y, half heights", -1, 1, 0.01, 0),
        ("perspective_x", "tilt x, 1/half width", -0.45, 0.45, 0.01, 0),
        ("perspective_y", "tilt y, 1/half height", -0.45, 0.45, 0.01, 0),
    ),
    "spline": (
        ("x", "move x, half widths", -1, 1, 0.01, 0),
        ("y", "move y, half heights", -1, 1, 0.01, 0),
    ),
    "output": (
        ("size", "output size, pixels", 4, 256, 1, SIDE),
        ("scale", "scale, × width", 0.1, 2, 0.01, 1),
        ("angle", "angle, degrees", -180, 180, 1, 0),
    ),
}
PRESETS = {
    "matrix": {
        "zoom in": {"scale_x": 0.5, "scale_y": 0.5},
        "zoom out": {"scale_x": 1.5, "scale_y": 1.5},
        "quarter turn": {"angle": 90.0},
        "shear": {"shear": 0.5},
        "mirror": {"scale_x": -1.0},
        "look right": {"shift_x": 0.5},
        "perspective": {"perspective_y": 0.4},
        "flat": {"scale_y": 0.0},
    },
    "output": {"20 pixels": {"size": 20}, "oversample": {"size": 256, "scale": 0.25}, "zoom out": {"scale": 1.5}},
}


def explorer_html(
    kind: str,
    pictures: dict[str, Tensor] | None = None,
    k: int = 3,
    presets: dict[str, dict[str, float]] | None = None,
    start: dict[str, float] | None = None,
    title: str | None = None,
    sentence: str = SENTENCE,
    note: str = "",
    link: bool = False,
) -> str:
    """A window on a picture, to be moved by hand, what is seen through it, and theta, as HTML that needs no kernel and no network.

    kind: "matrix" (affine and projective), "spline" (thin plate, k x k control points, k from 2 to 5), or "output" (how many
    pixels the target has). pictures: {name: (C, H, W) in [0, 1] or uint8}, more than one to choose from; None for those of
    `default_pictures`.
    presets: {label: {slider: value}}, one button each; None for those of the series. start: where the sliders stand at first.
    A spline's sliders are x1, y1, x2, ...: how far each control point moves.
    title: what a screen reader calls it. sentence: what stands in its place where scripts do not run. note: what stands below it.
    link: the page's address holds the state, behind its #.
    The same arguments give the same text; several may stand on one page. Raises ValueError for what does not fit.
    Taught in notebook 01.
    """
    found = json.dumps(page_options(kind, pictures, k, presets, start, title, note, link), ensure_ascii=False)
    found = found.replace("<", "\\u003c")  # no "</script>" in a name can end the script
    key = hashlib.sha256((found + sentence).encode()).hexdigest()[:12]
    text = template()
    for name, value in {"__KEY__": key, "__SENTENCE__": escape(sentence), "__OPTIONS__": found}.items():
        text = text.replace(name, value)
    return text


def page_options(kind, pictures=None, k=3, presets=None, start=None, title=None, note="", link=False) -> dict:
    """What `mount` in explorer.js is told; arguments and errors as `explorer_html`."""
    if kind not in list(SLIDERS):
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(SLIDERS)}")
    if not isinstance(k, int) or not 2 <= k <= 5:
        raise ValueError(f"k is {k!r}; expected 2 to 5 control points a side")
    ranges = slider_ranges(kind, k)
    presets = (PRESETS.get(kind) or spline_presets(k)) if presets is None else presets
    return {
        "kind": kind,
        "k": k,
        "title": f"theta explorer: {TITLES[kind]}" if title is None else title,
        "sliders": [dict(zip(("name", "label", "min", "max", "step", "value"), row, strict=True)) for row in SLIDERS[kind]],
        "presets": {label: moved(values, ranges, f"preset {label!r}") for label, values in presets.items()},
        # A hand, or a theta that was set, may have gone further than a slider does.
        "start": moved(start or {}, ranges if kind == "output" else dict.fromkeys(ranges, (-180, 180)), "start"),
        "pictures": encoded(default_pictures(kind) if pictures is None else pictures),
        "note": note,
        "link": link,
    }


@lru_cache
def default_pictures(kind: str = "matrix") -> dict[str, Tensor]:
    """A test card, a digit and a photograph, for "output" rings before them, (C, H, W) in [0, 1]; nothing is downloaded."""
    from sklearn.datasets import load_sample_image

    digit = load("digits", train=False).images[:1].float() / 255
    digit = F.interpolate(digit, size=(SIDE, SIDE), mode="bicubic", align_corners=False)[0].clamp(0, 1)  # smoothly enlarged
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1).float() / 255
    # By Daniel Buechele, CC BY 2.0, as scikit-learn ships it.
    found = {"test card": test_card(SIDE), "a digit": digit, "a photograph (D. Buechele, CC BY)": smaller(photo)}
    return {"rings": rings(), **found} if kind == "output" else found


def rings() -> Tensor:
    """Rings that grow finer outwards, to 4 pixels a ring at the sides. Sampled too coarsely they show rings that are not there."""
    squared = torch.linspace(-1, 1, SIDE).square()
    return 0.5 + 0.5 * torch.cos(math.pi * SIDE / 8 * (squared + squared[:, None]))[None]


def smaller(picture: Tensor) -> Tensor:
    """A picture with at most SIDE pixels on its longer side."""
    most = max(picture.shape[1:])
    if most <= SIDE:
        return picture
    size = [max(1, round(SIDE * side / most)) for side in picture.shape[1:]]
    return F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)


@lru_cache
def script(name: str = "explorer.js") -> str:
    """A script without its comments and indents, which are for those who read the file itself."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return re.sub(r"(?m)^ *(//.*\n)?", "", text)


@lru_cache
def template() -> str:
    """explorer.html with the script in it, and with names in capitals where each page has its own."""
    return Path(__file__).with_name("explorer.html").read_text(encoding="utf-8").replace("__SCRIPT__", script())


def slider_ranges(kind: str, k: int) -> dict[str, tuple[float, float]]:
    """{slider: (lowest, highest)}; a spline has two for each control point."""
    numbers = range(1, k * k + 1) if kind == "spline" else [""]
    return {f"{name}{number}": (low, high) for number in numbers for name, _, low, high, _, _ in SLIDERS[kind]}


def moved(values: dict[str, float], ranges: dict[str, tuple[float, float]], who: str) -> dict[str, float]:
    """The values, if they name sliders and lie in their ranges; else ValueError."""
    for name, value in values.items():
        if name not in ranges:
            raise ValueError(f"{who} names the slider {name!r}; expected one of {', '.join(ranges)}")
        low, high = ranges[name]
        try:
            inside = low <= float(value) <= high  # false for NaN too
        except (TypeError, ValueError):
            inside = False
        if not inside:
            raise ValueError(f"{who} puts {name} at {value!r}; expected {low} to {high}")
    return {name: round(float(value), 4) for name, value in values.items()}


def spline_presets(k: int) -> dict[str, dict[str, float]]:
    """Presets for k x k control points, each a rule that moves all of them; what does not move is left out."""
    knots = control_points(k)
    x, y = knots.unbind(1)
    near = 1 - knots.square().sum(1) / 2
    turn = knots @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    moves = {
        "bulge": -0.4 * knots * near[:, None].clamp(min=0) - 0.15 * knots,
        "arch": torch.stack([torch.zeros_like(x), 0.2 * torch.cos(math.pi * x)], dim=1),
        "twist": 0.5 * turn * (1 - 0.5 * knots.square().sum(1, keepdim=True)),
        "one corner": torch.where((knots == -1).all(1, keepdim=True), 1 / (k - 1), 0.0) * torch.ones(2),
        "shear only": torch.stack([0.4 * y, torch.zeros_like(y)], dim=1),
        "two in one place": torch.cat([knots[:2].mean(0) - knots[:2], torch.zeros_like(knots[2:])]),
    }
    return {
        label: {f"{axis}{i + 1}": float(to[i, j]) for i in range(k * k) for j, axis in enumerate("xy") if abs(to[i, j]) > 1e-4}
        for label, to in moves.items()
    }


def encoded(pictures: dict[str, Tensor]) -> list[dict[str, str]]:
    """[{name, address}], each picture as a data address."""
    if not isinstance(pictures, dict) or not pictures:
        came = "empty" if isinstance(pictures, dict) else f"a {type(pictures).__name__}"
        raise ValueError(f"pictures is {came}; expected at least one {{name: tensor (C, H, W)}}")
    return [{"name": name, "address": address(picture_bytes(name, picture))} for name, picture in pictures.items()]


def check_picture(name: str, picture) -> Tensor:
    """A picture as float32 (C, H, W) in [0, 1]; ValueError for what is not one."""
    if not isinstance(picture, Tensor) or picture.ndim != 3 or picture.shape[0] not in (1, 3) or 0 in picture.shape:
        came = f"has shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else f"is a {type(picture).__name__}"
        raise ValueError(f"picture {name!r} {came}; expected a tensor (C, H, W) with 1 or 3 channels")
    picture = picture.detach().cpu()
    picture = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()
    if not picture.isfinite().all() or picture.min() < 0 or picture.max() > 1:
        raise ValueError(f"picture {name!r} holds values that are not in [0, 1]; expected floats in [0, 1] or uint8")
    return picture


def picture_bytes(name: str, picture: Tensor) -> Tensor:
    """A picture as uint8 (H, W, 3), at most SIDE pixels on its longer side; ValueError for what is not one."""
    picture = smaller(check_picture(name, picture))
    return (255 * picture).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous()


def address(pixels: Tensor) -> str:
    """Pixels uint8 (H, W, 3) as a data address: a PNG, or a JPEG where that PNG would be large."""
    gray = bool((pixels == pixels[..., :1]).all())
    image, png, jpeg = Image.fromarray(pixels.numpy()).convert("L" if gray else "RGB"), io.BytesIO(), io.BytesIO()
    image.save(png, format="png", optimize=True)
    if png.tell() <= LOSSLESS:
        return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    image.save(jpeg, format="jpeg", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"

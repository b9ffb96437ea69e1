"""Sliders: what is drawn and written is what the package says, at every value, after every mistake, and in a real kernel."""

import ast
import base64
import io
import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import ipywidgets
import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stn_helpers.data.sets import load, test_card
from stn_helpers.families import control_points, family, family_grid
from stn_helpers.grid import sampling_grid, target_points
from stn_helpers.sampler import PADDINGS, sample, warp
from stn_helpers.show import widgets
from stn_helpers.show.explorer import MATRIX_PRESETS, SLIDERS, explorer_html, spline_presets
from stn_helpers.show.plots import BLUE, RED, image_row, png
from stn_helpers.show.widgets import Frames, MatrixExplorer, OutputExplorer, SplineExplorer, jpeg
from stn_helpers.theta import CORNERS, affine, as_matrix, map_points, projective
from tools.kernel import Kernel, updates

test_card.__test__ = False  # the picture, not a test

# A busy machine may stand still for a second; that says nothing about the data.
quick = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])

# What a reader can set, and from where to where.
MATRIX = {
    "angle": (-180, 180),
    "scale_x": (-2, 2),
    "scale_y": (-2, 2),
    "shear": (-1, 1),
    "shift_x": (-1, 1),
    "shift_y": (-1, 1),
    "perspective_x": (-0.45, 0.45),
    "perspective_y": (-0.45, 0.45),
}
SPLINE = {f"{axis}{point}": (-1, 1) for point in range(1, 10) for axis in "xy"}
OUTPUT = {"size": (4, 256), "scale": (0.1, 2), "angle": (-180, 180)}


def within(ranges: dict) -> st.SearchStrategy:
    """Any values of these sliders; whole numbers for those that have no others."""
    return st.fixed_dictionaries({name: (st.integers if name == "size" else st.floats)(*ends) for name, ends in ranges.items()})


matrices = within(MATRIX)
# Flat windows have no inverse and no angle; they have tests of their own.
upright = matrices.filter(lambda at: abs(at["scale_x"]) > 0.1 and abs(at["scale_y"]) > 0.1)


def below(widget):
    """A widget and all that it holds."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)


class Page:
    """An explorer as a reader has it: what is drawn, what is written, what can be pressed."""

    def __init__(self, explorer):
        self.explorer = explorer
        (self.image,) = [widget for widget in below(explorer) if isinstance(widget, ipywidgets.Image)]

    def html(self, mark: str) -> ipywidgets.HTML:
        (found,) = [widget for widget in below(self.explorer) if isinstance(widget, ipywidgets.HTML) and mark in widget.value]
        return found

    def control(self, label: str):
        (found,) = [widget for widget in below(self.explorer) if getattr(widget, "description", None) == label]
        return found

    def press(self, label: str) -> None:
        self.control(label).click()

    def at(self, values: dict) -> "Page":
        """All sliders at rest, but for these."""
        self.explorer.set(**{**self.explorer.start, **values})
        return self

    @property
    def target(self) -> torch.Tensor:
        return decoded(self.image.value)

    @property
    def background(self) -> torch.Tensor:
        return decoded(base64.b64decode(re.search(r"base64,([^)]+)\)", self.html("<style>").value)[1]))

    @property
    def numbers(self) -> str:
        return "".join(self.part("pre").itertext())

    def part(self, name: str) -> ElementTree.Element:
        """The drawing ("svg") or the numbers ("pre"): one widget holds both."""
        return ElementTree.fromstring(re.search(rf"<{name}.*</{name}>", self.html(f"<{name}").value, flags=re.DOTALL)[0])

    @property
    def message(self) -> str:
        return "".join(ElementTree.fromstring(self.html('role="status"').value).itertext())

    def lines(self, color: str) -> list[torch.Tensor]:
        """The lines of one colour that are drawn over the source, each (M, 2)."""
        (path,) = [path for path in self.part("svg").iter("path") if path.get("stroke") == color]
        lines = path.get("d").split("M")[1:]
        return [torch.tensor([[float(v) for v in point.split()] for point in line.split("L")]) for line in lines]


def decoded(data: bytes) -> torch.Tensor:
    """JPEG bytes as (C, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def close_pictures(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal, once the expected has gone through a JPEG too; here and there a coefficient may round the other way."""
    through = decoded(jpeg(expected))
    assert found.shape == through.shape
    assert (found - through).abs().mean() < 5e-4


def some_pictures() -> dict[str, torch.Tensor]:
    wide = F.interpolate(test_card()[None], size=(80, 130), mode="bilinear")[0]
    tall = F.interpolate(test_card()[None], size=(60, 25), mode="bilinear")[0].mean(0, keepdim=True)
    return {"square": test_card(), "wide": wide, "tall, gray": tall}


def size_of(picture: torch.Tensor) -> tuple[int, int]:
    """128 pixels on the longer side."""
    height, width = picture.shape[1:]
    return round(128 * height / max(height, width)), round(128 * width / max(height, width))


def drawn_shape(picture: torch.Tensor) -> torch.Tensor:
    """(x, y) of the source's lower right corner as it is drawn."""
    height, width = picture.shape[1:]
    return torch.tensor([width, height]) / max(height, width)


shapes = st.sampled_from(list(some_pictures()))


@pytest.fixture(scope="module")
def matrix() -> Page:
    return Page(MatrixExplorer(some_pictures()))


@pytest.fixture(scope="module")
def spline() -> Page:
    return Page(SplineExplorer(pictures=some_pictures()))


@pytest.fixture(scope="module")
def output() -> Page:
    return Page(OutputExplorer(some_pictures()))


@pytest.fixture(params=[MatrixExplorer, SplineExplorer, OutputExplorer], ids=lambda kind: kind.__name__)
def any_page(request) -> Page:
    return Page(request.param())


# Theta


@pytest.mark.parametrize(("kind", "ranges"), [(MatrixExplorer, MATRIX), (SplineExplorer, SPLINE), (OutputExplorer, OUTPUT)])
def test_the_sliders_go_where_the_lesson_needs_them_and_start_where_nothing_changes(kind, ranges):
    explorer = kind()
    assert {name: (slider.min, slider.max) for name, slider in explorer.sliders.items()} == ranges
    size = explorer.start.get("size", 128)
    grid = (
        family_grid(family("tps", 3), explorer.theta, (size, size))
        if kind is SplineExplorer
        else sampling_grid(explorer.theta, (size, size))
    )
    torch.testing.assert_close(grid[0].reshape(-1, 2), target_points((size, size)), rtol=0, atol=1e-6)


@quick
@given(upright, shapes)
def test_theta_is_the_homography_of_the_four_corners_of_a_tilted_window(matrix, at, shape):
    matrix.control("picture").value = shape
    matrix.at(at)
    height, width = some_pictures()[shape].shape[1:]
    places = torch.tensor(CORNERS).double()
    places = places / (1 + places @ torch.tensor([at["perspective_x"], at["perspective_y"]]).double())[:, None]
    window = affine(at["angle"], (at["scale_x"], at["scale_y"]), at["shear"], (at["shift_x"], at["shift_y"]), width / height)
    expected = projective(map_points(window.double(), places))
    torch.testing.assert_close(as_matrix(matrix.explorer.theta).double(), expected, rtol=0, atol=1e-5)


@quick
@given(matrices)
def test_theta_has_three_rows_only_where_there_is_perspective(matrix, at):
    bent = matrix.at(at).explorer.theta
    flat = matrix.at({**at, "perspective_x": 0, "perspective_y": 0}).explorer.theta
    assert flat.shape == (1, 2, 3)
    assert bent.shape == ((1, 3, 3) if at["perspective_x"] or at["perspective_y"] else (1, 2, 3))


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@quick
@given(seed=st.integers(0, 2**32 - 1))
def test_a_control_point_looks_where_its_sliders_say(k, seed):
    moves = 2 * torch.rand(k * k, 2, generator=torch.Generator().manual_seed(seed)) - 1
    explorer = SplineExplorer(k=k, pictures={"card": test_card(8)}, presets={})
    explorer.set(**{f"{axis}{i + 1}": float(moves[i, j]) for i in range(k * k) for j, axis in enumerate("xy")})
    assert explorer.theta.shape == (1, 2 * k * k)
    places = family("tps", k).source(explorer.theta.double(), control_points(k).double())[0]
    torch.testing.assert_close(places, control_points(k).double() + moves, rtol=0, atol=1e-6)


# The target


@quick
@given(matrices, shapes)
def test_the_target_is_the_picture_warped_by_theta(matrix, at, shape):
    matrix.control("picture").value = shape
    matrix.at(at)
    picture = some_pictures()[shape]
    close_pictures(matrix.target, warp(picture, matrix.explorer.theta, size_of(picture)))


@quick
@given(within(SPLINE), shapes)
def test_the_target_of_a_spline_is_the_picture_seen_through_the_sheet(spline, at, shape):
    spline.control("picture").value = shape
    spline.at(at)
    picture = some_pictures()[shape]
    grid = family_grid(family("tps", 3), spline.explorer.theta, size_of(picture))
    close_pictures(spline.target, sample(picture[None], grid)[0])


@quick
@given(within(OUTPUT), shapes, st.sampled_from(PADDINGS))
def test_output_size_window_and_padding_are_what_the_controls_say(output, at, shape, padding):
    output.control("picture").value = shape
    output.at(at)
    output.control("padding").value = padding
    picture = some_pictures()[shape]
    height, width = picture.shape[1:]
    theta = affine(at["angle"], at["scale"], aspect=width / height)
    torch.testing.assert_close(output.explorer.theta, theta)
    size = tuple(max(1, round(at["size"] * side / max(height, width))) for side in (height, width))
    close_pictures(output.target, warp(picture, theta, size, padding_mode=padding))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_smoothing_takes_away_what_the_samples_cannot_show(size):
    stripes = (torch.arange(128) % 2).float().expand(1, 128, 128)
    page = Page(OutputExplorer({"stripes": stripes})).at({"size": size, "scale": 0.995})
    assert "aliasing" in page.message
    rough = page.target
    page.control("smooth the source first").value = True
    assert page.message == ""
    assert page.target.std() < rough.std() / 2
    assert abs(page.target.mean() - 0.5) < 0.05


def test_smoothing_moves_nothing_and_keeps_the_brightness():
    dot = torch.zeros(1, 1, 65, 65)
    dot[..., 32, 32] = 1
    for width in (2.0, 3.3, 8.0, 40.0):
        blurred = widgets.box_blur(dot, width)
        torch.testing.assert_close(blurred, blurred.flip(2, 3))
        torch.testing.assert_close(blurred.sum(), dot.sum())
        assert width - 1 <= (blurred > 0)[0, 0, 32].sum() <= width + 1


@pytest.mark.parametrize("size", [128, 160, 256])
def test_smoothing_leaves_alone_what_is_not_made_smaller(output, size):
    output.control("picture").value = "square"
    before = output.at({"size": size}).target
    output.control("smooth the source first").value = True
    after = output.target
    output.control("smooth the source first").value = False
    assert torch.equal(before, after)


@pytest.mark.parametrize(("picture", "mean"), [(test_card(), 0.004), (widgets.zone_plate(), 0.02)], ids=["card", "rings"])
def test_a_jpeg_is_the_picture_but_for_what_cannot_be_seen(picture, mean):
    assert (decoded(jpeg(picture)) - picture).abs().mean() < mean  # twice what was measured


# What is drawn over the source


def expected_lines(picture: torch.Tensor, places: torch.Tensor, joints: int) -> torch.Tensor:
    """Nine rows and nine columns of the places (H * W, 2) that the target's pixels look at, in the units of the drawing."""
    height, width = size_of(picture)
    grid = places.reshape(height, width, 2) * drawn_shape(picture)
    rows, columns = (np.linspace(0, side - 1, 9).round() for side in (height, width))
    down, along = (np.linspace(0, side - 1, joints).round() for side in (height, width))
    return torch.cat([grid[rows][:, along], grid[down][:, columns].transpose(0, 1)])


# The drawing has three decimals: half a unit of the last, and float32's rounding of numbers up to 60.
DRAWN = dict(rtol=1e-5, atol=6e-4)


@quick
@given(at=matrices, shape=shapes)
@example(at=dict.fromkeys(MATRIX, 0.45) | {"scale_x": 2, "scale_y": 2}, shape="square")  # the horizon is near, the grid's end far
def test_the_lines_over_the_source_are_the_sampling_grid(matrix, at, shape):
    matrix.control("picture").value = shape
    matrix.at(at)
    picture = some_pictures()[shape]
    places = map_points(matrix.explorer.theta, target_points(size_of(picture)))[0]
    expected = expected_lines(picture, places, joints=2)
    torch.testing.assert_close(torch.stack(matrix.lines(RED)), expected, **DRAWN)
    torch.testing.assert_close(torch.stack(matrix.lines(BLUE)), expected[:1], **DRAWN)  # the target's top row


@quick
@given(within(SPLINE), shapes)
def test_the_lines_of_a_spline_bend_with_the_sheet(spline, at, shape):
    spline.control("picture").value = shape
    spline.at(at)
    picture = some_pictures()[shape]
    places = family("tps", 3).source(spline.explorer.theta, target_points(size_of(picture)))[0]
    joints = len(spline.lines(RED)[0])
    assert joints >= 9
    torch.testing.assert_close(torch.stack(spline.lines(RED)), expected_lines(picture, places, joints), **DRAWN)
    svg = spline.part("svg")
    dots = torch.tensor([[float(dot.get("cx")), float(dot.get("cy"))] for dot in svg.iter("circle")])
    torch.testing.assert_close(dots, spline.explorer.theta.reshape(-1, 2) * drawn_shape(picture), **DRAWN)


def test_the_chosen_control_point_is_marked_and_has_its_sliders_on_the_page():
    page = Page(SplineExplorer())
    for point in (1, 7):
        page.control("control point").value = point
        shown = [widget for widget in below(page.explorer) if widget in page.explorer.sliders.values()]
        assert shown == [page.explorer.sliders[f"x{point}"], page.explorer.sliders[f"y{point}"]]
        fills = [dot.get("fill") for dot in page.part("svg").iter("circle")]
        assert [i for i, fill in enumerate(fills, start=1) if fill != fills[point % 9]] == [point]
        assert f"point {point} looks at" in page.numbers


@pytest.mark.parametrize("shape", some_pictures())
def test_the_source_lies_under_the_lines_at_its_own_shape(matrix, shape):
    """The drawing shows -1.5 to 1.5; the picture lies in its middle, as wide and high as the lines of the identity."""
    matrix.control("picture").value = shape
    picture = some_pictures()[shape]
    close_pictures(matrix.background, picture)
    style = matrix.html("<style>").value
    wide, high = (float(share) / 100 for share in re.search(r"center/([\d.]+)% ([\d.]+)% no-repeat", style).groups())
    low, _, span, _ = (float(v) for v in matrix.part("svg").get("viewBox").split())
    assert low == -span / 2
    torch.testing.assert_close(torch.tensor([wide, high]) * span / 2, drawn_shape(picture), rtol=0, atol=1e-3)
    name = matrix.part("svg").get("class")
    assert f".{name}{{background:" in style


# The numbers


def entries(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d[\d.]*(?:e[+-]\d+)?", text)]


@quick
@given(upright, shapes)
def test_the_matrices_on_the_page_are_theta_and_its_inverse(matrix, at, shape):
    matrix.control("picture").value = shape
    rows = torch.tensor([entries(line) for line in matrix.at(at).numbers.splitlines()[1:4]], dtype=torch.float64)
    theta = as_matrix(matrix.explorer.theta)[0].double()
    torch.testing.assert_close(rows[:, :3], theta, rtol=0, atol=0.0051)
    torch.testing.assert_close(rows[:, 3:], torch.linalg.inv(theta), rtol=1e-3, atol=0.0051)


WINDOW = r"angle (.*)°, scale (.*) × (.*), shear ([^,]*),\s+centre \((.*), (.*)\),?\s+perspective \((.*), (.*)\),\s+area × (.*)"


@quick
@given(upright, st.integers(-180, 180), shapes)
def test_the_window_in_words_builds_theta_again(matrix, at, angle, shape):
    matrix.control("picture").value = shape
    matrix.at({**at, "angle": angle, "perspective_x": 0, "perspective_y": 0})
    said, wide, high, shear, x, y, _, _, area = map(float, re.search(WINDOW, matrix.numbers).groups())
    picture = some_pictures()[shape]
    aspect = picture.shape[2] / picture.shape[1]
    # Everything is said to two decimals; the widest sliders and the aspect multiply what is lost.
    rebuilt = affine(said, (wide, high), shear, (x, y), aspect)
    torch.testing.assert_close(rebuilt, matrix.explorer.theta, rtol=0, atol=0.04)
    assert area == pytest.approx(at["scale_x"] * at["scale_y"], abs=0.0051)


@quick
@given(upright.filter(lambda at: at["scale_x"] > 0), st.integers(-179, 179), shapes)
def test_the_window_in_words_is_what_the_sliders_say(matrix, at, angle, shape):
    matrix.control("picture").value = shape
    matrix.at({**at, "angle": angle})
    said = [float(word) for word in re.search(WINDOW, matrix.numbers).groups()]
    assert said[0] == angle
    assert said[1:8] == pytest.approx([at[name] for name in list(MATRIX)[1:]], abs=0.0052)


@pytest.mark.parametrize(("angle", "said"), [(180, "180"), (-180, "180"), (179, "179"), (0, "0"), (-0.3, "0")])
def test_half_a_turn_is_said_without_a_sign_and_so_is_none(matrix, angle, said):
    assert f"angle {said}°" in matrix.at({"angle": angle}).numbers


@quick
@given(matrices, shapes)
def test_a_mirrored_picture_is_said_to_be_one(matrix, at, shape):
    matrix.control("picture").value = shape
    turned_over = at["scale_x"] * at["scale_y"] < -1e-3
    message = matrix.at(at).message
    assert ("mirrored" in message) == turned_over or "No inverse" in message or abs(at["scale_x"] * at["scale_y"]) < 1e-3


def test_the_affine_part_and_the_bending_energy_are_the_familys(spline):
    spline.control("picture").value = "square"
    tps = family("tps", 3)
    theta = spline.at({"x1": 0.4, "y1": 0.3, "x6": -0.2}).explorer.theta
    flat, bend = tps.split(theta)
    rows = torch.tensor([entries(line) for line in spline.numbers.splitlines()[1:4]], dtype=torch.float64)
    torch.testing.assert_close(rows, as_matrix(flat)[0], rtol=0, atol=0.0051)
    energy, hardest = re.search(r"bending energy (.*), most at point (\d)", spline.numbers).groups()
    assert float(energy) == pytest.approx(tps.energy(theta).item(), abs=0.0051)
    assert int(hardest) == int(bend[0].norm(dim=1).argmax()) + 1
    spline.control("control point").value = 6
    assert "point 6 looks at (0.80, 0.00)" in spline.numbers
    assert spline.at({}).numbers.endswith("bending energy 0.00")


@quick
@given(within(OUTPUT), shapes)
def test_the_step_and_the_share_outside_are_counted(output, at, shape):
    output.control("picture").value = shape
    output.at(at)
    picture = some_pictures()[shape]
    target = output.target
    _, wide, high, step, outside = re.search(
        r"(target) (\d+) × (\d+) pixels,\s+samples (.*) source pixels apart, (\d+) %", output.numbers
    ).groups()
    assert (int(high), int(wide)) == target.shape[1:]
    assert float(step) == pytest.approx(at["scale"] * picture.shape[2] / target.shape[2], abs=0.0051)
    grid = sampling_grid(output.explorer.theta, tuple(target.shape[1:]))
    assert float(outside) == pytest.approx(100 * (grid.abs().amax(-1) > 1).double().mean().item(), abs=0.51)


@pytest.mark.parametrize(("kind", "ranges"), [(MatrixExplorer, MATRIX), (SplineExplorer, SPLINE), (OutputExplorer, OUTPUT)])
@quick
@given(data=st.data())
def test_nothing_changes_its_height(kind, ranges, data, matrix, spline, output):
    """As many lines of numbers at every value; and a fixed height for whatever a step draws or says."""
    page = {MatrixExplorer: matrix, SplineExplorer: spline, OutputExplorer: output}[kind]
    at_rest = page.at({}).numbers.count("\n")
    assert page.at(data.draw(within(ranges))).numbers.count("\n") == at_rest
    drawn, room = int(page.part("svg").get("height")), int(page.html("<svg").layout.height.removesuffix("px"))
    assert room >= drawn + 17 * (at_rest + 1)  # 13 px letters, 1.25 apart
    assert page.image.layout.width and page.image.layout.height
    status = page.html('role="status"').layout
    assert status.height and status.overflow == "auto"  # a long message is scrolled


# Presets, reset and set


def test_every_preset_has_a_button_and_starts_from_rest(any_page):
    explorer = any_page.explorer
    assert explorer.presets
    for label, values in explorer.presets.items():
        for disturbance in explorer.sliders.values():
            disturbance.value = disturbance.max
        any_page.press(label)
        assert {name: slider.value for name, slider in explorer.sliders.items()} == {**explorer.start, **values}
        assert "Error" not in any_page.message
    pressed = any_page.image.value
    any_page.press("reset")
    assert {name: slider.value for name, slider in explorer.sliders.items()} == explorer.start
    assert any_page.image.value != pressed


@pytest.mark.parametrize(
    ("label", "entry"),
    [
        ("zoom in", (0, 0, 0.5)),
        ("zoom out", (0, 0, 1.5)),
        ("quarter turn", (1, 0, 1)),
        ("mirror", (0, 0, -1)),
        ("look right", (0, 2, 0.5)),
    ],
)
def test_presets_do_what_their_buttons_say(label, entry):
    page = Page(MatrixExplorer())
    page.press(label)
    row, column, value = entry
    assert page.explorer.theta[0, row, column].item() == pytest.approx(value)


def test_a_preset_of_ones_own_gets_its_button():
    page = Page(MatrixExplorer(presets={"upside down": {"angle": 180}}))
    page.press("upside down")
    assert page.explorer.sliders["angle"].value == 180
    assert [w.description for w in below(page.explorer) if isinstance(w, ipywidgets.Button)] == ["reset", "upside down"]


def test_several_sliders_are_set_in_one_step(any_page):
    pictures = []
    any_page.image.observe(pictures.append, "value")
    values = dict(list(any_page.explorer.presets.values())[0])
    any_page.explorer.set(**values)
    assert len(pictures) == 1


# Pictures


def test_there_is_a_test_card_and_a_digit_and_no_cifar10_without_its_data(any_page, monkeypatch, tmp_path):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    page = Page(type(any_page.explorer)())
    names = list(page.control("picture").options)
    assert {"test card", "a digit"} <= set(names) and not any("CIFAR" in name for name in names)
    page.control("picture").value = "test card"
    close_pictures(page.background, test_card())
    page.control("picture").value = "a digit"
    small = load("digits", train=False).images[:1].float() / 255
    close_pictures(page.background, F.interpolate(small, size=128, mode="bicubic", align_corners=False)[0].clamp(0, 1))
    assert "digit" in page.control("picture").value


def test_cifar10_can_be_chosen_where_its_data_is(small_cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(small_cifar.unpack(tmp_path)))
    page = Page(MatrixExplorer())
    page.control("picture").value = next(name for name in page.control("picture").options if "CIFAR-10" in name)
    small = load("cifar10", train=False).images[:1].float() / 255
    expected = F.interpolate(small, size=128, mode="bicubic", align_corners=False)[0].clamp(0, 1)
    close_pictures(page.background, expected)
    close_pictures(page.target, expected)


def test_bytes_and_floats_are_the_same_picture():
    card = test_card()
    whole = Page(MatrixExplorer({"card": (255 * card).round().to(torch.uint8)}))
    close_pictures(whole.target, card)


# Labels


def test_frames_show_the_picture_that_the_slider_counts_to():
    pictures = [png(image_row([torch.full((1, 8, 8), shade)])) for shade in (0.0, 0.5, 1.0)]
    frames = Frames(pictures, label="epoch")
    image, slider = frames.image, frames.slider
    assert (slider.min, slider.max, slider.value, slider.description, image.value) == (0, 2, 0, "epoch", pictures[0])
    for count in (2, 1, 0):
        slider.value = count
        assert image.value == pictures[count]
    size = Image.open(io.BytesIO(pictures[0])).size
    assert (image.layout.width, image.layout.height) == tuple(f"{side}px" for side in size)  # the page never jumps
    assert repr(frames).endswith(".")
    with pytest.raises(ValueError, match="pictures is empty"):
        Frames([], label="epoch")


def test_labels_say_their_units(any_page):
    units = r"degrees|pixels|half (widths|heights)|× (width|height)|x for each y|1/half (width|height)"
    for name, slider in any_page.explorer.sliders.items():
        assert re.fullmatch(rf"[a-z ]+, ({units})", slider.description), name
        other = {"x": "height", "y": "width"}.get(name.rstrip("0123456789")[-1])
        assert name in ("shear", "size", "angle", "scale") or not other or other not in slider.description


def test_what_stays_in_a_saved_notebook_is_a_whole_sentence(any_page):
    """ipywidgets cuts the text of a widget at 110 characters."""
    assert len(repr(any_page.explorer)) <= 110 and repr(any_page.explorer).endswith(".")


# Without a kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("kind", [MatrixExplorer, SplineExplorer])
def test_the_explorer_without_a_kernel_has_the_same_sliders_and_presets(kind):
    explorer, matrix = kind(), kind is MatrixExplorer
    for name, label, *numbers in SLIDERS["matrix" if matrix else "spline"]:
        slider = explorer.sliders[name if matrix else f"{name}9"]
        assert (slider.description, slider.min, slider.max, slider.step, slider.value) == (label, *numbers)
    assert len(explorer.sliders) == (8 if matrix else 18)
    for k in (3,) if matrix else (2, 3, 4, 5):
        there = MATRIX_PRESETS if matrix else spline_presets(k)
        here = (explorer if matrix else SplineExplorer(k=k)).presets
        assert list(here) == list(there)
        for label, values in here.items():
            moved = {name: value for name, value in values.items() if matrix or abs(value) > 1e-4}
            assert there[label] == pytest.approx(moved, abs=1e-6)


def test_a_page_gets_the_live_view_and_what_is_saved_gets_an_explorer_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    presets = {"mine": {"angle": 9}}
    explorer = MatrixExplorer({"first": test_card(16), "later": lambda: 1 / 0, "second": test_card(8)}, presets)
    explorer.set(angle=30, shear=0.5)
    Page(explorer).control("picture").value = "second"
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", WIDGET, "text/html"}
    assert bundle[WIDGET]["model_id"] == explorer.model_id
    # The chosen picture first; none is loaded for it.
    pictures = {"second": test_card(8), "first": test_card(16)}
    start = {"angle": 30, "shear": 0.5}
    expected = explorer_html("matrix", pictures, presets=presets, start=start, sentence=repr(explorer))
    assert bundle["text/html"] == expected
    assert bundle["text/plain"] == repr(explorer)


def test_what_is_saved_of_a_spline_has_its_k():
    html = SplineExplorer(k=4, pictures={"card": test_card(8)})._repr_mimebundle_()["text/html"]
    assert '"k": 4' in html and '"kind": "spline"' in html


def test_there_are_never_two_to_choose_from_in_colab_and_none_without_a_twin(any_page, monkeypatch):
    assert ("text/html" in any_page.explorer._repr_mimebundle_()) == (not isinstance(any_page.explorer, OutputExplorer))
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert set(any_page.explorer._repr_mimebundle_()) == {"text/plain", WIDGET}


# Bad input


@pytest.mark.parametrize(
    "flat",
    [
        dict(scale_x=0),
        dict(scale_y=0, angle=33),
        dict(scale_x=0, scale_y=0),
        dict(scale_y=0, perspective_x=0.3),
    ],
)
def test_a_singular_window_has_no_inverse_and_is_drawn_all_the_same(matrix, flat):
    """Its four corners lie on a line: the widget says so in a sentence, where `projective` and `invert` raise."""
    matrix.control("picture").value = "square"
    matrix.at(flat)
    assert matrix.message.startswith("No inverse:") and "Error" not in matrix.message
    assert [line[26:].split() for line in matrix.numbers.splitlines()[1:4]] == [["."] * 3] * 3
    close_pictures(matrix.target, warp(test_card(), matrix.explorer.theta, (128, 128)))
    with pytest.raises(ValueError, match="lie on a line"):
        projective(map_points(matrix.explorer.theta, torch.tensor(CORNERS)))
    assert matrix.at({}).message == ""


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_two_control_points_in_one_place_are_said_to_be_there(k):
    page = Page(SplineExplorer(k=k))
    page.press("two in one place")
    assert "control points 1 and 2 look at the same place" in page.message
    grid = family_grid(family("tps", k), page.explorer.theta, (128, 128))
    close_pictures(page.target, sample(test_card()[None], grid)[0])
    page.press("reset")
    assert page.message == ""


def turned_over(k: int, theta: torch.Tensor) -> torch.Tensor:
    """Where the sheet lies upside down: the sign of its determinant, from autograd."""
    points = target_points((24, 24)).double().requires_grad_()
    x, y = family("tps", k).source(theta.double(), points)[0].unbind(-1)
    across, down = (torch.autograd.grad(axis.sum(), points, retain_graph=True)[0] for axis in (x, y))
    return torch.linalg.det(torch.stack([across, down], dim=1)) < 0


@quick
@given(within({name: (-0.6, 0.6) for name in SPLINE}))
def test_a_folded_sheet_is_said_to_be_folded(spline, at):
    spline.at(at)
    share = turned_over(3, spline.explorer.theta).double().mean().item()
    said = re.search(r"folds over itself, (.*) % of it is turned over", spline.message)
    assert (said is not None) == (share > 0) or share < 0.01 or "same place" in spline.message
    assert said is None or float(said[1]) == pytest.approx(100 * share, abs=3)


def test_a_small_fold_is_not_called_0_percent(spline):
    assert "folds" in spline.at({"x5": 0.821}).message
    assert " 0 %" not in spline.message


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_only_the_preset_that_shows_trouble_has_it(k):
    page = Page(SplineExplorer(k=k))
    for label in page.explorer.presets:
        page.press(label)
        assert (page.message == "") == (label != "two in one place"), label


BAD_VALUES = [{"angel": 30}, {"angle": 181}, {"scale_x": float("nan")}, {"shear": float("inf")}, {"angle": "30°"}, {"angle": None}]


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
def test_a_preset_that_cannot_be_is_refused_by_name(values):
    with pytest.raises(ValueError, match="'my own'.*" + next(iter(values))):
        MatrixExplorer(presets={"good": {"angle": 30}, "my own": values})


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
def test_a_set_that_fails_changes_nothing(values):
    page = Page(MatrixExplorer())
    page.explorer.set(angle=20)
    theta, seen = page.explorer.theta, page.image.value
    with pytest.raises(ValueError, match=next(iter(values))):
        page.explorer.set(shift_x=0.5, **values)
    assert torch.equal(page.explorer.theta, theta) and page.image.value == seen
    page.explorer.sliders["angle"].value = 21  # and the next step is drawn
    close_pictures(page.target, warp(test_card(), affine(21.0)))


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((3, 8, 8)), "ndarray"),
        ("cat.png", "str"),
        (Path("cat.png"), "Path"),
        (None, "NoneType"),
        (Image.new("RGB", (8, 8)), "Image"),
        (torch.zeros(8, 8), r"\(8, 8\)"),
        (torch.zeros(8, 8, 3), r"\(8, 8, 3\)"),
        (torch.zeros(1, 3, 8, 8), r"\(1, 3, 8, 8\)"),
        (torch.zeros(3, 0, 8), r"\(3, 0, 8\)"),
        (torch.full((3, 8, 8), float("nan")), r"\[0, 1\]"),
        (torch.full((3, 8, 8), 255.0), r"\[0, 1\]"),
        (torch.full((3, 8, 8), -0.1), r"\[0, 1\]"),
        (torch.full((3, 8, 8), 200), r"\[0, 1\]"),
    ],
)
def test_a_picture_that_is_none_is_refused_by_name(picture, said):
    for given_ in (picture, lambda: picture):
        with pytest.raises(ValueError, match=f"'my cat'.*{said}"):
            MatrixExplorer({"my cat": given_})


@pytest.mark.parametrize("pictures", [torch.zeros(3, 8, 8), "cat.png", [torch.zeros(3, 8, 8)], {}])
def test_pictures_without_names_are_refused(pictures):
    with pytest.raises(ValueError, match="pictures"):
        MatrixExplorer(pictures)


@pytest.mark.parametrize("shape", [(3, 1, 1000), (1, 1000, 1), (3, 1, 1), (1, 1, 2)])
@pytest.mark.parametrize("kind", [MatrixExplorer, SplineExplorer, OutputExplorer])
def test_the_thinnest_picture_is_drawn(kind, shape):
    page = Page(kind(pictures={"thin": torch.rand(shape)}))
    height, width = page.target.shape[1:]
    assert max(height, width) == 128 and min(height, width) >= 1


def test_a_k_that_makes_no_sheet_is_refused():
    for k in (1, 6, 2.5, "3", None):
        with pytest.raises(ValueError, match="k is"):
            SplineExplorer(k=k)


@pytest.mark.parametrize("fault", ["damaged", "gone"])
def test_a_damaged_data_set_is_told_in_the_widget_and_raised(fault, small_cifar, tmp_path, monkeypatch):
    monkeypatch.setenv("STN_DATA", str(small_cifar.unpack(tmp_path)))
    page = Page(MatrixExplorer())
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(small_cifar.files["test_batch"][:-1]) if fault == "damaged" else file.unlink()
    choice = page.control("picture")
    with pytest.raises(ValueError if fault == "damaged" else FileNotFoundError) as error:
        choice.value = next(name for name in choice.options if "CIFAR-10" in name)
    assert str(error.value).split("\n")[0][:60] in page.message and type(error.value).__name__ in page.message
    # What the list names is what is drawn, and the next step clears the message.
    assert choice.value == "test card"
    page.explorer.set(angle=30)
    assert page.message == ""
    close_pictures(page.target, warp(test_card(), affine(30.0)))


class Broken(MatrixExplorer):
    """Its step fails beyond a right angle: early, while it draws, or late."""

    fails = "facts"

    def facts(self, *given):
        return self.maybe("facts", super().facts(*given))

    def target(self, *given):
        return self.maybe("target", super().target(*given))

    def marks(self):
        return self.maybe("marks", super().marks())

    def maybe(self, name, result):
        if name == self.fails and self.sliders["angle"].value > 90:
            raise RuntimeError(f"<{name}> cannot turn that far")
        return result


@pytest.mark.parametrize("fails", ["facts", "target", "marks"])
def test_a_step_that_fails_says_so_raises_and_leaves_no_half_of_itself(fails):
    page = Page(Broken())
    page.explorer.fails = fails
    page.explorer.set(angle=20)
    before = page.image.value, page.html("<svg").value, page.numbers
    for attempt in (lambda: page.explorer.set(angle=100), lambda: setattr(page.explorer.sliders["angle"], "value", 110)):
        with pytest.raises(RuntimeError, match="cannot turn that far"):
            attempt()
        assert page.message == f"RuntimeError: <{fails}> cannot turn that far"
        assert (page.image.value, page.html("<svg").value, page.numbers) == before
    page.explorer.sliders["angle"].value = 45
    assert page.message == ""
    close_pictures(page.target, warp(test_card(), affine(45.0)))


def test_a_failure_in_ones_own_observer_does_not_freeze_the_sliders():
    page = Page(MatrixExplorer())

    def fail(change):
        raise RuntimeError("mine")

    page.explorer.sliders["angle"].observe(fail, "value")
    with pytest.raises(RuntimeError, match="mine"):
        page.explorer.set(angle=30)
    page.explorer.sliders["angle"].unobserve(fail, "value")
    page.explorer.sliders["shift_x"].value = 0.5
    close_pictures(page.target, warp(test_card(), page.explorer.theta))


FAILING = [
    """
import torch
from stn_helpers.show.widgets import MatrixExplorer
explorer = MatrixExplorer({"card": torch.rand(3, 16, 16), "broken": lambda: 1 / 0}, presets={"bad": {"angle": 90}})
draw = explorer.facts
def facts(*given):
    if explorer.sliders["angle"].value >= 90:
        raise RuntimeError("cannot turn that far")
    return draw(*given)
explorer.facts = facts
def below(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)
def page(word):
    return next(widget for widget in below(explorer) if getattr(widget, "description", "") == word)
def message():
    return next(widget.value for widget in below(explorer) if 'role="status"' in str(getattr(widget, "value", "")))
""",
    "explorer.set(angle=30)\nexplorer",
    "explorer.set(angle=100)",  # 2: fails
    "assert 'RuntimeError: cannot turn that far' in message()",
    "explorer.sliders['angle'].value = 120",  # 4: fails
    "explorer.reset()\nassert 'Error' not in message()",
    "page('bad').click()",  # 6: fails, and ipywidgets prints the traceback itself
    "assert 'cannot turn' in message()\nexplorer.reset()",
    "page('picture').value = 'broken'",  # 8: fails
    "assert 'ZeroDivisionError' in message()",
]


def test_a_callback_that_raises_fails_the_notebook_under_strict_nbval(start, tmp_path):
    cells = [nbformat.v4.new_code_cell(source.strip(), metadata={"tags": ["nbval-ignore-output"]}) for source in FAILING]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(notebook, tmp_path / "sliders.ipynb")
    words = [
        "-m",
        "pytest",
        "--nbval",
        "--nbval-cell-timeout=120",
        "-p",
        "no:cacheprovider",
        "-rA",
        str(tmp_path / "sliders.ipynb"),
    ]
    out, err = start(words, data=tmp_path).communicate(timeout=300)
    outcome = {int(cell): result for result, cell in re.findall(r"(?m)^(PASSED|FAILED) \S+::Cell (\d+)", out)}
    assert outcome == {k: "FAILED" if k in (2, 4, 6, 8) else "PASSED" for k in range(len(FAILING))}, out + err


# In a real kernel


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as running:
        yield running


DRAGS = [
    ("MatrixExplorer", "angle", [0.8 * k for k in range(1, 201)]),
    ("SplineExplorer", "x5", [k / 250 for k in range(1, 201)]),
    ("OutputExplorer", "scale", [1 - k / 250 for k in range(1, 201)]),
]


@pytest.mark.parametrize(("kind", "name", "values"), DRAGS)
def test_a_drag_of_200_steps_ends_at_its_last_value(kernel, kind, name, values):
    """All 200 are in the queue before the first is answered."""
    slider, image = kernel.run(
        "from ipywidgets import Image\n"
        f"from stn_helpers.show.widgets import {kind}\n"
        f"explorer = {kind}()\n"
        "def below(widget):\n"
        "    return [widget] + [w for child in getattr(widget, 'children', ()) for w in below(child)]\n"
        "(image,) = [w for w in below(explorer) if isinstance(w, Image)]\n"
        f"print(explorer.sliders[{name!r}].model_id, image.model_id)"
    ).split()
    waiting = [kernel.move(slider, value=value) for value in values]
    answers = [kernel.until_idle(ident) for ident in waiting]
    assert max(map(kernel.bytes_of, answers)) <= 20_000
    here = {"MatrixExplorer": MatrixExplorer, "SplineExplorer": SplineExplorer, "OutputExplorer": OutputExplorer}[kind]()
    here.set(**{name: values[-1]})
    seen = updates([message for answer in answers for message in answer])[image]["value"]
    assert seen == Page(here).image.value  # to the byte
    assert seen != updates(answers[-2])[image]["value"]
    # The next cell gets the last value too.
    theta = kernel.run("print(explorer.theta.flatten().tolist())")
    assert torch.equal(torch.tensor(ast.literal_eval(theta)), here.theta.flatten())


def test_a_step_that_fails_in_the_kernel_is_told_on_the_page_and_the_next_clears_it(kernel):
    slider, status = kernel.run(
        "from stn_helpers.show.widgets import MatrixExplorer\n"
        "explorer = MatrixExplorer()\n"
        "draw = explorer.facts\n"
        "def facts(*given):\n"
        "    if explorer.sliders['angle'].value >= 90:\n"
        "        raise RuntimeError('cannot turn that far')\n"
        "    return draw(*given)\n"
        "explorer.facts = facts\n"
        "def below(widget):\n"
        "    return [widget] + [w for child in getattr(widget, 'children', ()) for w in below(child)]\n"
        "(status,) = [w for w in below(explorer) if 'role=\"status\"' in str(getattr(w, 'value', ''))]\n"
        "print(explorer.sliders['angle'].model_id, status.model_id)"
    ).split()
    told = updates(kernel.until_idle(kernel.move(slider, value=100)))
    assert "RuntimeError: cannot turn that far" in told[status]["value"]
    told = updates(kernel.until_idle(kernel.move(slider, value=30)))
    assert "Error" not in told[status]["value"]


# ipywidgets 7.7.1, which Colab has, and 8

# All that 8 added to what 7.7.1 has, by comparing the traits of every widget of both.
NEW_CLASSES = {
    "ColorsInput",
    "DatetimePicker",
    "FloatsInput",
    "IntsInput",
    "NaiveDatetimePicker",
    "Stack",
    "TagsInput",
    "TimePicker",
}
NEW_TRAITS = set(
    "titles tooltip tabbable description_allow_html font_family font_style text_color font_variant text_decoration font_size "
    "behavior border_left border_top border_right border_bottom repeat playing".split()
)
OLD_TRAITS = {"description_tooltip", "overflow_x", "overflow_y"}  # those that 8 dropped


def test_only_what_both_ipywidgets_have_is_used():
    tree = ast.parse(Path(widgets.__file__).read_text(encoding="utf-8"))
    classes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ipywidgets"}
    assert {"VBox", "FloatSlider"} <= classes and not classes & NEW_CLASSES
    words = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    keys = {
        key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if isinstance(key, ast.Constant)
    }
    set_later = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assert {"layout", "description"} <= words and "description_width" in keys
    assert not (words | keys | set_later) & (NEW_TRAITS | OLD_TRAITS)


def test_no_word_is_unknown_to_the_ipywidgets_that_is_here():
    """traitlets warns of a trait that does not exist, and drops it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (MatrixExplorer, SplineExplorer, OutputExplorer):
            page = Page(kind())
            page.press(next(iter(page.explorer.presets)))

"""Widgets: what is drawn and written is what the package says, at every value, after every mistake, and in a real kernel."""

import ast
import base64
import io
import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import ipywidgets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stn_helpers.data.sets import load, test_card
from stn_helpers.families import control_points, family
from stn_helpers.grid import sampling_grid, target_points
from stn_helpers.sampler import PADDINGS, warp
from stn_helpers.show import widgets
from stn_helpers.show.explorer import MATRIX_PRESETS, SLIDERS, default_pictures, explorer_html, script, spline_presets
from stn_helpers.show.plots import BLUE, RED, image_row, png
from stn_helpers.show.widgets import Frames, MatrixExplorer, OutputExplorer, SplineExplorer, jpeg
from stn_helpers.theta import CORNERS, affine, as_matrix, map_points, projective
from tools.kernel import Kernel, updates

test_card.__test__ = False  # the picture, not a test

# A busy machine may stand still for a second; that says nothing about the data.
quick = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])

# What a reader can set, and from where to where.
MATRIX = {name: (low, high) for name, _, low, high, _, _ in SLIDERS["matrix"]}
OUTPUT = {"size": (4, 256), "scale": (0.1, 2), "angle": (-180, 180)}


def within(ranges: dict) -> st.SearchStrategy:
    """Any values of these sliders; whole numbers for those that have no others."""
    return st.fixed_dictionaries({name: (st.integers if name == "size" else st.floats)(*ends) for name, ends in ranges.items()})


matrices = within(MATRIX)
# Flat windows have no angle; they have a test of their own.
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
def output() -> Page:
    return Page(OutputExplorer(some_pictures()))


# The explorer of theta, as Python has it


@quick
@given(upright, st.floats(0.4, 2.5))
def test_theta_is_the_homography_of_the_four_corners_of_a_tilted_window(at, aspect):
    explorer = MatrixExplorer()
    explorer.aspect = aspect  # as the page says it where another picture is chosen
    explorer.set(**at)
    at = explorer.at  # a page has four decimals
    places = torch.tensor(CORNERS).double()
    places = places / (1 + places @ torch.tensor([at["perspective_x"], at["perspective_y"]]).double())[:, None]
    window = affine(at["angle"], (at["scale_x"], at["scale_y"]), at["shear"], (at["shift_x"], at["shift_y"]), aspect)
    expected = projective(map_points(window.double(), places))
    torch.testing.assert_close(as_matrix(explorer.theta).double(), expected, rtol=0, atol=1e-5)
    assert explorer.theta.shape == ((1, 3, 3) if at["perspective_x"] or at["perspective_y"] else (1, 2, 3))


@quick
@given(upright, st.floats(0.4, 2.5))
def test_a_theta_that_is_set_moves_the_sliders_to_where_they_say_it(at, aspect):
    explorer, other = MatrixExplorer(), MatrixExplorer()
    explorer.aspect = other.aspect = aspect
    explorer.set(**at)
    other.theta = explorer.theta
    assert torch.equal(other.theta, explorer.theta)
    again = MatrixExplorer()
    again.aspect = aspect
    again.at = other.at
    torch.testing.assert_close(as_matrix(again.theta), as_matrix(explorer.theta), rtol=0, atol=2e-3)


def test_theta_is_a_trait_that_is_watched_and_can_be_written_in_any_shape():
    explorer, seen = MatrixExplorer(), []
    explorer.observe(lambda change: seen.append(change.new), "theta")
    explorer.set(angle=30)
    explorer.theta = affine(20.0)[0]
    explorer.theta = 2 * torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.1, 0, 1]])
    assert [tuple(theta.shape) for theta in seen] == [(1, 2, 3), (1, 2, 3), (1, 3, 3)]
    torch.testing.assert_close(seen[0], affine(30.0))
    torch.testing.assert_close(seen[1], affine(20.0))
    assert explorer.at["perspective_x"] == pytest.approx(0.1) and explorer.at["scale_x"] == 1
    explorer.reset()
    assert explorer.at == explorer.start and torch.equal(explorer.theta, affine())


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_a_control_point_looks_where_its_sliders_say(k):
    moves = (2 * torch.rand(k * k, 2, generator=torch.Generator().manual_seed(k)) - 1).round(decimals=4)
    explorer = SplineExplorer(k=k, pictures={"card": test_card(8)}, presets={})
    explorer.set(**{f"{axis}{i + 1}": float(moves[i, j]) for i in range(k * k) for j, axis in enumerate("xy")})
    assert explorer.theta.shape == (1, 2 * k * k)
    places = family("tps", k).source(explorer.theta.double(), control_points(k).double())[0]
    torch.testing.assert_close(places, control_points(k).double() + moves, rtol=0, atol=1e-6)
    other = SplineExplorer(k=k)
    other.theta = explorer.theta[0]
    assert other.at == pytest.approx(explorer.at, abs=1e-4)


WRONG_THETAS = [
    (MatrixExplorer, torch.zeros(2, 2), "theta has shape"),
    (MatrixExplorer, "30", "theta is str"),
    (MatrixExplorer, affine(torch.tensor([0.0, 1.0])), "one matrix"),
    (MatrixExplorer, torch.full((2, 3), float("nan")), "not finite"),
    (MatrixExplorer, torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]), "last entry is not 0"),
    (SplineExplorer, torch.zeros(1, 6), "expected 18 finite numbers"),
    (SplineExplorer, torch.full((1, 18), float("inf")), "expected 18 finite numbers"),
]


@pytest.mark.parametrize(("kind", "theta", "said"), WRONG_THETAS)
def test_a_theta_that_is_none_is_refused_and_moves_nothing(kind, theta, said):
    explorer = kind()
    before, at = explorer.theta, explorer.at
    with pytest.raises(ValueError, match=said):
        explorer.theta = theta
    assert torch.equal(explorer.theta, before) and explorer.at == at


BAD_VALUES = [{"angel": 30}, {"angle": 181}, {"scale_x": float("nan")}, {"shear": float("inf")}, {"angle": "30°"}, {"angle": None}]


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
def test_a_preset_or_a_set_that_cannot_be_is_refused_by_name_and_changes_nothing(values):
    with pytest.raises(ValueError, match="'my own'.*" + next(iter(values))):
        MatrixExplorer(presets={"good": {"angle": 30}, "my own": values})
    explorer = MatrixExplorer()
    explorer.set(angle=20)
    with pytest.raises(ValueError, match=next(iter(values))):
        explorer.set(shift_x=0.5, **values)
    assert torch.equal(explorer.theta, affine(20.0))


WIDGET = "application/vnd.jupyter.widget-view+json"


def test_a_page_gets_the_live_view_and_what_is_saved_gets_an_explorer_as_it_stands():
    pictures, presets = {"first": test_card(16), "second": test_card(8)}, {"mine": {"angle": 9}}
    explorer = MatrixExplorer(pictures, presets)
    explorer.set(angle=30, shear=0.5)
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", WIDGET, "text/html"}
    assert bundle[WIDGET]["model_id"] == explorer.model_id
    start = {"angle": 30, "shear": 0.5}
    assert bundle["text/html"] == explorer_html("matrix", pictures, presets=presets, start=start, sentence=repr(explorer))
    assert bundle["text/plain"] == repr(explorer)
    assert '"k": 4' in SplineExplorer(k=4, pictures={"card": test_card(8)})._repr_mimebundle_()["text/html"]


def test_a_window_that_went_further_than_a_slider_is_saved_too():
    explorer = MatrixExplorer()
    explorer.theta = affine(scale=3.0, shift=(1.5, 0.0))
    assert '"scale_x": 3.0' in explorer._repr_mimebundle_()["text/html"]


def test_there_are_never_two_to_choose_from_in_colab(monkeypatch):
    explorer = MatrixExplorer()
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert set(explorer._repr_mimebundle_()) == {"text/plain", WIDGET}


def test_without_anywidget_the_page_alone_is_shown_says_so_and_python_still_has_its_theta(start, tmp_path):
    code = (
        "import sys; sys.modules['anywidget'] = None\n"
        "from stn_helpers.show.widgets import MatrixExplorer\n"
        "explorer = MatrixExplorer(); explorer.set(angle=90)\n"
        "print(explorer.theta.round().tolist()); bundle = explorer._repr_mimebundle_()\n"
        "print(sorted(bundle), 'anywidget is not installed' in bundle['text/html'])"
    )
    out, err = start(["-c", code], data=tmp_path).communicate(timeout=120)
    assert out.split("\n")[1] == "['text/html', 'text/plain'] True", err
    assert out.startswith("[[[-0.0, -1.0, 0.0], [1.0, -0.0, 0.0]]]")


def test_the_presets_are_those_of_the_series():
    assert MatrixExplorer().presets == MATRIX_PRESETS
    assert SplineExplorer(k=4).presets["twist"] == pytest.approx(spline_presets(4)["twist"], abs=1e-4)
    assert SplineExplorer(presets={}).presets == {}


def test_there_are_a_test_card_a_digit_and_a_photograph_with_no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("STN_DATA", str(tmp_path))
    card, digit, photo = default_pictures().values()
    assert torch.equal(card, test_card(128))
    small = load("digits", train=False).images[:1].float() / 255
    torch.testing.assert_close(digit[None], F.interpolate(small, size=128, mode="bicubic", align_corners=False).clamp(0, 1))
    assert photo.shape[0] == 3 and max(photo.shape) == 128 and photo.std() > 0.1
    assert [*default_pictures()] == [one["name"] for one in MatrixExplorer().options["pictures"]]


# The sliders of the output


def test_the_sliders_go_where_the_lesson_needs_them_and_start_where_nothing_changes():
    explorer = OutputExplorer()
    assert {name: (slider.min, slider.max) for name, slider in explorer.sliders.items()} == OUTPUT
    grid = sampling_grid(explorer.theta, (128, 128))
    torch.testing.assert_close(grid[0].reshape(-1, 2), target_points((128, 128)), rtol=0, atol=1e-6)


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


def expected_lines(picture: torch.Tensor, places: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Nine rows and nine columns of the places (H * W, 2) that the target's pixels look at, in the units of the drawing."""
    height, width = size
    grid = places.reshape(height, width, 2) * drawn_shape(picture)
    rows, columns = (np.linspace(0, side - 1, min(9, side)).round() for side in (height, width))
    down, along = (np.linspace(0, side - 1, min(2, side)).round() for side in (height, width))
    return torch.cat([grid[rows][:, along], grid[down][:, columns].transpose(0, 1)])


# The drawing has three decimals: half a unit of the last, and float32's rounding.
DRAWN = dict(rtol=1e-5, atol=6e-4)


@quick
@given(at=within({**OUTPUT, "size": (32, 256)}), shape=shapes)
def test_the_lines_over_the_source_are_the_sampling_grid(output, at, shape):
    output.control("picture").value = shape
    output.at(at)
    size = output.explorer.size
    places = map_points(output.explorer.theta, target_points(size))[0]
    expected = expected_lines(some_pictures()[shape], places, size)
    torch.testing.assert_close(torch.stack(output.lines(RED)), expected, **DRAWN)
    torch.testing.assert_close(torch.stack(output.lines(BLUE)), expected[:1], **DRAWN)  # the target's top row


@pytest.mark.parametrize("shape", some_pictures())
def test_the_source_lies_under_the_lines_at_its_own_shape(output, shape):
    """The drawing shows -1.5 to 1.5; the picture lies in its middle, as wide and high as the lines of the identity."""
    output.control("picture").value = shape
    picture = some_pictures()[shape]
    close_pictures(output.background, picture)
    style = output.html("<style>").value
    wide, high = (float(share) / 100 for share in re.search(r"center/([\d.]+)% ([\d.]+)% no-repeat", style).groups())
    low, _, span, _ = (float(v) for v in output.part("svg").get("viewBox").split())
    assert low == -span / 2
    torch.testing.assert_close(torch.tensor([wide, high]) * span / 2, drawn_shape(picture), rtol=0, atol=1e-3)
    name = output.part("svg").get("class")
    assert f".{name}{{background:" in style


def entries(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d[\d.]*(?:e[+-]\d+)?", text)]


@quick
@given(within(OUTPUT), shapes)
def test_the_matrix_on_the_page_is_theta(output, at, shape):
    output.control("picture").value = shape
    rows = torch.tensor([entries(line) for line in output.at(at).numbers.splitlines()[1:4]])
    torch.testing.assert_close(rows, as_matrix(output.explorer.theta)[0], rtol=0, atol=0.0051)


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


@quick
@given(within(OUTPUT))
def test_nothing_changes_its_height(output, at):
    """As many lines of numbers at every value; and a fixed height for whatever a step draws or says."""
    at_rest = output.at({}).numbers.count("\n")
    assert output.at(at).numbers.count("\n") == at_rest
    drawn, room = int(output.part("svg").get("height")), int(output.html("<svg").layout.height.removesuffix("px"))
    assert room >= drawn + 17 * (at_rest + 1)  # 13 px letters, 1.25 apart
    assert output.image.layout.width and output.image.layout.height
    status = output.html('role="status"').layout
    assert status.height and status.overflow == "auto"  # a long message is scrolled


def test_every_preset_has_a_button_and_starts_from_rest():
    any_page = Page(OutputExplorer())
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


def test_several_sliders_are_set_in_one_step():
    any_page = Page(OutputExplorer())
    pictures = []
    any_page.image.observe(pictures.append, "value")
    values = dict(list(any_page.explorer.presets.values())[0])
    any_page.explorer.set(**values)
    assert len(pictures) == 1


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


def test_what_stays_in_a_saved_notebook_is_a_whole_sentence():
    """ipywidgets cuts the text of a widget at 110 characters."""
    for kind in (MatrixExplorer, SplineExplorer, OutputExplorer):
        assert len(repr(kind())) <= 110 and repr(kind()).endswith(".")


# Bad input, for all of them

KINDS = [MatrixExplorer, SplineExplorer, OutputExplorer]


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
    for kind in (MatrixExplorer, OutputExplorer):
        with pytest.raises(ValueError, match=f"'my cat'.*{said}"):
            kind({"my cat": picture})


@pytest.mark.parametrize("pictures", [torch.zeros(3, 8, 8), "cat.png", [torch.zeros(3, 8, 8)], {}])
def test_pictures_without_names_are_refused(pictures):
    for kind in KINDS:
        with pytest.raises(ValueError, match="pictures"):
            kind(pictures=pictures)


@pytest.mark.parametrize("shape", [(3, 1, 1000), (1, 1000, 1), (3, 1, 1), (1, 1, 2)])
def test_the_thinnest_picture_is_drawn(shape):
    page = Page(OutputExplorer(pictures={"thin": torch.rand(shape)}))
    height, width = page.target.shape[1:]
    assert max(height, width) == 128 and min(height, width) >= 1
    assert MatrixExplorer({"thin": torch.rand(shape)}).aspect == shape[2] / shape[1]


def test_a_k_that_makes_no_sheet_is_refused():
    for k in (1, 6, 2.5, "3", None):
        with pytest.raises(ValueError, match="k is"):
            SplineExplorer(k=k)


def test_a_step_that_fails_says_so_raises_and_leaves_no_half_of_itself(monkeypatch):
    page = Page(OutputExplorer())
    page.explorer.set(angle=20)
    before = page.image.value, page.html("<svg").value, page.numbers
    whole = page.explorer._drawing

    def drawing(grid):
        if page.explorer.sliders["angle"].value > 90:
            raise RuntimeError("<drawing> cannot turn that far")
        return whole(grid)

    monkeypatch.setattr(page.explorer, "_drawing", drawing)
    for attempt in (lambda: page.explorer.set(angle=100), lambda: setattr(page.explorer.sliders["angle"], "value", 110)):
        with pytest.raises(RuntimeError, match="cannot turn that far"):
            attempt()
        assert page.message == "RuntimeError: <drawing> cannot turn that far"
        assert (page.image.value, page.html("<svg").value, page.numbers) == before
    page.explorer.sliders["angle"].value = 45
    assert page.message == ""


# In a real kernel


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as running:
        yield running


def test_what_the_page_says_is_theta_in_the_next_cell_and_what_a_cell_sets_is_told_to_the_page(kernel):
    """200 moves of a hand wait in the queue before the first is answered."""
    setup = "from stn_helpers.show.widgets import MatrixExplorer\nexplorer = MatrixExplorer()\nprint(explorer.model_id)"
    model = kernel.run(setup).strip()
    start = MatrixExplorer().start
    waiting = [kernel.move(model, at={**start, "angle": 0.8 * k}, aspect=1.0) for k in range(1, 201)]
    answers = [kernel.until_idle(ident) for ident in waiting]
    assert max(map(kernel.bytes_of, answers)) <= 20_000  # no picture goes to and fro
    theta = torch.tensor(ast.literal_eval(kernel.run("print(explorer.theta.tolist())")))
    torch.testing.assert_close(theta, affine(160.0))
    told = updates(
        kernel.until_idle(kernel.client.execute("from stn_helpers.theta import affine\nexplorer.theta = affine(-25, 0.5)"))
    )
    assert told[model]["at"]["angle"] == pytest.approx(-25) and told[model]["at"]["scale_x"] == 0.5


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
        for kind in KINDS:
            kind()
        Page(OutputExplorer()).press("20 pixels")


def test_the_script_for_the_kernel_is_that_of_the_page():
    assert MatrixExplorer._esm.startswith(script()) and "export default" in MatrixExplorer._esm
    assert not re.search(r"https?:|\bimport\b|\bfetch\(", MatrixExplorer._esm)

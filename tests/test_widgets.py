"""Widgets: what is drawn and written is what the package says, at every value, after every mistake, and in a real kernel."""

import ast
import io
import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stn_helpers.data.sets import load, test_card
from stn_helpers.families import control_points, family
from stn_helpers.show import widgets
from stn_helpers.show.explorer import PRESETS, SLIDERS, default_pictures, explorer_html, script, spline_presets
from stn_helpers.show.plots import image_row, png
from stn_helpers.show.widgets import Frames, MatrixExplorer, OutputExplorer, SplineExplorer
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
    assert MatrixExplorer().presets == PRESETS["matrix"]
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


# The output


@quick
@given(within(OUTPUT), st.tuples(st.integers(1, 128), st.integers(1, 128)))
def test_the_output_has_the_size_the_step_and_the_theta_of_its_sliders(at, shape):
    explorer = OutputExplorer({"gray": torch.zeros(1, *shape)})
    assert (explorer.size, explorer.step) == (
        tuple(max(1, math.floor(128 * s / max(shape) + 0.5)) for s in shape),
        max(shape) / 128,
    )
    torch.testing.assert_close(explorer.theta, affine())
    explorer.set(**at)
    torch.testing.assert_close(explorer.theta, affine(at["angle"], at["scale"], aspect=shape[1] / shape[0]), rtol=0, atol=2e-2)
    assert max(explorer.size) == at["size"] and min(explorer.size) >= 1
    assert explorer.step == pytest.approx(at["scale"] * max(shape) / at["size"], abs=0.01 * max(shape) / at["size"])


def test_a_theta_that_only_turns_and_grows_moves_the_sliders_of_the_output_and_no_other_does():
    explorer = OutputExplorer()
    assert [one["name"] for one in explorer.options["pictures"]][0] == "rings" and explorer.presets == PRESETS["output"]
    explorer.set(size=20)
    explorer.theta = affine(-20.0, 0.5)
    assert explorer.at == {"size": 20, "scale": 0.5, "angle": -20}
    tilted = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.1, 0, 1]])
    for theta in (affine(0.0, 3.0), affine(0.0, (1.0, 0.5)), affine(0.0, 1.0, shift=(0.1, 0.0)), affine(scale=(-1.0, 1.0)), tilted):
        with pytest.raises(ValueError, match="theta"):
            explorer.theta = theta
    assert explorer.at == {"size": 20, "scale": 0.5, "angle": -20}
    assert '"start": {"size": 20.0, "scale": 0.5, "angle": -20.0}' in explorer._repr_mimebundle_()["text/html"]
    explorer.source = [256, 100]  # as the page says it where another picture is chosen
    assert explorer.size == (20, 8) and explorer.step == pytest.approx(6.4)


def test_frames_show_the_picture_that_the_slider_counts_to():
    pictures = [png(image_row([torch.full((1, 8, 8), shade)])) for shade in (0.0, 0.5, 1.0)]
    frames = Frames(pictures, label="epoch")
    image, slider = frames.image, frames.slider
    assert (slider.min, slider.max, slider.value, slider.description, image.value) == (0, 2, 0, "epoch", pictures[0])
    for count in (2, 1, 0):
        slider.value = count
        assert image.value == pictures[count]
    size = Image.open(io.BytesIO(pictures[0])).size
    assert (image.layout.width, image.layout.height) == tuple(f"{round(side / 1.6)}px" for side in size)  # the page never jumps
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
    assert max(OutputExplorer({"thin": torch.rand(shape)}).size) == 128
    assert MatrixExplorer({"thin": torch.rand(shape)}).aspect == shape[2] / shape[1]


def test_a_k_that_makes_no_sheet_is_refused():
    for k in (1, 6, 2.5, "3", None):
        with pytest.raises(ValueError, match="k is"):
            SplineExplorer(k=k)


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
    assert {"VBox", "IntSlider", "Image"} <= classes and not classes & NEW_CLASSES
    words = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    keys = {
        key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if isinstance(key, ast.Constant)
    }
    set_later = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assert "description" in words
    assert not (words | keys | set_later) & (NEW_TRAITS | OLD_TRAITS)


def test_no_word_is_unknown_to_the_ipywidgets_that_is_here():
    """traitlets warns of a trait that does not exist, and drops it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS:
            kind()
        Frames([png(image_row([torch.zeros(1, 8, 8)]))], label="epoch")


def test_the_script_for_the_kernel_is_that_of_the_page():
    assert MatrixExplorer._esm.startswith(script()) and "export default" in MatrixExplorer._esm
    assert not re.search(r"https?:|\bimport\b|\bfetch\(", MatrixExplorer._esm)

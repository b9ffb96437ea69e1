"""The explorer without a kernel: its arithmetic is the package's, and a reader can use it with nothing but a browser."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import test_browser
import torch
import torch.nn.functional as F
from PIL import Image
from test_browser import CHROMIUM, chromium

from stn_helpers.data.sets import test_card
from stn_helpers.families import family, family_grid
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import PADDINGS, sample, warp
from stn_helpers.show import explorer
from stn_helpers.show.explorer import PRESETS, SLIDERS, explorer_html, picture_bytes, spline_presets, template
from stn_helpers.theta import CORNERS, affine, as_matrix, map_points, projective
from tools.run import run

test_card.__test__ = False  # the picture, not a test

NODE = shutil.which("node")
axe = test_browser.axe
needs_node = pytest.mark.skipif(NODE is None, reason="there is no Node on this machine")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

# The arithmetic

# Each case as a page would do it: theta from the sliders (or as it is given), the grid, and the bytes of the target.
ANSWER = """({at, theta, k, places, padding, source, step, size: [height, width]}) => {
    const m = at ? core.matrix(at, source.width / source.height) : theta;
    const bent = () => core.plateGrid(core.plateWeights(core.plate(k), height, width), places);
    const grid = places ? bent() : core.matrixGrid(m, height, width);
    const out = new Uint8ClampedArray(4 * height * width);
    core.sample(step ? core.smooth(source, step) : source, grid, padding, out);
    return {theta: m, grid: [...grid].map(value => Number.isFinite(value) ? value : null), out: [...out]};
}"""


def core() -> str:
    """The part of the script that knows no page."""
    script = Path(explorer.__file__).with_name("explorer.js").read_text(encoding="utf-8")
    return script.split("// core: begin")[1].split("// core: end")[0]


def in_node(expression: str, data):
    """What a JavaScript function of the core answers to this data, through JSON."""
    script = f"{core()}\nconsole.log(JSON.stringify(({expression})(JSON.parse(require('fs').readFileSync(0)))))"
    return json.loads(subprocess.check_output([NODE, "-e", script], input=json.dumps(data), text=True, encoding="utf-8"))


def noise(generator: torch.Generator, height: int, width: int) -> torch.Tensor:
    """A source with no two pixels alike, uint8 (3, H, W): whoever reads beside the place is found out."""
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def as_source(picture: torch.Tensor) -> dict:
    """uint8 (3, H, W) as the script has it: RGBA bytes."""
    opaque = torch.cat([picture, torch.full_like(picture[:1], 255)])
    return {"data": opaque.permute(1, 2, 0).flatten().tolist(), "height": picture.shape[1], "width": picture.shape[2]}


def at_random(generator: torch.Generator, tilted: bool) -> dict[str, float]:
    """All sliders of a matrix anywhere; theta's w is positive at every one of them."""
    ends = {name: (low, high) for name, _, low, high, _, _ in SLIDERS["matrix"]}
    found = {name: low + (high - low) * torch.rand((), generator=generator).item() for name, (low, high) in ends.items()}
    return found if tilted else {**found, "perspective_x": 0, "perspective_y": 0}


def theta_of(at: dict[str, float], aspect: float) -> torch.Tensor:
    """theta of these sliders, from the package: (1, 3, 3)."""
    window = affine(at["angle"], (at["scale_x"], at["scale_y"]), at["shear"], (at["shift_x"], at["shift_y"]), aspect)
    tilt = torch.eye(3)
    tilt[2, :2] = torch.tensor([at["perspective_x"], at["perspective_y"]])
    return as_matrix(window) @ tilt


SHAPES = [((32, 32), (32, 32)), ((24, 40), (24, 40)), ((41, 17), (32, 13)), ((1, 7), (9, 30)), ((9, 8), (64, 57))]


def mean_over(images: torch.Tensor, step: float) -> torch.Tensor:
    """Images (N, C, H, W) averaged over an odd window of about `step` pixels a side; the edge is repeated."""
    if step <= 1:
        return images
    half = max(1, math.floor((step - 1) / 2 + 0.5))
    return F.avg_pool2d(F.pad(images, [half] * 4, mode="replicate"), 2 * half + 1, stride=1)


def random_cases(count: int) -> list[tuple[dict, torch.Tensor, torch.Tensor]]:
    """(case for the script, expected grid (H, W, 2), expected target (3, H, W) in grey levels); 60 hold every combination.

    The second 60 of each 120 read a smoothed source.
    """
    generator, cases = torch.Generator().manual_seed(0), []
    for number in range(count):
        (high, wide), size = SHAPES[number % len(SHAPES)]
        padding = PADDINGS[number // 5 % 3]
        picture = noise(generator, high, wide)
        step = (0.0, 0.9, 1.2, 3.3, 8.0, 40.0)[number % 6] if number // 60 % 2 else 0.0
        case = {"source": as_source(picture), "size": size, "padding": padding, "step": step}
        kind = ("affine", "projective", "tps 3", "tps 4")[number // 15 % 4]
        if kind.startswith("tps"):
            k = int(kind[-1])
            moves = torch.rand(2 * k * k, generator=generator) - 0.5
            params = torch.tensor(family("tps", k).identity) + moves
            grid = family_grid(family("tps", k), params[None], size)
            case |= {"k": k, "places": params.tolist()}
        else:
            case["at"] = at_random(generator, kind == "projective")
            grid = sampling_grid(theta_of(case["at"], wide / high), size)
        seen = sample(mean_over(picture[None].float() / 255, step), grid, padding_mode=padding)[0]
        cases.append((case, grid[0], 255 * seen))
    return cases


def check_answers(answers: list[dict], cases: list[tuple[dict, torch.Tensor, torch.Tensor]]) -> None:
    """Within one grey level, at every pixel of every case."""
    assert len(answers) == len(cases)
    for answer, (_, grid, seen) in zip(answers, cases, strict=True):
        torch.testing.assert_close(torch.tensor(answer["grid"]).reshape(grid.shape), grid, rtol=1e-4, atol=1e-4)
        found = torch.tensor(answer["out"], dtype=torch.float32).reshape(*grid.shape[:2], 4).permute(2, 0, 1)
        assert (found[:3] - seen.round()).abs().max() <= 1
        assert (found[:3] - seen).abs().mean() < 0.3  # a rounding loses a quarter on the mean
        assert (found[3] == 255).all()


@needs_node
def test_grid_and_sampler_in_node_are_those_of_the_package():
    cases = random_cases(240)
    check_answers(in_node(f"cases => cases.map({ANSWER})", [case for case, _, _ in cases]), cases)


@needs_node
def test_theta_in_node_is_the_one_that_the_package_builds():
    generator = torch.Generator().manual_seed(1)
    data = [{"at": at_random(generator, tilted=k % 2 == 0), "aspect": 0.5 + k / 20} for k in range(40)]
    found = in_node("all => all.map(({at, aspect}) => core.matrix(at, aspect))", data)
    expected = torch.cat([theta_of(one["at"], one["aspect"]) for one in data])
    torch.testing.assert_close(torch.tensor(found).reshape(-1, 3, 3), expected, rtol=1e-5, atol=1e-5)


FLAT = dict.fromkeys([name for name, *_ in SLIDERS["matrix"]], 0)
NOWHERE = {
    "a point": theta_of(FLAT, 1.0),
    "a line": affine(30.0, (1.0, 0.0)),
    "w is 0 in the middle": torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]]),
    "w is 0 everywhere": torch.tensor([[[1.0, 0, 0.3], [0, 1, 0], [0, 0, 0]]]),
    "w changes its sign": torch.tensor([[[1.0, 0, 0], [0, 1, 0], [3, -2, 0.5]]]),
    "w is negative": torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, -1]]]),
    "far away": torch.tensor([[[1e9, 0, 0], [0, 1e9, 0], [0, 0, 1]]]),
}


@needs_node
@pytest.mark.parametrize("padding", ["border", "zeros"])  # a reflection of what is far away is anything
@pytest.mark.parametrize("theta", NOWHERE.values(), ids=NOWHERE)
def test_a_theta_that_collapses_or_looks_at_infinity_shows_what_warp_shows(theta, padding):
    picture = noise(torch.Generator().manual_seed(2), 7, 9)
    case = {"theta": as_matrix(theta).flatten().tolist(), "source": as_source(picture), "size": (7, 9), "padding": padding}
    (answer,) = in_node(f"cases => cases.map({ANSWER})", [case])
    # warp refuses such places, because they end a training; a drawing shows what it can. Where torch says NaN, it is black.
    grid = sampling_grid(as_matrix(theta), (7, 9), check=False)
    seen = 255 * sample(picture.float()[None] / 255, grid, padding_mode=padding, check=False)[0]
    found = torch.tensor(answer["out"], dtype=torch.float32).reshape(7, 9, 4).permute(2, 0, 1)[:3]
    assert (found - seen.nan_to_num(0).round()).abs().max() <= 1


@needs_node
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_the_affine_part_and_the_bending_energy_are_the_familys(k):
    tps = family("tps", k)
    params = torch.tensor(tps.identity)[None] + torch.rand(1, 2 * k * k, generator=torch.Generator().manual_seed(k)) - 0.5
    found = in_node("({k, places}) => core.plateParts(core.plate(k), places)", {"k": k, "places": params[0].tolist()})
    flat, bends = tps.split(params)
    torch.testing.assert_close(torch.tensor(found["flat"], dtype=torch.float64), flat[0].flatten(), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(found["bends"], dtype=torch.float64), bends[0].norm(dim=1), rtol=0, atol=1e-6)
    assert found["energy"] == pytest.approx(tps.energy(params).item(), rel=1e-6)


# The piece of HTML


@pytest.mark.parametrize("kind", SLIDERS)
def test_it_is_small_the_same_every_time_and_asks_for_nothing(kind):
    text = explorer_html(kind)
    assert text == explorer_html(kind)
    assert len(text.encode()) < (90_000 if kind == "output" else 80_000)  # the rings are one picture more
    photo = {"photo": torch.rand(3, 500, 400, generator=torch.Generator().manual_seed(0))}  # no picture is larger
    assert len(explorer_html(kind, photo).encode()) < 100_000
    assert not re.search(r"https?:|//cdn|\bimport\b|\bfetch\(|XMLHttp|sendBeacon|\beval\(", text)
    assert not re.search(r"__[A-Z]+__", text)


def test_what_a_reader_names_cannot_end_the_script():
    nasty = "</script><script>alert(1)</script><!--"
    text = explorer_html("matrix", {nasty: test_card(8)}, presets={nasty: {}}, title=nasty, sentence=nasty)
    assert text.count("<script>") == text.count("</script>") == 1
    assert "<!--" not in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "tps"}, "kind is 'tps'; expected one of matrix, spline, output"),
        ({"kind": None}, "kind is None"),
        ({"kind": "spline", "k": 1}, "k is 1; expected 2 to 5"),
        ({"kind": "spline", "k": 2.5}, "k is 2.5"),
        ({"presets": {"my own": {"angel": 30}}}, "preset 'my own' names the slider 'angel'; expected one of angle"),
        ({"presets": {"my own": {"angle": 181}}}, "preset 'my own' puts angle at 181; expected -180 to 180"),
        ({"start": {"shear": float("nan")}}, "start puts shear at nan"),
        ({"kind": "spline", "start": {"x10": 0.1}}, "start names the slider 'x10'"),
        ({"pictures": {}}, "pictures is empty"),
        ({"pictures": torch.zeros(3, 8, 8)}, "pictures is a Tensor"),
        ({"pictures": {"my cat": torch.zeros(8, 8)}}, r"picture 'my cat' has shape \(8, 8\); expected a tensor"),
        ({"pictures": {"my cat": "cat.png"}}, "picture 'my cat' is a str"),
        ({"pictures": {"my cat": torch.full((3, 8, 8), 255.0)}}, r"picture 'my cat' holds values that are not in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        explorer_html(**{"kind": "matrix", **wrong})


def test_a_picture_keeps_its_bytes_and_its_shape_and_a_large_one_is_made_smaller():
    picture = noise(torch.Generator().manual_seed(0), 20, 30)
    assert torch.equal(picture_bytes("noise", picture), picture.permute(1, 2, 0))
    assert torch.equal(picture_bytes("gray", picture[:1].float() / 255), picture[:1].expand(3, -1, -1).permute(1, 2, 0))
    assert picture_bytes("large", torch.rand(3, 300, 600)).shape == (64, 128, 3)
    assert picture_bytes("thin", torch.rand(1, 1, 1000)).shape == (1, 128, 3)


def luminance(color: str) -> float:
    """Of #rrggbb, as WCAG 2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_words_and_controls_stand_out_from_their_ground(dark):
    rule = re.search(r"section\[data-dark\] \{([^}]*)" if dark else r"section \{([^}]*)", template())[1]
    colors = {name: luminance(value) for name, value in re.findall(r"--(\w+): (#\w{6})", rule)}

    def contrast(one: str, other: str) -> float:
        low, high = sorted((colors[one], colors[other]))
        return (high + 0.05) / (low + 0.05)

    assert min(contrast(*pair) for pair in [("ink", "ground"), ("soft", "ground"), ("ink", "raised"), ("on", "strong")]) >= 4.5
    assert min(contrast(*pair) for pair in [("line", "ground"), ("accent", "ground")]) >= 3


# In a browser, with no network


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


VIEWPORT = "<meta charset=utf-8><meta name=viewport content=width=device-width>"


@pytest.fixture
def visit(browser):
    """visit(html, ...): a page with this in its body, cut off from everything; .asked is what it asked for all the same."""
    contexts = []

    def show(body: str = "", address: str = "", width: int = 900, height: int = 900, wait: bool = True, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_offline(True)
        context.route(re.compile("^(http|ws)"), lambda route: route.abort())
        page = context.new_page()
        page.asked, page.faults = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        if address:
            page.goto(address)
        else:
            page.set_content(
                f"<!doctype html><html lang=en><meta charset=utf-8>{VIEWPORT}<title>t</title><body>{body}</body></html>"
            )
        if wait:
            page.get_by_role("button", name="reset", exact=True).first.wait_for()
        return page

    yield show
    for context in contexts:
        context.close()


TARGET = """root => {
    const canvas = root.shadowRoot.querySelector('.sight canvas'), {height, width} = canvas;
    return {height, width, data: [...canvas.getContext('2d').getImageData(0, 0, width, height).data]};
}"""
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Shown:
    """An explorer on a page: what a reader sees of it, and what can be pressed."""

    def __init__(self, page, number: int = 0):
        self.page, self.root = page, page.locator(".stn-explorer").nth(number)

    def slider(self, label: str):
        return self.root.get_by_label(label, exact=True)

    def handle(self, name: str) -> tuple[float, float]:
        """Where the middle of a handle is on the page."""
        self.page.evaluate(SETTLED)
        return middle(self.root.get_by_role("button", name=re.compile(f"^{name}")))

    def drag(self, name: str, by: tuple[float, float]) -> tuple[float, float]:
        """A handle is dragged by the mouse, in pixels of the page; where it was meant to go."""
        x, y = self.handle(name)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by[0], y + by[1], steps=5)
        self.page.mouse.up()
        return x + by[0], y + by[1]

    @property
    def window(self) -> torch.Tensor:
        """theta of the page, (1, 3, 3)."""
        self.page.evaluate(SETTLED)
        return torch.tensor(self.root.evaluate("root => root.explorer.theta()"), dtype=torch.float32).reshape(1, 3, 3)

    def press(self, label: str) -> None:
        self.root.get_by_role("button", name=label, exact=True).click()

    def value(self, slider: str) -> float:
        return self.root.evaluate(f"root => root.explorer.at.{slider}")

    @property
    def target(self) -> torch.Tensor:
        """(3, H, W), grey levels, once all is drawn."""
        self.page.evaluate(SETTLED)
        found = self.root.evaluate(TARGET)
        return torch.tensor(found["data"], dtype=torch.float32).reshape(found["height"], found["width"], 4).permute(2, 0, 1)[:3]

    @property
    def source(self) -> str:
        """A mark of what is drawn over the source."""
        self.page.evaluate(SETTLED)
        drawn = self.root.evaluate("root => root.shadowRoot.querySelector('.around canvas').toDataURL()")
        return hashlib.sha256(drawn.encode()).hexdigest()

    @property
    def theta(self) -> list[float]:
        """The numbers that are written."""
        self.page.evaluate(SETTLED)
        return [float(entry.input_value()) for entry in self.root.locator(".matrix input").all()]

    @property
    def words(self) -> str:
        self.page.evaluate(SETTLED)
        return self.root.locator(".words").inner_text()

    def shows(self, seen: torch.Tensor) -> None:
        """The target is this, (3, H, W) in [0, 1], within one grey level."""
        found = self.target
        assert found.shape == seen.shape
        assert (found - (255 * seen).round()).abs().max() <= 1


def card() -> torch.Tensor:
    """The test card as a page has it: whole grey levels."""
    return picture_bytes("card", test_card()).permute(2, 0, 1).float() / 255


@needs_chromium
def test_in_chromium_too_grid_and_sampler_are_those_of_the_package(visit):
    cases = random_cases(120)
    page = visit(wait=False)
    check_answers(page.evaluate(f"cases => {{ {core()}; return cases.map({ANSWER}); }}", [case for case, _, _ in cases]), cases)


@needs_chromium
def test_a_matrix_moves_by_keyboard_and_all_of_it_follows(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.shows(card())
    assert shown.theta == [1, 0, 0, 0, 1, 0, 0, 0, 1] and "nothing changes" in shown.words
    before = shown.source
    shown.slider("angle, degrees").focus()
    for _ in range(30):
        shown.page.keyboard.press("ArrowRight")
    shown.shows(warp(card(), affine(30.0)))
    assert shown.theta == pytest.approx(as_matrix(affine(30.0)).flatten().tolist(), abs=0.0051)
    assert shown.root.locator(".matrix .implied").count() == 3  # three rows always, the implied one in gray
    assert "turned 30° clockwise" in shown.words and shown.source != before
    shown.slider("tilt y, 1/half height").press("End")
    theta = theta_of({**FLAT, "angle": 30, "scale_x": 1, "scale_y": 1, "perspective_y": 0.45}, 1.0)
    assert shown.theta == pytest.approx(theta.flatten().tolist(), abs=0.0051)
    assert shown.root.locator(".matrix .implied").count() == 0  # now it says something
    shown.slider("padding").select_option("zeros")
    shown.shows(warp(card(), theta, padding_mode="zeros"))
    shown.press("reset")
    assert shown.theta == [1, 0, 0, 0, 1, 0, 0, 0, 1] and shown.source == before
    assert shown.page.asked == [] and shown.page.faults == []


@needs_chromium
@pytest.mark.parametrize("kind", ["matrix", "spline"])
def test_every_preset_starts_from_rest_and_shows_what_warp_shows(visit, kind):
    shown = Shown(visit(explorer_html(kind, k=4)))
    labels = [label for label in shown.root.locator(".presets button").all_inner_texts() if label != "reset"]
    assert len(labels) >= 6
    for label in labels:
        shown.press(label)
        if kind == "matrix":
            theta = theta_of(shown.root.evaluate("root => root.explorer.at"), 1.0)
            grid = sampling_grid(theta, (128, 128))
        else:
            moves = torch.tensor([spline_presets(4)[label].get(f"{axis}{i}", 0.0) for i in range(1, 17) for axis in "xy"])
            grid = family_grid(family("tps", 4), torch.tensor(family("tps", 4).identity)[None] + moves, (128, 128))
        shown.shows(sample(card()[None], grid)[0])
    assert shown.page.faults == []


def detailed() -> torch.Tensor:
    """A picture with fine detail, whole grey levels, (3, 24, 32); it is small, so it goes as a PNG."""
    return noise(torch.Generator().manual_seed(5), 24, 32)


@needs_chromium
def test_the_output_has_the_pixels_that_are_asked_for_padded_and_smoothed_and_says_how_coarsely_it_reads(visit):
    picture = detailed()
    shown = Shown(visit(explorer_html("output", {"noise": picture})))
    boxes = "root => [...root.shadowRoot.querySelectorAll('.frame, .row, button:not(.mark), .words')].map(part => {" + (
        "const {x, y, width, height} = part.getBoundingClientRect(); return [x, y, width, height].map(Math.round).join(); })"
    )
    rest = shown.root.evaluate(boxes)
    smooth = shown.root.get_by_role("button", name="smooth the source first", exact=True)
    settings = [{"size": 20}, {"size": 256, "scale": 0.25, "angle": 70}, {"size": 7, "scale": 2, "angle": -30}, {"size": 10}]
    for at in settings:
        shown.press("reset")
        shown.root.evaluate("(root, at) => root.explorer.set(at)", at)
        at = {"size": 128, "scale": 1, "angle": 0, **at}
        theta, size = affine(at["angle"], at["scale"], aspect=32 / 24), (max(1, math.floor(at["size"] * 0.75 + 0.5)), at["size"])
        step, grid = at["scale"] * 32 / at["size"], sampling_grid(theta, size)
        outside = (grid.abs().amax(-1) > 1).float().mean().item()
        for padding in PADDINGS:
            shown.slider("padding").select_option(padding)
            for smoothed in (False, True):
                if (smooth.get_attribute("aria-pressed") == "true") != smoothed:
                    smooth.click()
                source = mean_over(picture[None].float() / 255, step if smoothed else 0)
                shown.shows(sample(source, grid, padding_mode=padding)[0])
                assert f"{size[1]} × {size[0]} pixels" in shown.words and f"{step:.2f} source pixels apart" in shown.words
                assert float(re.search(r"(\d+) % of them outside", shown.words)[1]) == pytest.approx(100 * outside, abs=0.51)
                assert ("aliasing" in shown.words) == (step > 1.5 and not smoothed)
        code = shown.root.locator("code").inner_text()
        seen = eval(code, {"warp": warp, "affine": affine, "picture": picture.float() / 255})
        torch.testing.assert_close(seen, warp(picture.float() / 255, theta, size), rtol=0, atol=0.05)
        assert shown.root.evaluate(boxes) == rest  # nothing on the page moves
    assert shown.page.asked == [] and shown.page.faults == []


@needs_chromium
def test_the_window_of_the_output_is_turned_and_scaled_by_hand_and_nothing_else(visit):
    shown = Shown(visit(explorer_html("output")))
    assert shown.slider("picture").input_value() == "rings"
    side = shown.root.locator(".around").bounding_box()["width"] / 3
    shown.drag("bottom right corner", (-0.4 * side, -0.4 * side))
    assert shown.value("scale") == pytest.approx(0.6, abs=0.02)
    shown.drag("turn the window", (0.3 * side, 0.1 * side))
    assert shown.value("angle") > 5
    for label, at in PRESETS["output"].items():
        shown.press(label)
        expected = {"size": 128, "scale": 1, "angle": 0, **at}
        assert shown.root.evaluate("root => root.explorer.at") == expected
        assert shown.target.shape[2] == expected["size"]


@needs_chromium
def test_a_window_without_an_inverse_is_drawn_and_said(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.press("flat")
    assert "a line" in shown.words and "no inverse" in shown.words
    shown.shows(warp(card(), affine(scale=(1.0, 0.0))))
    for _ in range(2):
        shown.slider("scale x, × width").press("PageDown")
    shown.root.evaluate("root => root.explorer.set({scale_x: 0})")
    assert "a point" in shown.words
    assert shown.target.std(dim=(1, 2)).max() == 0
    shown.press("mirror")
    assert "mirrored" in shown.words


class Finger:
    """A finger on a page, as the browser itself would report it."""

    def __init__(self, page):
        self.camera = page.context.new_cdp_session(page)

    def __call__(self, kind: str, *at: float) -> None:
        points = [{"x": at[0], "y": at[1]}] if at else []
        self.camera.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def middle(part) -> tuple[float, float]:
    box = part.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@needs_chromium
@pytest.mark.parametrize("hand", ["mouse", "finger"])
@pytest.mark.parametrize("shape", [(128, 128), (60, 120)], ids=str)
def test_a_control_point_is_dragged(visit, hand, shape):
    picture = noise(torch.Generator().manual_seed(0), *[side // 4 for side in shape])
    page = visit(explorer_html("spline", {"noise": picture}), width=360 if hand == "finger" else 900, has_touch=hand == "finger")
    shown = Shown(page)
    point = shown.root.get_by_role("button", name=re.compile("control point 3,"))
    before, (start_x, start_y) = shown.source, middle(point)
    x, y = start_x + 6, start_y - 5  # held beside its middle, it does not jump
    side = shown.root.locator(".around").bounding_box()["width"]
    path = [(x - 0.1 * side * k / 5, y + 0.05 * side * k / 5) for k in range(1, 6)]
    if hand == "mouse":
        page.mouse.move(x, y)
        page.mouse.down()
        for place in path:
            page.mouse.move(*place)
        page.mouse.up()
    else:
        finger = Finger(page)
        finger("touchStart", x, y)
        for place in path:
            finger("touchMove", *place)
        finger("touchEnd")
    # The drawing is three units wide, and half of the longer side is one.
    flat = shape[1] / shape[0]
    assert shown.value("x3") == pytest.approx(-0.3, abs=0.02) and shown.value("y3") == pytest.approx(0.15 * flat, abs=0.03)
    assert middle(point) == pytest.approx((path[-1][0] - 6, path[-1][1] + 5), abs=2)
    params = torch.tensor(family("tps", 3).identity)[None]
    params[0, 4] += shown.value("x3")
    params[0, 5] += shown.value("y3")
    shown.shows(sample(picture[None].float() / 255, family_grid(family("tps", 3), params, tuple(shown.target.shape[1:])))[0])
    assert "Point 3 looks at" in shown.words and shown.source != before
    assert shown.theta[:6] == pytest.approx(family("tps", 3).split(params)[0].flatten().tolist(), abs=0.0051)
    page.mouse.move(x + 30, y)  # let go is let go
    assert middle(point) == pytest.approx((path[-1][0] - 6, path[-1][1] + 5), abs=2)
    assert page.asked == [] and page.faults == []


@needs_chromium
def test_a_control_point_moves_by_arrow_keys_and_by_sliders(visit):
    shown = Shown(visit(explorer_html("spline")))
    shown.slider("control point").focus()
    shown.page.keyboard.press("End")  # the last, the lower right corner
    shown.page.evaluate(SETTLED)  # which point Tab finds is drawn with the rest
    point = shown.root.get_by_role("button", name=re.compile("control point 9,"))
    assert shown.root.locator(".mark[tabindex='0']").count() == 1  # the only one of nine that Tab finds
    point.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "Shift+ArrowUp"):
        shown.page.keyboard.press(key)
    assert (shown.value("x9"), shown.value("y9")) == pytest.approx((-0.04, -0.12))
    shown.slider("move y, half heights").press("Home")
    assert shown.value("y9") == -1
    assert "Point 9 looks at (0.96, 0.00)" in shown.words
    shown.press("two in one place")
    assert "control points 1 and 2 look at the same place" in shown.words
    shown.press("reset")
    assert "No inverse" not in shown.words


def turned_over(params: torch.Tensor) -> float:
    """How much of a sheet of 3 x 3 points lies upside down at 128 pixels, in percent."""
    grid = family_grid(family("tps", 3), params, (128, 128))[0].double()
    right, down = grid[:-1, 1:] - grid[:-1, :-1], grid[1:, :-1] - grid[:-1, :-1]
    return 100 * (torch.linalg.det(torch.stack([right, down], dim=-1)) < 0).double().mean().item()


@needs_chromium
def test_a_folded_sheet_is_said_to_be_folded(visit):
    shown = Shown(visit(explorer_html("spline")))
    for middle_moves in (0.0, 0.3, 0.7, 0.9):
        shown.root.evaluate("(root, x5) => root.explorer.set({x5})", middle_moves)
        params = torch.tensor(family("tps", 3).identity)[None]
        params[0, 8] += middle_moves
        share, said = turned_over(params), re.search(r"folds over itself, (\d+) %", shown.words)
        assert (said is None) == (share == 0)
        assert said is None or share <= float(said[1]) < share + 1.01
    shown.root.evaluate("root => root.explorer.set({x5: 1})")
    assert "control points 5 and 6 look at the same place" in shown.words


@needs_chromium
def test_several_on_one_page_do_not_disturb_each_other_and_leave_no_global(visit):
    one = explorer_html("matrix", start={"angle": 20})
    empty = visit(wait=False).evaluate("Object.keys(window)")
    page = visit("<p id=words class=row>mine</p>" + one + explorer_html("spline") + one)
    first, spline, twin = (Shown(page, number) for number in range(3))
    assert first.value("angle") == twin.value("angle") == 20
    before = spline.source, twin.source
    first.slider("angle, degrees").press("ArrowRight")
    assert (first.value("angle"), twin.value("angle")) == (21, 20)
    assert (spline.source, twin.source) == before
    spline.press("twist")
    first.shows(warp(card(), affine(21.0)))
    twin.shows(warp(card(), affine(20.0)))
    assert page.evaluate("Object.keys(window)") == empty
    assert page.get_by_text("mine").evaluate("part => getComputedStyle(part).display") == "block"  # its looks stay inside


@needs_chromium
def test_a_picture_can_be_chosen(visit):
    wide = noise(torch.Generator().manual_seed(0), 16, 32)
    shown = Shown(visit(explorer_html("matrix", {"card": test_card(), "wide, gray": wide[:1]}, start={"angle": 90})))
    shown.shows(warp(card(), affine(90.0)))
    shown.slider("picture").select_option("wide, gray")
    shown.shows(warp(wide[:1].expand(3, -1, -1).float() / 255, affine(90.0, aspect=2.0), (64, 128)))


@needs_chromium
def test_without_scripts_a_sentence_stands_there_and_no_dead_control(visit):
    page = visit(explorer_html("matrix", sentence="Sliders & more."), wait=False, java_script_enabled=False)
    assert page.locator("body").inner_text().strip() == "Sliders & more."
    assert page.locator("input, button, canvas, select, img").count() == 0


@needs_chromium
def test_it_is_read_aloud_once_the_hand_rests_and_not_at_every_step(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.page.wait_for_timeout(1200)
    status = shown.root.get_by_role("status")
    assert status.inner_text() == ""  # the page opens in silence
    status.evaluate("part => { part.said = 0; new MutationObserver(() => part.said++).observe(part, {childList: true}); }")
    shown.slider("angle, degrees").focus()
    for _ in range(10):
        shown.page.keyboard.press("ArrowRight")
    shown.page.wait_for_timeout(1500)
    assert status.inner_text() == shown.words and status.evaluate("part => part.said") == 1


@needs_chromium
@pytest.mark.parametrize("kind", SLIDERS)
def test_everything_has_a_name(visit, kind):
    shown = Shown(visit(explorer_html(kind, {"a": test_card(8), "b": test_card(9)})))
    controls = shown.root.locator("input, select, button").all()
    assert len(controls) >= 6
    tree = shown.page.locator("body").aria_snapshot()
    assert len(re.findall(r"- '?img \"", tree)) == 2 and "theta explorer" in tree
    assert not re.search(r"- (slider|combobox|button|img)(:|$)", tree, flags=re.MULTILINE)


# Every part lies inside the page, no words are cut off, and what a finger presses is large enough.
CUT_OFF = """root => [...root.shadowRoot.querySelectorAll('section *:not(.unseen):not(option):not(.spot)')].filter(part => {
    const box = part.getBoundingClientRect(), style = getComputedStyle(part);
    const small = part.matches('button, input, select') && (box.height < 24 || box.width < 24);
    if (!box.width || part.closest('.strip') !== null) return false; // a strip scrolls sideways
    return style.display !== 'contents' && (box.left < 0 || box.right > innerWidth || small
        || (part.matches('label, button, p, figcaption, output') && part.scrollWidth > part.clientWidth + 1));
}).map(part => part.outerHTML.slice(0, 120))"""


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 900, 1280])
@pytest.mark.parametrize("kind", SLIDERS)
def test_it_fits_the_screen(visit, kind, width):
    shown = Shown(visit(explorer_html(kind), width=width))
    assert shown.root.evaluate(CUT_OFF) == []
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    source, target = (shown.root.locator(part).bounding_box() for part in (".around canvas", ".sight canvas"))
    assert source["x"] + source["width"] <= target["x"] and target["y"] > source["y"]  # side by side at every width
    assert target["width"] == pytest.approx(source["width"] * 2 / 3, abs=6)  # at the scale of the source


@needs_chromium
@pytest.mark.parametrize(
    ("system", "mark", "dark"),
    [
        ("light", "", False),
        ("dark", "", True),
        ("light", "document.documentElement.dataset.theme = 'dark'", True),
        ("dark", "document.documentElement.dataset.theme = 'light'", False),
        ("dark", "document.body.dataset.jpThemeLight = 'true'", False),
        ("light", "document.body.dataset.jpThemeLight = 'false'", True),
        ("light", "document.body.dataset.vscodeThemeKind = 'vscode-dark'", True),
    ],
)
def test_it_is_as_dark_as_its_page(visit, system, mark, dark):
    shown = Shown(visit(explorer_html("matrix"), color_scheme=system))
    shown.page.evaluate(mark or "0")
    shown.page.evaluate(SETTLED)
    assert (shown.root.locator("section").get_attribute("data-dark") is not None) == dark
    ground = "getComputedStyle(root.shadowRoot.querySelector('.around')).backgroundColor"
    assert shown.root.evaluate(f"root => {ground}") == "rgb(255, 255, 255)"  # pictures stand on white


REDRAW = """root => {
    const {at, draw} = root.explorer, times = [], canvases = [...root.shadowRoot.querySelectorAll('canvas')];
    for (let step = 0; step < 300; step++) {
        for (const name in at) at[name] = name === 'size' ? 256 : (name === 'angle' ? 180 : 0.45) * (2 * Math.random() - 1);
        const began = performance.now();
        draw();
        for (const canvas of canvases) canvas.getContext('2d').getImageData(0, 0, 1, 1);  // until the pixels are really there
        times.push(performance.now() - began);
    }
    return times.sort((a, b) => a - b)[150];
}"""


DRAG = """(root, name) => new Promise(done => {
    let frames = 0;
    const began = performance.now(), step = () => {
        root.explorer.set({[name]: 0.4 * Math.sin(frames / 9)});
        frames++ < 120 ? requestAnimationFrame(step) : done(120_000 / (performance.now() - began));
    };
    step();
})"""


@needs_chromium
@pytest.mark.parametrize(
    ("kind", "k", "slider"), [("matrix", 3, "angle"), ("spline", 3, "x5"), ("spline", 5, "x13"), ("output", 3, "angle")]
)
def test_a_step_fits_a_sixtieth_of_a_second_twice(visit, kind, k, slider):
    """128 pixels: theta, grid, sampler, canvases and numbers at 300 thetas; and 120 frames of a drag, with all painting."""
    shown = Shown(visit(explorer_html(kind, k=k)))
    camera = shown.page.context.new_cdp_session(shown.page)
    camera.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        """The page's own seconds of the processor: on a busy machine a clock counts what all others do meanwhile."""
        return next(one["value"] for one in camera.send("Performance.getMetrics")["metrics"] if one["name"] == "ThreadTime")

    start = spent()
    median, redrawn = shown.root.evaluate(REDRAW), spent()
    rate, dragged = shown.root.evaluate(DRAG, slider), spent()
    step, frame = 1000 * (redrawn - start) / 300, 1000 * (dragged - redrawn) / 120
    print(f"{kind} {k}: a step {step:.1f} ms ({median:.1f} on the clock), a frame {frame:.1f} ms, {rate:.0f} frames a second")
    assert 0.1 < step < 16.7 / 2
    assert 0.1 < frame < 16.7 / 2


# Hands on the picture


def corners_of(theta: torch.Tensor) -> torch.Tensor:
    """Where the four corners of a window look, (4, 2)."""
    return map_points(theta, torch.tensor(CORNERS))[0]


@needs_chromium
@pytest.mark.parametrize("start", [{}, {"angle": 40, "scale_x": 0.7, "scale_y": 0.5, "shift_x": 0.2}], ids=["rest", "turned"])
def test_each_handle_of_the_window_does_what_it_says_and_theta_is_what_warp_takes(visit, start):
    shown = Shown(visit(explorer_html("matrix", start=start)))
    side = shown.root.locator(".around").bounding_box()["width"] / 3  # pixels of the page in one source unit
    rest = shown.window
    # The window is moved: by as much as the hand, and in no other way.
    shown.drag("move the window", (0.2 * side, -0.1 * side))
    torch.testing.assert_close(shown.window - rest, torch.tensor([[[0, 0, 0.2], [0, 0, -0.1], [0, 0, 0]]]), rtol=0, atol=0.02)
    shown.shows(warp(card(), shown.window))
    # A corner scales it about the opposite one, which stays.
    before, to = corners_of(shown.window), shown.drag("bottom right corner", (-0.2 * side, -0.15 * side))
    assert shown.handle("bottom right corner") == pytest.approx(to, abs=3)
    torch.testing.assert_close(corners_of(shown.window)[0], before[0], rtol=0, atol=0.01)
    shown.shows(warp(card(), shown.window))
    # An edge scales it one way, and the opposite edge stays.
    before = shown.window
    shown.drag("right edge", (-0.1 * side, -0.1 * side))
    torch.testing.assert_close(corners_of(shown.window)[[0, 3]], corners_of(before)[[0, 3]], rtol=0, atol=0.01)
    assert torch.linalg.det(shown.window) < torch.linalg.det(before) - 0.01
    # The knob turns it about its middle.
    before, angle = shown.window, shown.value("angle")
    shown.drag("turn the window", (0.3 * side, 0.1 * side))
    assert shown.value("angle") > angle + 5
    torch.testing.assert_close(shown.window[0, :2, 2], before[0, :2, 2])
    shown.shows(warp(card(), shown.window))
    assert shown.page.asked == [] and shown.page.faults == []


@needs_chromium
def test_in_corners_mode_each_corner_goes_its_own_way_and_makes_a_homography(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.press("corners")
    places = torch.tensor(CORNERS)
    side = shown.root.locator(".around").bounding_box()["width"] / 3
    for name, index, by in [
        ("top left corner", 0, (0.3, 0.5)),
        ("top right corner", 1, (-0.1, 0.2)),
        ("bottom left corner", 3, (0.2, 0)),
    ]:
        places[index] += torch.tensor(by)
        shown.drag(name, (by[0] * side, by[1] * side))
    torch.testing.assert_close(corners_of(shown.window), places, rtol=0, atol=0.02)
    torch.testing.assert_close(shown.window, projective(corners_of(shown.window)), rtol=0, atol=1e-3)
    shown.shows(sample(card()[None], sampling_grid(shown.window, (128, 128)))[0])
    # Over the opposite corner it cannot go: that would be no window.
    before = shown.window
    shown.drag("top left corner", (1.2 * side, 1.2 * side))
    assert corners_of(shown.window)[0, 0] < corners_of(before)[2, 0]
    assert torch.linalg.det(shown.window) > 0


@needs_chromium
def test_two_fingers_turn_scale_and_move_the_window(visit):
    page = visit(explorer_html("matrix"), width=390, has_touch=True)
    shown, finger = Shown(page), Finger(page)
    x, y = middle(shown.root.locator(".around"))
    for kind, far, angle in [("touchStart", 30, 0), ("touchMove", 28, 0.2), ("touchMove", 20, 0.5), ("touchMove", 15, 0.7854)]:
        dx, dy = far * math.cos(angle), far * math.sin(angle)
        points = [{"x": x + dx, "y": y + dy, "id": 1}, {"x": x - dx, "y": y - dy, "id": 2}]
        finger.camera.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    finger("touchEnd")
    assert shown.value("angle") == pytest.approx(45, abs=2)
    assert shown.value("scale_x") == shown.value("scale_y") == pytest.approx(0.5, abs=0.03)
    shown.shows(warp(card(), shown.window))


@needs_chromium
def test_with_the_keyboard_alone_the_window_goes_anywhere(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.root.get_by_role("button", name="corners", exact=True).focus()
    reached = set()
    for _ in range(45):
        shown.page.keyboard.press("Shift+Tab")
        reached.add(shown.root.evaluate("root => root.shadowRoot.activeElement?.getAttribute('aria-label') || ''").split(",")[0])
    assert {
        "turn the window",
        "move the window",
        "top left corner",
        "left edge",
        "theta",
        "the target; arrow keys choose a pixel and say which place it reads",
    } <= reached
    for name, keys in [
        ("move the window", ["Shift+ArrowRight"]),
        ("turn the window", ["Shift+ArrowRight", "ArrowDown"]),
        ("bottom edge", ["ArrowUp", "Shift+ArrowUp"]),
    ]:
        shown.root.get_by_role("button", name=re.compile(name)).focus()
        for key in keys:
            shown.page.keyboard.press(key)
            shown.page.evaluate(SETTLED)
    assert (shown.value("shift_x") > 0, shown.value("angle")) == (True, 16)
    assert 0.85 < shown.value("scale_y") < 1 and shown.value("scale_x") == 1
    shown.shows(warp(card(), shown.window))


@needs_chromium
def test_the_numbers_of_theta_are_typed_and_dragged(visit):
    shown = Shown(visit(explorer_html("matrix")))
    entry = shown.root.get_by_label("theta, row 1, column 3", exact=True)
    entry.click()
    shown.page.keyboard.type("0.25")
    shown.page.keyboard.press("Tab")
    assert shown.value("shift_x") == 0.25
    x, y = middle(shown.root.get_by_label("theta, row 2, column 1", exact=True))
    shown.page.mouse.move(x, y)
    shown.page.mouse.down()
    shown.page.mouse.move(x + 50, y, steps=5)
    shown.page.mouse.up()
    assert shown.theta == pytest.approx([1, 0, 0.25, 0.5, 1, 0, 0, 0, 1], abs=0.0051)
    shown.root.get_by_label("theta, row 3, column 2", exact=True).press("Shift+ArrowUp")
    assert shown.value("perspective_y") == pytest.approx(0.1)
    entry.click()
    shown.page.keyboard.type("nonsense")
    shown.page.keyboard.press("Tab")
    assert shown.theta[2] == 0.25
    shown.shows(sample(card()[None], sampling_grid(shown.window, (128, 128)))[0])


@needs_chromium
def test_a_target_pixel_says_which_place_it_reads_and_what_it_mixes(visit):
    picture = noise(torch.Generator().manual_seed(0), 8, 8)
    shown = Shown(visit(explorer_html("matrix", {"noise": picture}, start={"angle": 30, "scale_x": 0.5, "scale_y": 0.5})))
    box = shown.root.locator(".sight canvas").bounding_box()
    shown.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.6 * box["height"])
    shown.page.evaluate(SETTLED)
    said = shown.root.locator(".probe").inner_text()
    x, y, u, v = map(float, re.search(r"target \((.*), (.*)\) → θ → source \((.*), (.*)\)", said).groups())
    assert (x, y) == pytest.approx((-0.5, 0.2), abs=0.02)
    assert (u, v) == pytest.approx(map_points(shown.window, torch.tensor([[x, y]])).flatten().tolist(), abs=0.02)
    weights = [float(weight) for weight in shown.root.locator(".four span").all_inner_texts()]
    column, row = ((place + 1) * 4 - 0.5 for place in (u, v))
    across, down = column % 1, row % 1
    expected = [(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down]
    assert weights == pytest.approx(expected, abs=0.06) and sum(weights) == pytest.approx(1, abs=0.021)
    color = shown.root.locator(".sum").evaluate("part => getComputedStyle(part).backgroundColor.match(/[0-9]+/g).map(Number)")
    i, j = int((y + 1) / 2 * 128), int((x + 1) / 2 * 128)
    assert color == pytest.approx(shown.target[:, i, j].tolist(), abs=40)
    shown.root.locator(".sight").focus()
    shown.page.keyboard.press("ArrowRight")
    shown.page.evaluate(SETTLED)
    assert shown.root.locator(".probe").inner_text() != said


@needs_chromium
def test_undo_redo_snap_and_double_click(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.drag("move the window", (40, 0))
    moved = shown.window
    shown.press("quarter turn")
    shown.page.wait_for_timeout(500)
    for key, expected in [("z", moved), ("z", as_matrix(affine())), ("y", moved), ("Shift+z", as_matrix(affine(90.0)))]:
        shown.page.keyboard.press(f"Control+{key}")
        shown.page.evaluate(SETTLED)
        torch.testing.assert_close(shown.window, expected, rtol=0, atol=1e-5)
    shown.press("reset")
    shown.press("snap")
    shown.drag("turn the window", (33, 9))
    assert shown.value("angle") % 15 == 0 and shown.value("angle") != 0
    shown.slider("angle, degrees").dblclick()
    assert shown.value("angle") == 0


@needs_chromium
def test_what_is_copied_as_python_is_this_theta_and_the_link_opens_it_again(visit, tmp_path):
    (tmp_path / "page.html").write_text(
        f"<!doctype html><meta charset=utf-8>{explorer_html('matrix', link=True)}", encoding="utf-8"
    )
    page = visit(address=(tmp_path / "page.html").as_uri())
    shown = Shown(page)
    for at in (
        {},
        {"angle": 30, "scale_x": 0.5, "scale_y": 0.8},
        {"shift_y": -0.4, "shear": 0.2},
        {"perspective_x": 0.2, "angle": -5},
    ):
        shown.press("reset")
        shown.root.evaluate("(root, at) => root.explorer.set(at)", at)
        page.evaluate(SETTLED)
        code = shown.root.locator("code").inner_text()
        theta = eval(code, {"affine": affine, "as_matrix": as_matrix, "torch": torch})
        torch.testing.assert_close(as_matrix(theta), shown.window, rtol=0, atol=1e-3)
        page.wait_for_timeout(500)
        again = Shown(visit(address=page.url))
        torch.testing.assert_close(again.window, shown.window, rtol=0, atol=1e-3)
    assert "perspective_x=0.2" in page.url


@needs_chromium
def test_a_picture_of_ones_own_is_shown_and_leaves_the_page_for_nowhere(visit, tmp_path):
    shown = Shown(visit(explorer_html("matrix", start={"angle": 20})))
    pixels = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    shown.root.locator("input[type=file]").set_input_files(tmp_path / "mine.png")
    shown.page.wait_for_function(
        "() => document.querySelector('.stn-explorer').shadowRoot.querySelector('#picture').value === 'your picture'"
    )
    assert shown.target.shape == (3, 128, 256)
    paste = """async () => {
        const canvas = Object.assign(document.createElement('canvas'), {width: 50, height: 50});
        canvas.getContext('2d').fillRect(0, 0, 50, 50);
        const data = new DataTransfer(), blob = await new Promise(done => canvas.toBlob(done));
        data.items.add(new File([blob], 'black.png', {type: 'image/png'}));
        document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
    }"""
    shown.page.evaluate(paste)
    shown.page.wait_for_function(
        "() => document.querySelector('.stn-explorer').shadowRoot.querySelector('.sight canvas').width === 128"
    )
    assert shown.target.max() == 0
    assert [address for address in shown.page.asked if not address.startswith(("data:", "blob:"))] == []


@needs_chromium
def test_the_game_scores_how_far_the_corners_are_off(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.press("Game: straighten this")
    game = shown.root.locator(".game")
    shown.press("Done")
    start = float(re.match(r"[\d.]+", game.inner_text())[0])
    # Picture 1 asks for scale 0.7 at (0.25, -0.2).
    expected = (corners_of(affine(scale=0.7, shift=(0.25, -0.2))) - corners_of(affine())).norm(dim=1).mean() * 64
    assert start == pytest.approx(expected.item(), abs=0.1)
    shown.press("Next picture")
    shown.root.evaluate("root => root.explorer.set({scale_x: .55, scale_y: .55, shift_x: -.3, shift_y: .3})")
    assert (shown.target - 255 * test_card()).abs().mean() < 12  # upright again, but for what two samplings blur
    shown.press("Done")
    assert game.inner_text().startswith("0.0 pixels") and "Under par" in game.inner_text()
    shown.press("Stop")
    shown.shows(card())


@needs_chromium
def test_two_settings_that_look_alike_are_found_out(visit):
    shown = Shown(visit(explorer_html("matrix")))
    shown.slider("angle, degrees").press("End")  # half a turn
    shown.press("Two that look alike")
    shown.press("mirror")
    shown.page.evaluate(SETTLED)
    assert "differ by" in shown.root.locator(".game").inner_text()
    shown.root.evaluate("root => root.explorer.set({scale_y: -1})")
    shown.page.evaluate(SETTLED)
    assert "Alike! Others: angle, scale x, scale y" in shown.root.locator(".game").inner_text()


# On a phone, and at a desk


@needs_chromium
def test_a_finger_that_scrolls_over_a_slider_does_not_move_it_and_one_that_goes_sideways_does(visit):
    page = visit(explorer_html("matrix"), width=390, has_touch=True, is_mobile=True, height=664)
    shown, finger = Shown(page), Finger(page)
    slider = shown.slider("scale x, × width")
    slider.evaluate("part => part.scrollIntoView({block: 'end'})")
    box, scrolled = slider.bounding_box(), page.evaluate("scrollY")
    x, y = box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2
    finger("touchStart", x, y)
    for k in range(1, 12):
        finger("touchMove", x + k / 4, y - 12 * k)
        page.wait_for_timeout(16)
    finger("touchEnd")
    page.wait_for_timeout(300)
    assert shown.value("scale_x") == 1 and page.evaluate("scrollY") > scrolled + 50
    slider.evaluate("part => part.scrollIntoView({block: 'end'})")
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    finger("touchStart", box["x"] + 0.75 * box["width"], y)
    for k in range(1, 12):
        finger("touchMove", box["x"] + (0.75 - 0.02 * k) * box["width"], y)
        page.wait_for_timeout(16)
    finger("touchEnd")
    assert shown.value("scale_x") < 0.7


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(390, 664), (1280, 800)])
@pytest.mark.parametrize("kind", SLIDERS)
def test_the_picture_is_in_sight_whichever_control_is_used(visit, kind, width, height):
    shown = Shown(visit(explorer_html(kind), width=width, height=height))
    for control in shown.root.locator(".right input, .right select, .right button").all():
        if control.is_visible():
            control.scroll_into_view_if_needed()
            control.evaluate("part => part.scrollIntoView({block: 'center'})")
            for part in (".around", ".sight"):
                box = shown.root.locator(part).bounding_box()
                assert box["y"] >= 0 and box["y"] + box["height"] <= height, control.evaluate("part => part.outerHTML")
            size = control.bounding_box()
            assert size["height"] >= 44
    beside = shown.root.locator(".right").bounding_box()["x"] > shown.root.locator(".around").bounding_box()["x"] + 100
    assert beside == (width == 1280)


@needs_chromium
def test_marks_never_leave_the_drawing(visit):
    shown = Shown(visit(explorer_html("matrix")))
    frame = shown.root.locator(".around").bounding_box()
    for at in ({"perspective_y": 0.4}, {"scale_x": 1.5, "scale_y": 1.5}, {"scale_x": 2, "shift_x": 1, "angle": 33}):
        shown.press("reset")
        shown.root.evaluate("(root, at) => root.explorer.set(at)", at)
        shown.page.evaluate(SETTLED)
        for mark in shown.root.locator(".mark").all():
            x, y = middle(mark)
            assert frame["x"] < x < frame["x"] + frame["width"] and frame["y"] < y < frame["y"] + frame["height"]


@needs_chromium
@pytest.mark.parametrize("kind", SLIDERS)
def test_axe_has_nothing_to_say(visit, kind, axe):
    shown = Shown(visit(explorer_html(kind, link=True)))
    shown.page.evaluate(axe)
    for mode in ("light", "dark"):
        shown.page.evaluate("mode => { document.documentElement.dataset.theme = mode; }", mode)
        shown.page.evaluate(SETTLED)
        found = shown.page.evaluate("() => axe.run(document.querySelector('.stn-explorer'), {resultTypes: ['violations']})")
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]] == []


# In a saved notebook


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A notebook with all explorers, run and saved as the series is, and exported as HTML: (its outputs, the page's address)."""
    folder = tmp_path_factory.mktemp("exported")
    kinds = ("MatrixExplorer()", "SplineExplorer(k=3)", "OutputExplorer()")
    top = nbformat.v4.new_markdown_cell("**It takes** about a minute to run.")
    cells = [nbformat.v4.new_code_cell(f"from stn_helpers.show.widgets import *\n{kind}") for kind in kinds]
    book = nbformat.v4.new_notebook(cells=[top, *cells], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nbformat.write(book, folder / "saved.ipynb")
    run(folder / "saved.ipynb")
    words = ["-m", "jupyter", "nbconvert", "--to", "html", "saved.ipynb"]
    subprocess.run([sys.executable, *words], cwd=folder, check=True, capture_output=True)
    saved = json.loads((folder / "saved.ipynb").read_text(encoding="utf-8"))
    return [cell["outputs"][0] for cell in saved["cells"][1:]], (folder / "saved.html").as_uri()


@needs_chromium
def test_a_saved_cell_holds_a_sentence_and_a_small_explorer_where_there_is_one(exported):
    matrix, spline, output = exported[0]
    assert set(matrix["data"]) == set(spline["data"]) == set(output["data"]) == {"text/plain", "text/html"}
    assert max(len(json.dumps(cell)) for cell in (matrix, spline)) < 90_000
    assert len(json.dumps(output)) < 105_000


@needs_chromium
def test_a_notebook_exported_as_html_has_sliders_with_neither_kernel_nor_network(visit, exported):
    page = visit(address=exported[1])
    assert page.locator(".stn-explorer").count() == 3
    assert page.get_by_text("sliders to play with").locator("visible=true").count() == 0
    matrix, spline = Shown(page, 0), Shown(page, 1)
    before = spline.target
    matrix.slider("angle, degrees").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert matrix.theta[:6] == pytest.approx(affine(20.0).flatten().tolist(), abs=0.0051)
    matrix.shows(warp(card(), affine(20.0)))
    assert torch.equal(spline.target, before)
    spline.root.get_by_role("button", name=re.compile("control point 5,")).press("Shift+ArrowRight")
    assert "Point 5 looks at (0.10, 0.00)" in spline.words and not torch.equal(spline.target, before)
    assert [fault for fault in page.faults if not re.search("require|MathJax", fault)] == []  # the export's own, from a network

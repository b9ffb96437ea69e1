"""Figures: what is drawn lies where the numbers say, and every picture carries its words."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.colors import to_rgb
from PIL import Image

from stn_helpers.families import family, outline
from stn_helpers.grid import sampling_grid, target_points
from stn_helpers.show import plots
from stn_helpers.theta import affine


@pytest.fixture(autouse=True, scope="module")
def notebook():
    """A shell, as a notebook has one: without it nothing can be displayed."""
    InteractiveShell.instance()
    yield
    InteractiveShell.clear_instance()


def history(epochs: int) -> list[dict]:
    keys = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    return [{"epoch": k + 1, **{key: 10.0 * k + j for j, key in enumerate(keys)}} for k in range(epochs)]


def test_show_stores_the_alternative_text_beside_the_picture():
    with capture_output() as captured:
        assert plots.show([torch.rand(3, 8, 8), torch.rand(1, 8, 8)], alt="noise, twice", titles=["colour", "gray"]) is None
    shown, heard = captured.outputs
    assert shown.metadata == {"image/png": {"alt": "noise, twice", "width": 288, "height": 166}}
    assert shown.data["text/plain"] == "noise, twice"
    assert Image.open(io.BytesIO(shown.data["image/png"])).width == 460  # drawn finer than it is shown
    assert heard.data["text/html"] == '<span role="img" aria-label="noise, twice"></span>'


def test_show_refuses_a_picture_without_words():
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show([torch.rand(3, 8, 8)], alt=" ")


def test_a_screen_replaces_its_picture_in_place():
    screen = plots.Screen()
    with capture_output() as captured:
        screen.show([torch.zeros(1, 4, 4)], alt="before")
        screen.show([torch.ones(1, 4, 4)], alt="after")
    first, heard, second, heard_second = captured.outputs
    assert second.update and second.transient == first.transient != heard.transient == heard_second.transient
    assert second.data["text/plain"] == "after" and "after" in heard_second.data["text/html"]


def test_figures_are_opaque_and_white():
    image = np.asarray(Image.open(io.BytesIO(plots.png(plots.image_row([torch.rand(3, 8, 8)])))).convert("RGBA"))
    assert (image[0, 0] == 255).all() and (image[..., 3] == 255).all()


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_line_through_the_pixel_centres_passes_through_the_pixels(align_corners):
    fig, axes = plots.figure()
    plots.draw(axes[0, 0], torch.zeros(1, 5, 7))
    plots.draw_line(axes[0, 0], target_points((5, 7), align_corners), (5, 7), align_corners)
    x, y = axes[0, 0].lines[0].get_data()
    np.testing.assert_allclose(x, np.tile(np.arange(7), 5), atol=1e-5)  # matplotlib draws pixel k at coordinate k
    np.testing.assert_allclose(y, np.repeat(np.arange(5), 7), atol=1e-5)


def test_the_outline_of_the_identity_is_the_edge_of_the_picture():
    affine = family("affine")
    line = outline(affine, torch.tensor([affine.identity]))
    fig = plots.before_after(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), line)
    x, y = fig.axes[0].lines[0].get_data()
    assert (x.min(), x.max(), y.min(), y.max()) == (-0.5, 7.5, -0.5, 7.5)


def test_a_line_that_leaves_the_picture_does_not_move_it():
    places = []
    for far in (0.5, 30.0):
        fig, axes = plots.figure(1, 2)
        for ax in axes[0]:
            plots.draw(ax, torch.zeros(1, 5, 7), "a title")
        plots.draw_line(axes[0, 0], torch.tensor([[-far, 0.0], [far, far]]), (5, 7), color="#123456", width=3)
        fig.draw_without_rendering()
        places.append([ax.get_position().bounds for ax in axes[0]])
    assert places[0] == places[1]
    (line,) = axes[0, 0].lines
    assert (line.get_color(), line.get_linewidth(), line.get_clip_on()) == ("#123456", 3, False)
    assert axes[0, 0].get_ylim()[0] > axes[0, 0].get_ylim()[1]  # rows count downwards


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 12))
def test_the_lines_of_a_grid_are_spread_over_it_with_both_ends(height, width, lines):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = plots.grid_lines(torch.stack([columns, rows], dim=-1).float(), lines)
    across, down = found[: min(lines, height)], found[min(lines, height) :]
    assert len(down) == min(lines, width)
    for group, axis, count, along in ((across, 1, height, width), (down, 0, width, height)):
        assert all(line.shape == (along, 2) and (line[:, 1 - axis] == torch.arange(along)).all() for line in group)
        places = [line[:, axis].unique().item() for line in group]
        steps = np.diff(places)
        assert places[0] == 0 and (len(places) == 1 or places[-1] == count - 1)
        assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_grid_is_drawn_where_it_looks_and_its_top_row_is_blue(align_corners):
    fig, axes = plots.figure()
    turned = sampling_grid(affine(angle=90), (9, 9), align_corners)[0]
    plots.draw(axes[0, 0], torch.zeros(1, 9, 9))
    plots.draw_grid(axes[0, 0], turned, (9, 9), lines=3, align_corners=align_corners)
    first, *others = axes[0, 0].lines
    assert len(others) == 5 and first.get_color() == plots.BLUE and {line.get_color() for line in others} == {plots.RED}
    assert first.get_linewidth() > max(line.get_linewidth() for line in others)
    x, y = first.get_data()  # the window turned clockwise: its top row looks at the last column, downwards
    np.testing.assert_allclose(x, np.full(9, 8), atol=1e-5)
    np.testing.assert_allclose(y, np.arange(9), atol=1e-5)


def test_a_gif_plays_its_figures_for_ever_in_their_own_colours():
    colors, figures = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.BLUE, plots.ORANGE], []
    for color in colors:
        fig, axes = plots.figure(1, 1, 1, 1)
        axes[0, 0].set_facecolor(color)
        figures.append(fig)
    moving = Image.open(io.BytesIO(plots.gif(figures, milliseconds=120)))
    assert (moving.format, moving.n_frames, moving.info["loop"]) == ("GIF", 5, 0)
    for k, color in enumerate(colors):
        moving.seek(k)
        assert moving.info["duration"] == 120 and moving.size == (90, 90)
        assert moving.convert("RGB").getpixel((60, 40)) == pytest.approx([int(color[j : j + 2], 16) for j in (1, 3, 5)], abs=4)


def test_uint8_and_float_images_are_drawn_alike():
    image = torch.randint(256, (3, 4, 4), dtype=torch.uint8)
    np.testing.assert_allclose(plots.pixels(image) / 255, plots.pixels(image / 255), atol=1e-6)


def test_titles_go_to_the_images_row_after_row():
    images = torch.rand(4, 3, 4, 4)
    fig = plots.image_rows({"above": images[:2], "below": images[2:]}, titles=["a", "b", "c", "d"])
    assert [ax.get_title() for ax in fig.axes] == ["a", "b", "c", "d"]
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == ["above", "below"]


def test_curves_show_training_and_test_of_every_run_over_all_epochs():
    fig = plots.curves({"one": history(3), "two": history(2)}, epochs=20, note="a note")
    loss, accuracy = fig.axes
    assert len(loss.lines) == len(accuracy.lines) == 4
    assert accuracy.lines[1].get_ydata().tolist() == [3.0, 13.0, 23.0]
    assert loss.get_xlim() == (0.5, 20.5)
    assert fig.get_suptitle() == "a note"


def test_the_confusion_map_is_in_percent_of_the_row():
    fig = plots.confusion_map(torch.tensor([[3, 1], [0, 0]]), ["cat", "dog"])
    np.testing.assert_allclose(fig.axes[0].images[0].get_array(), [[75, 25], [0, 0]])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["cat", "dog"]


def test_histograms_count_every_image_and_mark_what_changes_nothing():
    fig = plots.histograms({"angle": torch.randn(500)}, {"angle": 0.0})
    assert sum(bar.get_height() for bar in fig.axes[0].patches) == 500
    assert fig.axes[0].lines[0].get_xdata()[0] == 0.0


def test_gains_are_drawn_with_their_intervals_and_coloured_by_what_they_prove():
    gains = {
        "helps": {"mean": 2.0, "low": 1.0, "high": 3.0},
        "hurts": {"mean": -2.0, "low": -3.0, "high": -1.0},
        "may be": {"mean": 0.5, "low": -1.0, "high": 2.0},
        "one seed": {"mean": 4.0, "low": None, "high": None},
    }
    fig, axes = plots.figure()
    plots.draw_gains(axes[0, 0], gains, "rotated")
    ax = axes[0, 0]
    _, *lines = ax.lines  # the first is zero itself
    dots = [line for line in lines if line.get_marker() == "o"]
    bars = [line for line in lines if line.get_marker() != "o"]
    assert [list(bar.get_xdata()) for bar in bars] == [[1, 3], [-3, -1], [-1, 2], [4, 4]]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(2, 0), (-2, 1), (0.5, 2), (4, 3)]
    assert [dot.get_color() for dot in dots] == [plots.BLUE, plots.RED, plots.GRAY, plots.GRAY]
    assert [bar.get_color() for bar in bars] == [plots.BLUE, plots.RED, plots.GRAY, plots.GRAY]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(gains) and ax.get_title() == "rotated"
    assert ax.get_ylim() == (3.5, -0.5)  # the first is on top


def test_of_a_gain_that_goes_beyond_the_axis_the_numbers_are_written():
    gains = {"far": {"mean": -17.6, "low": -90.3, "high": 55.04}, "near": {"mean": 1.0, "low": 0.5, "high": 1.5}}
    fig, axes = plots.figure()
    plots.draw_gains(axes[0, 0], gains, most=8)
    assert axes[0, 0].get_xlim() == (-8, 8)
    assert [(text.get_text(), text.get_position()[1]) for text in axes[0, 0].texts] == [("-17.6  (-90.3 to +55.0)", 0)]


def test_a_row_without_a_gain_keeps_its_place():
    fig, axes = plots.figure()
    plots.draw_gains(axes[0, 0], {"not run": {}, "run": {"mean": 2.0, "low": 1.0, "high": 3.0}})
    ax = axes[0, 0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["not run", "run"]
    assert [list(line.get_ydata()) for line in ax.lines[1:]] == [[1, 1], [1]]


def test_two_channels_are_two_inks_on_paper():
    pair = torch.zeros(2, 2, 2)
    pair[0, 0], pair[1, :, 0] = 1, 1  # orange above, blue on the left
    seen = plots.two_inks(pair) / plots.PAPER
    orange, blue = (torch.tensor(to_rgb(color)) for color in (plots.ORANGE, plots.BLUE))
    torch.testing.assert_close(seen[:, 0, 1], orange)
    torch.testing.assert_close(seen[:, 1, 0], blue)
    torch.testing.assert_close(seen[:, 0, 0], orange * blue)
    assert (seen[:, 1, 1] == 1).all() and 0.8 < plots.PAPER < 1


def test_every_grid_lies_on_its_picture_and_every_view_beside_it():
    pictures = {"one": torch.rand(1, 9, 9), "other": torch.rand(1, 9, 9)}
    grids = sampling_grid(affine(angle=torch.tensor([0.0, 40.0]), scale=0.5), (7, 7))
    views = torch.rand(2, 1, 7, 7)
    fig = plots.grids_and_views(pictures, {"a": (grids, views), "b": (grids.flip(0), views.flip(0))})
    axes = np.array(fig.axes).reshape(3, 4)
    assert [ax.get_title() for ax in axes[0]] == ["one", "", "other", ""]
    for row, order in ((1, (0, 1)), (2, (1, 0))):
        for column, k in zip((0, 2), order, strict=True):
            np.testing.assert_array_equal(axes[row, column + 1].images[0].get_array(), views[k, 0])
            x, y = axes[row, column].lines[0].get_data()  # target row 0
            np.testing.assert_allclose(np.stack([x, y], 1), (grids[k, 0] + 1) / 2 * 9 - 0.5, atol=1e-5)
    assert [line[0].texts[0].get_text() for line in axes[1:]] == ["a", "b"]

"""One step of a slider at 128 pixels, from the message that moves it to "idle": a new figure each time, against the explorers.

An explorer's picture is drawn on the page; the kernel hears where its sliders stand, and has a new theta.
"""

import ast
from itertools import cycle

import pytest

from tools.kernel import Kernel

# What people write: a figure for each step, the sampling grid over the source beside the target, theta below.
FIGURE = """
import matplotlib.pyplot as plt
from ipywidgets import interact

from stn_helpers.data.sets import test_card
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import warp
from stn_helpers.theta import affine

card = test_card(128)

def look(angle=0.0):
    theta = affine(angle)
    x, y = ((sampling_grid(theta, (128, 128))[0] + 1) * 64 - 0.5).unbind(-1)
    fig, (left, right) = plt.subplots(1, 2)
    left.imshow(card.permute(1, 2, 0))
    for k in range(0, 128, 16):
        left.plot(x[k], y[k], "r")
        left.plot(x[:, k], y[:, k], "r")
    left.set_title("source")
    right.imshow(warp(card, theta).permute(1, 2, 0))
    right.set_title("target")
    plt.show()
    print(theta)

slider = interact(look, angle=(-180.0, 180.0)).widget.children[0]
"""
EXPLORER = "from stn_helpers.show.widgets import {0}\nslider = {0}()"
MOVES = {"MatrixExplorer": "angle", "SplineExplorer": "x5", "OutputExplorer": "angle"}  # the slider that each is timed with
# {what: (cell, the values that the slider goes through, rounds)}; the first is what the others are compared with.
WAYS = {
    "interact and a new figure": (FIGURE, range(-90, 90), 30),
    "interact and a new figure of 4.8 x 2.4 inches": (
        FIGURE.replace("subplots(1, 2)", "subplots(1, 2, figsize=(4.8, 2.4))"),
        range(-90, 90),
        30,
    ),
    **{kind: (EXPLORER.format(kind), [k / 100 for k in range(-90, 90)], 300) for kind in MOVES},
}


@pytest.fixture(scope="module")
def kernel():
    with Kernel() as running:
        yield running


@pytest.mark.benchmark(group="sliders")
@pytest.mark.parametrize("what", WAYS)
def test_step(benchmark, kernel, what):
    cell, values, rounds = WAYS[what]
    model = kernel.run(cell + "\nprint(slider.model_id)").split()[-1]
    start = ast.literal_eval(kernel.run("print(slider.start)")) if what in MOVES else {}
    steps, sent = cycle(values), []

    def step():
        value = next(steps)
        state = {"at": {**start, MOVES[what]: value}} if what in MOVES else {"value": value}  # as a page says it
        sent.append(kernel.until_idle(kernel.move(model, **state)))
        return value

    last = benchmark.pedantic(step, rounds=rounds, warmup_rounds=5)
    sizes = sorted(kernel.bytes_of(messages) for messages in sent)
    benchmark.extra_info.update(what=what, kilobytes=round(sizes[len(sizes) // 2] / 1000, 1))
    if what in MOVES:
        assert sizes[-1] <= 20_000
        other = f"other = type(slider)()\nother.set({MOVES[what]}={last})"
        arrived, expected = ast.literal_eval(kernel.run(f"{other}\nprint([slider.theta.tolist(), other.theta.tolist()])"))
        assert arrived == expected
    else:
        assert any(message["msg_type"] in ("comm_msg", "display_data") for message in sent[-1])

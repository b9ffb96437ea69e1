"""The ground that `make colab` stands on: a kernel, started as nbval starts it, has Colab's versions, and a slider works in it.

Not in tests/, where it would have to be skipped under the newest versions: a leg that may skip this can pass without Colab's.
"""

import json
import re
import sys
from pathlib import Path

import pytest
from nbval.kernel import start_new_kernel

PINS = dict(re.findall(r"(?m)^(\w+)==(.+)$", (Path(__file__).parent / "colab.txt").read_text(encoding="utf-8")))

VERSIONS = """
import json, sys
import IPython, ipykernel, ipywidgets
print(json.dumps({m.__name__.lower(): m.__version__ for m in (IPython, ipykernel, ipywidgets)} | {"prefix": sys.prefix}))
"""

SLIDER = """
import json
import ipywidgets
slider = ipywidgets.FloatSlider(min=0, max=1, step=0.01)
picture = ipywidgets.Image(value=b"0.0", format="png")
slider.observe(lambda change: setattr(picture, "value", str(change["new"]).encode()), "value")
print(json.dumps([slider.model_id, picture.model_id]))
"""


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def answers(kernel, request: str) -> list[dict]:
    """Every message that a request (its id) has caused, up to idle."""
    messages = []
    while not messages or messages[-1]["content"].get("execution_state") != "idle":
        message = kernel.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == request:
            messages.append(message)
    return messages


def printed(kernel, code: str):
    """What a cell prints as JSON."""
    messages = answers(kernel, kernel.execute(code))
    assert not [m["content"]["traceback"] for m in messages if m["msg_type"] == "error"]
    return json.loads("".join(m["content"]["text"] for m in messages if m["content"].get("name") == "stdout"))


def test_the_kernel_has_colabs_versions(kernel):
    assert printed(kernel, VERSIONS) == {**PINS, "prefix": sys.prefix}


def test_a_drag_moves_the_picture_and_the_last_value_wins(kernel):
    slider, picture = printed(kernel, SLIDER)
    for value in (0.25, 0.5, 0.75):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        message = kernel.session.msg("comm_msg", {"comm_id": slider, "data": data})
        kernel.shell_channel.send(message)
        seen = [m for m in answers(kernel, message["header"]["msg_id"]) if m["content"].get("comm_id") == picture]
        assert [bytes(m["buffers"][0]).decode() for m in seen if m["content"]["data"]["method"] == "update"] == [str(value)]

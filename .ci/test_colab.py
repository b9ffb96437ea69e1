"""The series as a reader of Colab gets it: Colab's versions, a `google.colab`, and a set-up cell that clones and installs nothing.

Not in tests/, where it would have to be skipped under the newest versions: a leg that may skip this can pass without Colab's.
It differs from Colab in three ways. `google.colab` is an empty stand-in, /content is a new folder for each notebook, and git finds
this checkout where the notebook asks for the public repository.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbval.kernel import start_new_kernel

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PINS = dict(re.findall(r"(?m)^(\w+)==(.+)$", (ROOT / ".ci/colab.txt").read_text(encoding="utf-8")))
# What Colab brings and no notebook may touch.
THEIRS = ("torch", "torchvision", "numpy", "ipywidgets")

VERSIONS = """
import json, sys
import IPython, ipykernel, ipywidgets, matplotlib, numpy, torch, torchvision
modules = IPython, ipykernel, ipywidgets, matplotlib, numpy, torch, torchvision
print(json.dumps({m.__name__.lower(): m.__version__ for m in modules} | {"prefix": sys.prefix}))
"""

SLIDER = """
import json
import ipywidgets
slider = ipywidgets.FloatSlider(min=0, max=1, step=0.01)
picture = ipywidgets.Image(value=b"0.0", format="png")
slider.observe(lambda change: setattr(picture, "value", str(change["new"]).encode()), "value")
print(json.dumps([slider.model_id, picture.model_id]))
"""

# What is installed, and where and when: a package that is put there again in the same version is seen too.
INSTALLED = f"""
import json, os
from importlib.metadata import distributions
from importlib.util import find_spec
found = {{each.name.lower(): each.version for each in distributions()}}
places = {{name: find_spec(name).origin for name in {THEIRS}}}
print(json.dumps([found, {{name: [place, os.stat(place).st_mtime_ns] for name, place in places.items()}}]))
"""

# Colab's kernel imports google.colab before the first cell. After each cell: where does the package come from?
STARTUP = """
import os, sys
import google.colab

def tell(*_):
    if "stn_helpers" in sys.modules:
        with open(os.environ["STN_SEEN"], "w") as file:
            file.write(sys.modules["stn_helpers"].__file__)

get_ipython().events.register("post_run_cell", tell)
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
    found = printed(kernel, VERSIONS)
    assert found.pop("prefix") == sys.prefix
    assert found.keys() == PINS.keys()
    for name, pin in PINS.items():
        assert re.fullmatch(re.escape(pin).replace(r"\*", r"[\w.+]+"), found[name]), (name, found[name])


def test_a_drag_moves_the_picture_and_the_last_value_wins(kernel):
    slider, picture = printed(kernel, SLIDER)
    for value in (0.25, 0.5, 0.75):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        message = kernel.session.msg("comm_msg", {"comm_id": slider, "data": data})
        kernel.shell_channel.send(message)
        seen = [m for m in answers(kernel, message["header"]["msg_id"]) if m["content"].get("comm_id") == picture]
        assert [bytes(m["buffers"][0]).decode() for m in seen if m["content"]["data"]["method"] == "update"] == [str(value)]


def run(*words, **options) -> str:
    """What a command prints; its last words in the error where it fails."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """This checkout as it stands, committed or not, as a repository to clone."""
    folder = tmp_path_factory.mktemp("source")
    for name in run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run("git", "init", "-q", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "-c", "user.name=Colab", "-c", "user.email=colab@localhost", "commit", "-q", "-m", "as it stands", cwd=folder)
    return folder


@pytest.fixture
def colab(tmp_path, source):
    """(the folder in the place of /content, the environment of a process there). The package is not installed, before and after."""
    for name in ("google/__init__.py", "google/colab/__init__.py"):
        (tmp_path / "modules" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "modules" / name).touch()
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "colab.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP)
    (tmp_path / "content").mkdir()
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "modules"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "STN_SMOKE": "1",
        "STN_SEEN": str(tmp_path / "seen"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": re.search(r'(?m)^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1],
    }
    remove = (sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "stn-helpers")
    run(*remove)
    yield tmp_path / "content", {**os.environ, **own}
    run(*remove)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_sets_itself_up_passes_and_replaces_nothing(path, colab, source):
    content, environment = colab
    (content / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    installed = lambda: json.loads(run(sys.executable, "-c", INSTALLED, cwd=content, env=environment))  # noqa: E731
    before = installed()
    assert "stn-helpers" not in before[0]
    command = (sys.executable, "-m", "pytest", "--nbval", "--nbval-cell-timeout=300", "-p", "no:cacheprovider", path.name)
    run(*command, cwd=content, env=environment)
    (found, places), clone = installed(), content / "stn"
    assert [found, places] == before
    assert all(found[name] and places[name] for name in THEIRS)
    assert Path((content.parent / "seen").read_text()) == clone / "stn_helpers" / "__init__.py"
    heads = [run("git", "rev-parse", "HEAD", cwd=folder) for folder in (clone, source)]
    assert heads[0] == heads[1]

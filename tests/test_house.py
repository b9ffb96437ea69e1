"""The house: arrows point down, nothing names a study but that study, and each part keeps to its size."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies.study import TOOLS, names

ROOT = Path(__file__).resolve().parent.parent
GROUND = ("checks", "theta", "pixels", "grid", "sampler", "families", "transformer", "diagnose")
ROOMS = ("data", "training", "show")  # each may import those before it
STUDIES = names()


def modules(package: str) -> dict[str, Path]:
    """{dotted name: file} of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it, as absolute names."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def lines(*paths: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_floor_imports_torch_and_itself(name):
    path = ROOT / "stn_helpers" / f"{name}.py"
    ours = {f"stn_helpers.{other}" for other in GROUND}
    for found in imports(path):
        top = found.split(".")[0]
        assert top == "torch" or top in sys.stdlib_module_names or any(found.startswith(each) for each in ours), found


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_reaches_up(room):
    above = [f"stn_helpers.{other}" for other in ROOMS[ROOMS.index(room) + 1 :]] + ["studies"]
    for name, path in modules(f"stn_helpers/{room}").items():
        assert not [found for found in imports(path) if found.startswith(tuple(above))], name


def test_no_import_goes_in_a_circle():
    everything = {**modules("stn_helpers"), **modules("studies")}
    needs = {name: {found for found in imports(path) if found in everything and found != name} for name, path in everything.items()}
    # A package's own face gathers its files; what a file needs of its package is the files.
    needs = {name: needed for name, needed in needs.items() if not everything[name].name == "__init__.py"}
    done: set[str] = set()
    while ready := {name for name, needed in needs.items() if name not in done and needed & needs.keys() <= done}:
        done |= ready
    assert done == needs.keys()


@pytest.mark.parametrize("name", modules("stn_helpers"))
def test_the_module_knows_of_no_study(name):
    assert not [found for found in imports(modules("stn_helpers")[name]) if found.split(".")[0] == "studies"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_knows_of_no_other(name):
    path = ROOT / "studies" / f"{name}.py"
    known = {f"studies.{tool}" for tool in ("study", "networks")}
    for found in imports(path):
        assert not found.startswith("studies.") or any(found.startswith(each) for each in known), found


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "gpu"])
def test_what_runs_studies_names_none(tool):
    found = imports(ROOT / "studies" / f"{tool}.py")
    assert not [one for one in found if one.startswith(tuple(f"studies.{name}" for name in STUDIES))]


WITHOUT = """
import sys
from pathlib import Path
from studies import __main__, runner
from studies.study import get, names, restore
assert sys.argv[1] not in names()
for name in names():
    study = get(name)
    for file in study.ship.values():
        path = Path("assets/checkpoints") / f"{file}.safetensors"
        if path.exists():
            restore(path)
__main__.main(["list"])
"""


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_can_be_taken_away(name, tmp_path):
    for package in ("stn_helpers", "studies"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "checkpoints").symlink_to(ROOT / "assets" / "checkpoints")
    (tmp_path / "studies" / f"{name}.py").unlink()
    done = subprocess.run([sys.executable, "-c", WITHOUT, name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert name not in [line.split()[0] for line in done.stdout.splitlines()]


def test_a_file_of_weights_brings_in_its_own_study_alone():
    path = ROOT / "assets/checkpoints/straighten_turned.safetensors"
    code = "import sys; from studies.study import restore; restore(sys.argv[1]); print([m for m in sys.modules if 'studies.' in m])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    brought = {name.removeprefix("studies.") for name in ast.literal_eval(done.stdout)}
    assert brought & set(STUDIES) == {"straighten"}


def test_importing_the_module_brings_in_torch_and_nothing_else():
    code = "import sys, torch; before = set(sys.modules); import stn_helpers; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tops = {name.split(".")[0] for name in ast.literal_eval(done.stdout)}
    assert tops - set(sys.stdlib_module_names) <= {"stn_helpers", "torch", "numpy"}


def test_each_part_keeps_to_its_size():
    ground = {name: ROOT / "stn_helpers" / f"{name}.py" for name in GROUND}
    assert lines(*(ground[name] for name in ("theta", "grid", "sampler", "transformer"))) <= 500  # the path of one image
    assert lines(*ground.values(), ROOT / "stn_helpers/__init__.py") <= 1200
    everything = [*modules("stn_helpers").values(), *modules("studies").values()]
    assert lines(*modules("stn_helpers").values()) <= 3100
    assert max(lines(path) for path in everything if path.name != "widgets.py") <= 360, "a file that outgrows this is asked why"

"""The house: arrows point down, nothing names a study but that study, and each part keeps to its size."""

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
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


# Each study in turn is taken away, and all that is ours is imported anew.
WITHOUT = """
import sys, torch, sklearn.datasets
from importlib import import_module, invalidate_caches
from pathlib import Path
sys.path.insert(0, "tests")
everything = sys.argv[1:]
for name in everything:
    for module in [module for module in sys.modules if module.split(".")[0] in ("stn_helpers", "studies", "by_name")]:
        del sys.modules[module]
    file = Path("studies") / f"{name}.py"
    text = file.read_bytes()
    file.unlink()
    invalidate_caches()
    main, study = import_module("studies.__main__"), import_module("studies.study")
    assert study.names() == [other for other in everything if other != name]
    networks = import_module("by_name").NETWORKS
    for other in study.names():
        for shipped in study.get(other).ship.values():
            path = Path("assets/checkpoints") / f"{shipped}.safetensors"
            if path.exists():
                study.restore(path)
    print(f"without {name}: {len(networks)} networks;", end=" ")
    main.main(["list"])
    file.write_bytes(text)
"""


def test_each_study_can_be_taken_away(tmp_path):
    for package in ("stn_helpers", "studies"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("assets", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "assets" / "checkpoints").symlink_to(ROOT / "assets" / "checkpoints")
    shutil.copy(ROOT / "tests" / "by_name.py", tmp_path / "tests")
    done = subprocess.run([sys.executable, "-c", WITHOUT, *STUDIES], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"without {name}: " in done.stdout for name in STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_tests_that_do_without_the_others(name):
    known = {f"studies.{tool}" for tool in ("study", "networks", "runner", name)}
    for found in imports(ROOT / "tests" / f"test_{name}.py"):
        assert not found.startswith("studies.") or any(found == each or found.startswith(f"{each}.") for each in known), found


@pytest.mark.parametrize("name", ["study", "networks", "runner", "together"])
def test_what_is_asked_of_every_study_names_none(name):
    found = imports(ROOT / "tests" / f"test_{name}.py") | imports(ROOT / "tests" / "by_name.py")
    assert not {one for one in found if one.split(".")[0] == "studies" and one.split(".")[-1] in STUDIES}


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
    assert lines(*(ground[name] for name in ("theta", "grid", "sampler", "transformer"))) <= 470  # the path of one image
    assert lines(*ground.values(), ROOT / "stn_helpers/__init__.py") <= 1100
    everything = [*modules("stn_helpers").values(), *modules("studies").values()]
    assert lines(*modules("stn_helpers").values()) <= 3180  # the aim is 2,700
    assert max(map(lines, everything)) <= 360, "a file that outgrows this is asked why"


def words(path: Path) -> list[str]:
    """Every name that a file says, in code or in text: what it defines, uses, or quotes."""
    return re.findall(r"\w+", path.read_text(encoding="utf-8"))


def test_nothing_is_there_that_nothing_uses():
    """A function or class of the two packages that is named once, where it is defined, is used by nobody."""
    ours = [*modules("stn_helpers").values(), *modules("studies").values()]
    readers = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    readers += [*(ROOT / "examples").glob("*.py"), ROOT / "README.md", *(ROOT / "book").glob("*.py")]
    said = Counter(word for path in [*ours, *readers] for word in words(path))
    for path in ours:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert said[node.name] > 1, f"{path.name}: {node.name}"

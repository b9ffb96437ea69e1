"""What the repository says of itself: one list of dependencies, one name, shipped files that are what they claim."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from stn_helpers.data.files import sha256
from stn_helpers.data.sets import available
from stn_helpers.training.checkpoint import load_weights
from studies.__main__ import main
from studies.study import get

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import yaml

from tools import badges, tables

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RESULTS = sorted((ROOT / "assets" / "results").glob("*.json"))


def requirements() -> dict[str, str]:
    """{name: bound} of every dependency in pyproject.toml, extras included."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra if not line.startswith(PROJECT["name"]))]
    return dict(re.fullmatch(r"([\w-]+)(.*)", line.split(";")[0].strip()).groups() for line in lines)


def test_dependencies_have_lower_bounds_and_no_pins():
    assert all(re.fullmatch(r">=[\d.]+", bound) for bound in requirements().values()), requirements()


def test_the_conda_environment_is_the_same_set_up():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    named = dict(re.fullmatch(r"([\w-]+)(>=.*)", line).groups() for line in pip if not line.startswith("-e"))
    assert {"torch", "torchvision", "jupyterlab", "matplotlib", "ipywidgets", "nbval"} <= named.keys()
    assert named.items() <= requirements().items()
    assert f"python{PROJECT['requires-python']}" in entries
    assert "-e .[lab,test,book]" in pip


def test_ci_and_readers_run_the_same_command():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    assert any("make test" in step.get("run", "") for step in steps)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert PROJECT["requires-python"].removeprefix(">=") in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]


def test_the_colab_leg_has_colabs_versions_and_ci_runs_it():
    """Which versions its kernel truly has, and that each notebook sets itself up there, is checked in .ci/test_colab.py."""
    lines = (ROOT / ".ci/colab.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins.keys() == {"torch", "torchvision", "numpy", "matplotlib", "ipython", "ipykernel", "ipywidgets"}
    bounds = {name: bound.removeprefix(">=") for name, bound in requirements().items()}
    for name in pins.keys() & bounds.keys():  # Colab's must be new enough for us: nothing there may be replaced
        assert [int(part) for part in pins[name].split(".") if part != "*"] >= [int(part) for part in bounds[name].split(".")]
    # Nothing is installed there, so all that the series needs must be among what Colab has.
    named = {re.split(r"[>=]", line)[0] for line in lines}
    series = PROJECT["optional-dependencies"]["series"]
    assert {re.split(r"[>=]", line)[0] for line in [*PROJECT["dependencies"], *series]} <= named
    assert ".ci/test_colab.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"]
    assert any(step.get("run", "").startswith("make colab") for step in jobs["colab"]["steps"])
    assert "make colab" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_every_badge_points_at_the_repository_in_pyproject():
    repo = badges.repository()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert json.dumps(badges.badge(repo, path.name))[1:-1] in text
        assert f'REPO = \\"{repo}\\"' in text
        assert badges.badge(repo, path.name) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_badges_for_a_fork_rewrite_every_place_and_nothing_else(tmp_path):
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    old = badges.repository()
    before = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*") if path.is_file()}
    badges.rewrite("ada/my.stn", tmp_path)
    for path, text in before.items():
        assert path.read_text(encoding="utf-8") == text.replace(old, "ada/my.stn")
    assert badges.repository(tmp_path) == "ada/my.stn"


def test_a_malformed_repository_name_changes_nothing(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with pytest.raises(ValueError, match="expected owner/name"):
        badges.rewrite("no slash", tmp_path)
    assert badges.repository(tmp_path) == badges.repository()


def test_readme_is_read_aloud_in_a_few_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    seen = re.sub(r"(?s)<!--.*?-->|```.*?```|\[!\[.*?\]\(.*?\)\]\(.*?\)|!\[.*?\]\(.*?\)|\]\(.*?\)", " ", text)
    assert len(re.findall(r"\w[^\s|]*", seen)) <= 1000


def test_the_tables_in_readme_are_made_from_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- table " in text
    assert tables.fill(text) == text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path):
    results = json.loads(path.read_text())
    for row in results.get("runs", [results]):
        assert {"command", "commit", "date", "device", "torch"} <= row.keys()


def test_shipped_weights_are_the_ones_in_the_results_file():
    results = [json.loads(path.read_text()) for path in RESULTS]
    weights = {name: about for result in results for name, about in result.get("weights", {}).items()}
    files = sorted((ROOT / "assets/checkpoints").iterdir())
    assert [file.stem for file in files] == sorted(weights)
    for file in files:
        assert sha256(file) == weights[file.stem]["sha256"]
        about = load_weights(file)[1]
        study = get(about["study"])
        assert study.ship[weights[file.stem]["arm"]] == file.stem and about["data"] == study.data
        assert about["test_on"] == study.arms[weights[file.stem]["arm"]].test


@pytest.mark.parametrize("path", sorted((ROOT / "assets/checkpoints").iterdir()), ids=lambda path: path.stem)
def test_shipped_weights_evaluate_to_their_published_figure(path, capsys):
    about = load_weights(path)[1]
    if not available(about["data"]):
        pytest.skip(f"{about['data']} is not at hand (STN_DATA)")
    results = json.loads((ROOT / "assets/results" / f"{about['study']}.json").read_text())
    main(["evaluate", str(path), "--device", "cpu"])
    said = re.search(r"accuracy ([\d.]+) % on ([\d,]+) images, (.*)", capsys.readouterr().out)
    assert said[3] == about["test_on"]
    one = 100 / int(said[2].replace(",", ""))  # a picture; on another processor a handful may change sides
    assert float(said[1]) == pytest.approx(results["weights"][path.stem]["test_accuracy"], abs=max(0.1, 1.01 * one))


def test_no_row_of_a_changed_checkout_is_published():
    for path in RESULTS:
        tables.results_of(ROOT, path.stem)


def test_every_asset_is_listed_with_the_command_that_makes_it():
    listed = (ROOT / "assets/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "assets").rglob("*.*"):
        if path.is_file() and path.name != "README.md" and path.suffix != ".lock":
            assert path.name in listed, path

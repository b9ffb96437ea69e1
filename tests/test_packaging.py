"""What an engineer installs: the module alone, on torch alone; and what a reader's checkout sees: the studies too."""

import runpy
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel, built as pip builds it, from a copy of the checkout."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("stn_helpers", "studies"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def test_a_wheel_holds_the_module_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"stn_helpers"}
    assert {"stn_helpers/py.typed", "stn_helpers/families.py", "stn_helpers/show/explorer.js", "stn_helpers/show/widget.js"} <= set(
        names
    )


def test_it_needs_torch_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as packed:
        (about,) = [name for name in packed.namelist() if name.endswith("METADATA")]
        head = Parser().parsestr(packed.read(about).decode())
    assert [need for need in head.get_all("Requires-Dist") if "extra ==" not in need] == ["torch>=2.9"]
    import stn_helpers

    assert head["Version"] == stn_helpers.__version__


def test_installed_it_works_and_puts_nothing_beside_itself(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site-packages")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from stn_helpers import SpatialTransformer, affine, light_localization, warp
import stn_helpers
assert stn_helpers.__file__.startswith(sys.argv[1])
images = torch.rand(2, 3, 32, 32)
assert torch.allclose(SpatialTransformer(light_localization())(images), images, atol=1e-5)
from stn_helpers.data.sets import data_root
print(data_root())
"""
    environment = {"PATH": "", "HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site-packages")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "site-packages" not in done.stdout


@pytest.mark.parametrize(("command", "seen"), [("editable_wheel", {"stn_helpers", "studies"}), ("bdist_wheel", {"stn_helpers"})])
def test_an_editable_install_sees_the_studies_and_a_wheel_does_not(command, seen, monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: found.update(options))
    monkeypatch.setattr(sys, "argv", ["setup.py", command])
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert {name.split(".")[0] for name in found["packages"]} == seen

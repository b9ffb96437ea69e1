"""examples/minimal.py: torch alone, one file, and it does what it says."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).resolve().parent.parent / "examples" / "minimal.py"
PARTS = runpy.run_path(str(PATH))


def test_it_imports_torch_alone_and_fits_on_two_pages():
    tree = ast.parse(PATH.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"torch"}
    assert len(PATH.read_text(encoding="utf-8").splitlines()) <= 120


def test_before_training_it_changes_nothing():
    images, _, _ = PARTS["letters"](4, torch.Generator().manual_seed(0))
    seen, theta = PARTS["Net"]().transformer(images)
    torch.testing.assert_close(seen, images, atol=1e-5, rtol=0)
    assert torch.equal(theta, torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(4, 2, 3))


def test_what_it_measures_is_zero_for_a_theta_that_undoes_the_turn():
    """The picture of a turn by a is upright again through the opposite turn; what is left is then the same for all."""
    images, _, angle = PARTS["letters"](50, torch.Generator().manual_seed(1))
    assert PARTS["spread"](angle + -angle) == pytest.approx(0, abs=1e-5) and PARTS["spread"](angle) > 20
    cos, sin, zero = angle.cos(), -angle.sin(), torch.zeros_like(angle)
    back = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(back, list(images.shape), align_corners=False)
    upright = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    same, _, _ = PARTS["letters"](50, torch.Generator().manual_seed(1), degrees=0)
    # Averaged over 4 x 4 pixels, so that the noise does not drown the letters.
    apart = [torch.nn.functional.avg_pool2d(one - same, 4)[:, :, 2:-2, 2:-2].square().mean() for one in (upright, images)]
    assert apart[0] < 0.5 * apart[1]


def test_a_short_run_reads_the_letters_and_begins_to_turn_them(capsys):
    right, before, behind = PARTS["main"](300)
    assert right > 60 and behind < before and f"{right:.1f} % right" in capsys.readouterr().out

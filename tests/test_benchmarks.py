"""What is made of timings: rows with ratios, and tables of them."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import tables

ROOT = Path(__file__).resolve().parent.parent


def bench(group: str, seconds: float, **facts) -> SimpleNamespace:
    """A benchmark as pytest-benchmark hands it over."""
    stats = SimpleNamespace(median=seconds, rounds=3)
    return SimpleNamespace(group=group, has_error=False, extra_info=facts, stats=stats)


def warp(seconds: float, case: str, by: str, images: int = 4) -> SimpleNamespace:
    row = {"case": case, "by": by}
    return bench("warps", seconds, images=images, what=f"{case}, {by}", beside=case, row=row)


RUN = [
    bench("training", 2.0, images=100, what="copied"),
    bench("training", 0.5, images=100, what="ours"),
    bench("sliders", 0.1, kilobytes=90.0, what="figure"),
    bench("sliders", 0.004, kilobytes=10.0, what="explorer"),
    bench("parts", 0.5, images=100, what="all of it"),
    bench("parts", 0.1, images=100, what="sampler"),
    bench("steps", 0.1, images=100, what="small-plain", beside="small"),
    bench("steps", 0.125, images=100, what="small-light", beside="small"),
    bench("steps", 1.0, images=100, what="strong-plain", beside="strong"),
    warp(0.004, "affine", "ours"),
    warp(0.01, "affine", "kornia"),
    warp(0.002, "affine", "OpenCV"),
    warp(0.1, "tps", "ours"),
    warp(4.0, "tps", "kornia", images=8),
    bench("series", 12.34, what="01"),
    bench("series", 20.0, what="02"),
    bench("imports", 2.0, what="torch"),
    bench("imports", 3.0, what="stn_helpers.show.plots"),
    bench("imports", 9.0),
]


def loaded(path: Path):
    """A file of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    module = loaded(ROOT / "benchmarks" / "conftest.py")
    found = module.rows(RUN)
    assert all(row["what"] in module.line(row) for row in found)
    return found


@pytest.fixture
def root(rows, tmp_path) -> Path:
    facts = {"data": "CIFAR-10", "device": "a CPU", "torch": "2", "date": "today", "peak_memory_gb": 1.2, "series_seconds": 32.3}
    (tmp_path / "assets/results").mkdir(parents=True)
    (tmp_path / "assets/results/speed.json").write_text(json.dumps({**facts, "rows": rows}))
    return tmp_path


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("test_*.py")), ids=lambda path: path.stem)
def test_a_benchmark_times_what_there_is(path, digits_as_cifar):
    """`make bench` is run once in a while: what it names must not be gone by then."""
    module = loaded(path)
    if path.stem == "test_parts":
        assert [run() for run in module.parts().values()] == [None] * 5
    if path.stem == "test_training":
        module.STEPS = 1
        data = digits_as_cifar.train
        assert module.LOOPS["the loop people copy"](data)() > 0
        module.our_loop(data, module.torch.float32)()
    if path.stem == "test_steps":
        assert {"small-plain", "small-random", "strong-light"} <= {"-".join(case) for case in module.CASES}


def test_a_ratio_is_how_many_times_as_fast_as_the_first_it_stands_beside(rows):
    found = {row["what"]: row["ratio"] for row in rows}
    assert len(rows) == len(RUN) - 1
    assert (found["copied"], found["ours"], found["explorer"]) == (1, 4, 25)
    assert (found["small-light"], found["strong-plain"]) == (0.8, 1)
    assert (found["affine, kornia"], found["affine, OpenCV"], found["tps, ours"]) == (0.4, 2, 1)


def test_a_row_has_the_units_of_its_kind(rows):
    found = {row["what"]: row for row in rows}
    assert found["ours"]["images_per_second"] == 200 and found["01"]["seconds"] == 12.34
    assert found["explorer"]["milliseconds"] == 4 and found["explorer"]["kilobytes"] == 10
    assert (found["tps, ours"]["case"], found["tps, ours"]["by"]) == ("tps", "ours")


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("speed", "CIFAR-10, a CPU, torch 2, today. A process that trains holds at most 1.2 GB."),
        ("sliders", "| explorer | 4.0 | 10 | 25 |"),
        ("parts", "| sampler | 1,000 | 20.0 |"),
        ("steps", "| strong-plain | 100 | 1.00 |"),
        ("series", "| all of them | 32 |"),
        ("imports", "| `stn_helpers.show.plots` | 3.0 | 1.50 |"),
        ("warps", "| tps | 25,000 | 500,000 (20) |  |"),
    ],
)
def test_every_table_of_timings_ends_as_it_should(root, name, last):
    lines = tables.TABLES[name](root).splitlines()
    assert lines[-1] == last
    assert {line.count("|") for line in lines if line.startswith("|")} == {lines[0].count("|")}


def test_the_table_of_warps_has_a_row_a_case_and_a_column_for_each_who_was_timed(root):
    assert tables.warps(root, "warps").splitlines() == [
        "| microseconds an image (times ours) | ours | kornia | OpenCV |",
        "|---|---:|---:|---:|",
        "| affine | 1,000 | 2,500 (2.5) | 500 (0.5) |",
        "| tps | 25,000 | 500,000 (20) |  |",
    ]

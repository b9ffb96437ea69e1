"""One command, one file of results: `make bench`. A group is timed side by side; its first row is what it is compared with."""

import json
from pathlib import Path

import pytest
import torch

from stn_helpers.data.files import write_whole
from stn_helpers.data.sets import load
from studies.runner import provenance

RESULTS = Path(__file__).resolve().parent.parent / "assets" / "results" / "speed.json"
EXTRA: dict = {}


@pytest.fixture(scope="session")
def train_set():
    """CIFAR-10, or digits in its shape where it cannot be had: the timing is the same, and the table names it."""
    data = load("cifar10", train=True, stand_in=True)
    EXTRA["data"] = data.name
    return data


@pytest.fixture
def note():
    """A place for single figures that are not timings: note["name"] = value."""
    return EXTRA


def measured(bench) -> dict:
    """The median round in the units of its kind."""
    facts, seconds = bench.extra_info, bench.stats.median
    if "images" in facts:
        return {"images_per_second": round(facts["images"] / seconds, 1)}
    if "kilobytes" in facts:
        return {"milliseconds": round(1000 * seconds, 2), "kilobytes": facts["kilobytes"]}
    return {"seconds": round(seconds, 2)}


def rows(benchmarks) -> list[dict]:
    """A row for each benchmark: images a second, or for a slider milliseconds and kilobytes a step, or seconds.

    ratio: how many times as fast as the first of its group, or of those with the same `beside`. What a benchmark puts into
    `row` is in its row too, as the columns of a table.
    """
    out, first = [], {}
    for bench in benchmarks:
        if bench.has_error or "what" not in bench.extra_info:
            continue
        facts = bench.extra_info
        rate = facts.get("images", 1) / bench.stats.median
        base = first.setdefault((bench.group, facts.get("beside")), rate)
        row = {"group": bench.group, "what": facts["what"], **facts.get("row", {}), **measured(bench)}
        out.append({**row, "ratio": round(rate / base, 4), "rounds": bench.stats.rounds})
    return out


def line(row: dict) -> str:
    """A row as the terminal shows it."""
    if "images_per_second" in row:
        found = f"{row['images_per_second']:12,.0f} /s"
    elif "seconds" in row:
        found = f"{row['seconds']:12.2f} s "
    else:
        found = f"{row['milliseconds']:9.2f} ms {row['kilobytes']:6.1f} kB"
    return f"{row['group']:10s} {row['what']:58s} {found:>19s}   x {row['ratio']:.2f}"


def pytest_terminal_summary(terminalreporter, config) -> None:
    session = getattr(config, "_benchmarksession", None)
    table = rows(session.benchmarks) if session else []
    if not table:
        return
    for row in table:
        terminalreporter.write_line(line(row))
    # All rows are of one run: a part of the benchmarks never takes the place of the whole.
    ran, all_files = {bench.fullname.split("::")[0] for bench in session.benchmarks}, set(Path(__file__).parent.glob("test_*.py"))
    if {Path(name).name for name in ran} != {path.name for path in all_files}:
        terminalreporter.write_line(f"{RESULTS.name} is left as it was: these are not all benchmarks")
        return
    facts = {"command": "make bench", **EXTRA, **provenance(torch.device("cpu")), "rows": table}
    write_whole(RESULTS, (json.dumps(facts, indent=1) + "\n").encode())

"""One command, one table: `make bench`. A group is timed side by side in one process; its first row is what it is compared with."""

import json
from pathlib import Path

import pytest
import torch

from stn_helpers.checkpoint import write_whole
from stn_helpers.data import load
from stn_helpers.runner import provenance

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


def rows(benchmarks) -> list[dict]:
    """A row for each benchmark, from its median round: images a second, or for a slider milliseconds and kilobytes a step.

    ratio: how many times as fast as the first of its group, or of those with the same `beside`.
    """
    out, first = [], {}
    for bench in benchmarks:
        if bench.has_error or "what" not in bench.extra_info:
            continue
        facts, seconds = bench.extra_info, bench.stats.median
        rate = facts.get("images", 1) / seconds
        group = facts.get("beside", bench.group)
        first.setdefault(group, rate)
        if "images" in facts:
            measured = {"images_per_second": round(rate, 1)}
        else:
            measured = {"milliseconds": round(1000 * seconds, 2), "kilobytes": facts["kilobytes"]}
        row = {"group": bench.group, "what": facts["what"], **measured, "ratio": round(rate / first[group], 3)}
        out.append({**row, "rounds": bench.stats.rounds})
    return out


def line(row: dict) -> str:
    """A row as the terminal shows it."""
    if "images_per_second" in row:
        measured = f"{row['images_per_second']:12,.0f} /s"
    else:
        measured = f"{row['milliseconds']:9.2f} ms {row['kilobytes']:6.1f} kB"
    return f"{row['group']:10s} {row['what']:58s} {measured:>19s}   x {row['ratio']:.2f}"


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

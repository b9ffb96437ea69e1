"""One command, one table: `make bench`. A group is timed side by side in one process; its first row is what it is compared with."""

import json
from pathlib import Path

import pytest
import torch

from stn_helpers.checkpoint import write_whole
from stn_helpers.data import load
from stn_helpers.studies import provenance

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
    """Images a second of each benchmark (its median round), and the ratio to the first of its group."""
    out, first = [], {}
    for bench in benchmarks:
        if bench.has_error or "images" not in bench.extra_info:
            continue
        rate = bench.extra_info["images"] / bench.stats.median
        first.setdefault(bench.group, rate)
        out.append(
            {
                "group": bench.group,
                "what": bench.extra_info["what"],
                "images_per_second": round(rate, 1),
                "ratio": round(rate / first[bench.group], 2),
                "rounds": bench.stats.rounds,
            }
        )
    return out


def pytest_terminal_summary(terminalreporter, config) -> None:
    session = getattr(config, "_benchmarksession", None)
    table = rows(session.benchmarks) if session else []
    if not table:
        return
    for row in table:
        terminalreporter.write_line(
            f"{row['group']:10s} {row['what']:58s} {row['images_per_second']:12,.0f} /s   x {row['ratio']:.2f}"
        )
    facts = {"command": "make bench", **EXTRA, **provenance(torch.device("cpu")), "rows": table}
    write_whole(RESULTS, (json.dumps(facts, indent=1) + "\n").encode())

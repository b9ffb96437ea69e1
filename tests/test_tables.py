"""tools/tables.py: what stands in a table is what stands in the results, and nothing else."""

import json

import pytest

from tools import tables

PLACES = (
    ("upright, no ST", "small-plain", 1000, 2.25),
    ("upright, light ST", "small-light", 62002, 4.5),
    ("upright, two STs", "small-two", 9, 5.0),
    ("rts, light ST", "small-light", 62002, 9.0),
)
CLEAN = {"commit": "abc1234", "date": "2026-11-27 12:00 UTC"}
RUNS = [
    {"arm": arm, "arguments": {"args": network.split("-")}, "parameters": parameters, "mflop": mflop, "seed": seed, **CLEAN}
    for arm, network, parameters, mflop in PLACES
    for seed in (0, 1)
]
STEPS = [
    {"group": "steps", "what": what, "ratio": ratio}
    for what, ratio in (("small-plain", 1), ("small-light", 0.4), ("small-two", 0.3))
]
SUMMARY = [
    {"arm": "upright, no ST", "mean": 74.34, "sd": 0.06},
    {"arm": "upright, light ST", "mean": 73.5, "sd": 0.21, "gain": {"mean": -0.84, "low": -1.26, "high": -0.44, "seeds": 3}},
    {
        "arm": "upright, two STs",
        "mean": 70.0,
        "sd": 1.0,
        "seeds": 2,
        "diverged": 1,
        "gain": {"mean": 1.0, "low": -2.0, "high": 4.0, "seeds": 2},
    },
    {"arm": "rts, light ST", "mean": 50.0, "sd": None, "gain": {"mean": 2.0, "low": None, "high": None, "seeds": 1}},
]


def test_places_have_a_row_each_and_sets_a_column_with_gains_and_intervals(tmp_path):
    (tmp_path / "assets/results").mkdir(parents=True)
    (tmp_path / "assets/results/some.json").write_text(json.dumps({"runs": RUNS, "summary": SUMMARY}))
    (tmp_path / "assets/results/speed.json").write_text(json.dumps({"rows": STEPS}))
    assert tables.places(tmp_path, "some").splitlines() == [
        "| | parameters | MFLOP | step, times | upright | rts |",
        "|---|---:|---:|---:|---:|---:|",
        "| no ST | 1,000 | 2.2 | 1.0 | 74.3 ± 0.1 |  |",
        "| light ST | 62,002 | 4.5 | 2.5 | 73.5 ± 0.2<br>-0.8 (-1.3 … -0.4) | 50.0<br>+2.0 (one seed) |",
        "| two STs | 9 | 5.0 | 3.3 | 70.0 ± 1.0<br>+1.0 (-2.0 … +4.0, two seeds)<br>1 of 2 diverged |  |",
    ]


@pytest.mark.parametrize("table", ["few", "cifar10", "tutorial", "paper_table", "colocalise"])
def test_a_run_of_a_changed_checkout_is_not_published_and_older_ones_stay(tmp_path, table):
    (tmp_path / "assets/results").mkdir(parents=True)
    (tmp_path / "assets/results/speed.json").write_text(json.dumps({"rows": []}))
    name = "cifar10" if table == "few" else table
    for date, refused in (("2026-11-26 23:59 UTC", False), ("2026-11-27 00:00 UTC", True)):
        runs = [{"arm": "light ST", "seed": 3, "commit": "abc1234+changes", "date": date}]
        (tmp_path / f"assets/results/{name}.json").write_text(json.dumps({"runs": runs, "summary": []}))
        found = json.loads((tmp_path / f"assets/results/{name}.json").read_text())
        if refused:
            with pytest.raises(ValueError, match=rf"{name}.json has runs of a changed checkout \(light ST, seed 3\)"):
                tables.TABLES[table](tmp_path)
        else:
            assert tables.results_of(tmp_path, name) == found


def test_our_errors_stand_beside_the_papers(tmp_path):
    (tmp_path / "assets/results").mkdir(parents=True)
    summary = [
        {"arm": "R, FCN", "mean": 95.55, "sd": 0.21, "seeds": 3},
        {"arm": "R, ST-CNN tps", "mean": 99.0, "sd": None, "seeds": 1},
        {"arm": "TC, FCN", "mean": 80.0, "sd": 1.0, "seeds": 2},
    ]
    (tmp_path / "assets/results/paper_table.json").write_text(json.dumps({"summary": summary}))
    lines = tables.beside_the_paper(tmp_path).splitlines()
    assert lines[0] == "| test error, % (the paper's) | R | TC |" and len(lines) == 2 + 8
    assert lines[2] == "| FCN | 4.5 ± 0.2 (2.1) | 20.0 ± 1.0, two seeds (13.2) |"
    assert lines[3] == "| CNN |  |  |" and lines[9] == "| ST-CNN tps | 1.0, one seed (0.7) |  |"


def test_what_was_found_has_a_column_a_digit_and_the_spread_over_the_seeds(tmp_path):
    (tmp_path / "assets/results").mkdir(parents=True)
    runs = [
        {
            row: {name: [first + digit for digit in range(10)] for name in ("scattered 84", "cluttered 84")}
            for row in ("found", "chance")
        }
        | CLEAN
        for first in (50, 60)
    ]
    runs[1]["found"]["cluttered 84"] = [10.0] * 10
    (tmp_path / "assets/results/colocalise.json").write_text(json.dumps({"runs": runs}))
    lines = tables.found(tmp_path).splitlines()
    assert lines[2] == "| alone | 55 | 56 | 57 | 58 | 59 | 60 | 61 | 62 | 63 | 64 | 60 ± 7 |"
    assert lines[3].startswith("| in clutter | 30 | 30 | 31 |") and lines[3].endswith("| 32 ± 31 |")
    assert lines[4].startswith("| by chance | 55 |")

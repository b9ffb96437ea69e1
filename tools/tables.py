"""Write the tables of README.md from assets/results/*.json: `make results`."""

import json
import re
import statistics
from pathlib import Path

from studies.paper_table import ERRORS
from studies.paper_table import SETS as MNIST_SETS

ROOT = Path(__file__).resolve().parent.parent
CLEAN_FROM = "2026-11-27"  # older rows were published before the rule that no row of a changed checkout is


def results_of(root: Path, name: str) -> dict:
    """What a study has found. Raises ValueError for runs whose code no commit holds: they are not published."""
    results = json.loads((root / "assets/results" / f"{name}.json").read_text())
    dirty = [run for run in results.get("runs", []) if run["commit"].endswith("+changes") and run["date"] >= CLEAN_FROM]
    if dirty:
        found = "; ".join(f"{run['arm']}, seed {run['seed']}" for run in dirty)
        raise ValueError(f"{name}.json has runs of a changed checkout ({found}); commit the code, remove them and run them again")
    return results


def study(root: Path, name: str) -> str:
    """Accuracy after the last epoch, arm by arm."""
    results = results_of(root, name)
    lines = ["| network and recipe | parameters | test accuracy, % | seeds |", "|---|---:|---:|---:|"]
    for row in results["summary"]:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.1f}"
        lines.append(f"| {row['arm']} | {row['parameters']:,} | {row['mean']:.1f}{spread} | {row['seeds']} |")
    return "\n".join(lines)


def places(root: Path, name: str) -> str:
    """A row for every place of a transformer, a column for every set: mean and spread, and the gain with its interval.

    Beside each row what it costs: parameters, arithmetic, and how many times as long a training step takes.
    """
    times = {row["what"]: f"{1 / row['ratio']:.1f}" for row in group(root, "steps")}
    results = results_of(root, name)
    first = {run["arm"]: run for run in reversed(results["runs"])}
    found: dict[str, dict[str, str]] = {}
    for row in results["summary"]:
        test, place = row["arm"].split(", ", 1)
        words = f"{row['mean']:.1f}" if row["sd"] is None else f"{row['mean']:.1f} ± {row['sd']:.1f}"
        if gain := row.get("gain"):
            between = "one seed" if gain["low"] is None else f"{gain['low']:+.1f} … {gain['high']:+.1f}"
            between += ", two seeds" if gain["seeds"] == 2 else ""
            words += f"<br>{gain['mean']:+.1f} ({between})"
        if count := row.get("diverged"):
            words += f"<br>{count} of {row['seeds']} diverged"
        about = first[row["arm"]]
        found.setdefault(
            place, {"": f"{about['parameters']:,} | {about['mflop']:.1f} | {times.get('-'.join(about['arguments']['args']), '')}"}
        )[test] = words
    tests = list(dict.fromkeys(row["arm"].split(", ", 1)[0] for row in results["summary"]))
    lines = [f"| | parameters | MFLOP | step, times | {' | '.join(tests)} |", "|---|---:|---:|---:|" + "---:|" * len(tests)]
    lines += [f"| {place} | {cells['']} | {' | '.join(cells.get(test, '') for test in tests)} |" for place, cells in found.items()]
    return "\n".join(lines)


def few(root: Path) -> str:
    """The four rows that answer "does it help?": mean accuracy and gain in each world, with its interval."""
    rows = {row["arm"]: row for row in results_of(root, "cifar10")["summary"]}
    worlds = ("upright", "rotated", "rts", "perspective")
    lines = [f"| test accuracy, %; gain in points | {' | '.join(worlds)} |", "|---|" + "---:|" * len(worlds)]
    for place in ("no ST", "light ST, a tenth of the rate", "same parameters, no warp", "oracle"):
        cells = []
        for row in (rows.get(f"{world}, {place}") for world in worlds):
            gain = row.get("gain") if row else None
            between = "one seed" if gain and gain["low"] is None else f"{gain['low']:+.1f} … {gain['high']:+.1f}" if gain else ""
            cells.append((f"{row['mean']:.1f}" if row else "") + (f", {gain['mean']:+.1f} ({between})" if gain else ""))
        lines.append(f"| {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beside_the_paper(root: Path) -> str:
    """A row for every network of the paper's Table 1, a column for every set: our error, its spread, and the paper's."""
    summary = results_of(root, "paper_table")["summary"]
    rows = {row["arm"]: row for row in summary}
    found = [letters for letters in MNIST_SETS if any(arm.startswith(f"{letters}, ") for arm in rows)]
    lines = [f"| test error, % (the paper's) | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    for model, errors in ERRORS.items():
        cells = []
        for letters, theirs in zip(MNIST_SETS, errors, strict=True):
            if letters not in found:
                continue
            row = rows.get(f"{letters}, {model}")
            spread = "" if row is None or row["sd"] is None else f" ± {row['sd']:.1f}"
            spread += {1: ", one seed", 2: ", two seeds"}.get(row["seeds"], "") if row else ""
            cells.append(f"{100 - row['mean']:.1f}{spread} ({theirs})" if row else "")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def found(root: Path) -> str:
    """How many of each digit were found without a label, percent, with the spread of the mean over the seeds."""
    runs = results_of(root, "colocalise")["runs"]
    lines = [f"| found, % | {' | '.join(map(str, range(10)))} | all |", "|---|" + "---:|" * 11]
    for words, row, name in (
        ("alone", "found", "scattered 84"),
        ("in clutter", "found", "cluttered 84"),
        ("by chance", "chance", "cluttered 84"),
    ):
        digits = [[run[row][name][digit] for run in runs] for digit in range(10)]
        means = [statistics.mean(seeds) for seeds in zip(*digits, strict=True)]
        spread = f" ± {statistics.stdev(means):.0f}" if len(means) > 1 else ""
        cells = [f"{statistics.mean(seeds):.0f}" for seeds in digits]
        lines.append(f"| {words} | {' | '.join(cells)} | {statistics.mean(means):.0f}{spread} |")
    return "\n".join(lines)


def timings(root: Path) -> dict:
    """What `make bench` has measured."""
    return json.loads((root / "assets/results/speed.json").read_text())


def group(root: Path, name: str) -> list[dict]:
    """The rows of one group of timings; the first is what the others are compared with."""
    return [row for row in timings(root)["rows"] if row["group"] == name]


def speed(root: Path) -> str:
    """The training loops side by side, with their ratios, and where it was measured."""
    results = timings(root)
    lines = ["| what | images/s | ratio |", "|---|---:|---:|"]
    training = group(root, "training")
    lines += [f"| {row['what']} | {row['images_per_second']:,.0f} | {row['ratio']:.1f} |" for row in training]
    where = f"{results['data']}, {results['device']}, torch {results['torch']}, {results['date']}"
    return "\n".join([*lines, "", f"{where}. A process that trains holds at most {results['peak_memory_gb']} GB."])


def sliders(root: Path) -> str:
    """One step of a slider, message in to idle, beside a new matplotlib figure a step."""
    lines = ["| one step of a slider | median, ms | sent, kB | times as fast |", "|---|---:|---:|---:|"]
    for row in group(root, "sliders"):
        lines.append(f"| {row['what']} | {row['milliseconds']:.1f} | {row['kilobytes']:.0f} | {row['ratio']:.0f} |")
    return "\n".join(lines)


def warps(root: Path, name: str) -> str:
    """A row for every case, a column for everyone who was timed: microseconds an image, and how many times ours that is."""
    found: dict[str, dict[str, str]] = {}
    for row in group(root, name):
        times = 1 / row["ratio"]
        beside = "" if row["by"] == "ours" else f" ({times:.1f})" if times < 10 else f" ({times:.0f})"
        found.setdefault(row["case"], {})[row["by"]] = f"{1e6 / row['images_per_second']:,.0f}{beside}"
    makers = list(dict.fromkeys(row["by"] for row in group(root, name)))
    lines = [f"| microseconds an image (times ours) | {' | '.join(makers)} |", "|---|" + "---:|" * len(makers)]
    lines += [f"| {case} | {' | '.join(cells.get(by, '') for by in makers)} |" for case, cells in found.items()]
    return "\n".join(lines)


def parts(root: Path) -> str:
    """What of a training step of the tutorial network goes where."""
    lines = ["| part of the tutorial network, forward and backward | microseconds an image | share, % |", "|---|---:|---:|"]
    for row in group(root, "parts"):
        lines.append(f"| {row['what']} | {1e6 / row['images_per_second']:,.0f} | {100 / row['ratio']:.1f} |")
    return "\n".join(lines)


def steps(root: Path) -> str:
    """What a place for the transformer costs in training, beside the same classifier without one."""
    lines = ["| classifier and place of the transformer | images/s | times as long a step |", "|---|---:|---:|"]
    for row in group(root, "steps"):
        lines.append(f"| {row['what']} | {row['images_per_second']:,.0f} | {1 / row['ratio']:.2f} |")
    return "\n".join(lines)


def series(root: Path) -> str:
    """How long every notebook takes from a fresh kernel, shortened as CI runs it."""
    lines = ["| notebook, shortened as in CI | seconds |", "|---|---:|"]
    lines += [f"| {row['what']} | {row['seconds']:.0f} |" for row in group(root, "series")]
    return "\n".join([*lines, f"| all of them | {timings(root)['series_seconds']:.0f} |"])


def imports(root: Path) -> str:
    """How long an import takes in a fresh process, beside torch alone."""
    lines = ["| import | seconds | times torch alone |", "|---|---:|---:|"]
    lines += [f"| `{row['what']}` | {row['seconds']:.1f} | {1 / row['ratio']:.2f} |" for row in group(root, "imports")]
    return "\n".join(lines)


TABLES = {
    "tutorial": lambda root: study(root, "tutorial"),
    "few": few,
    "straighten": lambda root: study(root, "straighten"),
    "cifar10": lambda root: places(root, "cifar10"),
    "paper_table": beside_the_paper,
    "deep": lambda root: study(root, "deep"),
    "glimpse": lambda root: study(root, "glimpse"),
    "addition": lambda root: study(root, "addition"),
    "colocalise": found,
    "speed": speed,
    "sliders": sliders,
    "warps": lambda root: warps(root, "warps"),
    "growth": lambda root: warps(root, "growth"),
    "parts": parts,
    "steps": steps,
    "series": series,
    "imports": imports,
}


def fill(text: str, root: Path = ROOT) -> str:
    """The text with every block between `<!-- table NAME -->` and `<!-- end -->` made new."""

    def block(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]](root)}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")

"""Write the tables of README.md from assets/results/*.json: `make results`."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def study(root: Path, name: str) -> str:
    """Accuracy after the last epoch, arm by arm."""
    results = json.loads((root / "assets/results" / f"{name}.json").read_text())
    lines = ["| network and recipe | parameters | test accuracy, % | seeds |", "|---|---:|---:|---:|"]
    for row in results["summary"]:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.1f}"
        lines.append(f"| {row['arm']} | {row['parameters']:,} | {row['mean']:.1f}{spread} | {row['seeds']} |")
    return "\n".join(lines)


def places(root: Path, name: str) -> str:
    """A row for every place of a transformer, a column for every set: mean and spread, and the gain with its interval."""
    results = json.loads((root / "assets/results" / f"{name}.json").read_text())
    first = {run["arm"]: run for run in reversed(results["runs"])}
    found: dict[str, dict[str, str]] = {}
    for row in results["summary"]:
        test, place = row["arm"].split(", ", 1)
        words = f"{row['mean']:.1f}" if row["sd"] is None else f"{row['mean']:.1f} ± {row['sd']:.1f}"
        if gain := row.get("gain"):
            between = "one seed" if gain["low"] is None else f"{gain['low']:+.1f} … {gain['high']:+.1f}"
            words += f"<br>{gain['mean']:+.1f} ({between})"
        about = first[row["arm"]]
        found.setdefault(place, {"": f"{about['parameters']:,} | {about['mflop']:.1f}"})[test] = words
    tests = list(dict.fromkeys(row["arm"].split(", ", 1)[0] for row in results["summary"]))
    lines = [f"| | parameters | MFLOP | {' | '.join(tests)} |", "|---|---:|---:|" + "---:|" * len(tests)]
    lines += [f"| {place} | {cells['']} | {' | '.join(cells.get(test, '') for test in tests)} |" for place, cells in found.items()]
    return "\n".join(lines)


def speed(root: Path) -> str:
    """The training loops side by side, with their ratios, and where it was measured."""
    results = json.loads((root / "assets/results/speed.json").read_text())
    lines = ["| what | images/s | ratio |", "|---|---:|---:|"]
    training = [row for row in results["rows"] if row["group"] == "training"]
    lines += [f"| {row['what']} | {row['images_per_second']:,.0f} | {row['ratio']:.1f} |" for row in training]
    where = f"{results['data']}, {results['device']}, torch {results['torch']}, {results['date']}"
    return "\n".join([*lines, "", f"{where}. A process that trains holds at most {results['peak_memory_gb']} GB."])


def sliders(root: Path) -> str:
    """One step of a slider, message in to idle, beside a new matplotlib figure a step."""
    results = json.loads((root / "assets/results/speed.json").read_text())
    lines = ["| one step of a slider | median, ms | sent, kB | times as fast |", "|---|---:|---:|---:|"]
    for row in results["rows"]:
        if row["group"] == "sliders":
            lines.append(f"| {row['what']} | {row['milliseconds']:.1f} | {row['kilobytes']:.0f} | {row['ratio']:.0f} |")
    return "\n".join(lines)


TABLES = {
    "cifar10_seed": lambda root: study(root, "cifar10_seed"),
    "straighten": lambda root: study(root, "straighten"),
    "cifar10": lambda root: places(root, "cifar10"),
    "speed": speed,
    "sliders": sliders,
}


def fill(text: str, root: Path = ROOT) -> str:
    """The text with every block between `<!-- table NAME -->` and `<!-- end -->` made new."""

    def block(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]](root)}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")

"""Point every Colab badge at a repository: `make badges REPO=owner/name`. Without REPO, at the one in pyproject.toml."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r'(?m)^(Repository = "https://github\.com/)([\w.-]+/[\w.-]+)(")$')


def repository(root: Path = ROOT) -> str:
    """owner/name, from the one place that holds it."""
    return PLACE.search((root / "pyproject.toml").read_text(encoding="utf-8"))[2]


def badge(repo: str, notebook: str) -> str:
    """The badge that opens a notebook in Colab, as Markdown."""
    target = f"https://colab.research.google.com/github/{repo}/blob/main/notebooks/{notebook}"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target})"


def rewrite(repo: str, root: Path = ROOT) -> list[Path]:
    """Put `repo` in the place of the old name everywhere; the files that changed. Raises ValueError for a malformed name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"REPO is {repo!r}; expected owner/name, as in make badges REPO=ada/spatial-transformers")
    old, changed = repository(root), []
    for path in [root / "pyproject.toml", root / "README.md", root / "CITATION.cff", *sorted((root / "notebooks").glob("*.ipynb"))]:
        text = path.read_text(encoding="utf-8")
        new = re.sub(rf"(github\.com/|/github/|REPO = \\?\"){re.escape(old)}(?![\w-])", rf"\g<1>{repo}", text)
        if new != text:
            if path.suffix == ".ipynb":
                json.loads(new)  # never leave a notebook that does not open
            path.write_text(new, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


if __name__ == "__main__":
    try:
        for path in rewrite(sys.argv[1] if len(sys.argv) > 1 else repository()):
            print(path.relative_to(ROOT))
    except ValueError as error:
        sys.exit(f"badges: {error}")

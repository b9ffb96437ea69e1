"""Studies: seeded sets of matched runs, written to assets/results/NAME.json; what is there is not run again."""

import json
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock

from . import straighten
from .checkpoint import save_weights, write_whole
from .classifiers import build
from .data import Images, batches, load
from .distortions import distorted
from .theta import decompose
from .training import RECIPES, Recipe, evaluate, fit, pick_device, pick_precision
from .transformer import SpatialTransformer

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Arm:
    """One row of a comparison: a network, the recipe that trains it, and the distortion under which it is tested."""

    model: str
    recipe: str
    test: str = "upright"


@dataclass(frozen=True)
class Study:
    """Arms that differ in one thing each, on the same data and seeds.

    ship: {arm: file} of weights that are published. measure(model, train, test, distortion, seed): more for a row, a dict.
    """

    name: str
    data: str
    arms: dict[str, Arm]
    ship: dict[str, str] = field(default_factory=dict)
    measure: Callable[..., dict] | None = None


STUDIES = {
    "cifar10-seed": Study(
        name="cifar10_seed",
        data="cifar10",
        arms={
            "with ST": Arm("seed", "good"),
            "without ST": Arm("seed-plain", "good"),
            "one learned window for all": Arm("seed-fixed", "good"),
            "ST frozen at identity": Arm("seed-frozen", "good"),
            "same parameters, no warp": Arm("seed-no-warp", "good"),
            "seed's recipe, with ST": Arm("seed", "seed"),
            "seed's recipe, without ST": Arm("seed-plain", "seed"),
        },
        ship={"with ST": "cifar10_seed_stn", "without ST": "cifar10_seed_plain"},
    ),
    "straighten": Study(
        name="straighten",
        data="digits",
        arms={
            "with ST": Arm("digit", "digits", "turned"),
            "without ST": Arm("digit-plain", "digits", "turned"),
            "wider, without ST": Arm("digit-wide", "digits", "turned"),
            "with ST that only turns": Arm("digit-rotation", "digits", "turned"),
            "turned one way, with ST": Arm("digit", "digits-one-way", "turned one way"),
            "trained upright, with ST": Arm("digit", "digits-upright", "turned"),
            "trained upright, without ST": Arm("digit-plain", "digits-upright", "turned"),
            "cluttered, with ST": Arm("digit-attention", "digits-cluttered", "cluttered"),
            "cluttered, without ST": Arm("digit-plain", "digits-cluttered", "cluttered"),
            "cluttered, wider, without ST": Arm("digit-wide", "digits-cluttered", "cluttered"),
        },
        ship={"with ST": "straighten_turned", "cluttered, with ST": "straighten_cluttered"},
        measure=straighten.measure,
    ),
}


def run_study(
    name: str,
    seeds: int = 3,
    arms: list[str] | None = None,
    epochs: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    assets: Path = ASSETS,
    runs: Path = Path("runs"),
    command: str = "",
    progress: bool = True,
) -> dict:
    """Run what is missing of a study and return its results, which are also in `assets`/results/NAME.json.

    A run that was killed goes on from its checkpoint in `runs`. epochs: shorter runs, for a try, which go to a file of their
    own. Two processes may work on different arms of one study at once. Raises ValueError for an unknown study or arm.
    """
    if name not in STUDIES:
        raise ValueError(f"study is {name!r}; expected one of {', '.join(STUDIES)}")
    study, where = STUDIES[name], pick_device(device)
    if unknown := set(arms or []) - set(study.arms):
        raise ValueError(f"unknown arms {sorted(unknown)}; expected some of {', '.join(study.arms)}")
    # A try at another length gets a file of its own and publishes nothing.
    path = assets / "results" / (f"{study.name}_{epochs}_epochs.json" if epochs else f"{study.name}.json")
    origin = {**provenance(where), "command": command}  # now: a commit made while it runs is not what runs
    results = _read(path, study)
    train, test = load(study.data, train=True).to(where), load(study.data, train=False).to(where)
    for seed in range(seeds):
        for arm in arms or study.arms:
            recipe = RECIPES[study.arms[arm].recipe]
            recipe = replace(recipe, epochs=epochs or recipe.epochs)
            results = _read(path, study)
            kind = str(pick_precision(precision, where)).removeprefix("torch.")
            if _find(results, arm, seed, recipe, kind):
                continue
            # A changed recipe, test or precision is another run, with a folder of its own.
            label = sha256(json.dumps([asdict(recipe), study.arms[arm].test, kind]).encode()).hexdigest()[:8]
            folder = runs / f"{study.name}-{study.arms[arm].model}-{label}-{seed}"
            ships = seed == 0 and arm in study.ship and not epochs
            row, model = _run(study, arm, recipe, seed, train, test, where, precision, folder, progress)
            shipped = _ship(study, arm, recipe, model, test, row, assets) if ships else {}
            results = _add(path, study, {**row, **origin}, shipped)
    return results


def _read(path: Path, study: Study) -> dict:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else {"study": study.name, "summary": [], "weights": {}, "runs": []}


def _add(path: Path, study: Study, row: dict, shipped: dict) -> dict:
    """Put one run into the results file. Another process may have written to it since, so it is read again, under a lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        results = _read(path, study)
        if _find(results, row["arm"], row["seed"], Recipe(**row["recipe"]), row["precision"]):
            return results  # another process has done the same run meanwhile
        # In the order of the study, whoever was first, so that the same study gives the same file.
        order = list(study.arms)
        results["runs"] = sorted([*results["runs"], row], key=lambda run: (order.index(run["arm"]), run["seed"]))
        results["weights"].update(shipped)
        results["summary"] = summarise(results["runs"])
        write_whole(path, (json.dumps(results, indent=1) + "\n").encode())
    return results


def _find(results: dict, arm: str, seed: int, recipe: Recipe, precision: str) -> bool:
    wanted = (arm, seed, recipe, precision)
    return any((row["arm"], row["seed"], Recipe(**row["recipe"]), row["precision"]) == wanted for row in results["runs"])


def _run(study, arm, recipe, seed, train: Images, test: Images, device, precision, folder: Path, progress: bool):
    """One run, from nothing or from its checkpoint: (its row in the results, the trained model)."""
    name, distortion = study.arms[arm].model, study.arms[arm].test
    model = build(name, seed, conv_dropout=recipe.conv_dropout, dropout=recipe.dropout)
    bent, _ = distorted(test, distortion)
    history = fit(model, train, bent, recipe, seed, device, precision, folder, progress=progress, name=name)
    row = {
        "arm": arm,
        "seed": seed,
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": asdict(recipe),
        "data": train.name,
        "images": [len(train), len(test)],
        "test_accuracy": history[-1]["test_accuracy"],
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "precision": str(pick_precision(precision, device)).removeprefix("torch."),
        "history": [{key: round(value, 4) for key, value in row.items()} for row in history],
    }
    if isinstance(model.transformer, SpatialTransformer):
        row["theta"] = pose_spread(model, bent)  # does it look at every picture in its own way?
    if distortion != "upright":
        row["tests"] = {distortion: row["test_accuracy"], "upright": evaluate(model, test)["accuracy"]}
    if study.measure:
        row.update(study.measure(model, train, test, distortion, seed))
    return row, model


def provenance(device: torch.device) -> dict[str, str]:
    """Where a number comes from: commit, date, machine and versions."""
    cuda = device.type == "cuda"
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain", "stn_helpers") else ""),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ASSETS.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _ship(study: Study, arm: str, recipe: Recipe, model, test: Images, row: dict, assets: Path) -> dict:
    """Publish the weights of one run: {file: what the results file says of it}."""
    file = assets / "checkpoints" / f"{study.ship[arm]}.safetensors"
    options = {"conv_dropout": recipe.conv_dropout, "dropout": recipe.dropout}
    digest = save_weights(file, model, {"model": row["model"], "options": options, "data": study.data, "seed": row["seed"]})
    bent, _ = distorted(test, study.arms[arm].test)
    about = {"arm": arm, "seed": row["seed"], "sha256": digest, "confusion": confusion(model, bent).tolist()}
    return {study.ship[arm]: {**about, "test_accuracy": evaluate(model, bent)["accuracy"]}}


@torch.inference_mode()
def confusion(model, data: Images, batch_size: int = 500) -> torch.Tensor:
    """How often class i (row) was called class j (column): int64 (classes, classes), on the CPU."""
    model.eval()
    count = len(data.classes)
    guesses = torch.cat([model(images).argmax(1) for images, _ in batches(data, batch_size)])
    return torch.bincount(data.labels * count + guesses, minlength=count * count).reshape(count, count).cpu()


@torch.inference_mode()
def thetas(model, data: Images, batch_size: int = 500) -> torch.Tensor:
    """What the model's first transformer says of every image: raw parameters (N, P), on the CPU."""
    model.eval()
    return torch.cat([model.transformer.params(images) for images, _ in batches(data, batch_size)]).cpu()


def pose_spread(model, data: Images) -> dict[str, list[float]]:
    """Mean and standard deviation over a set: angle (degrees), scale x and y, shear, shift x and y."""
    parts = decompose(model.transformer.family.matrix(thetas(model, data)))
    columns = {
        "angle": parts.angle,
        "scale_x": parts.scale[0],
        "scale_y": parts.scale[1],
        "shear": parts.shear,
        "shift_x": parts.shift[0],
        "shift_y": parts.shift[1],
    }
    return {name: [column.mean().item(), column.std().item()] for name, column in columns.items()}


def summarise(runs: list[dict]) -> list[dict]:
    """One row per arm, recipe and precision: mean and standard deviation of the last epoch's test accuracy over the seeds."""
    groups: dict[str, list[dict]] = {}
    for row in runs:
        groups.setdefault(json.dumps([row["arm"], asdict(Recipe(**row["recipe"])), row["precision"]]), []).append(row)
    return [
        {
            "arm": rows[0]["arm"],
            "epochs": rows[0]["recipe"]["epochs"],
            "parameters": rows[0]["parameters"],
            "seeds": len(rows),
            "mean": statistics.mean(row["test_accuracy"] for row in rows),
            "sd": statistics.stdev(row["test_accuracy"] for row in rows) if len(rows) > 1 else None,
        }
        for rows in groups.values()
    ]

"""Studies: what is compared with what, on which data, and what is said of the outcome. `runner.py` runs them."""

import json
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from stn_helpers.data.batches import batches
from stn_helpers.data.distortions import distorted, distortion
from stn_helpers.data.poses import corner_drift, undone
from stn_helpers.data.sets import Images
from stn_helpers.theta import decompose
from stn_helpers.training.recipes import Recipe
from stn_helpers.transformer import SpatialTransformer
from studies import addition, colocalise, refine, straighten
from studies.paper_table import FAMILIES

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Arm:
    """One row of a comparison: a network, the recipe that trains it, and the distortion under which it is tested.

    also: other distortions under which it is tested as well. against: the arm it is compared with, seed by seed.
    spread_of: the arm whose spread of theta, at the same seed, a random theta is drawn from.
    """

    model: str
    recipe: str
    test: str = "upright"
    also: tuple[str, ...] = ()
    against: str = ""
    spread_of: str = ""


@dataclass(frozen=True)
class Study:
    """Arms that differ in one thing each, on the same data and seeds.

    ship: {arm: file} of weights that are published. measure(model, train, test, distortion, seed): more for a row, a dict.
    prepare: makes of a data set what the study trains and tests on.
    """

    name: str
    data: str
    arms: dict[str, Arm]
    ship: dict[str, str] = field(default_factory=dict)
    measure: Callable[..., dict] | None = None
    prepare: Callable[..., Images] | None = None

    def choose(self, arms: list[str] | None = None, sets: list[str] | None = None) -> list[str]:
        """The arms of these names and tests, in the study's order. None: all of them.

        A name that is no arm's own means all that end in it: "light ST" is "upright, light ST", "rts, light ST" ...
        Raises ValueError for a name that the study does not know.
        """
        ends = {name: name.split(", ", 1)[-1] for name in self.arms}
        tests = {name: arm.test for name, arm in self.arms.items()}
        for kind, asked, known in (("arms", arms, [*self.arms, *ends.values()]), ("sets", sets, tests.values())):
            if unknown := set(asked or []) - set(known):
                raise ValueError(f"unknown {kind} {sorted(unknown)}; expected some of {'; '.join(dict.fromkeys(known))}")
        wide = set(arms or []) - set(self.arms)
        return [
            name for name in self.arms if (not arms or name in arms or ends[name] in wide) and (not sets or tests[name] in sets)
        ]


SETS = ("upright", "rotated", "rts", "perspective", "rotated disc")
SLOW = "light ST, a tenth of the rate"
PLACES = {  # what an arm of the CIFAR-10 study is called, and its network
    "no ST": "plain",
    "light ST": "light",
    SLOW: "light",
    "heavy ST": "heavy",
    "ST frozen at identity": "frozen",
    "random theta": "random",
    "same parameters, no warp": "no-warp",
    "ST on a feature map": "feature",
    "one window on a feature map": "window",
    "two STs": "two",
}


def cifar10_arms(classifier: str, recipe: str) -> dict[str, Arm]:
    """Every place for a transformer on every set, but two: heavy ones on two sets, for they are slow; and in the disc, which
    asks one question (is it the corners that tell the angle?), light ones and two controls.

    The strong classifier's transformers all learn at a tenth of its rate, and so does the heavy one: half of it is the light
    ones' best, and can be too much. Everywhere but on turned pictures it lost light ones: there random theta has the spread
    of those at a tenth, of which none was lost.
    """
    left_out = {(name, "heavy") for name in ("rts", "perspective")}
    left_out |= {("rotated disc", kind) for kind in PLACES.values() if kind not in ("plain", "light", "no-warp")}
    arms = {}
    for name in SETS:
        for place, kind in PLACES.items():
            if (name, kind) in left_out or (classifier, place) == ("strong", SLOW):
                continue
            learned = SLOW if classifier == "small" and name != "rotated" else "light ST"
            slow = classifier == "small" and (place in (SLOW, "heavy ST") or (kind, learned) == ("random", SLOW))
            arms[f"{name}, {place}"] = Arm(
                f"{classifier}-{kind}",
                recipe + "-slow" * slow + ("" if name == "upright" else f"-{name}"),
                name,
                also=SETS[1:4] if name == "upright" else (),
                against="" if kind == "plain" else f"{name}, no ST",
                spread_of=f"{name}, {learned}" if kind == "random" else "",
            )
    return arms


TRIALS = {  # notebook 06's fair trial: what an arm is called, its network and its recipe
    "one window at the input": ("input-window", "study-slow"),
    "AdamW, no ST": ("plain", "study-adamw"),
    "AdamW, light ST": ("light", "study-adamw"),
    "AdamW, same parameters, no warp": ("no-warp", "study-adamw"),
    "smallest family, a tenth of the rate": ("smallest", "study-slow"),
    "AdamW, smallest family": ("smallest", "study-adamw"),
    "shuffled theta, a tenth of the rate": ("shuffled", "study-slow"),
    "AdamW, shuffled theta": ("shuffled", "study-adamw"),
    "light ST, gradient clipped": ("light", "study-clipped"),
    "light ST, a tenth of the rate, no decay": ("light", "study-free"),
}
SMALLEST = {"rotated": "rotation", "rotated disc": "rotation", "rts": "similarity"}


def trial_arms() -> dict[str, Arm]:
    """The small classifier's fair trial on every set: the most that can be won (the pose undone), one window for all, the recipe
    that turns things in notebook 04, the smallest family that can undo it, another picture's window, a gradient held short."""
    arms = {}
    for name in SETS:
        if name != "upright":
            arms[f"{name}, oracle"] = Arm("small-plain", f"study-{name}, undone", f"{name}, undone", against=f"{name}, no ST")
        for place, (kind, recipe) in TRIALS.items():
            if kind == "smallest":
                if name not in SMALLEST:
                    continue
                kind = SMALLEST[name]
            control = "AdamW, no ST" if place.startswith("AdamW") else "no ST"
            arms[f"{name}, {place}"] = Arm(
                f"small-{kind}",
                recipe + ("" if name == "upright" else f"-{name}"),
                name,
                against="" if place == control else f"{name}, {control}",
            )
    return arms


MNIST_SETS = {"R": "rotated", "RTS": "rts 42", "P": "perspective", "E": "elastic", "TC": "cluttered 60"}
MNIST_CANVASES = {"RTS": 42, "TC": 60}  # the others stay on 28 pixels


def mnist_arms(schedule: str) -> dict[str, Arm]:
    """The rows and columns of the paper's Table 1; on TC an affine transformer alone, as there. schedule: a recipe's name."""
    arms = {}
    for letters, name in MNIST_SETS.items():
        canvas, recipe = MNIST_CANVASES.get(letters, 28), f"{schedule}-{name}"
        for body in ("FCN", "CNN"):
            arms[f"{letters}, {body}"] = Arm(f"{body.lower()}-{canvas}", recipe, name)
        for body in ("FCN", "CNN"):
            for family in FAMILIES if letters != "TC" else ("affine",):
                model, against = f"st-{body.lower()}-{family}-{canvas}", f"{letters}, {body}"
                arms[f"{letters}, ST-{body} {family}"] = Arm(model, recipe, name, against=against)
    return arms


def attended(model, train: Images, test: Images, name: str, seed: int) -> dict:
    """What the transformer at a network's input does to a test set under a distortion, for a row of results.

    "corners": see `poses.corner_drift`. "undone", where a pose has one angle: see `poses.undone`; "frame": the same for a
    square frame, whose quarter turns look alike. "spread": mean and covariance of the raw numbers.
    {} for a network without a transformer there.
    """
    if not isinstance(model.transformer, SpatialTransformer):
        return {}
    bent, poses = distorted(test, name)
    raw = thetas(model, bent)
    theta, poses = model.transformer.family.matrix(raw), poses.cpu()
    found = {}
    with suppress(ValueError):  # a theta that collapsed cannot be undone; its accuracy is the result then
        found["corners"] = corner_drift(theta, poses)
    if poses.shape[1] == theta.shape[1] == 2:
        found["undone"] = undone(theta, poses)
        found["frame"] = undone(theta, poses, period=90)
    return {**found, "spread": {"mean": raw.mean(0).tolist(), "covariance": torch.cov(raw.T).tolist()}}


def straightened(model, train: Images, test: Images, name: str, seed: int) -> dict:
    """`attended` without its spread; {} where theta or the pose is a spline: neither has corners that a matrix could undo."""
    transformer = model.transformer
    if not isinstance(transformer, SpatialTransformer) or transformer.family.name == "tps" or distortion(name).knots:
        return {}
    found = attended(model, train, test, name, seed)
    return {key: found[key] for key in found if key != "spread"}


GLANCES = {  # an arm of the glimpse study, and its network
    "whole canvas": "digit-plain",
    "whole canvas, deeper": "digit-deeper",
    "shrunk to 28 x 28": "digit-summary",
    "a glance of 24 x 24": "digit-glance-24",
    "a glance of 32 x 32": "digit-glance-32",
}
LOOKS = {  # the same of the deep study
    "turned, no ST": "digit-plain",
    "turned, wider, no ST": "digit-wide",
    "turned, one look": "digit-looks-1",
    "turned, two looks": "digit-looks-2",
    "turned, two looks, resampled": "digit-looks-2-resampled",
    "turned, on the feature map": "digit-map",
}
SUMS = {  # the same of the addition study
    "FCN": "sum-fcn",
    "CNN": "sum-cnn",
    "one ST": "sum-one",
    "two STs": "sum-two",
    "two STs, a tile each": "sum-tiles",
}

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
    "cifar10": Study(
        name="cifar10",
        data="cifar10",
        arms=cifar10_arms("small", "study") | trial_arms(),
        ship={
            **{f"{name}, light ST": f"cifar10_{name.replace(' ', '_')}" for name in SETS},
            **{f"{name}, {SLOW}": f"cifar10_{name}_slow" for name in ("perspective", "rts")},  # notebook 06b looks through both
        },
        measure=attended,
    ),
    "cifar10-strong": Study(name="cifar10_strong", data="cifar10", arms=cifar10_arms("strong", "strong"), measure=attended),
    "mnist": Study(
        name="mnist",
        data="mnist",
        arms=mnist_arms("paper"),
        ship={f"E, ST-FCN {family}": f"mnist_elastic_{family}" for family in FAMILIES},
        measure=straightened,
    ),
    "mnist-long": Study(name="mnist_long", data="mnist", arms=mnist_arms("paper-long"), measure=straightened),
    "glimpse": Study(
        name="glimpse",
        data="digits",
        arms={
            name: Arm(model, "digits-cluttered 60", "cluttered 60", against="whole canvas" if model != "digit-plain" else "")
            for name, model in GLANCES.items()
        },
        ship={"a glance of 24 x 24": "glimpse_24"},
        measure=refine.cost,
    ),
    "addition": Study(
        name="addition",
        data="mnist",
        prepare=addition.pairs,
        arms={
            name: Arm(model, "sums", "rts 42 apart", against="FCN" if model != "sum-fcn" else "") for name, model in SUMS.items()
        },
        ship={"two STs": "addition_two"},
        measure=addition.who_finds_which,
    ),
    "colocalise": Study(
        name="colocalise",
        data="mnist",
        arms={"encoder": Arm("digit-plain", "brief")},
        ship={"encoder": "colocalise_encoder"},
        measure=colocalise.measure,
    ),
    "deep": Study(
        name="deep",
        data="mnist",
        arms={
            name: Arm(model, "brief-rotated", "rotated", against="turned, no ST" if model != "digit-plain" else "")
            for name, model in LOOKS.items()
        },
        ship={"turned, no ST": "deep_plain", "turned, two looks": "deep_two_looks"},
        measure=straightened,
    ),
}


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
    """Mean and standard deviation over a set: angle (degrees), scale x and y, shear, shift x and y.

    {} for the projective family and for tps, which have no one angle.
    """
    if model.transformer.family.name in ("projective", "tps"):
        return {}
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


def summarise(runs: list[dict], arms: dict[str, Arm] | None = None) -> list[dict]:
    """One row per arm, recipe and precision: mean and standard deviation of the last epoch's test accuracy over the seeds.

    arms: where one of them names another that it is `against`, its row has the `paired` difference too, as "gain".
    "diverged": how many of the runs did, if any; they count as their last good epoch left them.
    """
    groups: dict[str, list[dict]] = {}
    for row in runs:
        groups.setdefault(json.dumps([row["arm"], asdict(Recipe(**row["recipe"])), row["precision"]]), []).append(row)
    summary = []
    for rows in groups.values():
        summary.append(
            {
                "arm": rows[0]["arm"],
                "epochs": rows[0]["recipe"]["epochs"],
                "parameters": rows[0]["parameters"],
                "seeds": len(rows),
                "mean": statistics.mean(row["test_accuracy"] for row in rows),
                "sd": statistics.stdev(row["test_accuracy"] for row in rows) if len(rows) > 1 else None,
            }
        )
        if count := sum("diverged" in row for row in rows):
            summary[-1]["diverged"] = count
        arm = (arms or {}).get(rows[0]["arm"])
        if arm and arm.against and (gain := paired(runs, rows[0]["arm"], arm.against)):
            summary[-1]["gain"] = gain
    return summary


def paired(runs: list[dict], arm: str, against: str, test: str = "") -> dict:
    """The gain in points of one arm over another, seed by seed: {"mean", "low", "high", "seeds"}; {} where no seed has both.

    low and high: its 95 % interval by Student's t over the seeds, None for a single one. test: the accuracy under this
    distortion in place of the arm's own. The two arms must be of one study, so that all else is the same. Their recipes may
    differ in the localization network's share of the rate alone, which is nothing to a network that has none.
    """
    from scipy.stats import t

    def accuracies(name: str) -> dict[tuple, float]:
        rows = [row for row in runs if row["arm"] == name]
        recipes = [asdict(Recipe(**{**row["recipe"], "localization": 1.0})) for row in rows]
        key = [(row["seed"], row["precision"], json.dumps(recipe)) for row, recipe in zip(rows, recipes, strict=True)]
        return dict(zip(key, [row["tests"][test] if test else row["test_accuracy"] for row in rows], strict=True))

    ours, theirs = accuracies(arm), accuracies(against)
    gains = [ours[key] - theirs[key] for key in ours if key in theirs]
    if not gains:
        return {}
    mean, count = statistics.mean(gains), len(gains)
    half = t.ppf(0.975, count - 1) * statistics.stdev(gains) / count**0.5 if count > 1 else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "seeds": count}

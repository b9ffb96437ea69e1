"""Study: the words in which a study says what is compared with what, the registry, and what is made of its runs."""

import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch
from torch import Tensor, nn

from stn_helpers.checks import check_choice
from stn_helpers.data.batches import batches
from stn_helpers.data.distortions import distorted, distortion
from stn_helpers.data.poses import corner_drift, undone
from stn_helpers.data.sets import Images, load
from stn_helpers.theta import decompose
from stn_helpers.training.checkpoint import fill, load_weights
from stn_helpers.training.recipes import Recipe
from stn_helpers.transformer import SpatialTransformer

ASSETS = Path(__file__).resolve().parent.parent / "assets"
TOOLS = ("study", "networks", "runner", "check", "gpu", "timed", "__main__")  # every other file in this folder is a study


@dataclass(frozen=True)
class Arm:
    """One row of a comparison: a network, the recipe that trains it, and the pictures that train and test it.

    network: what makes it, a function of its study's file or of `networks`, with its arguments: partial(digit_net, "affine").
    train_on, test_on: names of distortions; test_on is train_on where it is not given.
    also: distortions under which it is tested as well. against: the arm it is compared with, seed by seed.
    spread_of: the arm whose spread of theta, at the same seed, is handed to the network, as `spread`.
    parts: {place in the network: the arm, or part of the study, whose trained network of the same seed is put there at first}.
    train: what trains it in place of `fit`, with the same arguments.
    on_request: run only where it is named, because it takes hours.
    """

    network: partial
    recipe: Recipe
    train_on: str = "upright"
    test_on: str = ""
    also: tuple[str, ...] = ()
    against: str = ""
    spread_of: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    train: Callable[..., list[dict]] | None = None
    on_request: bool = False

    @property
    def test(self) -> str:
        """The distortion under which it is tested."""
        return self.test_on or self.train_on

    def build(self, seed: int = 0, **options) -> nn.Module:
        """The network, its weights drawn from `seed` alone; nothing global is left seeded."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed every GPU too
            return self.network(**options)

    def described(self) -> dict:
        """The network in words that a file can hold: {"network": name, "arguments": {"args": [...], "options": {...}}}."""
        return {
            "network": self.network.func.__name__,
            "arguments": {"args": list(self.network.args), "options": dict(self.network.keywords)},
        }


@dataclass(frozen=True)
class Study:
    """Arms that differ in one thing each, on the same data and seeds.

    name: of its file, and of its results. ship: {arm: file} of weights that are published.
    measure(model, sets, arm, seed): more for a row, a dict. prepare: makes of a data set what the study trains and tests on.
    parts: what is trained to be a part of arms, and is none itself.
    precision: float32 or bfloat16, in which its runs train; one study, one precision. They are tested in float32.
    """

    name: str
    data: str
    arms: dict[str, Arm]
    ship: dict[str, str] = field(default_factory=dict)
    measure: Callable[..., dict] | None = None
    prepare: Callable[[Images], Images] | None = None
    parts: dict[str, Arm] = field(default_factory=dict)
    precision: str = "float32"

    def choose(self, arms: list[str] | None = None, sets: list[str] | None = None) -> list[str]:
        """The arms of these names and tests, in the study's order. None: all of them that need no asking.

        A name that is no arm's own means all that end in it: "light ST" is "upright, light ST", "rts, light ST" ...
        Raises ValueError for a name that the study does not know.
        """
        ends = {name: name.split(", ", 1)[-1] for name in self.arms}
        tests = {name: arm.test for name, arm in self.arms.items()}
        for kind, asked, known in (("arms", arms, [*self.arms, *ends.values()]), ("sets", sets, tests.values())):
            if unknown := set(asked or []) - set(known):
                raise ValueError(f"unknown {kind} {sorted(unknown)}; expected some of {'; '.join(dict.fromkeys(known))}")
        wide = set(arms or []) - set(self.arms)

        def wanted(name: str) -> bool:
            named = name in arms or ends[name] in wide if arms else not self.arms[name].on_request
            return named and (not sets or tests[name] in sets)

        return [name for name in self.arms if wanted(name)]


@dataclass(frozen=True)
class Sets:
    """The data of a study on one device. A test set is distorted once, on the CPU, so that it is the same on every device."""

    study: Study
    device: str = "cpu"
    stand_in: bool = False
    _bent: dict[str, tuple[Images, Tensor]] = field(default_factory=dict, repr=False)

    def _load(self, train: bool) -> Images:
        found = load(self.study.data, train=train, stand_in=self.stand_in)
        return self.study.prepare(found) if self.study.prepare else found

    @cached_property
    def train(self) -> Images:
        """What it trains on, undistorted."""
        return self._load(True).to(self.device)

    @property
    def test(self) -> Images:
        """What it is tested on, undistorted."""
        return self.bent("upright")[0]

    @cached_property
    def _test(self) -> Images:
        return self._load(False)

    def bent(self, name: str) -> tuple[Images, Tensor]:
        """(the test set under a distortion, on the device; its poses, on the CPU)."""
        if name not in self._bent:
            images, poses = distorted(self._test, name)
            self._bent[name] = images.to(self.device), poses
        return self._bent[name]


def names() -> list[str]:
    """The studies that there are: a file in this folder is one by being there."""
    found = (module.name for module in iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name not in TOOLS)


def get(name: str) -> Study:
    """A study by name; no other one is imported. Raises ValueError for a name that is none."""
    check_choice("study", name, names())
    return import_module(f"studies.{name}").STUDY


def restore(path: Path | str) -> nn.Module:
    """The trained network in a .safetensors file that a study wrote, ready to be tested. Only that study is imported.

    Raises ValueError for a file of another kind, and for a study or a network that this version does not have.
    """
    tensors, about = load_weights(path)
    if about.get("study") not in names():
        raise ValueError(f"{path} is of the study {about.get('study')!r}, which is not here; expected {', '.join(names())}")
    study = get(about["study"])
    makers = {arm.network.func.__name__: arm.network.func for arm in study.arms.values()}
    if about.get("network") not in makers:
        raise ValueError(f"{path} holds a {about.get('network')!r}, which {study.name} does not have; expected {', '.join(makers)}")
    model = makers[about["network"]](*about["arguments"]["args"], **about["arguments"]["options"])
    fill(model, tensors, path)
    return model.eval()


@torch.inference_mode()
def confusion(model: nn.Module, data: Images, batch_size: int = 500) -> Tensor:
    """How often class i (row) was called class j (column): int64 (classes, classes), on the CPU."""
    model.eval()
    count = len(data.classes)
    guesses = torch.cat([model(images).argmax(1) for images, _ in batches(data, batch_size)])
    return torch.bincount(data.labels * count + guesses, minlength=count * count).reshape(count, count).cpu()


@torch.inference_mode()
def thetas(model: nn.Module, data: Images, batch_size: int = 500) -> Tensor:
    """What the model's first transformer predicts for every image: raw parameters (N, P), on the CPU."""
    model.eval()
    return torch.cat([model.transformer.params(images) for images, _ in batches(data, batch_size)]).cpu()


def pose_spread(model: nn.Module, data: Images) -> dict[str, list[float]]:
    """Mean and standard deviation over a set: angle (degrees), scale x and y, shear, shift x and y.

    {} for the projective family and for tps, which have no one angle.
    """
    if model.transformer.family.name in ("projective", "tps"):
        return {}
    angle, scale, shear, shift = decompose(model.transformer.family.matrix(thetas(model, data)))
    columns = zip(("angle", "scale_x", "scale_y", "shear", "shift_x", "shift_y"), (angle, *scale, shear, *shift), strict=True)
    return {name: [column.mean().item(), column.std().item()] for name, column in columns}


def straightened(model: nn.Module, sets: Sets, arm: Arm, seed: int) -> dict:
    """What the transformer at a network's input does to its test set, for a row of results.

    "corners": see `poses.corner_drift`. "undone", where a pose has one angle: see `poses.undone`; "frame": the same for a
    square frame, whose quarter turns look alike. {} for a network without a transformer there, and where theta or the pose
    is a spline: neither has corners that a matrix could undo.
    """
    transformer = model.transformer
    if not isinstance(transformer, SpatialTransformer) or transformer.family.name == "tps" or distortion(arm.test).knots:
        return {}
    bent, poses = sets.bent(arm.test)
    theta, found = transformer.family.matrix(thetas(model, bent)), {}
    with suppress(ValueError):  # a theta that collapsed cannot be undone; its accuracy is the result then
        found["corners"] = corner_drift(theta, poses)
    if poses.shape[1] == theta.shape[1] == 2:
        found["undone"] = undone(theta, poses)
        found["frame"] = undone(theta, poses, period=90)
    return found


def attended(model: nn.Module, sets: Sets, arm: Arm, seed: int) -> dict:
    """`straightened`, and "spread": mean and covariance of the raw numbers, from which a random theta can be drawn."""
    if not isinstance(model.transformer, SpatialTransformer):
        return {}
    raw = thetas(model, sets.bent(arm.test)[0])
    spread = {"mean": raw.mean(0).tolist(), "covariance": torch.cov(raw.T).reshape(raw.shape[1], -1).tolist()}
    return {**straightened(model, sets, arm, seed), "spread": spread}


def summarise(runs: list[dict], arms: dict[str, Arm] | None = None) -> list[dict]:
    """One row per arm, recipe and precision: mean and standard deviation of the last epoch's test accuracy over the seeds.

    arms: where one of them names another that it is `against`, its row has the `paired` difference too, as "gain", if scipy is
    there, whose t makes its interval.
    "diverged": how many of the runs did, if any; they count as their last good epoch left them.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in runs:
        groups.setdefault((row["arm"], Recipe(**row["recipe"]), row["precision"]), []).append(row)
    summary = []
    for (name, recipe, _), rows in groups.items():
        right = [row["test_accuracy"] for row in rows]
        found = {"arm": name, "epochs": recipe.epochs, "parameters": rows[0]["parameters"], "seeds": len(rows)}
        found |= {"mean": statistics.mean(right), "sd": statistics.stdev(right) if len(right) > 1 else None}
        if count := sum("diverged" in row for row in rows):
            found["diverged"] = count
        arm = (arms or {}).get(name)
        with suppress(ModuleNotFoundError):
            if arm and arm.against and (gain := paired(runs, name, arm.against)):
                found["gain"] = gain
        summary.append(found)
    return summary


def paired(runs: list[dict], arm: str, against: str, test: str = "") -> dict:
    """The gain in points of one arm over another, seed by seed: {"mean", "low", "high", "seeds"}; {} where no seed has both.

    low and high: its 95 % interval by Student's t over the seeds, None for a single one. test: the accuracy under this
    distortion in place of the arm's own. The two arms must be of one study, so that all else is the same. Their recipes may
    differ in what is said of the localization network alone (its share of the rate and of the decay), which is nothing to a
    network that has none, and in the length to which a gradient is clipped.
    """
    from scipy.stats import t

    def accuracies(name: str) -> dict[tuple, float]:
        found = {}
        for row in (row for row in runs if row["arm"] == name):
            recipe = Recipe(**{**row["recipe"], "localization": 1.0, "localization_decay": 1.0, "clip": 0.0})
            found[row["seed"], row["precision"], recipe] = row["tests"][test] if test else row["test_accuracy"]
        return found

    ours, theirs = accuracies(arm), accuracies(against)
    gains = [ours[key] - theirs[key] for key in ours if key in theirs]
    if not gains:
        return {}
    mean, count = statistics.mean(gains), len(gains)
    half = t.ppf(0.975, count - 1) * statistics.stdev(gains) / count**0.5 if count > 1 else None
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "seeds": count}

"""GPU: all that needs a CUDA card, by one command: does it work there, how fast is it, and what can two cores not afford?

    make gpu        or        python -m studies gpu [--out FILE] [--minutes 9]

On a machine that is lent for ten minutes, with torch, torchvision, numpy, matplotlib, tqdm, safetensors and filelock alone:

    STN_DATA=~/data python3 -m studies gpu --minutes 8.5 --out $OUT/gpu.json; cp assets/results/{strong,turned,cifar10}.json $OUT

Parts come in order of worth, each in a process of its own: a hung compiler or a lost context ends that part alone. A result is in
the file as soon as it is known, and the same command goes on with what is missing or failed. Runs of studies go to their files.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from os import cpu_count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from stn_helpers.data.batches import as_float
from stn_helpers.data.files import write_whole
from stn_helpers.data.sets import Images, data_root, load
from stn_helpers.families import family_grid
from stn_helpers.sampler import sample
from stn_helpers.training.checkpoint import load_checkpoint
from stn_helpers.training.devices import PRECISIONS, dtype_name, pick_precision
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer, evaluate, fit
from stn_helpers.transformer import SpatialTransformer, light_localization

from .networks import CIFAR10_MEAN, CIFAR10_STD
from .runner import commit, provenance, run_study
from .study import ASSETS, Study, get, names
from .tutorial import STUDY

SPAWN = get_context("spawn")
GRACE = 20  # seconds after its time in which a part may still end by itself
STRONG = [("strong", "upright, no ST"), ("strong", "upright, light ST")]
# What two cores cannot afford: notebook 06c's large reader, the strong classifier in turned worlds, the rest of the fair trial.
DEAR = [
    *(("turned", f"rotated round, large, {end}") for end in ("no ST", "told, no warp", "told, not betting", "oracle")),
    *(("strong", f"{world}, {end}") for world in ("rotated", "rotated disc") for end in ("no ST", "light ST", "oracle")),
    *(("cifar10", f"rotated disc, AdamW, {end}") for end in ("no ST", "light ST", "smallest family")),
]


@dataclass(frozen=True)
class Place:
    """Where a part runs, the file it writes into, the time at which it must end, and how few pictures a test of it takes."""

    device: str
    file: Path
    until: float
    few: int | None = None

    def data(self, most: int | None = None) -> tuple[Images, Images]:
        """(train, test) of CIFAR-10 on the device, whole or so many of the first pictures."""
        return tuple(load("cifar10", train=train).subset(slice(self.few or most)).to(self.device) for train in (True, False))

    def now(self) -> float:
        """The time, once the device has done all that it was asked for."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def of_page() -> dict:
    """Notebook 05's own network and loop, taken from its cells."""
    cells = json.loads((ASSETS.parent / "notebooks/05_cifar10.ipynb").read_text(encoding="utf-8"))["cells"]
    space: dict = {"torch": torch, "nn": nn, "F": F}
    for words in ("class Net(", "def train_by_hand("):
        (source,) = [code for cell in cells if cell["cell_type"] == "code" and words in (code := "".join(cell["source"]))]
        exec(source, space)
    return space


def loop(place: Place) -> dict:
    """An epoch of notebook 05's loop, of the package's network and of its own; `fit` comes to the same accuracy."""
    (train, test), device, space, net = place.data(), torch.device(place.device), of_page(), STUDY.arms["with ST"].build(0)
    dtype, recipe, ends = pick_precision("auto", device), replace(RECIPES["good"], epochs=1), {}
    for name, each in {"page": STUDY.arms["with ST"].build(0), "page's network": space["Net"]()}.items():
        began = place.now()
        ends[name] = space["train_by_hand"](each, train, test, 1, device, dtype)[-1]
        seconds = place.now() - began
    ends["fit"] = fit(net, train, test, recipe, 0, device, dtype_name(dtype), progress=False)[-1]["test_accuracy"]
    assert place.few or min(ends.values()) > 30, f"accuracy after an epoch: {ends}"
    assert abs(ends["page"] - ends["fit"]) < 3, f"the loop and fit differ: {ends}"
    return {"test_accuracy": ends, "precision": dtype_name(dtype), "seconds": seconds}


def four_epochs(place: Place, folder: Path | None) -> list[dict]:
    recipe = replace(RECIPES["good"], epochs=4, batch_size=64)
    return fit(STUDY.arms["with ST"].build(0), *place.data(20_000), recipe, 0, place.device, out=folder, progress=False)


def killed(place: Place) -> dict:
    """A run that kill -9 ends after an epoch or more goes on, and comes to where an undisturbed one does."""
    with tempfile.TemporaryDirectory() as folder:
        process, file, before = SPAWN.Process(target=four_epochs, args=(place, Path(folder))), Path(folder, "checkpoint.stn"), []
        process.start()
        while process.is_alive() and not before:
            with suppress(FileNotFoundError):
                before = load_checkpoint(file)["history"]
            time.sleep(0.01)
        process.kill()
        process.join()
        before, after, whole = load_checkpoint(file)["history"], four_epochs(place, Path(folder)), four_epochs(place, None)
    assert 0 < len(before) < len(after) == 4 and after[: len(before)] == before, f"killed after {before}, then {after}"
    ends = [history[-1]["test_accuracy"] for history in (after, whole)]
    assert abs(ends[0] - ends[1]) < 5, f"it ends at {ends[0]} %, undisturbed at {ends[1]} %"
    return {"killed_after": len(before), "ends": ends, "to_the_bit": after[-1]["train_loss"] == whole[-1]["train_loss"]}


def as_it_can(name: str, few: int | None) -> Study:
    """A study as it can run here: without scipy, whose t makes the intervals of a summary, its arms are compared later."""
    study = get(name)
    arms = study.arms if find_spec("scipy") else {arm: replace(each, against="") for arm, each in study.arms.items()}
    first = (lambda images: (study.prepare(images) if study.prepare else images).subset(slice(few))) if few else study.prepare
    return replace(study, arms=arms, prepare=first)


def measured(name: str, place: Place) -> dict:
    """An epoch of a study's first arm with a transformer, and all that the study measures of it."""
    arms = (arm for arm, it in get(name).arms.items() if not it.on_request and not it.spread_of)
    arm = next(arm for arm in arms if any(isinstance(m, SpatialTransformer) for m in get(name).arms[arm].build().modules()))
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = {"assets": Path(folder), "runs": Path(folder), "device": place.device, "progress": False}
            (row,) = run_study(as_it_can(name, place.few or 2000), 1, [arm], epochs=1, **where)["runs"]
    except (ModuleNotFoundError, FileNotFoundError) as error:  # digits need scikit-learn
        return {"skipped": str(error)}
    return {"arm": arm, "test_accuracy": row["test_accuracy"], "measured": sorted(row)}


def grids(place: Place) -> dict:
    """Every family's grid under autocast, with TF32 allowed, against float64: how far apart, in pixels of 224."""
    found, torch.backends.cuda.matmul.allow_tf32 = {}, True
    for name in ("affine", "similarity", "attention", "rotation", "projective", "tps"):
        transformer = SpatialTransformer(light_localization(), name, size=(224, 224)).to(place.device)
        nn.init.normal_(transformer.to_theta.weight, std=0.02)
        images = torch.rand(8, 3, 64, 64, device=place.device)
        with torch.no_grad(), torch.autocast(place.device, torch.bfloat16):
            params = transformer.params(images)
            grid = transformer.grid(images, params)
        exact = family_grid(transformer.family, params.cpu().double(), (224, 224))
        found[name] = 112 * (grid.cpu().double() - exact).abs().max().item()
    torch.backends.cuda.matmul.allow_tf32 = False
    assert max(found.values()) < 0.01, f"pixels apart: {found}"
    return found


def epochs(name: str, kind: str, fast: bool, place: Place, count: int = 20, most: int | None = None) -> dict:
    """So many epochs of the tutorial network: seconds of training, and before it of compiling; losses, accuracy, memory."""
    (train, test), dtype, net = place.data(most), PRECISIONS[kind], STUDY.arms[name].build(0).to(place.device)
    trainer = Trainer(net, train, replace(RECIPES["good"], epochs=2 if place.few else count), 0, dtype)
    if fast:  # on a card by CUDA graphs; on a CPU only traced, which is quick
        trainer.model = torch.compile(net, **({"backend": "eager"} if place.device == "cpu" else {"mode": "reduce-overhead"}))
    if place.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    began, (images, labels) = place.now(), next(trainer.batches())
    for _ in range(3):  # no step, but what is compiled or chosen once is then done
        with torch.autocast(place.device, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(trainer.model.train()(images), labels)
        loss.backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.seed_generators(0)
    ready = place.now()
    losses = [trainer.run_epoch().summary()["loss"] for _ in range(trainer.recipe.epochs)]
    seconds = place.now() - ready
    rate = len(losses) * trainer.steps * trainer.recipe.batch_size / seconds
    memory = {} if place.device == "cpu" else {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    found = {"seconds": seconds, "before": ready - began, "images_per_second": rate, "losses": losses, **memory}
    return {**found, "test_accuracy": evaluate(net, test)["accuracy"]}


def twice(fast: bool, place: Place) -> dict:
    """Two epochs, and again, or again compiled: how far apart the losses end."""
    one, other = (epochs("with ST", "float32", fast and again, place, 2, 5000)["losses"][-1] for again in (False, True))
    assert abs(one - other) < 0.05, f"the loss is {one}, and the second time {other}"
    return {"apart": abs(one - other), "to_the_bit": one == other}


def copied(workers: int, place: Place) -> dict:
    """The loop that people copy: DataLoader, PIL picture by picture, batches of 64, float32, .item() in each step."""
    from torchvision import datasets, transforms

    moves = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()
    transform = transforms.Compose([*moves, transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD)])
    data = datasets.CIFAR10(data_root(), train=True, transform=transform)
    net = STUDY.arms["with ST"].build(0).to(place.device).train()
    net.normalize = net.transformer.localization[0] = nn.Identity()  # its loader has normalised already
    optimizer, first, last = torch.optim.SGD(net.parameters(), lr=0.01), 1 if place.few else 20, 2 if place.few else 420
    for step, (images, labels) in enumerate(DataLoader(data, batch_size=64, shuffle=True, num_workers=workers)):
        if step == first:  # before it the loader fills
            began = place.now()
        if step == last:
            ended = place.now()
            break
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images.to(place.device)), labels.to(place.device))
        loss.backward()
        optimizer.step()
        loss.item()
    return {"images_per_second": 64 * (last - first) / (ended - began)}


def run_arm(name: str, arm: str, place: Place) -> None:
    torch.set_num_threads(1)
    how = {"arms": [arm], "device": place.device, "progress": False, "command": "make gpu"}
    test = {"epochs": 1, "seeds": 1, "assets": place.file.parent, "runs": place.file.parent} if place.few else {}
    run_study(as_it_can(name, place.few), **how, **test)


def run_arms(wanted: list[tuple[str, str]], at_once: int, place: Place) -> dict:
    """Arms side by side, each with five seeds, until the time is up. A run that was stopped goes on the next time."""
    waiting, running, failed, rows = [*wanted], {}, {}, []
    try:
        while (waiting or running) and time.time() < place.until:
            while waiting and len(running) < at_once:
                study, arm = waiting.pop(0)
                running[study, arm] = SPAWN.Process(target=run_arm, args=(study, arm, place))
                running[study, arm].start()
            for key in [key for key, process in running.items() if process.exitcode is not None]:
                failed |= {", ".join(key): code} if (code := running.pop(key).exitcode) else {}
            time.sleep(0.1)
    finally:
        for process in running.values():
            process.kill()
            process.join()
    for study in dict.fromkeys(study for study, _ in wanted):
        found = read(place.file.parent / f"results/{study}_1_epochs.json" if place.few else ASSETS / f"results/{study}.json")
        keys = "arm", "seed", "test_accuracy", "train_seconds", "device"
        rows += [
            {"study": study, **{key: run[key] for key in keys}} for run in found.get("runs", []) if (study, run["arm"]) in wanted
        ]
    unfinished = {"unfinished": [", ".join(key) for key in [*running, *waiting]]} if running or waiting else {}
    return {"rows": rows, **unfinished, **({"error": f"exit codes {failed}"} if failed else {})}


def shares(place: Place) -> dict:
    """Milliseconds of the parts of a step, forward and backward, on a batch of 128, float32."""
    net, found = STUDY.arms["with ST"].build(0).to(place.device, memory_format=torch.channels_last).train(), {}
    images, transformer = as_float(place.data(128)[0].images), net.transformer
    theta = transformer.params(images).detach().requires_grad_()
    grid = transformer.grid(images, theta).detach().requires_grad_()
    for name, forward in {
        "whole network": lambda: net(images),
        "localization network": lambda: transformer.params(images),
        "grid": lambda: transformer.grid(images, theta),
        "sampler": lambda: sample(images, grid, align_corners=True),
        "classifier": lambda: net.classifier(images),
    }.items():
        for rounds in (3, 3 if place.few else 50):  # the first three are to warm up
            began = place.now()
            for _ in range(rounds):
                forward().sum().backward()
            found[name] = 1000 * (place.now() - began) / rounds
    return found


STEPS = [(name, kind, fast) for kind in ("bfloat16", "float32") for fast in (False, True) for name in ("with ST", "without ST")]
WORKS = {**{f"study {name}": partial(measured, name) for name in names()}, "compiled": partial(twice, True)}
PARTS = {  # part: (its share of the time, {what it measures: how})
    "works": (0.22, {"loop": loop, "killed": killed, "grids": grids, **WORKS}),
    "20 epochs": (0.33, {f"{a}, {b}, {'compiled' if c else 'eager'}": partial(epochs, a, b, c) for a, b, c in STEPS}),
    "copied loop": (0.06, {f"{workers} workers": partial(copied, workers) for workers in (0, 2)}),
    "94 %": (0.22, {"strong": partial(run_arms, STRONG, 2)}),
    "dear": (0.12, {"arms": partial(run_arms, DEAR, cpu_count() or 1)}),
    "inside": (0.05, {"shares": shares, "repeatable": partial(twice, False)}),
}


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(file: Path, found: dict) -> None:
    write_whole(file, (json.dumps(found, indent=1) + "\n").encode())


def missing(file: Path, part: str) -> list[str]:
    """What of a part is not there, failed, or is unfinished."""
    done = read(file).get("parts", {}).get(part, {})
    return [name for name in PARTS[part][1] if name not in done or {"error", "unfinished"} & done[name].keys()]


def work(part: str, place: Place) -> None:
    """All that a part lacks, until its time is up. Each result, or what went wrong, is written as it comes."""
    if parent_process():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it ends its own processes too
    for name in missing(place.file, part):
        if time.time() >= place.until:
            return
        try:
            result = PARTS[part][1][name](place)
        except Exception:
            result = {"error": traceback.format_exc()[-2000:]}
        found = read(place.file)
        found.setdefault("parts", {}).setdefault(part, {})[name] = {**result, "commit": commit()}
        write(place.file, found)
        print(f"{part}, {name}: {json.dumps(result)[:300]}", flush=True)


def gpu(out: str | None = None, minutes: float = 9.0, device: str = "cuda", few: int | None = None) -> tuple[Path, list[str]]:
    """Every part, in order, in so many minutes: (the file, what failed). Raises ValueError where there is no card."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("gpu needs an NVIDIA card and a torch that sees it, and here torch sees none")
    facts = {"command": "make gpu", **provenance(torch.device(device))}
    slug = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    file, end = Path(out) if out else ASSETS / "results" / f"gpu-{slug}.json", time.time() + 60 * minutes
    if device == "cuda":
        asked = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        with suppress(OSError):
            facts["driver"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    write(file, {**read(file), **facts})
    lacking = [part for part in PARTS if missing(file, part)]
    for k, part in enumerate(lacking):
        now, share = time.time(), PARTS[part][0] / sum(PARTS[later][0] for later in lacking[k:])
        process = SPAWN.Process(target=work, args=(part, Place(device, file, now + share * (end - now), few)))
        process.start()
        process.join(max(0, min(share * (end - now) + GRACE, end - now)))
        process.terminate()
        process.join(5)
        process.kill()  # one that hangs in the driver does not hear the first call
    done = [
        (f"{part}, {name}", result) for part, results in read(file).get("parts", {}).items() for name, result in results.items()
    ]
    return file, [f"{name} failed: {result['error'].splitlines()[-1]}" for name, result in done if "error" in result]


def told() -> list[str]:
    """What the files in assets/results say of cards, a sentence each; one that says so where there is none."""
    lines = []
    for file in sorted((ASSETS / "results").glob("gpu-*.json")):
        found = read(file)
        copied = [run.get("images_per_second", 0) for run in found["parts"].get("copied loop", {}).values()]
        runs = {name: run for name, run in found["parts"].get("20 epochs", {}).items() if "seconds" in run}
        for name, run in runs.items():
            times = (
                f", {run['images_per_second'] / max(copied):.0f} times the copied loop"
                if any(copied) and name[:4] == "with"
                else ""
            )
            lines.append(f"{found['device']}, {name}: {run['seconds']:.1f} s{times}, {run['test_accuracy']:.1f} %")
    return lines or ["No GPU figure has been measured yet."]

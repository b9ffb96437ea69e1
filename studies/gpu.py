"""GPU: all that needs a CUDA card, by one command: does it work there, how fast is it, and what can two cores not afford?

    make gpu        or        python -m studies gpu [--out FILE] [--minutes 9]

It needs torch, torchvision, numpy, matplotlib, tqdm, safetensors and filelock alone, and CIFAR-10 where STN_DATA says. Parts come
in order of worth, each in a process of its own: a hung compiler or a lost context ends that part alone. A result is kept as soon
as it is known, and the same command goes on with what is missing or failed. Runs of studies go to their own files.
"""

import json
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from os import cpu_count
from pathlib import Path
from timeit import timeit

import torch
import torch.nn.functional as F
from torch import nn

from stn_helpers.data.batches import as_float
from stn_helpers.data.files import write_whole
from stn_helpers.data.sets import Images, load
from stn_helpers.families import family_grid
from stn_helpers.training.checkpoint import load_checkpoint
from stn_helpers.training.devices import PRECISIONS, dtype_name, pick_precision
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer, evaluate, fit
from stn_helpers.transformer import SpatialTransformer, light_localization

from .runner import commit, provenance, run_study
from .study import ASSETS, Study, get, names
from .timed import copied_loop, step_parts
from .tutorial import STUDY

SPAWN = get_context("spawn")
GRACE = 20  # seconds after its time in which a part may still end by itself
# What two cores cannot afford: notebook 06c's large reader, the strong classifier in turned worlds, the rest of the fair trial.
DEAR = [
    *(("turned", f"rotated round, large, {end}") for end in ("no ST", "told, no warp", "told, not betting", "oracle")),
    *(("strong", f"{world}, {end}") for world in ("rotated", "rotated disc") for end in ("no ST", "light ST", "oracle")),
    *(("cifar10", f"rotated disc, AdamW, {end}") for end in ("no ST", "light ST", "smallest family")),
]


@dataclass(frozen=True)
class Place:
    """Where a part runs, its file, when it must end, how few pictures a test of it takes, and where studies keep results."""

    device: str
    file: Path
    until: float
    few: int | None = None
    assets: Path = ASSETS

    def data(self, most: int | None = None) -> tuple[Images, Images]:
        """(train, test) of CIFAR-10 on the device, whole or so many of the first pictures. In a test digits may stand in."""
        both = (load("cifar10", train=train, stand_in=bool(self.few)) for train in (True, False))
        return tuple(images.subset(slice(self.few or most)).to(self.device) for images in both)

    def now(self) -> float:
        """The time, once the device has done all that it was asked for."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def of_page() -> dict:
    """Notebook 05's own network and loop, taken from its cells."""
    cells = json.loads((ASSETS.parent / "notebooks/05_cifar10.ipynb").read_text(encoding="utf-8"))["cells"]
    code, space = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"], {"torch": torch, "nn": nn, "F": F}
    for words in ("class Net(", "def train_by_hand("):
        exec(next(source for source in code if words in source), space)
    return space


def loop(place: Place) -> dict:
    """An epoch of notebook 05's loop, of the package's network and of its own; `fit` comes to the same accuracy."""
    (train, test), device, page, ends = place.data(), torch.device(place.device), of_page(), {}
    dtype, recipe, net = pick_precision("auto", device), replace(RECIPES["good"], epochs=1), STUDY.arms["with ST"].build(0)
    for name, each in {"page": STUDY.arms["with ST"].build(0), "page's network": page["Net"]()}.items():
        ends[name] = evaluate(page["train_by_hand"](each, train, 1, device, dtype), test)["accuracy"]
    ends["fit"] = fit(net, train, test, recipe, 0, device, dtype_name(dtype), progress=False)[-1]["test_accuracy"]
    assert abs(ends["page"] - ends["fit"]) < 3 and (place.few or min(ends.values()) > 30), f"accuracy after an epoch: {ends}"
    return {"test_accuracy": ends, "precision": dtype_name(dtype)}


def four_epochs(place: Place, folder: Path | None) -> list[dict]:
    recipe = replace(RECIPES["good"], epochs=4, batch_size=64)
    return fit(STUDY.arms["with ST"].build(0), *place.data(20_000), recipe, 0, place.device, out=folder, progress=False)


def killed(place: Place) -> dict:
    """A run that kill -9 ends after an epoch or more goes on, and comes to where an undisturbed one does."""
    with tempfile.TemporaryDirectory() as folder:
        process, file, before = SPAWN.Process(target=four_epochs, args=(place, Path(folder))), Path(folder, "checkpoint.stn"), []
        process.start()
        while process.is_alive() and not before:
            time.sleep(0.01)
            with suppress(FileNotFoundError):
                before = load_checkpoint(file)["history"]
        process.kill()
        process.join()
        before, after, whole = load_checkpoint(file)["history"], four_epochs(place, Path(folder)), four_epochs(place, None)
    assert 0 < len(before) < len(after) == 4 and after[: len(before)] == before, f"killed after {before}, then {after}"
    ends = [history[-1]["test_accuracy"] for history in (after, whole)]
    assert abs(ends[0] - ends[1]) < 5, f"it ends at {ends[0]} %, undisturbed at {ends[1]} %"
    return {"killed_after": len(before), "ends": ends, "to_the_bit": after[-1]["train_loss"] == whole[-1]["train_loss"]}


def first(few: int | None, study: Study) -> Study:
    """The study on so many of its pictures, or on all."""
    return replace(study, prepare=lambda images: (study.prepare(images) if study.prepare else images).subset(slice(few)))


def measured(name: str, place: Place) -> dict:
    """An epoch of a study's first arm with a transformer, and all that the study measures of it."""
    arms = {arm: it for arm, it in get(name).arms.items() if not it.on_request and not it.spread_of}
    arm = next(arm for arm, it in arms.items() if any(isinstance(part, SpatialTransformer) for part in it.build().modules()))
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = {"assets": Path(folder), "runs": Path(folder), "device": place.device, "progress": False}
            (row,) = run_study(first(place.few or 2000, get(name)), 1, [arm], epochs=1, **where)["runs"]
    except (ModuleNotFoundError, FileNotFoundError) as error:  # digits need scikit-learn
        return {"skipped": str(error)}
    return {"arm": arm, "test_accuracy": row["test_accuracy"], "measured": sorted(row)}


def grids(place: Place) -> dict:
    """Every family's grid under autocast, with TF32 allowed, against float64: how far apart, in pixels of 224."""
    found, images = {}, torch.rand(8, 3, 64, 64, device=place.device)
    torch.set_float32_matmul_precision("high")
    for name in ("affine", "similarity", "attention", "rotation", "projective", "tps"):
        transformer = SpatialTransformer(light_localization(), name, size=(224, 224)).to(place.device)
        nn.init.normal_(transformer.to_theta.weight, std=0.02)
        with torch.no_grad(), torch.autocast(place.device, torch.bfloat16):
            params = transformer.params(images)
            grid = transformer.grid(images, params)
        exact = family_grid(transformer.family, params.cpu().double(), (224, 224))
        found[name] = 112 * (grid.cpu().double() - exact).abs().max().item()
    torch.set_float32_matmul_precision("highest")
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
    began, start, batch = place.now(), deepcopy(trainer.state()), next(trainer.batches())
    for _ in range(3):  # what is compiled, captured or chosen once is then done
        trainer.step(*batch)
    trainer.restore(start, "the start")
    ready = place.now()
    losses = [trainer.run_epoch().summary()["loss"] for _ in range(trainer.recipe.epochs)]
    seconds = place.now() - ready
    found = {"seconds": seconds, "images_per_second": len(losses) * trainer.steps * trainer.recipe.batch_size / seconds}
    found |= {} if place.device == "cpu" else {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    return {**found, "before": ready - began, "losses": losses, "test_accuracy": evaluate(net, test)["accuracy"]}


def twice(fast: bool, place: Place) -> dict:
    """Two epochs, and again, or again compiled: how far apart the losses end."""
    one, other = (epochs("with ST", "float32", fast and again, place, 2, 5000)["losses"][-1] for again in (False, True))
    assert abs(one - other) < 0.05, f"the loss is {one}, and the second time {other}"
    return {"apart": abs(one - other), "to_the_bit": one == other}


def copied(workers: int, place: Place) -> dict:
    """Images a second of the loop that people copy."""
    steps, net = 1 if place.few else 200, STUDY.arms["with ST"].build(0).to(place.device)
    run = copied_loop(net, place.data()[0], workers, steps)
    run()  # the loader fills
    return {"images_per_second": 64 * steps / timeit(run, number=1, timer=place.now)}


def run_arm(study: str, arm: str, place: Place) -> None:
    torch.set_num_threads(1)
    how, brief = {"device": place.device, "assets": place.assets, "progress": False}, {"seeds": 1, "epochs": 1}
    run_study(first(place.few, get(study)), arms=[arm], command="make gpu", **how, **(brief if place.few else {}))


def run_arms(wanted: list[tuple[str, str]], at_once: int, place: Place) -> dict:
    """Arms side by side, each with five seeds, until the time is up. A run that was stopped goes on the next time."""
    waiting, running, failed, rows = [*wanted], {}, [], []
    try:
        while (waiting or running) and time.time() < place.until:
            while waiting and len(running) < at_once:
                process = SPAWN.Process(target=run_arm, args=(*waiting[0], place))
                process.start()
                running[waiting.pop(0)] = process
            for pair in [pair for pair, process in running.items() if process.exitcode is not None]:
                failed += [", ".join(pair)] if running.pop(pair).exitcode else []
            time.sleep(0.1)
    finally:
        for process in running.values():
            process.kill()
            process.join()
    for study in dict.fromkeys(study for study, _ in wanted):
        for run in read(place.assets / f"results/{study}{'_1_epochs' if place.few else ''}.json").get("runs", []):
            if (study, run["arm"]) in wanted:
                rows.append({key: run[key] for key in ("arm", "seed", "test_accuracy", "train_seconds", "device")})
    left = [", ".join(pair) for pair in [*running, *waiting]]
    return {"rows": rows} | ({"unfinished": left} if left else {}) | ({"error": f"failed: {'; '.join(failed)}"} if failed else {})


def shares(place: Place) -> dict:
    """Milliseconds of the parts of a step, forward and backward, on a batch of 128, float32."""
    net, found = STUDY.arms["with ST"].build(0).to(place.device, memory_format=torch.channels_last), {}
    for name, run in step_parts(net, as_float(place.data(128)[0].images)).items():
        for rounds in (3, 3 if place.few else 50):  # the first three are to warm up
            found[name] = 1000 * timeit(run, number=rounds, timer=place.now) / rounds
    return found


STEPS = [(name, kind, fast) for kind in ("bfloat16", "float32") for fast in (False, True) for name in ("with ST", "without ST")]
# All but colocalise, which measures on the CPU, for minutes.
STUDIES = {f"study {name}": partial(measured, name) for name in names() if name != "colocalise"}
PARTS: dict[str, tuple[float, dict[str, Callable]]] = {  # part: (its share of the time, {what it measures: how})
    "works": (0.22, {"loop": loop, "killed": killed, "grids": grids, **STUDIES, "compiled": partial(twice, True)}),
    "20 epochs": (0.33, {f"{a}, {b}, {'compiled' if c else 'eager'}": partial(epochs, a, b, c) for a, b, c in STEPS}),
    "copied loop": (0.06, {f"{workers} workers": partial(copied, workers) for workers in (0, 2)}),
    "94 %": (0.22, {"strong": partial(run_arms, [("strong", "upright, no ST"), ("strong", "upright, light ST")], 2)}),
    "dear": (0.12, {"arms": partial(run_arms, DEAR, cpu_count() or 1)}),
    "inside": (0.05, {"shares": shares, "repeatable": partial(twice, False)}),
}


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def missing(file: Path, part: str, works: dict) -> list[str]:
    """What of a part is not there, failed, or is unfinished."""
    done = read(file).get("parts", {}).get(part, {})
    return [name for name in works if name not in done or {"error", "unfinished"} & done[name].keys()]


def work(part: str, works: dict[str, Callable], place: Place) -> None:
    """All that a part lacks, until its time is up or who asked is gone. A result, or what went wrong, is written as it comes."""
    if parent := parent_process():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it ends its own processes too
    for name in missing(place.file, part, works):
        if time.time() >= place.until or (parent and not parent.is_alive()):
            return
        try:
            result = works[name](place)
        except Exception:
            result = {"error": traceback.format_exc()[-2000:]}
        found = read(place.file)
        found.setdefault("parts", {}).setdefault(part, {})[name] = {**result, "commit": commit()}
        write_whole(place.file, json.dumps(found, indent=1).encode())
        print(f"{part}, {name}: {json.dumps(result)[:300]}", flush=True)


def gpu(out: str | None = None, minutes: float = 9.0, device: str = "cuda", parts: dict = PARTS) -> tuple[Path, list[str]]:
    """Every part, in order, in so many minutes: (the file, what failed). Raises ValueError where there is no card."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("gpu needs an NVIDIA card and a torch that sees it, and here torch sees none")
    facts, end = {"command": "make gpu", **provenance(torch.device(device))}, time.time() + 60 * minutes
    slug = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    file = Path(out) if out else ASSETS / "results" / f"gpu-{slug}.json"
    write_whole(file, json.dumps({"parts": {}, **read(file), **facts}, indent=1).encode())
    lacking = [part for part in parts if missing(file, part, parts[part][1])]
    for k, part in enumerate(lacking):
        now, share = time.time(), parts[part][0] / sum(parts[later][0] for later in lacking[k:])
        process = SPAWN.Process(target=work, args=(part, parts[part][1], Place(device, file, now + share * (end - now))))
        process.start()
        process.join(max(0, min(share * (end - now) + GRACE, end - now)))
        process.terminate()
        process.join(5)
        process.kill()  # one that hangs in the driver does not hear the first call
    done = {f"{part}, {name}": it for part, found in read(file).get("parts", {}).items() for name, it in found.items()}
    return file, [f"{name} failed: {it['error'].splitlines()[-1]}" for name, it in done.items() if "error" in it]


def told(files: list[Path] | None = None) -> list[str]:
    """What such files, by default those in assets/results, say of cards, a sentence each; one that says so where there is none."""
    lines = []
    for found in map(read, sorted((ASSETS / "results").glob("gpu-*.json")) if files is None else files):
        slow = max((run.get("images_per_second", 0) for run in found["parts"].get("copied loop", {}).values()), default=0)
        for name, run in found["parts"].get("20 epochs", {}).items():
            if "seconds" in run:
                ratio = f", {run['images_per_second'] / slow:.0f} times the copied loop" if slow and name[:5] == "with " else ""
                lines.append(f"{found['device']}, {name}: {run['seconds']:.1f} s{ratio}, {run['test_accuracy']:.1f} %")
    return lines or ["No GPU figure has been measured yet."]

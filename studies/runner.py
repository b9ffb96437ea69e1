"""Runner: runs what a study still lacks, here or on any executor, and nothing twice; writes assets/results/NAME.json."""

import json
import platform
import re
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn
from tqdm.auto import tqdm

from stn_helpers.data.files import write_whole
from stn_helpers.data.sets import data_root
from stn_helpers.training.checkpoint import fill, load_checkpoint, save_weights
from stn_helpers.training.devices import dtype_name, pick_device, pick_precision
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import evaluate, fit
from stn_helpers.transformer import SpatialTransformer

from .networks import count, mflop
from .study import ASSETS, Arm, Sets, Study, confusion, get, pose_spread, summarise

# Networks draw from torch's one generator in a process, so a process trains one at a time, whatever an executor would like.
ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Job:
    """One run of a study, with all that another process needs to do it."""

    study: Study
    name: str  # of the arm
    seed: int
    recipe: Recipe
    device: str
    precision: str  # float32 or bfloat16
    folder: Path  # of its checkpoint
    command: str
    spread: dict | None = None

    @property
    def arm(self) -> Arm:
        return {**self.study.parts, **self.study.arms}[self.name]

    def part(self, name: str) -> "Job":
        """The run, at the same seed, of an arm whose network is part of this one."""
        arm = self.study.parts.get(name) or self.study.arms[name]
        recipe = arm.recipe if self.recipe.epochs == self.arm.recipe.epochs else replace(arm.recipe, epochs=self.recipe.epochs)
        folder = folder_of(self.folder.parent, self.study, name, recipe, self.precision, self.seed)
        return replace(self, name=name, recipe=recipe, folder=folder)

    @property
    def key(self) -> tuple:
        """What makes it this run and no other."""
        return self.name, self.seed, self.recipe, self.arm.train_on, self.arm.test, self.precision

    def build(self) -> nn.Module:
        """The untrained network."""
        return self.arm.build(self.seed, **({"spread": self.spread} if self.arm.spread_of else {}))


def folder_of(runs: Path, study: Study, name: str, recipe: Recipe, precision: str, seed: int) -> Path:
    """Where a run keeps its checkpoint. A changed network, recipe, part, training, test or precision is another run."""

    def about(arm: Arm, recipe: Recipe) -> list:
        parts = [[place, about(known[part], known[part].recipe)] for place, part in arm.parts.items()]
        return [arm.described(), asdict(recipe), arm.train_on, arm.test, precision, *parts]

    known = {**study.parts, **study.arms}
    label = sha256(json.dumps(about(known[name], recipe)).encode()).hexdigest()[:8]
    return runs / f"{study.name}-{re.sub(r'[^a-z0-9]+', '-', name.lower())}-{label}-{seed}"


def key_of(row: dict) -> tuple:
    """The `Job.key` of a row of results."""
    return row["arm"], row["seed"], Recipe(**row["recipe"]), row["train_on"], row["test_on"], row["precision"]


def run_study(
    study: Study | str,
    seeds: int = 5,
    arms: list[str] | None = None,
    epochs: int | None = None,
    device: str = "auto",
    precision: str = "",
    assets: Path = ASSETS,
    runs: Path = Path("runs"),
    command: str = "",
    progress: bool = True,
    sets: list[str] | None = None,
    executor: Executor | None = None,
) -> dict:
    """Run what is missing of a study and return its results, which are also in `assets`/results/NAME.json.

    study: a `Study`, or its name. arms, sets: some only, see `Study.choose`. precision: the study's own where none is said.
    epochs: shorter runs, for a try, which go to a file of their own and publish nothing.
    executor: any of concurrent.futures, say Dask's `client.get_executor()`; its workers must find data, code and, to go on
    where a killed one was, `runs`. None runs here, one after the other. A run that was killed goes on from its checkpoint in
    `runs`. Two processes may work on one study at once.
    A run whose loss or weights stop being finite is a result too: it counts as its last good epoch left it, and its row says
    so, "diverged".
    Raises ValueError for an unknown study, arm or set, and for a random theta without the arm whose spread it takes.
    """
    study, where = get(study) if isinstance(study, str) else study, pick_device(device)
    path = assets / "results" / (f"{study.name}_{epochs}_epochs.json" if epochs else f"{study.name}.json")
    kind = dtype_name(pick_precision(precision or study.precision, where))
    jobs = []
    for seed in range(seeds):
        for name in study.choose(arms, sets):
            arm = study.arms[name]
            recipe = replace(arm.recipe, epochs=epochs or arm.recipe.epochs)
            folder = folder_of(runs.absolute(), study, name, recipe, kind, seed)
            jobs.append(Job(study, name, seed, recipe, str(where), kind, folder, command))
    done = {key_of(row) for row in _read(path, study)["runs"]}
    jobs = [job for job in jobs if job.key not in done]
    with tqdm(total=sum(job.recipe.epochs for job in jobs), unit="epoch", disable=not progress, dynamic_ncols=True) as bar:
        # A random theta waits for the learned one, whose spread it takes.
        for wave in ([job for job in jobs if not job.arm.spread_of], [job for job in jobs if job.arm.spread_of]):
            (_run_here if executor is None else _hand_out)(wave, path, assets, bar, executor)
    return _read(path, study)


def _run_here(jobs: list[Job], path: Path, assets: Path, bar: tqdm, executor: None) -> None:
    for job in jobs:
        if job.key in {key_of(row) for row in _read(path, job.study)["runs"]}:
            continue  # another process has done it meanwhile

        def look(history: list[dict], job: Job = job) -> None:
            bar.set_description_str(f"{job.name}, seed {job.seed}: {history[-1]['test_accuracy']:.2f} %", refresh=False)
            bar.update()

        _keep(path, job, assets, run_job(_ready(job, path), look))


def _hand_out(jobs: list[Job], path: Path, assets: Path, bar: tqdm, executor: Executor) -> None:
    """Give every job to the executor and keep what comes back. Only this process writes. One that fails stops no other."""
    ready = [_ready(job, path) for job in jobs]
    running, errors = {executor.submit(run_job, job): job for job in ready}, []
    try:
        while running:
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                bar.update(job.recipe.epochs)
                try:
                    _keep(path, job, assets, future.result())
                except BaseException as error:  # an executor that was shut down or lost its workers, too
                    errors.append(error)
    finally:
        for future in running:
            future.cancel()
    if errors:
        raise errors[0]


def _ready(job: Job, path: Path) -> Job:
    """The job, with the spread of theta that its random theta takes from the run of another arm."""
    if not (name := job.arm.spread_of):
        return job
    wanted = replace(job, name=name).key
    spread = next((row["spread"] for row in _read(path, job.study)["runs"] if key_of(row) == wanted), None)
    if spread is None:
        raise ValueError(f"{job.name!r} draws from the spread of {name!r}, of which seed {job.seed} is not there; run that too")
    return replace(job, spread=spread)


def _read(path: Path, study: Study) -> dict:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else {"study": study.name, "summary": [], "weights": {}, "runs": []}


def _keep(path: Path, job: Job, assets: Path, outcome: tuple[dict, nn.Module]) -> None:
    """Put a run into the results file, and publish its weights. Another process may have done the same run meanwhile."""
    row, model = outcome
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        results = _read(path, job.study)
        if job.key in {key_of(found) for found in results["runs"]}:
            return
        results["runs"].append(row)
        if job.seed == 0 and job.name in job.study.ship and job.recipe == job.arm.recipe:
            results["weights"].update(_ship(job, model, assets))
        # In the order of the study, whoever was first, so that the same study gives the same file. Old arms come last.
        order = {name: number for number, name in enumerate(job.study.arms)}
        results["runs"].sort(key=lambda run: (order.get(run["arm"], len(order)), run["arm"], run["seed"]))
        results["summary"] = summarise(results["runs"], job.study.arms)
        write_whole(path, (json.dumps(results, indent=1) + "\n").encode())


_SETS: dict[tuple, Sets] = {}


def sets_of(study: Study, device: str) -> Sets:
    """The data of a study on a device; made once a process and folder."""
    return _SETS.setdefault((study.name, study.data, study.prepare, device, data_root()), Sets(study, device))


def run_job(job: Job, after_epoch: Callable[[list[dict]], None] = lambda history: None) -> tuple[dict, nn.Module]:
    """One run, from nothing or from its checkpoint: (its row in the results, the trained model on the CPU)."""
    # Now: a commit made while it runs is not what runs.
    origin = {**provenance(torch.device(job.device)), "command": job.command}
    with ONE_AT_A_TIME:
        sets = sets_of(job.study, job.device)
        try:
            model, history = trained(job, sets, after_epoch)
            more = {}
        except FloatingPointError as error:
            path = job.folder / "checkpoint.stn"
            state, model = load_checkpoint(path), job.build()
            fill(model, state["model"], path)
            more, history = {"diverged": str(error)}, state["history"]
        return {**row_of(job, model.to(job.device).eval(), history, sets), **more, **origin}, model.cpu()


def trained(job: Job, sets: Sets, after_epoch: Callable[[list[dict]], None] = lambda history: None) -> tuple[nn.Module, list[dict]]:
    """The trained network of a run, and its history. What it has parts of is trained first, or found finished in its folder."""
    model, arm = job.build(), job.arm
    for place, name in arm.parts.items():
        fill(model.get_submodule(place), trained(job.part(name), sets)[0].state_dict(), f"{name!r}, a part of {job.name!r},")
    how = {"progress": False, "name": f"{job.study.name}, {job.name}", "after_epoch": after_epoch, "train_on": arm.train_on}
    where = (job.seed, job.device, job.precision, job.folder)
    return model, (arm.train or fit)(model, sets.train, sets.bent(arm.test)[0], job.recipe, *where, **how)


def row_of(job: Job, model: nn.Module, history: list[dict], sets: Sets) -> dict:
    """What the results say of one run."""
    arm, bent = job.arm, sets.bent(job.arm.test)[0]
    row = {
        "arm": job.name,
        "seed": job.seed,
        **arm.described(),
        "parameters": count(model),
        "mflop": mflop(model, bent),
        "recipe": asdict(job.recipe),
        "train_on": arm.train_on,
        "test_on": arm.test,
        "data": sets.train.name,
        "images": [len(sets.train), len(sets.test)],
        "test_accuracy": history[-1]["test_accuracy"] if history else evaluate(model, bent)["accuracy"],
        "train_seconds": round(sum(epoch["seconds"] for epoch in history), 1),
        "precision": job.precision,
        "history": [
            {key: round(value, 4) if isinstance(value, float) else value for key, value in epoch.items()} for epoch in history
        ],
    }
    if arm.parts:
        parts = {place: job.part(name) for place, name in arm.parts.items()}
        row["parts"] = {place: {"arm": part.name, "recipe": asdict(part.recipe)} for place, part in parts.items()}
    if isinstance(model.transformer, SpatialTransformer):
        row["theta"] = pose_spread(model, bent)  # does it look at every picture in its own way?
    if arm.test != "upright" or arm.also:
        others = [name for name in dict.fromkeys(["upright", *arm.also]) if name != arm.test]
        row["tests"] = {arm.test: row["test_accuracy"]}
        row["tests"].update({name: evaluate(model, sets.bent(name)[0])["accuracy"] for name in others})
    if job.study.measure:
        row.update(job.study.measure(model, sets, arm, job.seed))
    return row


def provenance(device: torch.device) -> dict[str, str]:
    """Where a number comes from: commit, date, machine and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    return {
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@cache
def processor() -> str:
    """The CPU's kind and model, as far as the system tells."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    return f"{platform.machine()} CPU, {found[1] if found else platform.processor() or 'model unknown'}"


@cache
def commit() -> str:
    """The commit that this process runs, "+changes" where the packages differ from it. Asked once: a later one is not what runs."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+changes" if head != "unknown" and _git("status", "--porcelain", "stn_helpers", "studies") else "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ASSETS.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def about_weights(study: Study, arm: Arm, seed: int) -> dict:
    """What a file of weights says of itself: enough to build the network again, and to test it on what it was made for."""
    return {"study": study.name, **arm.described(), "data": study.data, "seed": seed, "test_on": arm.test}


def _ship(job: Job, model: nn.Module, assets: Path) -> dict:
    """Publish the weights of one run: {file: what the results file says of it}."""
    name = job.study.ship[job.name]
    digest = save_weights(assets / "checkpoints" / f"{name}.safetensors", model, about_weights(job.study, job.arm, job.seed))
    bent, _ = sets_of(job.study, "cpu").bent(job.arm.test)
    found = {"sha256": digest, "confusion": confusion(model, bent).tolist(), "test_accuracy": evaluate(model, bent)["accuracy"]}
    return {name: {"arm": job.name, "seed": job.seed, **found}}

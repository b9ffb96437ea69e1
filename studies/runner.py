"""Runner: runs what a study still lacks, here or on any executor, and nothing twice; writes assets/results/NAME.json."""

import json
import platform
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from filelock import FileLock
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import distorted
from stn_helpers.data.files import write_whole
from stn_helpers.data.sets import Images, data_root, load
from stn_helpers.training.checkpoint import fill, load_checkpoint, save_weights
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import RECIPES, evaluate, fit, pick_device, pick_precision
from stn_helpers.transformer import SpatialTransformer
from studies.networks import build
from studies.study import ASSETS, STUDIES, Study, confusion, pose_spread, summarise

# Networks draw from torch's one generator in a process, so a process trains one at a time, whatever an executor would like.
ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Job:
    """One run of a study, with all that another process needs to do it."""

    study: Study
    arm: str
    seed: int
    recipe: Recipe
    device: str
    precision: str  # float32 or bfloat16
    folder: Path  # of its checkpoint
    command: str
    ships: bool = False
    spread: dict | None = None

    @property
    def key(self) -> tuple:
        """What makes it this run and no other."""
        return self.arm, self.seed, self.recipe, self.precision


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
    sets: list[str] | None = None,
    executor: Executor | None = None,
) -> dict:
    """Run what is missing of a study and return its results, which are also in `assets`/results/NAME.json.

    arms, sets: some only, see `Study.choose`. epochs: shorter runs, for a try, which go to a file of their own and publish
    nothing. executor: any of concurrent.futures, say Dask's `client.get_executor()`; its workers must find data, code and,
    to go on where a killed one was, `runs`. None runs here, one after the other. A run that was killed goes on from its
    checkpoint in `runs`. Two processes may work on one study at once.
    A run whose loss or weights stop being finite is a result too: it counts as its last good epoch left it, and its row says
    so, "diverged".
    Raises ValueError for an unknown study, arm or set, and for a random theta without the arm whose spread it takes.
    Taught in notebook 06.
    """
    if name not in STUDIES:
        raise ValueError(f"study is {name!r}; expected one of {', '.join(STUDIES)}")
    study, where = STUDIES[name], pick_device(device)
    path = assets / "results" / (f"{study.name}_{epochs}_epochs.json" if epochs else f"{study.name}.json")
    kind = str(pick_precision(precision, where)).removeprefix("torch.")
    jobs = []
    for seed in range(seeds):
        for arm in study.choose(arms, sets):
            recipe = RECIPES[study.arms[arm].recipe]
            recipe = replace(recipe, epochs=epochs or recipe.epochs)
            # A changed recipe, test or precision is another run, with a folder of its own.
            label = sha256(json.dumps([asdict(recipe), study.arms[arm].test, kind]).encode()).hexdigest()[:8]
            folder = runs.absolute() / f"{study.name}-{study.arms[arm].model}-{label}-{seed}"
            ships = seed == 0 and arm in study.ship and not epochs
            jobs.append(Job(study, arm, seed, recipe, str(where), kind, folder, command, ships))
    jobs = [job for job in jobs if not _find(_read(path, study), *job.key)]
    _check_spreads(jobs, _read(path, study))
    groups = [[job] for job in jobs]
    with Watch(jobs, progress) as watch:
        if executor is None:
            for group in groups:
                results = _read(path, study)
                # Another process may have done some of it meanwhile.
                if left := [_with_spread(job, results) for job in group if not _find(results, *job.key)]:
                    _keep(path, left, assets, run_jobs(left, watch))
        else:
            _hand_out(executor, groups, path, assets, watch)
    return _read(path, study)


def _hand_out(executor: Executor, groups: list[list[Job]], path: Path, assets: Path, watch: "Watch") -> None:
    """Give every group to the executor as soon as what it needs is there, and keep what comes back. Only this process writes."""
    waiting, running, errors = list(groups), {}, []
    try:
        while waiting or running:
            results = _read(path, groups[0][0].study)
            for group in [group for group in waiting if all(_ready(job, results) for job in group)]:
                waiting.remove(group)
                running[executor.submit(run_jobs, [_with_spread(job, results) for job in group])] = group
            if not running:
                break  # what the rest waits for has failed
            done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                group: list[Job] = running.pop(future)
                error = _outcome(future)
                if error is None:
                    _keep(path, group, assets, future.result())
                else:
                    errors.append(error)
            watch.look()
    finally:
        for future in running:
            future.cancel()
    if errors:
        raise errors[0]  # after all others have been kept


def _outcome(future: Future) -> BaseException | None:
    """What went wrong in a job, or None."""
    try:
        return future.exception()
    except BaseException as error:  # an executor that was shut down or lost its workers
        return error


def _check_spreads(jobs: list[Job], results: dict) -> None:
    """A random theta needs the runs whose spread it takes, done before or now."""
    coming = {(job.arm, job.seed) for job in jobs}
    for job in jobs:
        source = job.study.arms[job.arm].spread_of
        if source and (source, job.seed) not in coming and not _spread(job, results):
            raise ValueError(
                f"{job.arm!r} draws from the spread of {source!r}, of which seed {job.seed} is not there; run that too"
            )


def _spread(job: Job, results: dict) -> dict | None:
    """The spread of theta that a job's random theta takes, if its run is there."""
    source = job.study.arms[job.arm].spread_of
    found = (row for row in results["runs"] if row["arm"] == source and row["seed"] == job.seed)
    return next((row["spread"] for row in found if (Recipe(**row["recipe"]), row["precision"]) == job.key[2:]), None)


def _ready(job: Job, results: dict) -> bool:
    """Whether what a job needs is there."""
    return job.study.arms[job.arm].spread_of == "" or _spread(job, results) is not None


def _with_spread(job: Job, results: dict) -> Job:
    return replace(job, spread=_spread(job, results)) if job.study.arms[job.arm].spread_of else job


def _read(path: Path, study: Study) -> dict:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else {"study": study.name, "summary": [], "weights": {}, "runs": []}


def _keep(path: Path, jobs: list[Job], assets: Path, outcomes: list[tuple[dict, torch.nn.Module | None]]) -> None:
    """Put runs into the results file, and publish their weights. Another process may have done the same runs meanwhile."""
    study = jobs[0].study
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        results = _read(path, study)
        for job, (row, model) in zip(jobs, outcomes, strict=True):
            if _find(results, *job.key):
                continue
            results["runs"].append(row)
            if model is not None:
                results["weights"].update(_ship(job, model, row, assets))
        # In the order of the study, whoever was first, so that the same study gives the same file.
        order = list(study.arms)
        results["runs"].sort(key=lambda run: (order.index(run["arm"]), run["seed"]))
        results["summary"] = summarise(results["runs"], study.arms)
        write_whole(path, (json.dumps(results, indent=1) + "\n").encode())


def _find(results: dict, arm: str, seed: int, recipe: Recipe, precision: str) -> bool:
    wanted = (arm, seed, recipe, precision)
    return any((row["arm"], row["seed"], Recipe(**row["recipe"]), row["precision"]) == wanted for row in results["runs"])


def _data(study: Study, device: str) -> tuple[Images, Images]:
    """(train, test) on the device; made once a process and folder."""
    return _loaded(study.data, study.prepare, device, data_root())


@cache
def _loaded(name: str, prepare: Callable[[Images], Images] | None, device: str, root: Path) -> tuple[Images, Images]:
    train, test = (load(name, train=part, root=root).to(device) for part in (True, False))
    return (prepare(train), prepare(test)) if prepare else (train, test)


def run_jobs(jobs: list[Job], watch: "Watch | None" = None) -> list[tuple[dict, torch.nn.Module | None]]:
    """One run, or several that are stacked, from nothing or from their checkpoints.

    Returns (its row in the results, the trained model if it is to be published) for each.
    """
    try:
        return _run(jobs, watch)
    except FloatingPointError:  # one of a stack: each goes on alone from its checkpoint, and only that one will stop
        return [outcome for job in jobs for outcome in _run([job], watch)]


def _run(jobs: list[Job], watch: "Watch | None") -> list[tuple[dict, torch.nn.Module | None]]:
    # Now: a commit made while it runs is not what runs.
    origin = {**provenance(torch.device(jobs[0].device)), "command": jobs[0].command}
    with ExitStack() as locks:
        locks.enter_context(ONE_AT_A_TIME)
        for job in jobs:  # the same run elsewhere: wait for it, then find it finished
            job.folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(FileLock(job.folder / "run.lock"))
        try:
            models, histories = _train(jobs, watch)
            rows = [_row(job, model, history) for job, model, history in zip(jobs, models, histories, strict=True)]
        except FloatingPointError as error:
            if len(jobs) > 1:
                raise
            models, rows = _diverged(jobs[0], error)
    return [({**row, **origin}, model if job.ships else None) for job, row, model in zip(jobs, rows, models, strict=True)]


def _build(job: Job) -> torch.nn.Module:
    """The untrained network of a job."""
    arm, recipe = job.study.arms[job.arm], job.recipe
    spread = {"spread": job.spread} if arm.spread_of else {}
    return build(arm.model, job.seed, conv_dropout=recipe.conv_dropout, dropout=recipe.dropout, **spread)


def _train(jobs: list[Job], watch: "Watch | None") -> tuple[list[torch.nn.Module], list[list[dict]]]:
    """The trained networks and their histories."""
    first, arm = jobs[0], jobs[0].study.arms[jobs[0].arm]
    train, test = _data(first.study, first.device)
    folders = {job.seed: job.folder for job in jobs}
    models, seeds = [_build(job) for job in jobs], list(folders)

    def after_epoch(seed: int, history: list[dict]) -> None:
        write_whole(folders[seed] / "epochs", str(len(history)).encode())
        if watch:
            watch.look(f"{first.arm}, seed {seed}: epoch {len(history)}, {history[-1]['test_accuracy']:.2f} %")

    precision = {"bfloat16": "bf16"}.get(first.precision, first.precision)
    settings = train, distorted(test, arm.test)[0], first.recipe
    history = fit(
        models[0],
        *settings,
        seeds[0],
        first.device,
        precision,
        first.folder,
        progress=False,
        name=arm.model,
        after_epoch=lambda history: after_epoch(seeds[0], history),
    )
    return models, [history]


def _diverged(job: Job, error: FloatingPointError) -> tuple[list[torch.nn.Module], list[dict]]:
    """The network of a run that stopped, as its last good epoch left it, and its row."""
    model, path = _build(job), job.folder / "checkpoint.stn"
    state = load_checkpoint(path)
    fill(model, state["model"], path)
    return [model.to(job.device).eval()], [{**_row(job, model, state["history"]), "diverged": str(error)}]


def _row(job: Job, model: torch.nn.Module, history: list[dict]) -> dict:
    """What the results say of one run."""
    arm, recipe = job.study.arms[job.arm], job.recipe
    train, test = _data(job.study, job.device)
    bent, _ = distorted(test, arm.test)
    row = {
        "arm": job.arm,
        "seed": job.seed,
        "model": arm.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "mflop": mflop(model, bent),
        "recipe": asdict(recipe),
        "data": train.name,
        "images": [len(train), len(test)],
        "test_accuracy": history[-1]["test_accuracy"] if history else evaluate(model, bent)["accuracy"],
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "precision": job.precision,
        "history": [{key: round(value, 4) for key, value in row.items()} for row in history],
    }
    if isinstance(model.transformer, SpatialTransformer):
        row["theta"] = pose_spread(model, bent)  # does it look at every picture in its own way?
    others = [name for name in dict.fromkeys(["upright", *arm.also]) if name != arm.test]
    if arm.test != "upright" or arm.also:
        row["tests"] = {arm.test: row["test_accuracy"]}
        row["tests"].update({name: evaluate(model, distorted(test, name)[0])["accuracy"] for name in others})
    if job.study.measure:
        row.update(job.study.measure(model, train, test, arm.test, job.seed))
    return row


def mflop(model: torch.nn.Module, data: Images) -> float:
    """Millions of floating point operations for one image, forward: convolutions and matrix products, as torch counts them."""
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(as_float(data.images[:1]))
    return round(counter.get_total_flops() / 1e6, 3)


class Watch:
    """One progress bar over a whole study, with the time left. It reads how far each run is from that run's folder.

    A run counts by its arithmetic, plus something an image, for a small network waits for more than its arithmetic.
    """

    def __init__(self, jobs: list[Job], progress: bool):
        self.jobs = jobs
        self.weights = [job.recipe.epochs * self._cost(job) for job in jobs] if progress else []
        shape = "{percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left; {desc}"
        self.bar = tqdm(total=sum(self.weights) or 1, disable=not progress, bar_format=shape, smoothing=0, dynamic_ncols=True)

    @staticmethod
    def _cost(job: Job) -> float:
        arm = job.study.arms[job.arm]
        # Any spread costs the same.
        spread = {"spread": {"mean": [1.0, 0, 0, 0, 1, 0], "covariance": torch.zeros(6, 6).tolist()}} if arm.spread_of else {}
        test = _data(job.study, job.device)[1].subset(slice(0, 1))
        return 5 + mflop(build(arm.model, **spread).to(job.device), distorted(test, arm.test)[0])

    def __enter__(self) -> "Watch":
        self.bar.initial = self._done()
        self.bar.update(self.bar.initial)
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def _done(self) -> float:
        done = 0.0
        for job, weight in zip(self.jobs, self.weights, strict=False):
            with suppress(FileNotFoundError, ValueError):
                done += weight * min(1.0, int((job.folder / "epochs").read_text()) / job.recipe.epochs)
        return done

    def look(self, line: str = "") -> None:
        """Bring the bar up to date. line: what has just happened."""
        if self.weights:
            self.bar.set_description_str(line or self.bar.desc, refresh=False)
            self.bar.update(self._done() - self.bar.n)


def provenance(device: torch.device) -> dict[str, str]:
    """Where a number comes from: commit, date, machine and versions."""
    cuda = device.type == "cuda"
    return {
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@cache
def _commit() -> str:
    """The commit that this process runs, "+changes" where the package differs from it. Asked once: a later one is not what runs."""
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain", "stn_helpers") else "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ASSETS.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _ship(job: Job, model: torch.nn.Module, row: dict, assets: Path) -> dict:
    """Publish the weights of one run: {file: what the results file says of it}."""
    name = job.study.ship[job.arm]
    options = {"conv_dropout": job.recipe.conv_dropout, "dropout": job.recipe.dropout}
    about = {"model": row["model"], "options": options, "data": job.study.data, "seed": row["seed"]}
    digest = save_weights(assets / "checkpoints" / f"{name}.safetensors", model, about)
    bent, _ = distorted(_data(job.study, job.device)[1], job.study.arms[job.arm].test)
    found = {"sha256": digest, "confusion": confusion(model, bent).tolist(), "test_accuracy": evaluate(model, bent)["accuracy"]}
    return {name: {"arm": job.arm, "seed": row["seed"], **found}}

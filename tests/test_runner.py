"""runner.py: what is missing is run, nothing is run twice, and every number says where it comes from."""

import json
import os
import signal
import statistics
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
import torch
from by_name import DIGITS, build
from filelock import FileLock
from torch import nn

from stn_helpers.data.distortions import distorted
from stn_helpers.data.files import sha256
from stn_helpers.data.sets import Images, load
from stn_helpers.training.checkpoint import load_checkpoint, load_weights
from stn_helpers.training.recipes import RECIPES, Recipe
from stn_helpers.training.trainer import evaluate, fit
from studies import runner
from studies.networks import cifar_net, count, digit_net
from studies.runner import key_of, run_study
from studies.study import Arm, Study, attended, confusion, pose_spread

QUICK = Recipe(epochs=2, batch_size=50, lr=0.02)
SMALL = Study(
    name="small_study",
    data="cifar10",
    arms={
        "with ST": Arm(partial(cifar_net, "small", "light"), QUICK),
        "without ST": Arm(partial(cifar_net, "small", "plain"), QUICK),
    },
    ship={"with ST": "small_stn"},
)


@pytest.fixture(scope="module", autouse=True)
def small_data(small_cifar_for_module):
    """200 + 50 images in the place of CIFAR-10."""


def changed(study: Study, **how) -> Study:
    """The study with another recipe for every arm."""
    return replace(study, arms={name: replace(arm, recipe=replace(arm.recipe, **how)) for name, arm in study.arms.items()})


def study(folder, which: Study = SMALL, **options) -> dict:
    return run_study(which, assets=folder / "assets", runs=folder / "runs", device="cpu", progress=False, **options)


def results_file(folder):
    return folder / "assets" / "results" / "small_study.json"


def timeless(rows: list[dict]) -> list[dict]:
    """The rows of a results file without clock, date and the like."""
    return [
        {**row, "commit": 0, "date": 0, "train_seconds": 0, "history": [clockless(epoch) for epoch in row["history"]]}
        for row in rows
    ]


def clockless(epoch: dict) -> dict:
    return {**epoch, "seconds": 0, "images_per_second": 0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole study of two seeds: its folder."""
    folder = tmp_path_factory.mktemp("finished")
    study(folder, seeds=2, command="make small")
    return folder


@pytest.fixture
def runs_of(monkeypatch):
    """What is trained from here on: a list of (arm, seed)."""
    seen, real = [], runner.fit

    def watched(model, train, test, recipe, seed, *rest, **options):
        seen.append((options["name"].split(", ", 1)[1], seed))
        return real(model, train, test, recipe, seed, *rest, **options)

    monkeypatch.setattr(runner, "fit", watched)
    return seen


def test_every_run_says_where_it_comes_from(finished):
    results = json.loads(results_file(finished).read_text())
    assert [(row["arm"], row["seed"]) for row in results["runs"]] == [
        ("with ST", 0),
        ("with ST", 1),
        ("without ST", 0),
        ("without ST", 1),
    ]
    for row in results["runs"]:
        assert row["command"] == "make small" and row["commit"] and row["date"].endswith("UTC")
        assert "CPU" in row["device"] and row["torch"] == torch.__version__ and row["precision"] == "float32"
        assert row["recipe"]["epochs"] == 2 and row["data"] == "CIFAR-10" and row["images"] == [200, 50]
        seconds = sum(epoch["seconds"] for epoch in row["history"])
        assert row["train_seconds"] == pytest.approx(seconds, abs=0.051)  # it is rounded to a tenth
        assert [epoch["epoch"] for epoch in row["history"]] == [1, 2]
        assert row["test_accuracy"] == row["history"][-1]["test_accuracy"]


def test_the_parameters_are_those_of_the_network(finished):
    runs = json.loads(results_file(finished).read_text())["runs"]
    for row in runs:
        assert row["parameters"] == count(SMALL.arms[row["arm"]].build())
        assert row["network"] == "cifar_net" and row["arguments"]["args"][0] == "small" and row["arguments"]["options"] == {}
        assert (row["train_on"], row["test_on"]) == ("upright", "upright")


def test_the_summary_is_mean_and_standard_deviation_of_the_last_epochs(finished):
    results = json.loads(results_file(finished).read_text())
    for row in results["summary"]:
        last = [run["history"][-1]["test_accuracy"] for run in results["runs"] if run["arm"] == row["arm"]]
        assert row["mean"] == statistics.mean(last) and row["sd"] == statistics.stdev(last) and row["seeds"] == len(last) == 2


def test_the_shipped_weights_are_the_file_and_accuracy_of_the_results(finished):
    shipped = json.loads(results_file(finished).read_text())["weights"]["small_stn"]
    file = finished / "assets" / "checkpoints" / "small_stn.safetensors"
    assert shipped["sha256"] == sha256(file) and shipped["arm"] == "with ST" and shipped["seed"] == 0
    tensors, about = load_weights(file)
    assert (about["study"], about["network"], about["test_on"]) == ("small_study", "cifar_net", "upright")
    model = cifar_net(*about["arguments"]["args"], **about["arguments"]["options"])
    model.load_state_dict(tensors)
    test = load("cifar10", train=False)
    assert evaluate(model, test)["accuracy"] == shipped["test_accuracy"]
    matrix = torch.tensor(shipped["confusion"])
    assert matrix.sum(1).tolist() == test.labels.bincount(minlength=10).tolist()
    assert 100 * matrix.trace().item() / 50 == shipped["test_accuracy"]


def test_a_run_with_a_transformer_says_how_its_theta_is_spread(finished):
    spreads = {run["arm"]: run.get("theta") for run in json.loads(results_file(finished).read_text())["runs"]}
    assert spreads["with ST"].keys() == {"angle", "scale_x", "scale_y", "shear", "shift_x", "shift_y"}
    assert spreads["without ST"] is None


def test_a_finished_study_runs_nothing_and_changes_nothing(finished, runs_of):
    before = results_file(finished).read_bytes()
    results = study(finished, seeds=2)
    assert runs_of == [] and results_file(finished).read_bytes() == before
    assert results == json.loads(before)


def test_only_the_missing_seeds_and_arms_are_run(tmp_path, runs_of):
    study(tmp_path, seeds=1, arms=["without ST"])
    assert runs_of == [("without ST", 0)]
    study(tmp_path, seeds=2, arms=["without ST"])
    assert runs_of == [("without ST", 0), ("without ST", 1)]
    study(tmp_path, seeds=1)
    assert runs_of == [("without ST", 0), ("without ST", 1), ("with ST", 0)]


def test_a_crash_in_the_middle_of_a_run_costs_neither_the_runs_before_nor_its_epochs(tmp_path, finished, monkeypatch, runs_of):
    real = runner.fit

    def crash(*inputs, **options):
        if options["name"].endswith("without ST"):
            real(*inputs, **options, stop_after=1)
            raise RuntimeError("power cut")
        return real(*inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "fit", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            study(tmp_path, seeds=1, command="make small")
    assert [row["arm"] for row in json.loads(results_file(tmp_path).read_text())["runs"]] == ["with ST"]
    runs_of.clear()
    went_on = study(tmp_path, seeds=1, command="make small")
    assert runs_of == [("without ST", 0)]
    whole = [row for row in json.loads(results_file(finished).read_text())["runs"] if row["seed"] == 0]
    assert timeless(went_on["runs"]) == timeless(whole)


def test_a_shorter_try_goes_to_a_file_of_its_own_and_publishes_nothing(finished, tmp_path):
    copytree(finished, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "assets" / "checkpoints" / "small_stn.safetensors"
    published = weights.read_bytes(), results_file(tmp_path).read_bytes()
    shorter = study(tmp_path, seeds=1, epochs=1, arms=["with ST"])
    assert [len(row["history"]) for row in shorter["runs"]] == [1] and shorter["summary"][0]["epochs"] == 1
    assert shorter["weights"] == {}
    assert json.loads(results_file(tmp_path).with_name("small_study_1_epochs.json").read_text()) == shorter
    assert (weights.read_bytes(), results_file(tmp_path).read_bytes()) == published


def test_another_recipe_is_run_for_itself(tmp_path):
    study(tmp_path / "one", seeds=1, arms=["without ST"])
    results = study(tmp_path / "one", changed(SMALL, lr=0.03), seeds=1, arms=["without ST"])
    assert [row["recipe"]["lr"] for row in results["runs"]] == [0.02, 0.03]
    assert [(row["seeds"], row["sd"]) for row in results["summary"]] == [(1, None), (1, None)]


def test_another_precision_is_run_for_itself_and_a_study_has_one_of_its_own(tmp_path, runs_of):
    study(tmp_path, seeds=1, arms=["without ST"])
    results = study(tmp_path, replace(SMALL, precision="bfloat16"), seeds=1, arms=["without ST"])
    assert [row["precision"] for row in results["runs"]] == ["float32", "bfloat16"] and len(runs_of) == 2
    study(tmp_path, seeds=1, arms=["without ST"])
    study(tmp_path, seeds=1, arms=["without ST"], precision="bfloat16")
    assert len(runs_of) == 2


def test_a_renamed_arm_does_not_lock_its_study(tmp_path):
    study(tmp_path, seeds=1, arms=["without ST"])
    renamed = replace(SMALL, arms={"with ST": SMALL.arms["with ST"], "alone": SMALL.arms["without ST"]})
    results = study(tmp_path, renamed, seeds=1, arms=["alone"])
    assert [row["arm"] for row in results["runs"]] == ["alone", "without ST"]  # the old name comes last


def test_a_row_says_where_its_code_had_changes(monkeypatch):
    answers = {"rev-parse": "abc1234", "status": " M studies/runner.py"}
    monkeypatch.setattr(runner, "_git", lambda word, *rest: answers[word])
    runner.commit.cache_clear()
    assert runner.commit() == "abc1234+changes"
    runner.commit.cache_clear()
    answers["status"] = ""
    assert runner.commit() == "abc1234"
    runner.commit.cache_clear()


def test_a_checkout_without_git_says_that_its_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "ASSETS", tmp_path / "assets")  # no repository there
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    runner.commit.cache_clear()
    assert runner.commit() == "unknown"
    runner.commit.cache_clear()


def test_the_results_file_is_written_by_one_process_at_a_time(tmp_path, finished, monkeypatch):
    """While another holds the lock nothing is read that could be old by the time it is written."""
    copytree(finished, tmp_path, dirs_exist_ok=True)
    path, real, begun, reading = results_file(tmp_path), runner._read, threading.Event(), threading.Event()
    results = json.loads(path.read_text())
    row = results["runs"].pop()
    path.write_text(json.dumps(results))
    job = SimpleNamespace(study=SMALL, name=row["arm"], seed=row["seed"], key=key_of(row))
    monkeypatch.setattr(runner, "_read", lambda *inputs: (reading.set(), real(*inputs))[1])
    monkeypatch.setattr(runner, "FileLock", lambda *inputs: (begun.set(), FileLock(*inputs))[1])
    with FileLock(path.with_suffix(".lock")):
        keeper = threading.Thread(target=runner._keep, args=(path, job, tmp_path / "assets", (row, None)))
        keeper.start()
        assert begun.wait(60) and not reading.wait(0.3)
        path.write_text(json.dumps({**results, "runs": results["runs"][1:]}))  # what the other one writes
    keeper.join(60)
    assert [(run["arm"], run["seed"]) for run in json.loads(path.read_text())["runs"]] == [
        ("with ST", 1),
        ("without ST", 0),
        ("without ST", 1),
    ]


def test_what_another_process_has_added_meanwhile_is_kept(tmp_path, monkeypatch):
    real = runner.fit

    def slow(*inputs, **options):
        with monkeypatch.context() as patch:
            patch.setattr(runner, "fit", real)
            study(tmp_path, seeds=1, arms=["with ST"])  # as another process would, while this one trains
        return real(*inputs, **options)

    monkeypatch.setattr(runner, "fit", slow)
    results = study(tmp_path, seeds=1, arms=["without ST"])
    assert [row["arm"] for row in results["runs"]] == ["with ST", "without ST"]
    assert list(results["weights"]) == ["small_stn"]


def test_an_unknown_study_or_arm_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="study is 'none'; expected one of addition"):
        run_study("none", assets=tmp_path, runs=tmp_path)
    with pytest.raises(ValueError, match=r"unknown arms \['nothing'\]; expected some of with ST; without ST"):
        study(tmp_path, arms=["nothing"])


# Tested under a distortion


@pytest.fixture(scope="module")
def bent(tmp_path_factory):
    """A study of digits that are turned, with what its measure was asked: (results, folder, asked)."""
    folder, asked = tmp_path_factory.mktemp("bent"), []

    def measure(model, sets, arm, seed):
        asked.append((sets.train.name, len(sets.test), arm.test, seed))
        return {"answer": [seed, arm.test]}

    turning = replace(RECIPES["digits"], epochs=2)
    arms = {
        "turned": Arm(DIGITS["digit"], turning, "turned"),
        "upright": Arm(DIGITS["digit"], turning, "turned", test_on="upright"),
        "plain": Arm(DIGITS["digit-plain"], turning, "turned"),
    }
    return study(folder, Study("small_study", "digits", arms, {"turned": "bent_stn"}, measure), seeds=1), folder, asked


def published(folder):
    """The network of a study's weights, and the digits that test it, as they are and turned."""
    tensors, about = load_weights(folder / "assets" / "checkpoints" / "bent_stn.safetensors")
    model = build("digit")
    assert about["test_on"] == "turned"
    model.load_state_dict(tensors)
    digits = load("digits", train=False)
    return model, digits, distorted(digits, "turned")[0]


def test_an_arm_is_tested_under_its_distortion_and_upright_beside_it(bent):
    results, folder, _ = bent
    turned, upright, plain = results["runs"]
    model, digits, bent_digits = published(folder)
    right = {"turned": evaluate(model, bent_digits)["accuracy"], "upright": evaluate(model, digits)["accuracy"]}
    assert right["turned"] != right["upright"]
    assert turned["tests"] == right and turned["test_accuracy"] == right["turned"]
    assert plain["tests"].keys() == {"turned", "upright"} and "theta" not in plain
    assert turned["theta"] == pose_spread(model, bent_digits)
    assert turned["train_on"] == "turned" == upright["train_on"] and turned["data"] == "digits" and turned["images"] == [1437, 360]


def test_two_arms_that_differ_in_their_test_alone_are_each_tested_in_their_own_way(bent):
    model, digits, _ = published(bent[1])
    upright = bent[0]["runs"][1]
    assert upright["test_accuracy"] == evaluate(model, digits)["accuracy"] and "tests" not in upright


def test_what_is_shipped_of_a_distorted_arm_is_tested_under_its_distortion(bent):
    results, folder, _ = bent
    model, _, bent_digits = published(folder)
    (shipped,) = results["weights"].values()
    assert shipped["test_accuracy"] == results["runs"][0]["test_accuracy"]
    assert shipped["confusion"] == confusion(model, bent_digits).tolist()


def test_a_study_measures_more_of_each_run_and_puts_it_into_its_row(bent):
    results, _, asked = bent
    assert asked == [("digits", 360, how, 0) for how in ("turned", "upright", "turned")]
    assert [row["answer"] for row in results["runs"]] == [[0, "turned"], [0, "upright"], [0, "turned"]]


def test_rows_from_before_a_recipe_had_more_settings_are_the_same_arm(finished, tmp_path, runs_of):
    copytree(finished, tmp_path, dirs_exist_ok=True)
    results = json.loads(results_file(tmp_path).read_text())
    for row in results["runs"]:
        del row["recipe"]["optimizer"], row["recipe"]["clip"]
    results_file(tmp_path).write_text(json.dumps(results))
    study(tmp_path, seeds=2)
    assert runs_of == []
    summary = study(tmp_path, seeds=3, arms=["without ST"])["summary"]
    assert runs_of == [("without ST", 2)]
    assert [(row["arm"], row["seeds"]) for row in summary] == [("with ST", 2), ("without ST", 3)]


# Handed to an executor

BRIEF = replace(RECIPES["digits"], epochs=3, batch_size=128)


def dropping(family: str | None, width: int = 8) -> nn.Module:
    """A network for digits that draws from torch's one generator while it trains."""
    network = digit_net(family, width)
    network.stem.append(nn.Dropout2d(0.2))
    return network


def few(data: Images) -> Images:
    """Enough for three steps an epoch."""
    return data.subset(slice(384))


def held(model, train, test, recipe, seed, device, precision, out, **options) -> list[dict]:
    """`fit`, which stays after two epochs for as long as there is a file HOLD above its folder: there it can be killed."""
    after_epoch, hold = options.pop("after_epoch"), Path(out).parent.parent / "HOLD"

    def wait(history: list[dict]) -> None:
        after_epoch(history)
        while len(history) == 2 and hold.exists():
            time.sleep(0.02)

    return fit(model, train, test, recipe, seed, device, precision, out, after_epoch=wait, **options)


TINY = Study(
    name="tiny_study",
    data="digits",
    arms={
        "with ST": Arm(partial(dropping, "affine"), BRIEF, "turned"),
        "without ST": Arm(partial(dropping, None), BRIEF, "turned"),
        "wider, without ST": Arm(partial(dropping, None, 14), BRIEF),
    },
    ship={"with ST": "tiny_stn"},
    prepare=few,
)
HELD = replace(TINY, arms={name: replace(arm, train=held) for name, arm in TINY.arms.items()})


def tiny(folder, which: Study = TINY, **options) -> dict:
    """A study of three arms on digits, small enough for many processes."""
    options = {"progress": False, "seeds": 2, **options}
    return run_study(which, assets=folder / "assets", runs=folder / "runs", device="cpu", **options)


def tiny_file(folder):
    return folder / "assets" / "results" / "tiny_study.json"


def processes(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,))


def test_threads_and_processes_give_bit_for_bit_what_one_process_gives(tmp_path):
    alone = tiny(tmp_path / "alone")
    assert len(alone["runs"]) == 6
    for number, executor in enumerate((ThreadPoolExecutor(3), processes(2))):
        with executor:
            spread_out = tiny(tmp_path / str(number), executor=executor)
        assert timeless(spread_out["runs"]) == timeless(alone["runs"]) and spread_out["summary"] == alone["summary"]
        assert spread_out["weights"] == alone["weights"]
        shipped = (tmp_path / str(number) / "assets/checkpoints/tiny_stn.safetensors").read_bytes()
        assert shipped == (tmp_path / "alone/assets/checkpoints/tiny_stn.safetensors").read_bytes()


def test_an_executor_gets_only_what_is_missing(tmp_path):
    asked = []

    class Counting(ThreadPoolExecutor):
        def submit(self, job, *words, **options):
            asked.append(words[0].key[:2])
            return super().submit(job, *words, **options)

    tiny(tmp_path, arms=["with ST"], seeds=1)
    with Counting(2) as executor:
        tiny(tmp_path, executor=executor)
        assert sorted(asked) == [
            ("wider, without ST", 0),
            ("wider, without ST", 1),
            ("with ST", 1),
            ("without ST", 0),
            ("without ST", 1),
        ]
        asked.clear()
        tiny(tmp_path, executor=executor)
        assert asked == []


def test_one_job_that_fails_does_not_take_the_others_with_it(tmp_path, monkeypatch):
    real = runner.fit

    def fails(model, *inputs, name, **options):
        if name == "tiny_study, without ST":
            raise RuntimeError("the disk is full")
        return real(model, *inputs, name=name, **options)

    monkeypatch.setattr(runner, "fit", fails)
    with ThreadPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="the disk is full"):
        tiny(tmp_path, executor=executor)
    kept = json.loads(tiny_file(tmp_path).read_text())["runs"]
    assert [(row["arm"], row["seed"]) for row in kept] == [
        (arm, seed) for arm in ("with ST", "wider, without ST") for seed in (0, 1)
    ]


def test_a_run_that_diverges_is_a_result_too_and_the_study_goes_on(tmp_path, monkeypatch):
    real, trained = runner.fit, []

    def breaks(model, *inputs, name, **options):
        trained.append(name)
        if name == "tiny_study, without ST":
            real(model, *inputs, name=name, stop_after=1, **options)
            raise FloatingPointError("the loss is not finite at step 2 of epoch 2")
        return real(model, *inputs, name=name, **options)

    monkeypatch.setattr(runner, "fit", breaks)
    results = tiny(tmp_path)
    rows = [row for row in results["runs"] if row["arm"] == "without ST"]
    assert [(row["seed"], row["diverged"]) for row in rows] == [(k, "the loss is not finite at step 2 of epoch 2") for k in (0, 1)]
    for row in rows:  # as the last good epoch left it
        assert len(row["history"]) == 1 and row["test_accuracy"] == pytest.approx(row["history"][0]["test_accuracy"], abs=1e-4)
        assert row["tests"]["turned"] == row["test_accuracy"]
    assert {row["arm"]: row.get("diverged") for row in results["summary"]} == {
        "with ST": None,
        "without ST": 2,
        "wider, without ST": None,
    }
    assert all("diverged" not in row and len(row["history"]) == 3 for row in results["runs"] if row not in rows)
    trained.clear()
    assert tiny(tmp_path) == results and not trained


def test_a_run_that_diverges_at_once_counts_as_it_began(tmp_path):
    broken = changed(TINY, lr=1e25, optimizer="sgd", one_cycle=False)
    (row,) = tiny(tmp_path, broken, seeds=1, arms=["without ST"])["runs"]
    assert "not finite" in row["diverged"] and row["history"] == []
    untrained, (bent, _) = TINY.arms["without ST"].build(0).eval(), distorted(load("digits", train=False), "turned")
    assert row["test_accuracy"] == evaluate(untrained, bent)["accuracy"]


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def history(folder, arm: str) -> list[dict]:
    """The epochs that a run of the tiny study has done, as its checkpoint tells."""
    files = list((folder / "runs").glob(f"tiny_study-{arm}-????????-0/checkpoint.stn"))
    return load_checkpoint(files[0])["history"] if files else []


def holding(folder: Path) -> Path:
    """A folder in which runs stay after two epochs."""
    folder.mkdir()
    (folder / "HOLD").touch()
    return folder


def test_a_pool_that_loses_a_process_says_so_and_the_same_call_goes_on(tmp_path):
    undisturbed = tiny(tmp_path / "alone", HELD, seeds=1, arms=["without ST"])
    folder = holding(tmp_path / "killed")

    def kill(executor):
        wait_for(lambda: len(history(folder, "without-st")) == 2)
        for process in list(executor._processes.values()):
            process.kill()

    with processes(1) as executor, pytest.raises(BrokenProcessPool):
        killer = threading.Thread(target=kill, args=(executor,))
        killer.start()
        tiny(folder, HELD, seeds=1, arms=["without ST"], executor=executor)
    killer.join()
    assert not tiny_file(folder).exists()
    before = history(folder, "without-st")[0]["seconds"]
    with processes(1) as executor:
        went_on = tiny(folder, HELD, seeds=1, arms=["without ST"], executor=executor)
    assert timeless(went_on["runs"]) == timeless(undisturbed["runs"])
    assert went_on["runs"][0]["history"][0]["seconds"] == round(before, 4)  # that epoch was not trained again


def test_a_real_dask_cluster_loses_a_worker_half_way_and_the_study_loses_nothing(tmp_path):
    distributed = pytest.importorskip("distributed")
    undisturbed = tiny(tmp_path / "alone", HELD, seeds=1)
    folder = holding(tmp_path / "cluster")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50)
    with cluster, distributed.Client(cluster) as client:
        pids, killed = client.run(os.getpid), []

        def kill():
            wait_for(lambda: len(history(folder, "with-st")) == 2)
            busy = client.processing().items()
            worker = next(where for where, tasks in busy if any("run_job" in str(task) for task in tasks))
            os.kill(pids[worker], getattr(signal, "SIGKILL", signal.SIGTERM))
            killed.append((pids[worker], history(folder, "with-st")[0]["seconds"]))
            (folder / "HOLD").unlink()

        killer = threading.Thread(target=kill)
        killer.start()
        spread_out = tiny(folder, HELD, executor=client.get_executor(), seeds=1)
        killer.join()
        assert killed and killed[0][0] not in client.run(os.getpid).values()  # it is gone; Dask started another
    assert [row["arm"] for row in spread_out["runs"]] == list(TINY.arms)
    assert timeless(spread_out["runs"]) == timeless(undisturbed["runs"])
    assert spread_out == json.loads(tiny_file(folder).read_text())
    assert spread_out["runs"][0]["history"][0]["seconds"] == round(killed[0][1], 4)


THE_STUDY = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
import torch
from test_runner import HELD, tiny
torch.set_num_threads(1)
tiny(Path(sys.argv[1]), HELD, seeds=1, arms=["with ST", "without ST"], progress=True)
"""


def test_kill_9_twice_and_the_same_command_ends_bit_for_bit_where_it_would_have(start, tmp_path):
    undisturbed = tiny(tmp_path / "alone", HELD, seeds=1, arms=["with ST", "without ST"])
    folder = holding(tmp_path / "killed")
    for arm in ("with-st", "without-st"):
        child = start(["-c", THE_STUDY, str(folder)], data=tmp_path)
        wait_for(lambda arm=arm, child=child: child.poll() is not None or len(history(folder, arm)) == 2)
        child.kill()
        _, errors = child.communicate()
        assert child.returncode == -signal.SIGKILL or os.name != "posix", errors
    child = start(["-c", THE_STUDY, str(folder)], data=tmp_path)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    results = json.loads(tiny_file(folder).read_text())
    assert timeless(results["runs"]) == timeless(undisturbed["runs"]) and results["summary"] == undisturbed["summary"]


def test_two_processes_that_begin_the_same_run_train_it_once(start, tmp_path):
    children = [start(["-c", THE_STUDY, str(tmp_path)], data=tmp_path) for _ in range(2)]
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors
    rows = json.loads(tiny_file(tmp_path).read_text())["runs"]
    assert [row["arm"] for row in rows] == ["with ST", "without ST"]
    for row, arm in zip(rows, ("with-st", "without-st"), strict=True):
        assert row["history"][0]["seconds"] == round(history(tmp_path, arm)[0]["seconds"], 4)


# Random theta, and the bar

RANDOM = Study(
    "random_study",
    "cifar10",
    {
        "light": Arm(partial(cifar_net, "small", "light"), QUICK),
        "random": Arm(partial(cifar_net, "small", "random"), QUICK, spread_of="light", against="light"),
    },
    measure=attended,
)


@pytest.mark.parametrize("executor", [None, "threads"])
def test_a_random_theta_takes_the_spread_of_the_learned_one_of_its_seed(tmp_path, monkeypatch, executor):
    spreads, real = [], runner.Job.build

    def watched(job):
        spreads.append((job.name, job.seed, job.spread))
        return real(job)

    monkeypatch.setattr(runner.Job, "build", watched)
    with ThreadPoolExecutor(2) as pool:
        rows = study(tmp_path, RANDOM, seeds=2, executor=pool if executor else None)["runs"]
    lights = {row["seed"]: row["spread"] for row in rows if row["arm"] == "light"}
    assert [(name, spread) for name, _, spread in spreads[:2]] == [("light", None)] * 2
    assert sorted(spreads[2:], key=lambda one: one[1]) == [("random", seed, lights[seed]) for seed in (0, 1)]
    assert lights[0] != lights[1]
    for row in rows[2:]:
        # One theta for every picture: what is left is the rounding of a mean, degrees.
        assert row["theta"]["angle"][1] < 1e-6
        assert row["spread"]["mean"] == pytest.approx(lights[row["seed"]]["mean"], abs=1e-6)


def test_a_random_theta_alone_is_refused_until_the_learned_one_is_there(tmp_path):
    with pytest.raises(ValueError, match="'random' draws from the spread of 'light', of which seed 0 is not there"):
        study(tmp_path, RANDOM, seeds=1, arms=["random"])
    study(tmp_path, RANDOM, seeds=1, arms=["light"])
    assert [row["arm"] for row in study(tmp_path, RANDOM, seeds=1, arms=["random"])["runs"]] == ["light", "random"]


def test_every_row_has_its_arithmetic(finished):
    first, *_, last = json.loads(results_file(finished).read_text())["runs"]
    # Two operations a multiply-add.
    classifier = 2 * (28 * 28 * 10 * 75 + 10 * 10 * 20 * 250 + 500 * 50 + 50 * 10)
    assert last["mflop"] == round(classifier / 1e6, 3)
    localization = 2 * (16 * 16 * 16 * 75 + 8 * 8 * 32 * 400 + 512 * 32 + 32 * 6)
    assert first["mflop"] == round((classifier + localization) / 1e6, 3)


def test_an_arm_can_be_tested_under_more_than_it_was_trained_for(tmp_path):
    arms = {"plain": Arm(partial(cifar_net, "small", "plain"), QUICK, also=("rotated", "rts"))}
    results = study(tmp_path, Study("also", "cifar10", arms, ship={"plain": "also_plain"}), seeds=1)
    tensors, _ = load_weights(tmp_path / "assets/checkpoints/also_plain.safetensors")
    model, test = cifar_net("small", "plain"), load("cifar10", train=False)
    model.load_state_dict(tensors)
    right = {name: evaluate(model, distorted(test, name)[0])["accuracy"] for name in ("upright", "rotated", "rts")}
    assert results["runs"][0]["tests"] == right


def test_a_test_set_is_distorted_once_for_all_arms(tmp_path, monkeypatch):
    from studies import study as module

    asked, real = [], module.distorted
    monkeypatch.setattr(module, "distorted", lambda data, name: (asked.append(name), real(data, name))[1])
    runner._SETS.clear()
    tiny(tmp_path, seeds=1)
    assert sorted(asked) == ["turned", "upright"]


def test_a_key_tells_apart_all_that_makes_another_run():
    row = {"arm": "a", "seed": 0, "recipe": {"epochs": 2}, "train_on": "turned", "test_on": "turned", "precision": "float32"}
    others = [
        {"arm": "b"},
        {"seed": 1},
        {"recipe": {"epochs": 3}},
        {"train_on": "upright"},
        {"test_on": "rts"},
        {"precision": "bfloat16"},
    ]
    assert all(key_of(row) != key_of({**row, **other}) for other in others) and key_of(row) == key_of(dict(row))


def test_the_bar_counts_epochs_over_the_whole_study(tmp_path, capsys):
    tiny(tmp_path, seeds=1, progress=True)
    errors = capsys.readouterr().err
    assert "9/9" in errors and "wider, without ST, seed 0: " in errors

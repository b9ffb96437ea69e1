"""runner.py: what is missing is run, nothing is run twice, and every number says where it comes from."""

import json
import statistics
from dataclasses import replace
from shutil import copytree

import pytest
import torch

from stn_helpers import runner
from stn_helpers.checkpoint import load_weights, sha256
from stn_helpers.classifiers import MODELS, build
from stn_helpers.data import load
from stn_helpers.distortions import DISTORTIONS, distorted
from stn_helpers.runner import run_study
from stn_helpers.studies import STUDIES, Arm, Study, confusion, pose_spread, summarise, thetas
from stn_helpers.training import RECIPES, Recipe, evaluate

SMALL = Study(
    name="small_study",
    data="cifar10",
    arms={"with ST": Arm("seed", "quick"), "without ST": Arm("seed-plain", "quick")},
    ship={"with ST": "small_stn"},
)
QUICK = Recipe(epochs=2, batch_size=50, lr=0.02)


@pytest.fixture(scope="module", autouse=True)
def small_study(small_cifar_for_module):
    """A study of two arms on 200 + 50 images, by the name of small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "STUDIES", {"small": SMALL})
        patch.setattr(runner, "RECIPES", {"quick": QUICK})
        yield


def study(folder, **options) -> dict:
    return run_study("small", assets=folder / "assets", runs=folder / "runs", device="cpu", progress=False, **options)


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
    """What is trained from here on: a list of (model, seed)."""
    seen, real = [], runner.fit

    def watched(model, train, test, recipe, seed, *rest, **options):
        seen.append((options["name"], seed))
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
        assert row["parameters"] == sum(p.numel() for p in build(row["model"]).parameters())


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
    model = build(about["model"], 7, **about["options"])
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
    assert runs_of == [("seed-plain", 0)]
    study(tmp_path, seeds=2, arms=["without ST"])
    assert runs_of == [("seed-plain", 0), ("seed-plain", 1)]
    study(tmp_path, seeds=1)
    assert runs_of == [("seed-plain", 0), ("seed-plain", 1), ("seed", 0)]


def test_a_crash_in_the_middle_of_a_run_costs_neither_the_runs_before_nor_its_epochs(tmp_path, finished, monkeypatch, runs_of):
    real = runner.fit

    def crash(*inputs, **options):
        if options["name"] == "seed-plain":
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
    assert runs_of == [("seed-plain", 0)]
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


def test_another_recipe_of_the_same_name_is_run_for_itself(tmp_path, monkeypatch):
    study(tmp_path / "one", seeds=1, arms=["without ST"])
    monkeypatch.setattr(runner, "RECIPES", {"quick": replace(QUICK, lr=0.03)})
    (tmp_path / "one" / "runs").rename(tmp_path / "one" / "old runs")
    results = study(tmp_path / "one", seeds=1, arms=["without ST"])
    assert [row["recipe"]["lr"] for row in results["runs"]] == [0.02, 0.03]
    assert [(row["seeds"], row["sd"]) for row in results["summary"]] == [(1, None), (1, None)]


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
    with pytest.raises(ValueError, match="study is 'none'; expected one of small"):
        run_study("none", assets=tmp_path, runs=tmp_path)
    with pytest.raises(ValueError, match=r"unknown arms \['nothing'\]; expected some of with ST; without ST"):
        study(tmp_path, arms=["nothing"])


# Tested under a distortion


@pytest.fixture(scope="module")
def bent(tmp_path_factory):
    """A study of digits that are turned, with what its measure was asked: (results, folder, asked)."""
    folder, asked = tmp_path_factory.mktemp("bent"), []

    def measure(model, train, test, distortion, seed):
        asked.append((type(model).__name__, train.name, test.name, len(test), distortion, seed))
        return {"answer": [seed, distortion]}

    arms = {
        "turned": Arm("digit", "turning", "turned"),
        "upright": Arm("digit", "turning"),
        "plain": Arm("digit-plain", "turning", "turned"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "STUDIES", {"small": Study("small_study", "digits", arms, {"turned": "bent_stn"}, measure)})
        patch.setattr(runner, "RECIPES", {"turning": replace(RECIPES["digits"], epochs=2)})
        return study(folder, seeds=1), folder, asked


def published(folder):
    """The network of a study's weights, and the digits that test it, as they are and turned."""
    tensors, about = load_weights(folder / "assets" / "checkpoints" / "bent_stn.safetensors")
    model = build(about["model"], **about["options"])
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
    assert turned["recipe"]["distortion"] == "turned" and turned["data"] == "digits" and turned["images"] == [1437, 360]


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
    assert asked == [
        (name, "digits", "digits", 360, how, 0)
        for name, how in (("DigitNet", "turned"), ("DigitNet", "upright"), ("DigitNet", "turned"))
    ]
    assert [row["answer"] for row in results["runs"]] == [[0, "turned"], [0, "upright"], [0, "turned"]]


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_a_study_names_what_there_is(name):
    for arm in STUDIES[name].arms.values():
        assert arm.model in MODELS and arm.recipe in RECIPES and arm.test in DISTORTIONS
    assert STUDIES[name].ship.keys() <= STUDIES[name].arms.keys()
    assert len({(arm.model, arm.recipe, arm.test) for arm in STUDIES[name].arms.values()}) == len(STUDIES[name].arms)


def test_rows_from_before_there_were_distortions_are_the_same_arm(finished, tmp_path, runs_of):
    copytree(finished, tmp_path, dirs_exist_ok=True)
    results = json.loads(results_file(tmp_path).read_text())
    for row in results["runs"]:
        del row["recipe"]["optimizer"], row["recipe"]["distortion"]
    results_file(tmp_path).write_text(json.dumps(results))
    study(tmp_path, seeds=2)
    assert runs_of == []
    summary = study(tmp_path, seeds=3, arms=["without ST"])["summary"]
    assert runs_of == [("seed-plain", 2)]
    assert [(row["arm"], row["seeds"]) for row in summary] == [("with ST", 2), ("without ST", 3)]


def test_twins_start_from_the_same_classifier():
    for kind in ("seed", "digit"):
        names = [name for name in MODELS if name.startswith(kind) and name != "digit-wide"]
        starts = [build(name, 4).classifier.state_dict() for name in names]
        for other in starts[1:]:
            assert all(torch.equal(starts[0][name], other[name]) for name in starts[0])


def test_confusion_counts_truth_in_rows_and_guesses_in_columns():
    test = load("cifar10", train=False)
    model = build("seed-plain").eval()
    slow = torch.zeros(10, 10, dtype=torch.int64)
    with torch.no_grad():
        for image, label in zip(test.images, test.labels, strict=True):
            slow[label, model(image[None].float() / 255).argmax()] += 1
    assert torch.equal(confusion(model, test, batch_size=20), slow)


def test_an_untrained_transformer_says_identity_of_every_image():
    test, model = load("cifar10", train=False), build("seed")
    assert torch.equal(thetas(model, test), torch.tensor([[1.0, 0, 0, 0, 1, 0]]).expand(50, 6))
    spread = {"angle": 0.0, "scale_x": 1.0, "scale_y": 1.0, "shear": 0.0, "shift_x": 0.0, "shift_y": 0.0}
    assert pose_spread(model, test) == {name: [mean, 0.0] for name, mean in spread.items()}


def test_summarise_keeps_recipes_and_precisions_apart():
    rows = [
        {"arm": "a", "recipe": {"epochs": epochs}, "precision": precision, "parameters": 1, "test_accuracy": accuracy}
        for epochs, precision, accuracy in ((1, "float32", 10.0), (2, "float32", 40.0), (2, "float32", 60.0), (2, "bfloat16", 70.0))
    ]
    short, long, other = summarise(rows)
    assert other["mean"] == 70.0
    assert (short["epochs"], short["mean"], short["sd"]) == (1, 10.0, None)
    assert (long["epochs"], long["mean"], long["sd"]) == (2, 50.0, pytest.approx(200**0.5))

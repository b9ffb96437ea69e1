"""stacked.py: many runs in one pass, each of them the run that it would be alone."""

import pytest
import torch
from torch import nn

from stn_helpers import runner, stacked, transformer
from stn_helpers.checkpoint import load_checkpoint
from stn_helpers.classifiers import MODELS, build
from stn_helpers.data import load
from stn_helpers.runner import run_study
from stn_helpers.stacked import Stack, fit_stacked, stackable
from stn_helpers.studies import Arm, Study
from stn_helpers.training import Recipe, Trainer, fit

QUICK = Recipe(epochs=2, batch_size=64, lr=0.05, localization=0.1, momentum=0.9, one_cycle=True, distortion="turned")
ADAM = Recipe(epochs=2, batch_size=64, lr=3e-3, weight_decay=1e-2, thirds=True, optimizer="adamw", label_smoothing=0.1)
SEEDS = [3, 1, 4]


@pytest.fixture(scope="module")
def digits():
    """192 + 100 digits of 28 pixels: (train, test)."""
    return load("digits", train=True).subset(slice(192)), load("digits", train=False).subset(slice(100))


def models(name: str) -> list[nn.Module]:
    return [build(name, seed) for seed in SEEDS]


def stack(digits, name: str, recipe: Recipe, outs=None, **options):
    """(models, histories) of three seeds trained at once."""
    networks = models(name)
    return networks, fit_stacked(networks, *digits, recipe, SEEDS, "cpu", "float32", outs, name=name, **options)


def one(digits, name: str, recipe: Recipe, seed: int, out=None):
    """(model, history) of one seed alone."""
    network = build(name, seed)
    return network, fit(network, *digits, recipe, seed, "cpu", "float32", out, name=name, progress=False)


def far(one: nn.Module, two: nn.Module) -> float:
    """The largest difference between two networks' weights."""
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), two.parameters(), strict=True))


# Every kind of layer, family and transformer that the studies train and that draws nothing.
@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("fcn-28", QUICK),
        ("st-fcn-projective-28", QUICK),
        ("st-fcn-tps-42", QUICK),
        ("st-cnn-affine-42", ADAM),
        ("digit-attention", ADAM),
        ("digit-looks-2", QUICK),
        ("digit-map", QUICK),
    ],
)
def test_each_stacked_run_is_the_run_that_it_would_be_alone(digits, name, recipe):
    together, histories = stack(digits, name, recipe)
    started = models(name)
    for model, history, seed, start in zip(together, histories, SEEDS, started, strict=True):
        alone, expected = one(digits, name, recipe, seed)
        # Rounding, which Adam enlarges where a gradient is nearly zero, is nothing beside what was learned.
        assert far(model, alone) < far(start, alone) / 100 and far(start, alone) > 1e-3
        assert [row["epoch"] for row in history] == [1, 2]
        for row, right in zip(history, expected, strict=True):
            assert row["train_loss"] == pytest.approx(right["train_loss"], abs=1e-5)
            assert row["test_loss"] == pytest.approx(right["test_loss"], abs=1e-4)
            assert row["train_accuracy"] == pytest.approx(right["train_accuracy"], abs=0.6)  # one image of 192
            assert row["test_accuracy"] == pytest.approx(right["test_accuracy"], abs=1.1)


def test_one_pass_serves_all_runs_and_each_is_charged_its_share_of_the_time(digits, monkeypatch):
    calls, real, clock = [], stacked.functional_call, iter(range(100))
    monkeypatch.setattr(stacked, "functional_call", lambda *words: calls.append(1) or real(*words))
    monkeypatch.setattr(stacked.time, "monotonic", lambda: 6.0 * next(clock))
    _, histories = stack(digits, "fcn-28", QUICK)
    assert len(calls) == 2 * 3  # epochs times steps, however many seeds
    assert [row["seconds"] for history in histories for row in history] == [2.0] * 6
    assert histories[0][0]["images_per_second"] == 96


def test_in_bf16_products_are_bf16_and_the_grid_stays_float32(digits, monkeypatch):
    grids, real = [], transformer.sample
    monkeypatch.setattr(transformer, "sample", lambda images, grid, **rest: grids.append(grid.dtype) or real(images, grid, **rest))
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        trainers = [Trainer(net, digits[0], QUICK, seed, dtype) for net, seed in zip(models("digit"), SEEDS, strict=True)]
        losses[dtype] = torch.stack([epoch.losses for epoch in Stack(trainers).run_epoch()])
    assert set(grids) == {torch.float32}
    # bfloat16 keeps 8 bits: the losses, near 2.3, move, and not by more than a few hundredths.
    assert 1e-5 < (losses[torch.float32] - losses[torch.bfloat16]).abs().max() < 0.05


def test_a_kill_between_two_saves_costs_nothing_and_the_others_catch_up(digits, tmp_path):
    outs = [tmp_path / str(seed) for seed in SEEDS]
    undisturbed, right = stack(digits, "digit", QUICK, [tmp_path / f"whole {seed}" for seed in SEEDS])

    def killed(seed: int, history: list[dict]) -> None:
        if seed == SEEDS[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stack(digits, "digit", QUICK, outs, after_epoch=killed)
    assert [len(load_checkpoint(out / "checkpoint.stn")["history"]) for out in outs] == [1, 1, 0]
    went_on, histories = stack(digits, "digit", QUICK, outs)
    for model, same, history, expected in zip(went_on, undisturbed, histories, right, strict=True):
        assert far(model, same) < 1e-6 and [row["epoch"] for row in history] == [1, 2]
        assert history[-1]["test_loss"] == pytest.approx(expected[-1]["test_loss"], abs=1e-5)


def test_fit_goes_on_with_a_stacked_checkpoint_and_a_stack_with_what_fit_left(digits, tmp_path):
    outs = [tmp_path / str(seed) for seed in SEEDS]
    alone, _ = one(digits, "digit", QUICK, SEEDS[0], outs[0])
    networks, histories = stack(digits, "digit", QUICK, outs)
    assert far(networks[0], alone) == 0 and len(histories[0]) == 2  # finished: nothing is trained again
    again, history = one(digits, "digit", QUICK, SEEDS[2], outs[2])
    assert far(again, networks[2]) == 0 and history == histories[2]


def test_a_run_that_diverges_stops_the_stack_with_its_step(digits):
    networks = models("digit")
    with torch.no_grad():
        networks[1].classifier[0].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite at step 1 of epoch 1"):
        fit_stacked(networks, *digits, QUICK, SEEDS, "cpu", "float32")


def test_a_theta_that_is_not_finite_is_found_though_no_pass_looks_for_it(digits):
    networks = models("digit")
    with torch.no_grad():
        networks[2].transformer.to_theta.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        fit_stacked(networks, *digits, QUICK, SEEDS, "cpu", "float32")
    assert all(net.transformer.check for net in networks)  # the networks themselves still look


@pytest.mark.parametrize("name", MODELS)
def test_what_can_be_stacked_draws_nothing_and_remembers_nothing(name):
    spread = {"spread": {"mean": [1.0, 0, 0, 0, 1, 0], "covariance": torch.eye(6).tolist()}} if name.endswith("random") else {}
    assert stackable(build(name, conv_dropout=0.0, dropout=0.0, **spread)) == (not name.startswith("strong") and not spread)
    if name.startswith("seed"):
        assert not stackable(build(name, conv_dropout=0.5, dropout=0.0)) and not stackable(build(name, conv_dropout=0, dropout=0.5))


def test_other_recipes_and_what_cannot_be_stacked_are_refused(digits):
    trainers = [Trainer(build("digit", seed), digits[0], recipe, seed) for seed, recipe in enumerate((QUICK, ADAM))]
    with pytest.raises(ValueError, match="different recipes"):
        Stack(trainers)
    drops = nn.Sequential(build("digit-plain"), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="dropout, noise or batch norm, and cannot be stacked"):
        Stack([Trainer(drops, digits[0], QUICK, 0)])


STUDY = Study(
    "stacked_study",
    "digits",
    {"with ST": Arm("digit", "quick", "turned", against="without ST"), "without ST": Arm("digit-plain", "quick", "turned")},
    ship={"with ST": "stacked_stn"},
)


def test_a_stacked_study_trains_the_seeds_of_an_arm_at_once_and_has_the_rows_that_it_would_have(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STUDIES", {"stacked": STUDY})
    monkeypatch.setattr(runner, "RECIPES", {"quick": QUICK})
    groups, real = [], runner.fit_stacked
    monkeypatch.setattr(runner, "fit_stacked", lambda *words, **rest: groups.append(words[4]) or real(*words, **rest))

    def study(folder, **options) -> dict:
        return run_study("stacked", assets=folder / "assets", runs=folder / "runs", device="cpu", progress=False, **options)

    study(tmp_path / "1", seeds=1, arms=["with ST"])
    together = study(tmp_path / "1", stacked=True)
    assert sorted(groups) == [[0, 1, 2], [1, 2]]  # what was there was not trained again
    alone = study(tmp_path / "2")
    assert [(row["arm"], row["seed"]) for row in together["runs"]] == [(row["arm"], row["seed"]) for row in alone["runs"]]
    for row, right in zip(together["runs"], alone["runs"], strict=True):
        assert row.keys() == right.keys() and row["test_accuracy"] == pytest.approx(right["test_accuracy"], abs=1.1)
    assert [row["seeds"] for row in together["summary"]] == [3, 3] and "gain" in together["summary"][0]
    assert together["weights"]["stacked_stn"]["seed"] == 0


def test_one_run_of_a_stack_that_diverges_does_not_take_the_others_with_it(tmp_path, monkeypatch):
    def built(name, seed, **options):
        network = build(name, seed, **options)
        if seed == 1:
            with torch.no_grad():
                network.classifier[0].bias.fill_(float("nan"))
        return network

    monkeypatch.setattr(runner, "STUDIES", {"stacked": STUDY})
    monkeypatch.setattr(runner, "RECIPES", {"quick": QUICK})
    monkeypatch.setattr(runner, "build", built)
    where = {"assets": tmp_path / "assets", "runs": tmp_path / "runs", "device": "cpu", "progress": False}
    rows = run_study("stacked", arms=["without ST"], stacked=True, **where)["runs"]
    assert [("diverged" in row, len(row["history"])) for row in rows] == [(False, QUICK.epochs), (True, 0), (False, QUICK.epochs)]


def test_a_stacked_study_trains_one_by_one_what_cannot_be_stacked(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STUDIES", {"strong": Study("strong", "digits", {"no ST": Arm("seed-plain", "drops")})})
    monkeypatch.setattr(runner, "RECIPES", {"drops": Recipe(epochs=1)})
    trained = []
    monkeypatch.setattr(runner, "run_jobs", lambda group, watch: trained.append([job.seed for job in group]))
    monkeypatch.setattr(runner, "_keep", lambda *_: None)
    run_study("strong", 2, assets=tmp_path, runs=tmp_path, device="cpu", progress=False, stacked=True)
    assert trained == [[0], [1]]

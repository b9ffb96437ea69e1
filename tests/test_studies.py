"""studies.py: what is compared, and what is said of it: means, paired differences with their intervals, poses."""

import statistics
from dataclasses import replace

import pytest
import torch
from scipy.stats import ttest_rel

from stn_helpers.data.distortions import DISTORTIONS, distorted
from stn_helpers.data.poses import corner_drift, undone
from stn_helpers.data.sets import load
from stn_helpers.training.trainer import RECIPES
from studies.networks import MODELS, build
from studies.study import (
    STUDIES,
    Arm,
    Study,
    attended,
    cifar10_arms,
    confusion,
    paired,
    pose_spread,
    summarise,
    thetas,
    trial_arms,
)


@pytest.fixture(scope="module", autouse=True)
def small_data(small_cifar_for_module):
    """200 + 50 images in the place of CIFAR-10."""


# Which arms

GRID = Study("grid", "digits", {f"{test}, {name}": Arm("digit", "digits", test) for test in ("upright", "turned") for name in "ab"})


@pytest.mark.parametrize(
    ("arms", "sets", "chosen"),
    [
        (None, None, ["upright, a", "upright, b", "turned, a", "turned, b"]),
        (["a"], None, ["upright, a", "turned, a"]),
        (None, ["turned"], ["turned, a", "turned, b"]),
        (["b", "upright, a"], None, ["upright, a", "upright, b", "turned, b"]),
        (["b"], ["upright"], ["upright, b"]),
        (["upright, a"], ["turned"], []),
    ],
)
def test_arms_are_chosen_by_name_by_the_end_of_it_and_by_set(arms, sets, chosen):
    assert GRID.choose(arms, sets) == chosen


def test_an_arms_own_name_means_that_arm_alone():
    assert STUDIES["straighten"].choose(["with ST"]) == ["with ST"]


def test_unknown_arms_and_sets_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown arms \['c'\]; expected some of upright, a; upright, b; .* b; a; b$"):
        GRID.choose(["a", "c"])
    with pytest.raises(ValueError, match=r"unknown sets \['rts'\]; expected some of upright; turned$"):
        GRID.choose(None, ["rts"])


@pytest.mark.parametrize("name", STUDIES)
def test_an_arm_is_compared_with_one_that_differs_in_its_network_alone(name):
    arms = STUDIES[name].arms
    for arm in arms.values():
        for other in filter(None, (arm.against, arm.spread_of)):
            ours, theirs = (replace(RECIPES[one.recipe], localization=1.0) for one in (arm, arms[other]))
            if arm.test.endswith(", undone"):  # the oracle differs in its pictures alone
                assert arm.test == f"{arms[other].test}, undone" and arms[other].model == arm.model
                continue
            theirs = replace(theirs, clip=ours.clip, localization_decay=ours.localization_decay)
            assert ours == theirs and arms[other].test == arm.test and arms[other].model != arm.model
        assert set(arm.also) <= set(DISTORTIONS)
        assert bool(arm.spread_of) == arm.model.endswith("-random")


@pytest.mark.parametrize("name", ["cifar10", "cifar10-strong"])
def test_the_cifar10_studies_have_every_place_on_every_set_and_train_under_what_they_test(name):
    arms = {key: arm for key, arm in STUDIES[name].arms.items() if key not in trial_arms()}
    for test in ("upright", "rotated", "rts", "perspective", "rotated disc"):
        here = {arm.model.split("-", 1)[1] for arm in arms.values() if arm.test == test}
        heavy = {"heavy"} if test in ("upright", "rotated") else set()
        others = {"frozen", "random", "feature", "window", "two"} if test != "rotated disc" else set()
        assert here == {"plain", "light", "no-warp"} | others | heavy
        assert all(RECIPES[arm.recipe].distortion == test for arm in arms.values() if arm.test == test)
    for arm in arms.values():
        assert arm.also == (("rotated", "rts", "perspective") if arm.test == "upright" else ())
    order = list(arms)
    assert all(order.index(arm.spread_of) < order.index(key) for key, arm in arms.items() if arm.spread_of)


def test_a_random_theta_has_the_spread_of_a_light_st_that_is_not_lost():
    taken = {name: arm.spread_of.split(", ", 1)[1] for name, arm in STUDIES["cifar10"].arms.items() if arm.spread_of}
    assert taken == {
        "upright, random theta": "light ST, a tenth of the rate",
        "rotated, random theta": "light ST",
        "rts, random theta": "light ST, a tenth of the rate",
        "perspective, random theta": "light ST, a tenth of the rate",
    }
    # The runner takes the spread from a run of the same recipe.
    for study in STUDIES.values():
        assert all(arm.recipe == study.arms[arm.spread_of].recipe for arm in study.arms.values() if arm.spread_of)


# Paired differences


def row(arm: str, seed: int, accuracy: float, **more) -> dict:
    found = {"arm": arm, "seed": seed, "test_accuracy": accuracy, "recipe": {"epochs": 2}, "precision": "float32", "parameters": 1}
    return {**found, **more}


OURS, THEIRS = [71.0, 75.5, 73.0, 79.0], [70.0, 71.0, 73.5, 74.0]
ROWS = [row(arm, seed, value) for arm, values in (("a", OURS), ("b", THEIRS)) for seed, value in enumerate(values)]


def test_a_gain_and_its_interval_are_those_of_scipys_paired_t_test():
    interval = ttest_rel(OURS, THEIRS).confidence_interval(0.95)
    gain = paired(ROWS, "a", "b")
    assert gain["mean"] == pytest.approx(2.5) and gain["seeds"] == 4
    assert (gain["low"], gain["high"]) == pytest.approx((interval.low, interval.high))


def test_the_share_of_the_rate_may_differ_and_nothing_else():
    slow = [row("a", 0, 71.0, recipe={"epochs": 2, "localization": 0.1}), row("b", 0, 70.0)]
    assert paired(slow, "a", "b")["mean"] == 1
    assert paired([row("a", 0, 71.0, recipe={"epochs": 2, "lr": 0.1}), row("b", 0, 70.0)], "a", "b") == {}


def test_the_slow_and_the_heavy_transformers_learn_at_a_tenth_of_the_rate():
    for name, arm in cifar10_arms("small", "study").items():
        # A random theta learns nothing; its recipe is that of the transformer whose spread it has.
        slow = name.endswith(("a tenth of the rate", "heavy ST")) or arm.spread_of.endswith("a tenth of the rate")
        assert RECIPES[arm.recipe].localization == (0.1 if slow else 0.5), name
    assert {RECIPES[arm.recipe].localization for arm in STUDIES["cifar10-strong"].arms.values()} == {0.1}


def test_only_seeds_that_both_arms_have_are_compared():
    gain = paired([*ROWS[:3], *ROWS[4:], row("b", 9, 0.0)], "a", "b")
    assert gain["seeds"] == 3 and gain["mean"] == pytest.approx((1.0 + 4.5 - 0.5) / 3)
    one = paired([ROWS[1], *ROWS[4:]], "a", "b")
    assert one == {"mean": 4.5, "low": None, "high": None, "seeds": 1}
    assert paired(ROWS[:4], "a", "b") == {} == paired([], "a", "b")


def test_runs_of_another_length_or_precision_are_not_a_pair():
    assert paired([ROWS[0], {**ROWS[4], "precision": "bfloat16"}], "a", "b") == {}
    assert paired([ROWS[0], {**ROWS[4], "recipe": {"epochs": 3}}], "a", "b") == {}


def test_a_gain_can_be_asked_for_under_another_test():
    rows = [
        row(arm, seed, 0.0, tests={"turned": value})
        for arm, seed, value in (("a", 0, 5.0), ("a", 1, 7.0), ("b", 0, 4.0), ("b", 1, 4.0))
    ]
    assert paired(rows, "a", "b", "turned")["mean"] == 2.0


def test_the_summary_has_the_gain_of_the_arms_that_are_against_another():
    arms = {"a": Arm("digit", "digits", against="b"), "b": Arm("digit-plain", "digits")}
    first, second = summarise(ROWS, arms)
    assert first["gain"] == paired(ROWS, "a", "b") and "gain" not in second
    assert first["mean"] == statistics.mean(OURS) and first["sd"] == statistics.stdev(OURS)
    assert "gain" not in summarise(ROWS[:4], arms)[0]


# What a transformer does to a set


def looking(bias: list[float], shake: float = 0.0):
    """A network whose transformer says this theta, shaken from image to image."""
    model = build("small-light").eval()
    with torch.no_grad():
        model.transformer.to_theta.bias.copy_(torch.tensor(bias))
        model.transformer.to_theta.weight.normal_(std=shake, generator=torch.Generator().manual_seed(0))
    return model


def test_a_row_says_what_the_transformer_did_to_the_distorted_test_set():
    test = load("cifar10", train=False)
    model = looking([0.9, 0.1, 0.0, -0.1, 0.8, 0.2], shake=0.02)
    bent, poses = distorted(test, "rotated")
    raw = thetas(model, bent)
    found = attended(model, test, test, "rotated", 0)
    assert found["corners"] == corner_drift(raw.reshape(-1, 2, 3), poses)
    assert found["undone"] == undone(raw.reshape(-1, 2, 3), poses)
    assert found["frame"] == undone(raw.reshape(-1, 2, 3), poses, period=90) != found["undone"]
    torch.testing.assert_close(torch.tensor(found["spread"]["mean"]), raw.mean(0))
    torch.testing.assert_close(torch.tensor(found["spread"]["covariance"]), torch.cov(raw.T))
    assert torch.tensor(found["spread"]["covariance"]).diagonal().min() > 0


def test_a_perspective_has_no_one_angle_but_corners():
    test = load("cifar10", train=False)
    assert attended(looking([1.0, 0, 0, 0, 1, 0]), test, test, "perspective", 0).keys() == {"corners", "spread"}


def test_a_transformer_that_collapsed_is_reported_without_its_corners():
    test = load("cifar10", train=False)
    found = attended(looking([0.0, 0, 0.3, 0, 0, 0.1]), test, test, "rotated", 0)
    assert "corners" not in found and found["spread"]["mean"] == pytest.approx([0, 0, 0.3, 0, 0, 0.1])


def test_a_network_without_a_transformer_at_its_input_has_nothing_to_say():
    test = load("cifar10", train=False)
    assert attended(build("small-plain"), test, test, "rotated", 0) == {} == attended(build("small-feature"), test, test, "rts", 0)


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_a_study_names_what_there_is(name):
    for arm in STUDIES[name].arms.values():
        assert arm.model in MODELS and arm.recipe in RECIPES and arm.test in DISTORTIONS
    assert STUDIES[name].ship.keys() <= STUDIES[name].arms.keys()
    assert len({(arm.model, arm.recipe, arm.test) for arm in STUDIES[name].arms.values()}) == len(STUDIES[name].arms)


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

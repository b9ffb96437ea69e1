"""study.py and the arms of every study: what is compared, and what is said of it: means, paired differences, poses."""

import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from by_name import DIGITS, STUDIED, build
from scipy.stats import ttest_rel

from stn_helpers.data.distortions import DISTORTIONS, distorted
from stn_helpers.data.poses import corner_drift, undone
from stn_helpers.data.sets import load
from stn_helpers.training.recipes import RECIPES
from studies.networks import digit_net
from studies.study import ASSETS, TOOLS, Arm, Sets, Study, attended, confusion, get, names, paired, pose_spread, summarise, thetas

NAMES = names()
DIGIT, PLAIN = partial(digit_net, "affine"), partial(digit_net, None)


@pytest.fixture(scope="module", autouse=True)
def small_data(small_cifar_for_module):
    """200 + 50 images in the place of CIFAR-10."""


# Which arms

GRID = Study(
    "grid", "digits", {f"{test}, {name}": Arm(DIGIT, RECIPES["digits"], test) for test in ("upright", "turned") for name in "ab"}
)


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
    arms = {name: Arm(DIGIT, RECIPES["digits"]) for name in ("with ST", "cluttered, with ST")}
    assert Study("grid", "digits", arms).choose(["with ST"]) == ["with ST"]


def test_unknown_arms_and_sets_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown arms \['c'\]; expected some of upright, a; upright, b; .* b; a; b$"):
        GRID.choose(["a", "c"])
    with pytest.raises(ValueError, match=r"unknown sets \['rts'\]; expected some of upright; turned$"):
        GRID.choose(None, ["rts"])


def test_what_takes_hours_is_run_only_by_its_name():
    arms = {"a": Arm(DIGIT, RECIPES["digits"]), "b, long": Arm(DIGIT, RECIPES["digits"], on_request=True)}
    study = Study("grid", "digits", arms)
    assert study.choose() == ["a"] and study.choose(["long"]) == ["b, long"] == study.choose(["b, long"])


def test_a_study_is_there_by_its_file_and_an_unknown_one_is_refused_with_those_that_are():
    files = {path.stem for path in (ASSETS.parent / "studies").glob("*.py")} - {"__init__", *TOOLS}
    assert set(NAMES) == files and len(NAMES) > 5
    assert all(get(name).name == name for name in NAMES)
    with pytest.raises(ValueError, match="study is 'runner'; expected one of addition"):
        get("runner")


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_is_compared_with_one_that_differs_in_one_thing(name):
    arms = get(name).arms
    for arm in arms.values():
        for other in (arms[called] for called in (arm.against, arm.spread_of) if called):
            theirs = replace(other.recipe, **{key: vars(arm.recipe)[key] for key in ("localization", "localization_decay", "clip")})
            assert arm.recipe == theirs
            if arm.train_on.endswith(", undone"):  # the oracle differs in its pictures alone
                assert arm.train_on == f"{other.train_on}, undone" and arm.described() == other.described()
            else:  # in its network, or in the pictures that train it
                assert arm.test == other.test
                assert (arm.train_on == other.train_on) == (arm.described() != other.described())
        assert {arm.train_on, arm.test, *arm.also} <= set(DISTORTIONS)
        assert not arm.spread_of or arm.network.args[-1] == "random"


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_is_another_run_and_says_its_network_in_words(name):
    study = get(name)
    abouts = [repr((arm.described(), arm.recipe, arm.train_on, arm.test, arm.parts, arm.train)) for arm in study.arms.values()]
    assert len(set(abouts)) == len(abouts) and study.ship.keys() <= study.arms.keys()
    assert study.precision in ("float32", "bfloat16")


def test_a_test_set_is_distorted_once_on_the_processor_and_then_brought_to_the_device(monkeypatch):
    from studies import study as module

    calls, real = [], module.distorted
    monkeypatch.setattr(
        module, "distorted", lambda data, name: (calls.append((name, data.images.device.type)), real(data, name))[1]
    )
    sets = Sets(GRID, "meta")
    (bent, poses), again = sets.bent("turned"), sets.bent("turned")
    assert calls == [("turned", "cpu")] and again[0] is bent
    assert bent.images.device.type == "meta" and poses.device.type == "cpu" and sets.train.images.device.type == "meta"


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


@pytest.mark.parametrize("own", [{"localization": 0.1}, {"localization_decay": 0.0}, {"clip": 1.0}])
def test_what_concerns_the_localization_network_alone_may_differ_and_nothing_else(own):
    slow = [row("a", 0, 71.0, recipe={"epochs": 2, **own}), row("b", 0, 70.0)]
    assert paired(slow, "a", "b")["mean"] == 1
    assert paired([row("a", 0, 71.0, recipe={"epochs": 2, "lr": 0.1}), row("b", 0, 70.0)], "a", "b") == {}


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
    arms = {"a": Arm(DIGIT, RECIPES["digits"], against="b"), "b": Arm(PLAIN, RECIPES["digits"])}
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


def looked(model, distortion: str) -> dict:
    """What `attended` says of a network that was made for this distortion."""
    arm = Arm(STUDIED["small-light"], RECIPES["good"], distortion)
    return attended(model, Sets(Study("small", "cifar10", {"light ST": arm})), arm, 0)


def test_a_row_says_what_the_transformer_did_to_the_distorted_test_set():
    test = load("cifar10", train=False)
    model = looking([0.9, 0.1, 0.0, -0.1, 0.8, 0.2], shake=0.02)
    bent, poses = distorted(test, "rotated")
    raw = thetas(model, bent)
    found = looked(model, "rotated")
    assert found["corners"] == corner_drift(raw.reshape(-1, 2, 3), poses)
    assert found["undone"] == undone(raw.reshape(-1, 2, 3), poses)
    assert found["frame"] == undone(raw.reshape(-1, 2, 3), poses, period=90) != found["undone"]
    torch.testing.assert_close(torch.tensor(found["spread"]["mean"]), raw.mean(0))
    torch.testing.assert_close(torch.tensor(found["spread"]["covariance"]), torch.cov(raw.T))
    assert torch.tensor(found["spread"]["covariance"]).diagonal().min() > 0


def test_a_perspective_has_no_one_angle_but_corners():
    assert looked(looking([1.0, 0, 0, 0, 1, 0]), "perspective").keys() == {"corners", "spread"}


def test_a_transformer_that_collapsed_is_reported_without_its_corners():
    found = looked(looking([0.0, 0, 0.3, 0, 0, 0.1]), "rotated")
    assert "corners" not in found and found["spread"]["mean"] == pytest.approx([0, 0, 0.3, 0, 0, 0.1])


def test_a_network_without_a_transformer_at_its_input_has_nothing_to_say():
    assert looked(build("small-plain"), "rotated") == {} == looked(build("small-feature"), "rts")


def test_twins_start_from_the_same_classifier():
    starts = [build(name, 4).classifier.state_dict() for name in DIGITS if name != "digit-wide"]
    for other in starts[1:]:
        assert all(torch.equal(starts[0][name], other[name]) for name in starts[0])


def test_confusion_counts_truth_in_rows_and_guesses_in_columns():
    test = load("cifar10", train=False)
    model = build("small-plain").eval()
    slow = torch.zeros(10, 10, dtype=torch.int64)
    with torch.no_grad():
        for image, label in zip(test.images, test.labels, strict=True):
            slow[label, model(image[None].float() / 255).argmax()] += 1
    assert torch.equal(confusion(model, test, batch_size=20), slow)


def test_an_untrained_transformer_says_identity_of_every_image():
    test, model = load("cifar10", train=False), build("small-light")
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

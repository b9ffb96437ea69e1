"""cifar10.py: which arms there are in which world, and by what recipe each of them learns."""

from studies.cifar10 import PLACES, SLOW, STUDY


def test_the_study_has_every_place_on_every_set_that_it_can_be_in():
    arms = STUDY.arms
    for test in ("upright", "rotated", "rts", "perspective", "rotated disc"):
        here = {name.split(", ", 1)[1] for name, arm in arms.items() if arm.test == test}
        left_out = set() if test in ("upright", "rotated") else {"heavy ST"}
        left_out |= {name for name in PLACES if "smallest" in name and test in ("upright", "perspective")}
        if test == "rotated disc":
            left_out |= {"ST frozen at identity", "random theta", "ST on a feature map", "one window on a feature map", "two STs"}
        assert here == set(PLACES) - left_out
        assert (f"{test}, oracle" in arms) == (test != "upright")
    assert all(arm.train_on == arm.test for arm in arms.values())
    order = list(arms)
    assert all(order.index(arm.spread_of) < order.index(key) for key, arm in arms.items() if arm.spread_of)


def test_a_random_theta_has_the_spread_of_a_light_st_that_is_not_lost():
    arms = STUDY.arms
    taken = {name: arm.spread_of.split(", ", 1)[1] for name, arm in arms.items() if arm.spread_of}
    assert taken == {
        "upright, random theta": SLOW,
        "rotated, random theta": "light ST",
        "rts, random theta": SLOW,
        "perspective, random theta": SLOW,
    }
    # The runner takes the spread from a run of the same recipe.
    assert all(arm.recipe == arms[arm.spread_of].recipe for arm in arms.values() if arm.spread_of)


def test_the_slow_and_the_heavy_transformers_learn_at_a_tenth_of_the_rate():
    for name, arm in STUDY.arms.items():
        if arm.recipe.optimizer == "adamw":
            assert arm.recipe.localization == 1.0, name
            continue
        # A random theta learns nothing; its recipe is that of the transformer whose spread it has.
        slow = "a tenth of the rate" in name + arm.spread_of or name.endswith(("heavy ST", "one window at the input"))
        assert arm.recipe.localization == (0.1 if slow else 0.5), name

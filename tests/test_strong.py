"""strong.py: which arms there are, all of one recipe."""

from studies.strong import PLACES, SETS, STRONG, STUDY


def test_every_place_is_tried_in_every_world_and_the_oracle_in_the_distorted_ones():
    for world in SETS:
        here = [name.split(", ", 1)[1] for name in STUDY.arms if name.startswith(f"{world}, ")]
        assert here == [*PLACES, *(["oracle"] if world != "upright" else [])]
    assert {arm.recipe for arm in STUDY.arms.values()} == {STRONG} and STRONG.localization == 0.1
    assert {name for name, arm in STUDY.arms.items() if not arm.against} == {f"{world}, no ST" for world in SETS}

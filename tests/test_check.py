"""check.py: a number that nothing makes is found, and so is a claim that its interval does not bear out."""

import json

import pytest

from studies import check
from studies.check import MARK, document, documents, unmade, wrong_marks


def row(arm: str, seed: int, accuracy: float) -> dict:
    recipe = {"epochs": 2}
    found = {"arm": arm, "seed": seed, "test_accuracy": accuracy, "recipe": recipe, "precision": "float32", "parameters": 1234}
    return {**found, "history": []}


@pytest.fixture(autouse=True)
def results(monkeypatch):
    """One study of three arms: b is 2.0 above a, seed by seed, and c is not settled against a."""
    values = {"a": (50.0, 51.0, 52.0), "b": (52.1, 52.9, 54.0), "c": (58.0, 45.0, 53.0)}
    runs = [row(arm, seed, value) for arm, many in values.items() for seed, value in enumerate(many)]
    monkeypatch.setattr(check, "results", lambda name: {"small": {"runs": runs}, "speed": {"ratios": {"step": [1.5, 2.5]}}}[name])


@pytest.mark.parametrize(
    "text",
    [
        "gains 2.0<!-- gain small b a --> points (1.8<!-- low small b a --> to 2.2<!-- high small b a -->)",
        "reaches 51.0 %<!-- mean small a -->, an error of 49.0<!-- error small a -->, ± 1.0<!-- sd small a -->",
        "with 1,234<!-- parameters small a --> parameters, 3<!-- seeds small a --> seeds, 2.5<!-- value speed ratios step 1 -->",
        "which is settled<!-- settled small b a -->, and that is not<!-- unsettled small c a -->",
        "the paper reports 0.7<!-- given -->",
        "loses -2.0<!-- gain small a b --> points",
    ],
)
def test_a_right_number_passes(text):
    assert wrong_marks(text) == [] == unmade(text, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gains 2.1<!-- gain small b a --> points", "makes 2"),
        ("gains <!-- gain small b a -->", "makes 2"),
        ("is settled<!-- settled small c a -->", "does not bear out"),
        ("is not settled<!-- unsettled small b a -->", "does not bear out"),
        ("51.0<!-- mean small d -->", "no arm 'd'"),
        ("51.0<!-- mean nowhere a -->", "cannot be computed"),
        ("2.5<!-- value speed ratios step 7 -->", "cannot be computed"),
    ],
)
def test_a_wrong_one_is_told_with_the_right_one(text, why):
    (wrong,) = wrong_marks(text)
    assert why in wrong


def test_a_number_without_a_mark_must_be_shown_by_something():
    assert unmade("it gains 9.4 points", "") and unmade("it gains 9.4 points", "9.5")
    assert unmade("it gains 9.4 points", "gain  9.37") == [] == unmade("it gains 9.4 points", "9.4")
    # A mark speaks for the number in front of it, and for no other.
    assert len(unmade("from 1.5 to 2.0<!-- gain small b a -->", "")) == 1


@pytest.mark.parametrize(
    "text", ["`scale=0.5`", "$0.5 x$", "[it](a0.5.md)", "Python 3.11", "section 3.2", "Sections 3.1 and 3.3", "v1.2.3"]
)
def test_what_is_no_claim_is_left_alone(text):
    assert unmade(text, "") == []


def test_a_notebook_makes_numbers_by_its_cells(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["It gains 9.4 points, and 7.7 more."]},
        {"cell_type": "code", "source": ["print(gain)"], "outputs": [{"output_type": "stream", "text": ["gain 9.41\n"]}]},
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    (wrong,) = document(tmp_path / "one.ipynb")
    assert "nothing makes 7.7" in wrong


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_number_that_we_publish_is_made_by_something(path, monkeypatch):
    monkeypatch.undo()
    assert document(path) == []


def test_readme_is_checked_by_marks():
    assert MARK.search(documents()[0].read_text(encoding="utf-8"))

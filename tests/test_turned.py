"""turned.py: eyes that know, scorers that turn with the picture, the mix over turns, and arms that share trained parts."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from stn_helpers.data.distortions import DISTORTIONS, distorted
from stn_helpers.data.sets import Images, load
from stn_helpers.sampler import warp
from stn_helpers.theta import affine, decompose
from stn_helpers.training import evaluate
from stn_helpers.training.checkpoint import load_checkpoint
from studies import turned
from studies.networks import count
from studies.runner import run_study
from studies.study import Sets
from studies.turned import STUDY, TURNS, Scorer, TurnBack, Turned, held, mean_turn, measure, turned_back, turned_net, two_neighbours

ANGLES = torch.tensor(TURNS).float()


@pytest.fixture(autouse=True)
def small_data(small_cifar_for_module):
    """200 + 50 images in the place of CIFAR-10."""


class Knows(nn.Module):
    """An eye that says the same of every picture, and the opposite of its mirror image."""

    def __init__(self, chances: list[float]):
        super().__init__()
        self.chances, self.mirrored = torch.tensor(chances), False

    def forward(self, images):
        self.mirrored = not self.mirrored
        said = self.chances if self.mirrored else self.chances.flip(0)
        return said.log().expand(len(images), -1)


class Ramp(nn.Module):
    """Two logits: the ink in the upper and in the lower half of a picture."""

    def forward(self, images):
        return torch.stack([images[:, :, :16].mean((1, 2, 3)), images[:, :, 16:].mean((1, 2, 3))], dim=1) * 20


def some(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# Belief


def test_the_mean_turn_of_a_belief_is_its_direction_and_its_length_says_how_sure_it_is():
    belief = torch.zeros(3, len(TURNS))
    belief[0, TURNS.index(40)] = 1
    belief[1, [TURNS.index(20), TURNS.index(40)]] = 0.5
    belief[2, [TURNS.index(-90), TURNS.index(90)]] = 0.5
    angle, sure = mean_turn(belief.log(), ANGLES)
    torch.testing.assert_close(angle[:2], torch.tensor([40.0, 30.0]))
    torch.testing.assert_close(sure, torch.tensor([1, math.cos(math.radians(10)), 0]), atol=1e-6, rtol=0)


def test_the_valley_of_a_reader_that_knows_what_is_up_leads_home_from_everywhere():
    rows = torch.arange(32)[:, None].expand(3, 32, 32)
    bright_above, bright_below = (255 * (rows < 16)).byte(), (255 * (rows >= 16)).byte()
    test = Images("halves", torch.stack([bright_above, bright_below]), torch.tensor([0, 1]), ("above", "below"))
    found = turned.valley(Ramp(), test, step=30)
    assert found["angles"] == [0, 30, 60, 90, 120, 150, 180] and found["loss"] == sorted(found["loss"])
    assert found["home"] == [None, *[1.0] * 6]
    assert turned.valley(lambda images: -Ramp()(images), test, step=90)["home"] == [None, 0.0, 0.0]


def test_as_many_turns_are_held_as_reach_the_share():
    belief = torch.tensor([[0.05, 0.6, 0.05, 0.3], [0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]]).log()
    assert held(belief, 0.8).tolist() == [[False, True, False, True], [True, False, False, False], [True] * 4]
    assert held(belief, 0.5).sum(1).tolist() == [1, 1, 2] and held(belief, 0.93)[0].sum() == 3


def test_a_picture_and_its_mirror_image_need_opposite_turns_when_tested():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        back = TurnBack(turned.eye()).eval()
    one, other = back.belief(some()), back.belief(some().flip(-1))
    torch.testing.assert_close(one, other.flip(1))
    torch.testing.assert_close(back.params(some()), -back.params(some().flip(-1)))
    assert one.std() > 0.001


def test_the_transformer_shows_the_picture_turned_back_by_the_mean_turn():
    chances = [0.0] * len(TURNS)
    chances[TURNS.index(30)] = chances[TURNS.index(50)] = 0.5
    back = TurnBack(Knows(chances)).eval()
    torch.testing.assert_close(back(some()), warp(some(), affine(40.0)))


def test_turning_the_picture_by_a_step_moves_the_scorers_answer_by_a_step():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = Scorer((0, 90, 180, 270)).eval()
    said = scorer(some())
    torch.testing.assert_close(scorer(some().rot90(1, (2, 3))), said.roll(-1, 1))  # rot90 is affine(90)
    assert not torch.allclose(said, said.roll(1, 1), atol=1e-3)


# Ways


def test_the_mix_is_the_probability_of_each_class_summed_over_the_turns():
    chances = [0.0] * len(TURNS)
    chances[TURNS.index(-10)], chances[TURNS.index(90)] = 0.75, 0.25
    net = Turned(Ramp(), TurnBack(Knows(chances)), "mix", 0.0, TURNS).eval()
    expected = sum(p * Ramp()(warp(some(), affine(float(t)))).softmax(1) for p, t in ((0.75, -10), (0.25, 90)))
    torch.testing.assert_close(net(some()).exp(), expected)
    surprised = Turned(Ramp(), TurnBack(Knows(chances)), "mix", 0.5, TURNS).eval()
    weights = [
        p * Ramp()(warp(some(), affine(float(t)))).logsumexp(1, keepdim=True).mul(0.5).exp() for p, t in ((0.75, -10), (0.25, 90))
    ]
    expected = sum(w * Ramp()(warp(some(), affine(float(t)))).softmax(1) for w, t in zip(weights, (-10, 90), strict=True))
    torch.testing.assert_close(surprised(some()).exp(), expected)


def test_a_mix_of_one_turn_is_the_picture_undone_by_it():
    chances = [0.0] * len(TURNS)
    chances[TURNS.index(20)] = 1.0
    mix, one = (Turned(Ramp(), TurnBack(Knows(chances)), way, 0.0, TURNS).eval() for way in ("mix", "one"))
    torch.testing.assert_close(mix(some()), one(some()))
    torch.testing.assert_close(one(some()), Ramp()(warp(some(), affine(20.0))).log_softmax(1))


def test_the_latent_turn_is_the_softmax_over_class_and_turn_together():
    net = turned_net("small", "rotated", "latent", turns=6).eval()
    assert net.turns.tolist() == [-75, -45, -15, 15, 45, 75]
    logits = net.reader(turned_back(some(), net.turns)).reshape(6, 6, 10)
    torch.testing.assert_close(net(some()).softmax(1), logits.flatten(1).softmax(1).reshape(6, 6, 10).sum(1))


def test_the_twin_without_a_warp_has_the_same_eye_and_never_turns():
    net = turned_net("large", "rotated round", "beside").eval()
    assert net.eye.state_dict().keys() == turned.eye().state_dict().keys()
    features = net.eye[1][:-1](net.eye[0](some()))
    torch.testing.assert_close(net(some()), net.reader(some()) + net.head(features))


def test_the_reader_as_large_as_both_has_as_many_parameters_as_both():
    sizes = {size: count(turned_net(size, "rotated")) for size in ("small", "large", "both")}
    both = count(turned_net("large", "rotated", "mix"))
    assert sizes["small"] == 31_340 and abs(sizes["both"] / both - 1) < 0.05


@pytest.mark.parametrize("way", ["", "two"])
def test_another_way_is_refused_with_those_that_there_are(way):
    with pytest.raises(ValueError, match="expected plain, beside, one, mix, average or latent"):
        turned_net("small", "rotated", way)


# Worlds


@pytest.mark.parametrize("world", turned.WORLDS)
def test_every_world_is_undone_by_its_pose(world):
    card = Images(
        "ramp", torch.arange(32, dtype=torch.uint8).mul(7).expand(40, 3, 32, 32).contiguous(), torch.zeros(40).long(), ("a",)
    )
    bent, poses = distorted(card, world)
    straight, undone = distorted(card, f"{world}, undone")
    inside = turned.Disc()(torch.ones(1, 1, 32, 32))[0, 0] > 0
    assert decompose(poses).angle.abs().max() > 60 and torch.allclose(decompose(undone).angle, torch.zeros(40))
    seen = warp(bent.images.float(), poses)[..., inside]
    assert (
        (seen - card.images[..., inside]).abs().mean()
        < 4
        < (bent.images[..., inside].float() - card.images[..., inside]).abs().mean()
    )
    assert (straight.images[..., inside].float() - card.images[..., inside]).abs().mean() < 4


def test_an_edge_padded_picture_has_no_black():
    white = Images("white", torch.full((20, 3, 32, 32), 255, dtype=torch.uint8), torch.zeros(20).long(), ("a",))
    assert distorted(white, "rotated edge")[0].images.min() == 255 and distorted(white, "rotated")[0].images.min() == 0


# Telling


def test_an_eye_is_told_the_turn_that_undoes_each_picture():
    train = load("cifar10", train=True)
    teller = turned.Telling(turned.eye(), train, replace(turned.TELL, epochs=1, batch_size=50), 0, train_on="rotated")
    for images, angles in teller.batches():
        assert images.shape == (50, 3, 32, 32) and angles.abs().max() <= 90
    belief = two_neighbours(torch.tensor([30.0, -90.0, 33.0]))
    assert belief[0, TURNS.index(30)] == belief[1, TURNS.index(-90)] == 1
    torch.testing.assert_close(belief[2, [TURNS.index(30), TURNS.index(40)]], torch.tensor([0.7, 0.3]))
    torch.testing.assert_close(belief.sum(1), torch.ones(3))


def test_an_eye_learns_and_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    dark_above = torch.arange(32, dtype=torch.uint8).mul(8)[:, None].expand(256, 3, 32, 32).contiguous()
    train, recipe = Images("ramp", dark_above, torch.zeros(256).long(), ("a",)), replace(turned.TELL, epochs=4, batch_size=32)
    run_epoch, eyes = turned.Telling.run_epoch, []

    def tell(folder: str) -> list[dict]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            eyes.append(turned.eye())
        where = 3, "cpu", "float32", tmp_path / folder
        return turned.tell(eyes[-1], train, train, recipe, *where, progress=False, train_on="rotated round")

    def killed(trainer, look):
        if len(trainer.history) == 2:
            raise KeyboardInterrupt
        return run_epoch(trainer, look)

    losses = [row["train_loss"] for row in tell("whole")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(turned.Telling, "run_epoch", killed)
        tell("killed")
    assert [row["train_loss"] for row in tell("killed")] == losses and len(losses) == 4
    assert all(torch.equal(*pair) for pair in zip(eyes[0].state_dict().values(), eyes[-1].state_dict().values(), strict=True))
    bent, poses = distorted(train, "rotated round")
    angle = torch.rad2deg(TurnBack(eyes[0]).eval().params(bent.images.float() / 255)[:, 0])
    assert (angle - decompose(poses).angle).abs().median() < 10 < decompose(poses).angle.abs().median()


# The study

KEEP = ["no ST", "oracle", "no ST, averaged over turns", "told, no warp", "told, one angle", "told, not betting, energy"]


@pytest.fixture(scope="module")
def results(small_cifar_for_module, tmp_path_factory):
    """One epoch of some arms in the disc, in the folder `.folder`."""
    folder = tmp_path_factory.mktemp("study")
    small = {name: replace(arm, recipe=replace(arm.recipe, batch_size=40)) for name, arm in STUDY.arms.items()}
    parts = {name: replace(arm, recipe=replace(arm.recipe, batch_size=40)) for name, arm in STUDY.parts.items()}
    study = replace(STUDY, arms=small, parts=parts)
    arms = [f"rotated round, large, {name}" for name in KEEP]
    found = run_study(study, 1, arms, 1, "cpu", "float32", folder / "assets", folder / "runs", progress=False)
    return folder, found, study


def test_arms_of_one_seed_share_what_they_are_made_of(results):
    folder, found, _ = results
    rows = {row["arm"].removeprefix("rotated round, large, "): row for row in found["runs"]}
    assert list(rows) == KEEP
    trained = sorted(path.parent.name.rsplit("-", 2)[0] for path in (folder / "runs").glob("*/checkpoint.stn"))
    assert trained == [f"turned-rotated-round-{name}" for name in ("eye", "large-no-st", "large-oracle", "large-told-no-warp")]
    assert rows["told, one angle"]["history"] == [] and len(rows["told, no warp"]["history"]) == 1
    parts = {place: part["arm"] for place, part in rows["told, one angle"]["parts"].items()}
    assert parts == {"transformer.localization": "rotated round, eye", "reader": "rotated round, large, oracle"}
    assert rows["told, one angle"]["parts"]["reader"]["recipe"]["epochs"] == 1


def test_a_part_is_put_in_as_it_was_trained(results):
    folder, found, study = results
    eye = load_checkpoint(next((folder / "runs").glob("*round-eye-*/checkpoint.stn")))["model"]
    reader = load_checkpoint(next((folder / "runs").glob("*large-oracle-*/checkpoint.stn")))["model"]
    net = turned_net("large", "rotated round", "one").eval()
    net.transformer.localization.load_state_dict(eye)
    net.reader.load_state_dict(reader)
    row = next(row for row in found["runs"] if row["arm"].endswith("one angle"))
    sets = Sets(study)
    bent, poses = sets.bent("rotated round")
    assert row["test_accuracy"] == evaluate(net, bent)["accuracy"]
    off = (torch.rad2deg(net.transformer.params(bent.images.float() / 255)[:, 0]) - decompose(poses).angle).abs()
    assert row["left"]["median"] == pytest.approx(off.median().item(), abs=0.01)
    json.dumps(measure(net, sets, study.arms["rotated round, large, told, one angle"], 0), allow_nan=False)


def test_arms_that_are_no_transformers_have_no_angle_to_tell(results):
    for row in results[1]["runs"]:
        assert ("left" in row) == row["arm"].endswith(("one angle", "energy"))


def test_every_arm_builds_what_it_says_from_parts_that_fit():
    for arm in STUDY.arms.values():
        net = arm.build()
        for place, name in arm.parts.items():
            part = {**STUDY.parts, **STUDY.arms}[name].build()
            assert net.get_submodule(place).state_dict().keys() == part.state_dict().keys()
            assert name.startswith(arm.test.split(",")[0])
        assert arm.test in DISTORTIONS and arm.train_on in DISTORTIONS
    assert STUDY.ship.keys() <= STUDY.arms.keys()

"""Straighten: digits turned, or scattered in clutter; how well a network straightens them, and what is lost by it (notebook 04)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.data.batches import as_float
from stn_helpers.data.distortions import distorted
from stn_helpers.data.poses import blur, overlap, undone
from stn_helpers.theta import decompose
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import fit
from stn_helpers.transformer import SpatialTransformer

from .networks import digit_classifier, digit_net
from .study import Arm, Sets, Study


class LeanReader(nn.Module):
    """Says whether a digit leans left or right: (N, 1, H, W) -> 2 logits, through a transformer that is not trained here.

    transformer: None to read the image as it is. feed: hand theta on to the last layer. Taught in notebook 04.
    """

    def __init__(self, transformer: SpatialTransformer | None, feed: bool):
        super().__init__()
        self.trunk = digit_classifier(classes=32)
        self.head = nn.Linear(32 + (transformer.family.count if feed else 0), 2)
        self.eye, self.feed = [transformer], feed  # in a list, so that its weights are not counted as ours

    def forward(self, images: Tensor) -> Tensor:
        transformer = self.eye[0]
        if transformer is None:
            return self.head(self.trunk(images).relu())
        with torch.no_grad():
            theta, seen = transformer.params(images), transformer(images)
        features = self.trunk(seen).relu()
        return self.head(torch.cat([features, theta], dim=1) if self.feed else features)


def read_lean(transformer: SpatialTransformer | None, feed: bool, sets: Sets, seed: int, epochs: int = 15) -> float:
    """Train a `LeanReader` on turned digits and test it: accuracy in percent. 50 is guessing. Taught in notebook 04."""
    (seen, poses), (unseen, asked) = distorted(sets.train, "turned", seed), sets.bent("turned")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reader = LeanReader(transformer, feed).to(seen.images.device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    generator = torch.Generator(seen.images.device).manual_seed(seed)
    leans = (decompose(poses).angle > 0).long()
    for _ in range(epochs):
        for index in torch.randperm(len(seen), generator=generator, device=leans.device).split(64):
            loss = F.cross_entropy(reader(as_float(seen.images[index])), leans[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.inference_mode():
        guesses = reader(as_float(unseen.images)).argmax(1).cpu()
    return 100 * (guesses == (decompose(asked).angle > 0)).float().mean().item()


def turning(arm: Arm, sets: Sets, seed: int) -> list[float]:
    """Train an arm once more, and say after each epoch how many degrees of a turn it leaves. Taught in notebook 04."""
    bent, poses = sets.bent(arm.test)
    images, left, model = as_float(bent.images), [], arm.build(seed)

    def look(history: list[dict]) -> None:
        with torch.inference_mode():
            theta = model.transformer.family.matrix(model.eval().transformer.params(images)).cpu()
        left.append(undone(theta, poses)["residual"])

    options = {"progress": False, "after_epoch": look, "train_on": arm.train_on}
    fit(model, sets.train, bent, arm.recipe, seed, sets.device, "float32", **options)
    return left


def measure(model: nn.Module, sets: Sets, arm: Arm, seed: int) -> dict:
    """What the transformer of a trained network does to its test set, for a row of results.

    "undone": see `poses.undone`. "blur": of the class means, before and after. "overlap": the mean intersection over union
    with the true window, and the percentage above one half. "lean": `read_lean` in three ways. "turning": see there.
    {} for a network without a transformer, and where it collapsed: a window of no area overlaps with nothing.
    """
    if not isinstance(model.transformer, SpatialTransformer):
        return {}
    model.eval()
    bent, poses = sets.bent(arm.test)
    images = as_float(bent.images)
    with torch.inference_mode():
        theta = model.transformer.family.matrix(model.transformer.params(images)).cpu()
        seen = model.transformer(images)
    if arm.test == "cluttered":
        try:
            shares = overlap(theta, poses)
        except ValueError:
            return {}
        return {"overlap": {"mean": shares.mean().item(), "above_half": 100 * (shares > 0.5).float().mean().item()}}
    found = {"undone": undone(theta, poses), "blur": {"before": blur(images, bent.labels), "after": blur(seen, bent.labels)}}
    if arm.test != "turned":
        return found
    readers = {"as it is": (None, False), "straightened": (model.transformer, False), "and theta": (model.transformer, True)}
    found["lean"] = {way: read_lean(*reader, sets, seed) for way, reader in readers.items()}
    return {**found, "turning": turning(arm, sets, seed)} if arm.train_on == "turned" else found


DIGITS = RECIPES["digits"]
WITH, WITHOUT, WIDER = partial(digit_net, "affine"), partial(digit_net, None), partial(digit_net, None, 14)

STUDY = Study(
    name="straighten",
    data="digits",
    arms={
        "with ST": Arm(WITH, DIGITS, "turned", against="wider, without ST"),
        "without ST": Arm(WITHOUT, DIGITS, "turned"),
        "wider, without ST": Arm(WIDER, DIGITS, "turned", against="without ST"),
        "with ST that only turns": Arm(partial(digit_net, "rotation"), DIGITS, "turned", against="without ST"),
        "turned one way, with ST": Arm(WITH, DIGITS, "turned one way"),
        "trained upright, with ST": Arm(WITH, DIGITS, test_on="turned", against="trained upright, without ST"),
        "trained upright, without ST": Arm(WITHOUT, DIGITS, test_on="turned"),
        "cluttered, with ST": Arm(partial(digit_net, "attention"), DIGITS, "cluttered", against="cluttered, wider, without ST"),
        "cluttered, without ST": Arm(WITHOUT, DIGITS, "cluttered"),
        "cluttered, wider, without ST": Arm(WIDER, DIGITS, "cluttered", against="cluttered, without ST"),
        "cluttered, max pool, with ST": Arm(
            partial(digit_net, "attention", pool="max"), DIGITS, "cluttered", against="cluttered, max pool, wider, without ST"
        ),
        "cluttered, max pool, without ST": Arm(
            partial(digit_net, None, pool="max"), DIGITS, "cluttered", against="cluttered, without ST"
        ),
        "cluttered, max pool, wider, without ST": Arm(
            partial(digit_net, None, 14, pool="max"), DIGITS, "cluttered", against="cluttered, max pool, without ST"
        ),
    },
    ship={"with ST": "straighten_turned", "cluttered, with ST": "straighten_cluttered"},
    measure=measure,
)

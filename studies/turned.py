"""Turned: a spatial transformer that does undo turns on natural pictures, because it was told them (notebook 06c)."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.data.batches import batches
from stn_helpers.data.distortions import distorted, distortion
from stn_helpers.data.poses import wrap
from stn_helpers.data.sets import Images
from stn_helpers.sampler import warp
from stn_helpers.theta import affine, decompose
from stn_helpers.training.recipes import RECIPES
from stn_helpers.training.trainer import Trainer, fit
from stn_helpers.transformer import SpatialTransformer

from .networks import Normalize, PlacedNet, count, fitting_width, mflop, small_classifier
from .study import Arm, Sets, Study

TURNS = tuple(range(-90, 91, 10))  # degrees by which a picture may be turned back
SHARE = 0.9  # of the eye's belief: as many turns are looked at as hold it
# In "rotated round" nothing but the picture tells how it was turned. In the others something does: a rim, corners, streaks.
WORLDS = ("rotated round", "rotated disc", "rotated", "rotated edge")


def large_layers(outputs: int, width: int = 24) -> nn.Sequential:
    """Images (N, 3, 32, 32), normalised -> (N, outputs): the trunk of the eye, and of the large reader. 252,000 parameters."""
    layers, channels = [], 3
    for out, size in ((width, 5), (2 * width, 3), (4 * width, 3)):
        layers += [nn.Conv2d(channels, out, size, stride=2, padding=size // 2, bias=False), nn.BatchNorm2d(out), nn.GELU()]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, 128), nn.GELU(), nn.Linear(128, outputs))


class Disc(nn.Module):
    """Images with all but their inscribed circle black, so that a picture that was turned back has no streaks outside it."""

    def forward(self, images: Tensor) -> Tensor:
        across = (torch.arange(images.shape[-1], device=images.device) + 0.5) * 2 / images.shape[-1] - 1
        return images * (across**2 + across[:, None] ** 2 <= 1)


def reader(size: str, world: str) -> PlacedNet:
    """A classifier of turned or turned-back pictures: small, large, or "both", as large as eye and large reader together."""
    if size == "small":
        parts = small_classifier()
    else:
        width = fitting_width(partial(large_layers, 10), count(large_layers(10)) + count(large_layers(len(TURNS))))
        layers = large_layers(10, width if size == "both" else 24)
        parts = layers[:3], layers[3:]
    seen = nn.Sequential(Disc(), Normalize()) if distortion(world).disc else Normalize()
    return PlacedNet(parts, normalize=seen, channels=3, least=32)


def turned_back(images: Tensor, turns: Tensor) -> Tensor:
    """Every image (N, C, H, W) turned back by every one of K angles (degrees): (N * K, C, H, W), image by image."""
    return warp(images.repeat_interleave(len(turns), 0), affine(turns.repeat(len(images))))


def eye() -> nn.Sequential:
    """By which of TURNS must this picture be turned back? Images in [0, 1] -> a logit for each."""
    return nn.Sequential(Normalize(), large_layers(len(TURNS)))


class Scorer(nn.Module):
    """Which of these looks upright? Every turned-back copy gets one number from the same network: images -> a logit for each turn.

    Turn the picture by a step, and the answer moves by a step: no training is needed for that. After Mondal et al. 2023.
    """

    def __init__(self, turns: tuple[int, ...] = TURNS):
        super().__init__()
        self.register_buffer("turns", torch.tensor(turns).float(), persistent=False)
        self.score = nn.Sequential(Normalize(), large_layers(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.score(turned_back(images, self.turns)).reshape(len(images), -1)


class TurnBack(SpatialTransformer):
    """A transformer that believes in each of many turns to some degree, and shows the picture turned back by their mean.

    localization: an `eye` or a `Scorer`. turns: degrees, evenly spaced around 0.
    """

    def __init__(self, localization: nn.Module, turns: tuple[int, ...] = TURNS):
        super().__init__(localization, "rotation", features=1)
        del self.to_theta  # the belief says theta
        self.register_buffer("turns", torch.tensor(turns).float(), persistent=False)

    def belief(self, images: Tensor) -> Tensor:
        """Log-probability of each turn, (N, K). When tested, the mirrored picture is asked too: it needs the opposite turn."""
        logits = self.localization(images).float()
        if not self.training:
            logits = (logits + self.localization(images.flip(-1)).flip(1)) / 2
        return logits.log_softmax(1)

    def params(self, images: Tensor) -> Tensor:
        """The mean turn in radians, (N, 1)."""
        return torch.deg2rad(mean_turn(self.belief(images), self.turns)[0])[:, None]


def mean_turn(belief: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """(angle in degrees, sureness 0 to 1), each (N,): direction and length of the mean (cos, sin) under a log-belief (N, K)."""
    radians = torch.deg2rad(turns)
    cos, sin = belief.exp() @ radians.cos(), belief.exp() @ radians.sin()
    return torch.rad2deg(torch.atan2(sin, cos)), torch.hypot(sin, cos)


def held(belief: Tensor, share: float = SHARE) -> Tensor:
    """Which turns are looked at, bool (N, K): the most believed ones, until they hold this share of the belief."""
    order = belief.argsort(1, descending=True)
    chance = belief.exp().gather(1, order)
    return torch.zeros_like(belief, dtype=torch.bool).scatter(1, order, chance.cumsum(1) - chance < share)


class Turned(nn.Module):
    """A reader, and a transformer that turns pictures back: images (N, 3, H, W) in [0, 1] -> log-scores.

    way: "one" (undone by the mean turn), "mix" (as many turns as hold SHARE of the belief, each weighted by it), "average" (the
    reader's mean answer over all turns), "latent" (no eye: the reader scores class and turn together). turns: degrees.
    energy: how much the reader's own surprise at a picture weighs in the mix.
    """

    def __init__(self, reader: nn.Module, transformer: TurnBack | None, way: str, energy: float, turns: tuple[float, ...]):
        super().__init__()
        self.reader, self.transformer, self.way, self.energy = reader, transformer or nn.Identity(), way, energy
        self.register_buffer("turns", torch.tensor(turns).float(), persistent=False)

    def joint(self, images: Tensor) -> Tensor:
        """Log-scores of each turn and class together, (N, K, classes); -inf for a turn that is not looked at."""
        if self.way == "one":
            return self.transformer.belief(images)[..., None] + self.reader(self.transformer(images)).log_softmax(1)[:, None]
        if self.way == "mix":
            belief = self.transformer.belief(images)
            picture, turn = held(belief).nonzero(as_tuple=True)
            logits = self.reader(warp(images[picture], affine(self.turns[turn])))
            # log p(turn) + log p(class | turned back by it), and what the reader thinks of the picture itself.
            scores = belief[picture, turn, None] + logits.log_softmax(1) + self.energy * logits.logsumexp(1, keepdim=True)
            return scores.new_full((*belief.shape, scores.shape[1]), -torch.inf).index_put((picture, turn), scores)
        logits = self.reader(turned_back(images, self.turns)).float()
        return (logits if self.way == "latent" else logits.log_softmax(1)).reshape(len(images), len(self.turns), -1)

    def forward(self, images: Tensor) -> Tensor:
        return self.joint(images).logsumexp(1)


class Beside(nn.Module):
    """The very same eye without a warp: what its features say of the class is added to the reader's answer."""

    def __init__(self, reader: nn.Module, eye: nn.Sequential):
        super().__init__()
        self.reader, self.eye, self.transformer, self.head = reader, eye, nn.Identity(), nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.reader(images) + self.head(self.eye[1][:-1](self.eye[0](images)))


def turned_net(size: str, world: str, way: str = "plain", eyes: str = "eye", energy: float = 0.0, turns: int = 0) -> nn.Module:
    """The arms of this study. size: of the `reader`. way: plain (the reader alone), beside (no warp), or one of `Turned`.

    eyes: a name in TOLD. turns: how many a latent turn has. Raises ValueError for another way. Taught in notebook 06c.
    """
    if way not in ("plain", "beside", "one", "mix", "average", "latent"):
        raise ValueError(f"way is {way!r}; expected plain, beside, one, mix, average or latent")
    read = reader(size, world)  # first, so that twins with one seed start from the very same reader
    if way in ("plain", "beside"):
        return read if way == "plain" else Beside(read, eye())
    spaced = tuple(180 * (k + 0.5) / turns - 90 for k in range(turns)) or TURNS
    return Turned(read, TurnBack(TOLD[eyes]()) if way in ("one", "mix") else None, way, energy, spaced)


TOLD = {"eye": eye, "scorer": Scorer}  # what can be told turns


def two_neighbours(angles: Tensor) -> Tensor:
    """The right belief for each angle (N,), degrees: shared by the two turns beside it, the nearer one has more, (N, K)."""
    turns = torch.linspace(TURNS[0], TURNS[-1], len(TURNS), device=angles.device)
    return (1 - (angles[:, None] - turns).abs() / (turns[1] - turns[0])).clamp(min=0)


class Telling(Trainer):
    """A trainer that tells an eye by how much each picture was turned. What it says of accuracy has no meaning."""

    def batches(self):
        """(images, the turn in degrees that undoes each), mirrored before they are turned."""
        told: list[Tensor] = []

        def turn(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            placed, pose = self.distort(images, generator)
            told.append(decompose(pose).angle)
            return placed, pose

        for images, _ in batches(self.train, self.recipe.batch_size, self.generator, self.recipe.flips, distort=turn):
            yield images, told.pop()

    def step(self, images: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(images, two_neighbours(angles))


tell = partial(fit, kind=Telling)


def as_it_is(model: nn.Module, *data, **how) -> list[dict]:
    """In place of `fit`, for a network all of whose parts are trained already."""
    return []


def valley(reader: nn.Module, test: Images, step: int = 15) -> dict:
    """The loss of a reader against how far upright pictures are turned, in degrees from 0 to 180, on 2,000 of them.

    "home": the share of pictures whose loss falls when they are turned back from there by one step; half is a coin.
    """
    pictures, angles = test.subset(slice(0, 2000)), list(range(0, 181, step))

    def losses(angle: int) -> Tensor:
        seen = ((warp(images, affine(angle), padding_mode="border"), labels) for images, labels in batches(pictures, 500))
        return torch.cat([F.cross_entropy(reader(images), labels, reduction="none").cpu() for images, labels in seen])

    found = torch.stack([losses(angle) for angle in angles])
    home = (found[1:] > found[:-1]).float().mean(1)
    return {"angles": angles, "loss": found.mean(1).tolist(), "home": [None, *home.tolist()]}


@torch.inference_mode()
def measure(model: nn.Module, sets: Sets, arm: Arm, seed: int) -> dict:
    """For a row of results: the `valley` of a reader; how far from upright a network that turns pictures back leaves its test set.

    In degrees: "left" is the mean and median, the mean before, and the median where traces of the turn in single pixels are
    "hidden", because the picture was turned there and back at first. "quarters", from the surest to the least sure: the median
    left, the accuracy, how many turns are read. "classes": the median left. "mflop": the mean over pictures.
    """
    if isinstance(model, PlacedNet):
        return {"valley": valley(model, sets.test)}
    if not isinstance(model, Turned) or model.way == "average":
        return {}

    def look(images: Images, poses: Tensor) -> tuple[Tensor, ...]:
        scores = torch.cat([model.joint(some).cpu() for some, _ in batches(images, 500)])
        angle, sure = mean_turn(scores.logsumexp(2).log_softmax(1), model.turns.cpu())
        return wrap(angle - decompose(poses).angle.cpu()).abs(), sure, scores

    (bent, poses), labels = sets.bent(arm.test), sets.test.labels.cpu()
    off, sure, scores = look(bent, poses)
    hidden, _, _ = look(*distorted(distorted(sets.test, f"{arm.test}, undone", seed=1)[0], arm.test))
    looks = torch.ones(len(labels)) if model.way == "one" else scores[..., 0].isfinite().sum(1).float()
    asked = {"left": (off, Tensor.median), "right": (100.0 * (scores.logsumexp(1).argmax(1) == labels), Tensor.mean)}
    asked["looks"] = looks, Tensor.mean
    quarters = sure.argsort(descending=True).chunk(4)
    eyes = 0 if model.way == "latent" else 2 * mflop(model.transformer.localization, bent)
    before = decompose(poses).angle.abs().mean().item()
    return {
        "left": {"mean": off.mean().item(), "median": off.median().item(), "before": before, "hidden": hidden.median().item()},
        "quarters": {name: [round(of(values[part]).item(), 2) for part in quarters] for name, (values, of) in asked.items()},
        "classes": {name: round(off[labels == number].median().item(), 2) for number, name in enumerate(bent.classes)},
        "valley": valley(model.reader, sets.test),
        "mflop": round(eyes + looks.mean().item() * mflop(model.reader, bent), 3),
    }


# Chosen on 5,000 held-out training pictures, with seed 0: an eye that sees the picture at full size, not at half. That half of the
# energy weighs in was the best of 30 in earlier trials, on training pictures.
READ = replace(RECIPES["good"], epochs=8, localization=1.0)
TELL = replace(READ, epochs=12, optimizer="adamw", lr=3e-3, momentum=0.0, weight_decay=1e-2)
EYE, SCORER = ({"transformer.localization": name} for name in TOLD)
READER = {"reader": "oracle"}  # it was trained on pictures turned back by the true angle, so it knows the seams
WAYS = {  # what an arm is called: arguments of its network, what its parts are trained as, and more of the arm
    "no ST": ({}, {}, {}),
    "oracle": ({}, {}, {}),
    "no ST, averaged over turns": ({"way": "average"}, {"reader": "no ST"}, {"train": as_it_is}),
    "no warp": ({"way": "beside"}, {}, {}),
    "told, no warp": ({"way": "beside"}, {"eye": "eye"}, {}),
    "told, then labels": ({"way": "one"}, EYE, {"recipe": replace(READ, localization=0.1)}),
    "told, frozen": ({"way": "one"}, EYE, {"recipe": replace(READ, localization=0.0)}),
    "told, one angle": ({"way": "one"}, EYE | READER, {"train": as_it_is}),
    "told, not betting": ({"way": "mix"}, EYE | READER, {"train": as_it_is}),
    "told, not betting, energy": ({"way": "mix", "energy": 0.5}, EYE | READER, {"train": as_it_is}),
    # These take hours of a processor: every picture goes through the network once for each turn while it trains.
    "latent turn, 6": ({"way": "latent", "turns": 6}, {}, {"on_request": True}),
    "latent turn, 12": ({"way": "latent", "turns": 12}, {}, {"on_request": True}),
    "scored, not betting": ({"way": "mix", "eyes": "scorer"}, SCORER | READER, {"train": as_it_is, "on_request": True}),
}


def arms() -> dict[str, Arm]:
    """Every way in every world, with a large and with a small reader."""
    found = {}
    for world in WORLDS:
        for size in ("large", "small"):
            for name, (arguments, made_of, more) in WAYS.items():
                parts = {place: f"{world}, {part if part in TOLD else f'{size}, {part}'}" for place, part in made_of.items()}
                settings = {"recipe": READ, "against": "" if name == "no ST" else f"{world}, {size}, no ST", "parts": parts, **more}
                train_on = f"{world}, undone" if name == "oracle" else world
                found[f"{world}, {size}, {name}"] = Arm(
                    partial(turned_net, size, world, **arguments), train_on=train_on, **settings
                )
        large = partial(turned_net, "large", world)
        found[f"{world}, trained upright"] = Arm(large, READ, "upright", world, ("upright",), against=f"{world}, large, no ST")
        network = partial(turned_net, "both", world)
        found[f"{world}, as large as both, no ST"] = Arm(network, READ, world, against=f"{world}, large, no ST")
    return found


STUDY = Study(
    name="turned",
    data="cifar10",
    arms=arms(),
    ship={"rotated round, large, told, not betting, energy": "turned_round"},
    measure=measure,
    precision="bfloat16",
    parts={f"{world}, {name}": Arm(partial(make), TELL, world, train=tell) for world in WORLDS for name, make in TOLD.items()},
)

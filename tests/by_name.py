"""Every network of the studies under a short name, so that a test can be asked of all of them."""

from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from stn_helpers.data.distortions import distorted
from stn_helpers.data.sets import Images
from stn_helpers.training.recipes import RECIPES
from studies.networks import PLACES, cifar_net, digit_net
from studies.study import Arm, names


def of(study: str, maker: str, **arguments: tuple) -> dict[str, partial]:
    """{name: network} by a function of a study's file and its arguments; {} where that study was taken away."""
    if study not in names():
        return {}
    make = getattr(import_module(f"studies.{study}"), maker)
    return {name.replace("_", "-"): partial(make, *args) for name, args in arguments.items()}


TUTORIALS = {
    name: partial(network, conv_dropout=0.5, dropout=0.5)
    for name, network in of(
        "tutorial",
        "tutorial_net",
        tutorial=("learned",),
        tutorial_plain=(None,),
        tutorial_fixed=("fixed",),
        tutorial_frozen=("frozen",),
        tutorial_no_warp=("no-warp",),
    ).items()
}
DIGITS = {
    "digit": partial(digit_net, "affine"),
    "digit-plain": partial(digit_net, None),
    "digit-wide": partial(digit_net, None, 14),
    "digit-rotation": partial(digit_net, "rotation"),
    "digit-attention": partial(digit_net, "attention"),
    **of("deep", "looking_net", digit_looks_1=(1,), digit_looks_2=(2,), digit_looks_2_resampled=(2, True)),
    **of("deep", "map_net", digit_map=()),
    **of("glimpse", "deeper_net", digit_deeper=()),
    **of("glimpse", "shrunk_net", digit_summary=()),
    **of("glimpse", "glance_net", digit_glance_24=(24,), digit_glance_32=(32,)),
}
SPREAD = {"mean": [0.9, 0.1, 0.0, 0.0, 1.1, 0.2], "covariance": (torch.diag(torch.tensor([4.0, 1, 0, 1, 2, 3])) / 100).tolist()}
STUDIED = {
    f"{classifier}-{place}": partial(cifar_net, classifier, place, **({"spread": SPREAD} if place == "random" else {}))
    for classifier in ("small", "strong")
    for place in PLACES
}
PAPERS = of(
    "paper_table",
    "paper_net",
    **{
        f"{body}_{canvas}_{family}": (body, canvas, family)
        for canvas in (28, 42, 60)
        for body in ("fcn", "cnn")
        for family in (None, "affine", "projective", "tps")
    },
)
SUMS = of("addition", "addition_net", **{f"sum_{kind}": (kind,) for kind in ("fcn", "cnn", "one", "two", "tiles")})
NETWORKS = {**TUTORIALS, **DIGITS, **STUDIED, **PAPERS, **SUMS}


def build(name: str, seed: int = 0, **options) -> nn.Module:
    """The network, its weights drawn from `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name](**options)


class Given:
    """Data of one's own in the place of a study's `Sets`."""

    def __init__(self, test: Images, train: Images | None = None):
        self.test, self.train = test, test if train is None else train

    def bent(self, name: str) -> tuple[Images, Tensor]:
        return distorted(self.test, name)


def arm(test: str) -> Arm:
    """An arm that is tested under this distortion."""
    return Arm(DIGITS["digit"], RECIPES["digits"], test)

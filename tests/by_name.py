"""Every network of the studies under a short name, so that a test can be asked of all of them."""

from functools import partial

import torch
from torch import Tensor, nn

from stn_helpers.data.distortions import distorted
from stn_helpers.data.sets import Images
from stn_helpers.training.recipes import RECIPES
from studies.addition import STARTS, addition_net
from studies.deep import looking_net, map_net
from studies.glimpse import deeper_net, glance_net, shrunk_net
from studies.networks import PLACES, cifar_net, digit_net
from studies.paper_table import BODIES, CANVASES, FAMILIES, paper_net
from studies.study import Arm
from studies.tutorial import DROPS, tutorial_net

TUTORIALS = {
    "tutorial": partial(tutorial_net, "learned", **DROPS),
    "tutorial-plain": partial(tutorial_net, None, **DROPS),
    "tutorial-fixed": partial(tutorial_net, "fixed", **DROPS),
    "tutorial-frozen": partial(tutorial_net, "frozen", **DROPS),
    "tutorial-no-warp": partial(tutorial_net, "no-warp", **DROPS),
}
DIGITS = {
    "digit": partial(digit_net, "affine"),
    "digit-plain": partial(digit_net, None),
    "digit-wide": partial(digit_net, None, 14),
    "digit-rotation": partial(digit_net, "rotation"),
    "digit-attention": partial(digit_net, "attention"),
    "digit-looks-1": partial(looking_net, 1),
    "digit-looks-2": partial(looking_net, 2),
    "digit-looks-2-resampled": partial(looking_net, 2, True),
    "digit-map": partial(map_net),
    "digit-deeper": partial(deeper_net),
    "digit-summary": partial(shrunk_net),
    "digit-glance-24": partial(glance_net, 24),
    "digit-glance-32": partial(glance_net, 32),
}
SPREAD = {"mean": [0.9, 0.1, 0.0, 0.0, 1.1, 0.2], "covariance": (torch.diag(torch.tensor([4.0, 1, 0, 1, 2, 3])) / 100).tolist()}
STUDIED = {
    f"{classifier}-{place}": partial(cifar_net, classifier, place, **({"spread": SPREAD} if place == "random" else {}))
    for classifier in ("small", "strong")
    for place in PLACES
}
PAPERS = {
    f"{body}-{canvas}-{family}": partial(paper_net, body, canvas, family)
    for canvas in CANVASES
    for body in BODIES
    for family in (None, *FAMILIES)
}
SUMS = {f"sum-{kind}": partial(addition_net, kind) for kind in STARTS}
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

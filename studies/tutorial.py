"""Tutorial: the network that the series grew from, on upright CIFAR-10, with a good recipe and with its own (notebook 05)."""

from functools import partial

from torch import nn

from stn_helpers.training.recipes import RECIPES
from stn_helpers.transformer import SpatialTransformer

from .networks import Blind, Normalize, PlacedNet, tutorial_classifier, tutorial_localization
from .study import Arm, Study


def tutorial_net(transformer: str | None = "learned", conv_dropout: float = 0.0, dropout: float = 0.0) -> PlacedNet:
    """A spatial transformer at the input, then `tutorial_classifier`: images (N, 3, 32, 32) in [0, 1] -> logits.

    transformer: "learned"; None for the matched twin without one; "fixed" for one learned theta that serves every image;
    "frozen" for a transformer that always predicts the identity;
    "no-warp" for the same localization network, its features added to the logits instead of bending the grid.
    The transformer keeps the tutorial's align_corners=True. The warp sees images in [0, 1], where 0 is black; localization
    network and classifier see them normalised. Raises ValueError for another name. Taught in notebook 05.
    """
    # The classifier comes first, so that twins with one seed start from the very same classifier weights.
    classifier, placed, extra = tutorial_classifier(10, conv_dropout, dropout), None, None
    if transformer in ("learned", "frozen"):
        placed = SpatialTransformer(nn.Sequential(Normalize(), tutorial_localization()), align_corners=True)
        # Zero weights and identity bias: frozen, it answers identity for ever.
        placed.requires_grad_(transformer == "learned")
    elif transformer == "fixed":
        placed = SpatialTransformer(Blind(), align_corners=True, features=1)
    elif transformer == "no-warp":
        extra = nn.Sequential(tutorial_localization(), nn.Linear(256, 10))
    elif transformer is not None:
        raise ValueError(f"transformer is {transformer!r}; expected learned, fixed, frozen, no-warp or None")
    return PlacedNet((nn.Identity(), classifier), placed, None, extra, Normalize(), channels=3, least=32, canvas=32)


GOOD, PLAIN = RECIPES["good"], RECIPES["tutorial"]
DROPS = {"conv_dropout": 0.5, "dropout": 0.5}  # the tutorial's, which belong to its network

STUDY = Study(
    name="tutorial",
    data="cifar10",
    precision="bfloat16",
    arms={
        "with ST": Arm(partial(tutorial_net, "learned"), GOOD, against="without ST"),
        "without ST": Arm(partial(tutorial_net, None), GOOD),
        "one learned window for all": Arm(partial(tutorial_net, "fixed"), GOOD, against="without ST"),
        "ST frozen at identity": Arm(partial(tutorial_net, "frozen"), GOOD, against="without ST"),
        "same parameters, no warp": Arm(partial(tutorial_net, "no-warp"), GOOD, against="without ST"),
        "tutorial's recipe, with ST": Arm(
            partial(tutorial_net, "learned", **DROPS), PLAIN, against="tutorial's recipe, without ST"
        ),
        "tutorial's recipe, without ST": Arm(partial(tutorial_net, None, **DROPS), PLAIN),
    },
    ship={"with ST": "tutorial_stn", "without ST": "tutorial_plain"},
)

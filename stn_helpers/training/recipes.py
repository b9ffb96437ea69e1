"""Recipes: how a network is optimised, and nothing of its data or of the network itself."""

from dataclasses import dataclass

import torch
from torch import nn

from stn_helpers.checks import check_choice
from stn_helpers.transformer import parameter_groups


@dataclass(frozen=True)
class Recipe:
    """How a network is optimised. The defaults are plain SGD.

    epochs: passes over the training images.
    batch_size: images a step; what does not fill a batch at the end of an epoch is left out.
    lr: the learning rate; with a schedule, the highest.
    localization: the share of `lr` that localization networks get.
    momentum: Nesterov's momentum of SGD; AdamW keeps its own 0.9 and 0.999.
    weight_decay: pulls weights, and no bias, towards zero.
    localization_decay: the share of `weight_decay` that localization networks get.
    optimizer: "sgd" or "adamw".
    one_cycle: the rate rises for the first quarter of the steps, then falls to almost zero. Without a schedule it stays.
    thirds: the rate falls to a tenth after each third of the steps.
    clip: a gradient longer than this, over all weights together, is shortened to it; 0 leaves it.
    label_smoothing: this share of each label is spread evenly over all classes.
    flips: each image is mirrored left to right with probability one half.
    crop_pixels: each image is moved by up to so many pixels in x and in y.
    cutout_pixels: the side of a square that is hidden in each image.
    Raises ValueError for a setting that cannot be meant.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.01
    localization: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    localization_decay: float = 1.0
    optimizer: str = "sgd"
    one_cycle: bool = False
    thirds: bool = False
    clip: float = 0.0
    label_smoothing: float = 0.0
    flips: bool = False
    crop_pixels: int = 0
    cutout_pixels: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("batch_size", 1), ("clip", 0), ("crop_pixels", 0), ("cutout_pixels", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        check_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        if self.one_cycle and self.thirds:
            raise ValueError("one_cycle and thirds are both set; expected one schedule")


RECIPES = {
    # What the tutorial on pytorch.org trains with.
    "tutorial": Recipe(),
    # A tenth of the rate is what the paper gives its localization networks on SVHN.
    "good": Recipe(batch_size=128, lr=0.05, localization=0.1, momentum=0.9, weight_decay=1e-3, one_cycle=True, flips=True),
    # Small digits: no mirror image of a digit is a digit.
    "digits": Recipe(epochs=40, lr=3e-3, weight_decay=1e-4, one_cycle=True, optimizer="adamw"),
}


def named_recipe(recipe: Recipe | str) -> Recipe:
    """A recipe, by name or as it is. Raises ValueError for an unknown name."""
    if isinstance(recipe, Recipe):
        return recipe
    check_choice("recipe", recipe, RECIPES)
    return RECIPES[recipe]


def make_optimizer(model: nn.Module, recipe: Recipe, steps: int):
    """(optimizer, schedule) of a recipe: SGD or AdamW; constant, one-cycle or in thirds over `steps` steps."""
    groups = parameter_groups(model, recipe.lr, recipe.localization, recipe.weight_decay, recipe.localization_decay)
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    else:
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    schedules = torch.optim.lr_scheduler
    if recipe.thirds:
        places = [max(1, steps // 3), max(1, 2 * steps // 3)]
        return optimizer, schedules.MultiStepLR(optimizer, milestones=places, gamma=0.1)
    if recipe.one_cycle:
        rates, total = [group["lr"] for group in groups], max(steps, 2)
        top = 0.25 if total != 4 else 0.3  # a quarter of four steps: torch would divide by the zero steps before the top
        return optimizer, schedules.OneCycleLR(optimizer, rates, total_steps=total, pct_start=top, cycle_momentum=False)
    return optimizer, schedules.ConstantLR(optimizer, factor=1.0, total_iters=1)

"""Stacked: runs that differ in their seeds alone, trained at once, their weights side by side in one pass.

A small network leaves a GPU waiting for its next order; stacked, one order serves all the runs.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .checkpoint import alone, save_checkpoint
from .data import Images
from .training import RECIPES, Epoch, Recipe, Trainer, begin, pick_device, pick_precision, row_of
from .transformer import Noise, SpatialTransformer


def stackable(model: nn.Module) -> bool:
    """Whether runs of this network can be stacked: it draws nothing at random and remembers nothing but its parameters."""
    drops = (part.p for part in model.modules() if isinstance(part, (nn.Dropout, nn.Dropout2d)))
    draws = any(drops) or any(isinstance(part, Noise) for part in model.modules())
    return not draws and set(model.state_dict()) == set(dict(model.named_parameters()))


class Stack:
    """Trainers of one network and recipe, driven step by step together. Each stays the run that it would be alone.

    Every run shuffles and distorts by its own generator and has its own optimizer; forward and backward are done once for
    all. Raises ValueError for recipes that differ and for a network that is not `stackable`.
    """

    def __init__(self, trainers: list[Trainer]):
        first = trainers[0]
        if any(trainer.recipe != first.recipe for trainer in trainers):
            raise ValueError("the trainers have different recipes; only runs that differ in their seeds can be stacked")
        if not stackable(first.model):
            raise ValueError("the network has dropout, noise or batch norm, and cannot be stacked; train its runs one by one")
        self.trainers = trainers
        self.weights = [dict(trainer.model.named_parameters()) for trainer in trainers]
        self.model = deepcopy(first.model).train()  # lends its layers; the weights are handed to it
        for part in self.model.modules():
            if isinstance(part, SpatialTransformer):
                part.check = False

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every run. images: (runs, N, C, H, W), labels: (runs, N). Returns losses (runs,) and logits (runs, N, 10)."""
        first = self.trainers[0]

        def one(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(self.model, weights, (images,))
            return first.loss(logits, labels), logits

        # Stacking is differentiable, so that each run's own parameters get their own gradients.
        weights = {name: torch.stack([own[name] for own in self.weights]) for name in self.weights[0]}
        with first.autocast():
            # "different" only lets dropout at a rate of 0 pass: nothing is drawn.
            losses, logits = vmap(one, randomness="different")(weights, images, labels)
        for trainer in self.trainers:
            trainer.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        for trainer in self.trainers:
            trainer.optimizer.step()
            trainer.schedule.step()
        return losses, logits

    def run_epoch(self) -> list[Epoch]:
        """One pass over the training images for every run."""
        sums = [Epoch.start(trainer.steps, trainer.device) for trainer in self.trainers]
        for parts in zip(*(trainer.batches() for trainer in self.trainers), strict=True):
            images, labels = (torch.stack(part) for part in zip(*parts, strict=True))
            for epoch, *found in zip(sums, *self.step(images, labels), labels, strict=True):
                epoch.add(*found)
        for trainer, epoch in zip(self.trainers, sums, strict=True):
            trainer.check(epoch)
        return sums


def fit_stacked(
    models: list[nn.Module],
    train: Images,
    test: Images,
    recipe: Recipe | str,
    seeds: list[int],
    device: str | torch.device = "auto",
    precision: str = "auto",
    outs: list[Path] | None = None,
    name: str = "",
    after_epoch: Callable[[int, list[dict]], None] = lambda seed, history: None,
) -> list[list[dict]]:
    """Train one model per seed, all at once, and return their histories.

    outs: a folder for each run's checkpoint, which is that of the run alone: `fit` can go on with it, and this with what `fit`
    left. Arguments and errors are those of `training.fit`. Taught in notebook 07.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    device = pick_device(device) if isinstance(device, str) else device
    dtype, train, test = pick_precision(precision, device), train.to(device), test.to(device)
    pairs = list(zip(models, seeds, strict=True))
    trainers = [Trainer(model.to(device), train, recipe, seed, dtype) for model, seed in pairs]
    abouts = [trainer.about(name, seed) for trainer, seed in zip(trainers, seeds, strict=True)]
    paths = [Path(out) / "checkpoint.stn" for out in outs] if outs else [None] * len(trainers)
    runs = list(zip(trainers, seeds, abouts, paths, strict=True))
    with ExitStack() as locks:
        for trainer, _, about, path in runs:
            if path:
                locks.enter_context(alone(path.with_suffix(".lock"), ""))
                begin(trainer, path, about)
        while (done := min(len(trainer.history) for trainer in trainers)) < recipe.epochs:
            # A kill between two saves leaves some of them an epoch ahead: the others catch up first.
            behind = [run for run in runs if len(run[0].history) == done]
            began = time.monotonic()
            sums = Stack([run[0] for run in behind]).run_epoch()
            share = (time.monotonic() - began) / len(behind)  # of the time that they took together
            for (trainer, seed, about, path), epoch in zip(behind, sums, strict=True):
                trainer.history.append(row_of(trainer, epoch, test, share))
                if path:
                    save_checkpoint(path, {**trainer.state(), "run": about})
                after_epoch(seed, trainer.history)
    return [trainer.history for trainer in trainers]

"""What a place for the transformer costs: a training step of every place in the CIFAR-10 studies, beside the step without one."""

import pytest
import torch

from stn_helpers.data.batches import batches
from stn_helpers.training.trainer import Trainer
from studies.networks import PLACES, cifar_net
from studies.study import get

ROUNDS = {"small": 60, "strong": 12}
STILL = {"mean": [1.0, 0, 0, 0, 1, 0], "covariance": torch.zeros(6, 6).tolist()}
CASES = [(classifier, place) for classifier in ROUNDS for place in PLACES]


@pytest.mark.benchmark(group="steps")
@pytest.mark.parametrize(("classifier", "place"), CASES, ids=["-".join(case) for case in CASES])
def test_step(benchmark, train_set, classifier, place):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = get({"small": "cifar10", "strong": "strong"}[classifier]).arms["upright, light ST"].recipe
    net = cifar_net(classifier, place, STILL if place == "random" else None)
    trainer = Trainer(net.to(device), train_set.subset(slice(0, 2048)).to(device), recipe, seed=0, dtype=torch.bfloat16)
    trainer.model.train()
    batch = next(batches(trainer.train, recipe.batch_size, trainer.generator))

    def step():
        trainer.step(*batch)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info.update(images=recipe.batch_size, what=f"{classifier}-{place}", beside=classifier)
    benchmark.pedantic(step, rounds=ROUNDS[classifier], warmup_rounds=2)

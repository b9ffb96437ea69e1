"""What a place for the transformer costs: a training step of every arm of the CIFAR-10 study, beside the step without one."""

import pytest
import torch

from stn_helpers.data.batches import batches
from stn_helpers.training.trainer import RECIPES, Trainer
from studies.networks import STUDY_ARMS, build

ROUNDS = {"small": 60, "strong": 12}
STILL = {"mean": [1.0, 0, 0, 0, 1, 0], "covariance": torch.zeros(6, 6).tolist()}
CASES = [(classifier, arm) for classifier in ROUNDS for arm in STUDY_ARMS]


@pytest.mark.benchmark(group="steps")
@pytest.mark.parametrize(("classifier", "arm"), CASES, ids=["-".join(case) for case in CASES])
def test_step(benchmark, train_set, classifier, arm):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = RECIPES[{"small": "study", "strong": "strong"}[classifier]]
    net = build(f"{classifier}-{arm}", **({"spread": STILL} if arm == "random" else {}))
    trainer = Trainer(net.to(device), train_set.subset(slice(0, 2048)).to(device), recipe, seed=0, dtype=torch.bfloat16)
    trainer.model.train()
    batch = next(batches(trainer.train, recipe.batch_size, trainer.generator))

    def step():
        trainer.step(*batch)
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info.update(images=recipe.batch_size, what=f"{classifier}-{arm}", beside=classifier)
    benchmark.pedantic(step, rounds=ROUNDS[classifier], warmup_rounds=2)

"""Training: fit, evaluate, and go on where a killed run was."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_helpers.checks import NotFiniteError
from stn_helpers.data.batches import batches
from stn_helpers.data.distortions import distortion
from stn_helpers.data.files import alone, clear_orphans
from stn_helpers.data.sets import Images
from stn_helpers.training.checkpoint import fill, load_checkpoint, save_checkpoint
from stn_helpers.training.recipes import Recipe
from stn_helpers.transformer import SpatialTransformer

RECIPES = {
    # The seed: plain SGD at 0.01, batches of 64, the tutorial's dropout, no augmentation.
    "seed": Recipe(),
    "good": Recipe(
        batch_size=128,
        lr=0.05,
        localization=0.1,
        momentum=0.9,
        weight_decay=1e-3,
        one_cycle=True,
        flips=True,
        conv_dropout=0.0,
        dropout=0.0,
    ),
    # Small digits, turned anew in every batch.
    "digits": Recipe(
        epochs=40,
        lr=3e-3,
        weight_decay=1e-4,
        one_cycle=True,
        conv_dropout=0.0,
        dropout=0.0,
        optimizer="adamw",
        distortion="turned",
    ),
}
# The CIFAR-10 study. Half the rate for the localization network: of 0.1, 0.5, 1 and 3 the best on held-out training images.
RECIPES["study"] = replace(RECIPES["good"], localization=0.5)
# A tenth of it, which the paper takes too, is what did not collapse in any seed of the study "cifar10-seed".
RECIPES["study-slow"] = replace(RECIPES["study"], localization=0.1)
# What turns things in notebook 04: AdamW, and the same rate for both parts.
RECIPES["study-adamw"] = replace(
    RECIPES["study"], optimizer="adamw", lr=3e-3, momentum=0.0, weight_decay=RECIPES["digits"].weight_decay, localization=1.0
)
RECIPES["study-clipped"] = replace(RECIPES["study"], clip=1.0)
RECIPES["study-free"] = replace(RECIPES["study-slow"], localization_decay=0.0)
# Its strong classifier, ResNet-9 as Page (2018) trained it in 24 epochs, but with half his batch at half his rate, and with
# the label smoothing that he and Jordan (airbench, 2024) came to use.
RECIPES["strong"] = replace(
    RECIPES["study-slow"],
    epochs=24,
    batch_size=256,
    lr=0.2,
    weight_decay=5e-4,
    crop_pixels=4,
    cutout_pixels=8,
    label_smoothing=0.1,
)
for _set in ("rotated", "rts", "perspective", "rotated disc"):
    for _name in ("study", "study-slow", "study-adamw", "study-clipped", "study-free", "strong"):
        RECIPES[f"{_name}-{_set}"] = replace(RECIPES[_name], distortion=_set)
    RECIPES[f"study-{_set}, undone"] = replace(RECIPES["study"], distortion=f"{_set}, undone")
# The paper's table, in 10 epochs. The paper: 640 of them, SGD at 0.01 without momentum, a tenth of it after each third.
# In 10 that hardly trains, hence momentum and one cycle. As in the paper batches of 256, no weight decay, no dropout.
RECIPES["paper"] = Recipe(
    epochs=10, batch_size=256, lr=0.05, localization=0.1, momentum=0.9, one_cycle=True, conv_dropout=0.0, dropout=0.0
)
# And the whole of it, for a GPU.
RECIPES["paper-long"] = replace(RECIPES["paper"], epochs=640, lr=0.01, momentum=0.0, one_cycle=False, thirds=True)
for _set in ("rotated", "rts 42", "perspective", "elastic", "cluttered 60"):
    for _name in ("paper", "paper-long"):
        RECIPES[f"{_name}-{_set}"] = replace(RECIPES[_name], distortion=_set)
RECIPES["digits-upright"] = replace(RECIPES["digits"], distortion="upright")
RECIPES["digits-one-way"] = replace(RECIPES["digits"], distortion="turned one way")
RECIPES["digits-cluttered"] = replace(RECIPES["digits"], distortion="cluttered")
# Notebook 08: once through MNIST's 60,000 in place of forty times through the 1,437 digits; and these on a large canvas.
RECIPES["brief"] = replace(RECIPES["digits"], epochs=1, distortion="upright")
RECIPES["brief-rotated"] = replace(RECIPES["brief"], distortion="rotated")
# Twenty times through pairs of MNIST digits, whose sum says little about either.
RECIPES["sums"] = replace(RECIPES["digits"], epochs=20, batch_size=256, distortion="rts 42 apart")
RECIPES["digits-cluttered 60"] = replace(RECIPES["digits"], distortion="cluttered 60")


def pick_device(name: str = "auto") -> torch.device:
    """A device by name; "auto" is CUDA where there is one. Raises ValueError where it is not on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but this torch sees no CUDA GPU; use --device cpu or auto")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16 by name; "auto" is bfloat16 on CUDA. The grid is float32 in either."""
    names = {"float32": torch.float32, "bf16": torch.bfloat16}
    names["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in names:
        raise ValueError(f"precision is {name!r}; expected one of {', '.join(names)}")
    return names[name]


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Localization networks with their own learning rate; weight decay for weights only.

    Decay must not reach biases: pulling theta's identity bias to zero would zoom every picture into a point.
    """
    inside = {id(p) for m in model.modules() if isinstance(m, SpatialTransformer) for p in m.parameters()}
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in inside, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": params,
            "lr": recipe.lr * (recipe.localization if localization else 1.0),
            "weight_decay": recipe.weight_decay * (recipe.localization_decay if localization else 1.0) if decays else 0.0,
        }
        for (localization, decays), params in groups.items()
    ]


def make_optimizer(model: nn.Module, recipe: Recipe, steps: int):
    """(optimizer, schedule) of a recipe: SGD or AdamW; constant, one-cycle or in thirds over `steps` steps."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    elif recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    else:
        raise ValueError(f"optimizer is {recipe.optimizer!r}; expected sgd or adamw")
    if recipe.thirds:
        places = [steps // 3, 2 * steps // 3]
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=places, gamma=0.1)
    if not recipe.one_cycle:
        return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=1)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rates, total_steps=max(steps, 2), pct_start=0.25, cycle_momentum=False
    )
    return optimizer, schedule


@torch.inference_mode()
def evaluate(model: nn.Module, data: Images, batch_size: int = 500) -> dict[str, float]:
    """{"loss", "accuracy"} over a whole set, in float32; accuracy in percent. The data lies on the model's device."""
    model.eval()
    loss = torch.zeros((), device=data.labels.device)
    right = torch.zeros((), device=data.labels.device)
    for images, labels in batches(data, batch_size):
        logits = model(images)
        loss += F.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(1) == labels).sum()
    return {"loss": loss.item() / len(data), "accuracy": 100 * right.item() / len(data)}


@dataclass
class Epoch:
    """The running sums of one epoch. They stay on the device, so that no step waits for them."""

    losses: Tensor
    right: Tensor
    step: int = 0
    images: int = 0

    @classmethod
    def start(cls, steps: int, device) -> "Epoch":
        return cls(torch.zeros(steps, device=device), torch.zeros((), device=device))

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.losses[self.step] = loss.detach()
        self.right += (logits.detach().argmax(1) == labels).sum()
        self.step += 1
        self.images += len(labels)

    def summary(self) -> dict[str, float]:
        """Mean loss and accuracy (percent) so far. This waits for the device."""
        loss = self.losses[: self.step].mean().item()
        return {"loss": loss, "accuracy": 100 * self.right.item() / max(1, self.images)}

    def check(self, epoch: int) -> None:
        bad = ~self.losses[: self.step].isfinite()
        if bad.any():
            raise FloatingPointError(
                f"the loss is not finite at step {int(bad.nonzero()[0]) + 1} of epoch {epoch}; training stopped, "
                "the last good checkpoint is kept. Try a smaller learning rate, for the localization network first."
            )


class Trainer:
    """A model, its data and a recipe, with all the state that a run has: what `fit` drives epoch by epoch.

    The model and both sets must lie on one device. Shuffling and augmentation draw from a generator of the trainer's own.
    """

    def __init__(self, model: nn.Module, train: Images, recipe: Recipe, seed: int, dtype: torch.dtype = torch.float32):
        self.model = model.to(memory_format=torch.channels_last)
        self.train, self.recipe, self.dtype = train, recipe, dtype
        self.device = train.images.device
        self.steps = len(train) // recipe.batch_size
        if self.steps == 0:
            raise ValueError(f"{len(train)} images do not fill one batch of {recipe.batch_size}; use a smaller batch_size")
        self.distort = None if recipe.distortion == "upright" else distortion(recipe.distortion)
        self.optimizer, self.schedule = make_optimizer(model, recipe, recipe.epochs * self.steps)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.history: list[dict] = []
        with self.own_randomness(None):
            torch.default_generator.manual_seed(seed)
            if self.device.type == "cuda":
                torch.cuda.manual_seed(seed)
            self.random = self.global_random()

    def global_random(self) -> dict[str, Tensor]:
        """The state of the generators that dropout draws from."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    @contextmanager
    def own_randomness(self, state: dict[str, Tensor] | None):
        """Run with a random state of our own, and leave the caller's as it was."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            if state is not None:
                torch.set_rng_state(state["cpu"])
            if state is not None and "cuda" in state:
                torch.cuda.set_rng_state(state["cuda"], self.device)
            yield

    def autocast(self) -> torch.autocast:
        """The precision in which the network runs while it trains."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is minimised."""
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of gradient descent: (loss, logits), still on the device."""
        with self.autocast():
            logits = self.model(images)
            loss = self.loss(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss, logits

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the training images, shuffled, augmented and distorted anew."""
        recipe = self.recipe
        moves = recipe.flips, recipe.crop_pixels, recipe.cutout_pixels
        return batches(self.train, recipe.batch_size, self.generator, *moves, self.distort)

    def check(self, sums: Epoch) -> None:
        """Raise FloatingPointError where the epoch that has just run left a loss or a weight that is not finite."""
        number = len(self.history) + 1
        sums.check(number)
        # The last step's update comes after its loss: it may have broken the weights unseen.
        if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
            raise FloatingPointError(f"a weight is not finite after epoch {number}; the last good checkpoint is kept")

    def run_epoch(self, look: Callable[[Epoch], None] = lambda epoch: None) -> Epoch:
        """One pass over the training images. `look` is called about once a second, to show how it goes."""
        number = len(self.history) + 1
        sums = Epoch.start(self.steps, self.device)
        shown = time.monotonic()
        self.model.train()
        with self.own_randomness(self.random):
            try:
                for images, labels in self.batches():
                    sums.add(*self.step(images, labels), labels)
                    if time.monotonic() - shown > 1:
                        look(sums)
                        shown = time.monotonic()
            except NotFiniteError as error:
                sums.check(number)  # a loss that diverged before explains it
                raise FloatingPointError(f"step {sums.step + 1} of epoch {number}: {error}") from error
            self.random = self.global_random()
        self.check(sums)
        return sums

    def about(self, name: str, seed: int) -> dict:
        """What a checkpoint says of the run that it belongs to."""
        data = {"data": self.train.name, "images": len(self.train), "dtype": str(self.dtype)}
        return {"name": name, "seed": seed, **data}

    def state(self) -> dict:
        """Everything that a later process needs to go on."""
        return {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "random": self.random,
            "history": self.history,
        }

    def restore(self, state: dict, path) -> None:
        """Take up a state. Raises ValueError where it belongs to another architecture or recipe."""
        then, now = asdict(Recipe(**state["recipe"])), asdict(self.recipe)
        if then != now:
            changed = [name for name in now if then[name] != now[name]]
            raise ValueError(f"{path} was trained with another recipe ({', '.join(changed)} differ); choose another --out")
        fill(self.model, state["model"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.random, self.history = state["random"], state["history"]


def fit(
    model: nn.Module,
    train: Images,
    test: Images,
    recipe: Recipe | str = "good",
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str = "auto",
    out: Path | str | None = None,
    stop_after: int | None = None,
    progress: bool = True,
    name: str = "",
    after_epoch: Callable[[list[dict]], None] = lambda history: None,
) -> list[dict]:
    """Train a model, epoch by epoch, and return its history: one dict an epoch.

    recipe: a `Recipe` or a name from RECIPES. seed: shuffling, augmentation and dropout. out: a folder for checkpoint.stn,
    written whole after every epoch; where one is, training goes on from it, and on a CPU ends bit for bit where an
    undisturbed run ends. Of two processes with one folder the second waits for the first. stop_after: stop at this epoch of
    the recipe's schedule. name: what the checkpoint says it is.
    The last epoch counts, whatever the test set says of it: nothing is chosen by looking at `test`.
    Raises FloatingPointError at a loss that is not finite, ValueError for a checkpoint of another run.
    Taught in notebook 05.
    """
    recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
    device = pick_device(device) if isinstance(device, str) else device
    dtype = pick_precision(precision, device)
    trainer, test = Trainer(model.to(device), train.to(device), recipe, seed, dtype), test.to(device)
    run = trainer.about(name, seed)
    path = Path(out) / "checkpoint.stn" if out else None
    last = recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)
    # Two processes in one folder would write over each other's epochs: the second waits, and finds the run finished.
    waiting = f"Another process trains in {out}; waiting for it." if progress else ""
    with alone(path.with_suffix(".lock"), waiting) if path else nullcontext():
        if path:
            begin(trainer, path, run)
        with _bar(trainer, last, progress) as bar:
            while len(trainer.history) < last:
                row = _one_epoch(trainer, test, bar)
                trainer.history.append(row)
                if path:
                    save_checkpoint(path, {**trainer.state(), "run": run})
                if progress:
                    bar.write(describe(row, recipe.epochs))
                after_epoch(trainer.history)
    return trainer.history


def begin(trainer: Trainer, path: Path, run: dict) -> None:
    """Go on from the checkpoint, or write the first one."""
    clear_orphans(path)
    if path.exists():
        _resume(trainer, path, run)
    else:
        save_checkpoint(path, {**trainer.state(), "run": run})


def _resume(trainer: Trainer, path: Path, run: dict) -> None:
    state = load_checkpoint(path)
    if state["run"] != run:
        changed = [f"{key} {state['run'].get(key)!r}, not {run[key]!r}" for key in run if state["run"].get(key) != run[key]]
        raise ValueError(f"{path} belongs to another run ({', '.join(changed)}); choose another --out")
    trainer.restore(state, path)


def _one_epoch(trainer: Trainer, test: Images, bar) -> dict:
    """Train and test once; the row of the history."""
    began, done = time.monotonic(), len(trainer.history) * trainer.steps

    def look(sums: Epoch) -> None:
        now, rate = sums.summary(), sums.images / (time.monotonic() - began)
        bar.set_postfix_str(f"loss {now['loss']:.3f}, accuracy {now['accuracy']:.1f} %, {rate:,.0f} images/s", refresh=False)
        bar.update(done + sums.step - bar.n)

    sums = trainer.run_epoch(look)
    row = row_of(trainer, sums, test, time.monotonic() - began)
    bar.update(done + sums.step - bar.n)
    return row


def row_of(trainer: Trainer, sums: Epoch, test: Images, seconds: float) -> dict:
    """The row of the history for the epoch that has just run, which took so many seconds: what its sums say, and the test."""
    trained = sums.summary()
    tested = evaluate(trainer.model, test)
    if not math.isfinite(tested["loss"]):
        number = len(trainer.history) + 1
        raise FloatingPointError(f"the test loss is not finite after epoch {number}; the last good checkpoint is kept")
    return {
        "epoch": len(trainer.history) + 1,
        "train_loss": trained["loss"],
        "train_accuracy": trained["accuracy"],
        "test_loss": tested["loss"],
        "test_accuracy": tested["accuracy"],
        "seconds": seconds,
        "images_per_second": sums.images / seconds,
    }


def describe(row: dict, epochs: int) -> str:
    """One line about one epoch."""
    return (
        f"epoch {row['epoch']:2d}/{epochs}  loss {row['train_loss']:.3f}  train {row['train_accuracy']:.1f} %  "
        f"test {row['test_accuracy']:.2f} %  {row['images_per_second']:,.0f} images/s"
    )


def _bar(trainer: Trainer, epochs: int, progress: bool):
    from tqdm.auto import tqdm

    total, done = epochs * trainer.steps, len(trainer.history) * trainer.steps
    return tqdm(total=total, initial=done, unit="step", disable=not progress, dynamic_ncols=True)

"""Training: fit, evaluate, and go on where a killed run was."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from stn_helpers.checks import NotFiniteError
from stn_helpers.data.batches import batches
from stn_helpers.data.distortions import Distortion, distortion
from stn_helpers.data.files import alone, clear_orphans
from stn_helpers.data.sets import Images
from stn_helpers.training.checkpoint import fill, load_checkpoint, save_checkpoint
from stn_helpers.training.devices import PRECISIONS, describe_device, dtype_name, has_bfloat16, pick_device, pick_precision
from stn_helpers.training.recipes import Recipe, make_optimizer, named_recipe


@torch.inference_mode()
def evaluate(model: nn.Module, data: Images, batch_size: int = 500) -> dict[str, float]:
    """{"loss", "accuracy"} over a whole set, in float32; accuracy in percent. The data lies on the model's device.

    Raises ValueError for a set without images and for a batch_size below 1.
    """
    _check_images(data)
    model.eval()
    loss, right = torch.zeros(2, device=data.labels.device)
    for images, labels in batches(data, batch_size):
        logits = model(images)
        loss += F.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(1) == labels).sum()
    return {"loss": loss.item() / len(data), "accuracy": 100 * right.item() / len(data)}


def _check_images(data: Images) -> None:
    if len(data) == 0:
        raise ValueError(f"the set {data.name!r} holds no images; expected at least one to test on")


class Epoch:
    """The running sums of one epoch. They stay on the device, so that no step waits for them."""

    def __init__(self, steps: int, device):
        self.losses, self.right = torch.zeros(steps, device=device), torch.zeros((), device=device)
        self.step = self.images = 0

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
        """Raise FloatingPointError at the first loss that is not finite."""
        bad = ~self.losses[: self.step].isfinite()
        if bad.any():
            raise FloatingPointError(
                f"the loss is not finite at step {int(bad.nonzero()[0]) + 1} of epoch {epoch}; training stopped, "
                "the last good checkpoint is kept. Try a smaller learning rate, for the localization network first."
            )


class Trainer:
    """A model, its data and a recipe, with all the state that a run has: what `fit` drives epoch by epoch.

    The model and its images must lie on one device. train_on: a distortion, or the name of one, new for every batch.
    Shuffling, augmentation and distortion draw from a generator of the trainer's own.
    Raises ValueError where the images do not fill one batch, and for an unknown distortion.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Images,
        recipe: Recipe,
        seed: int,
        dtype: torch.dtype = torch.float32,
        train_on: str | Distortion = "upright",
    ):
        self.model = model.to(memory_format=torch.channels_last)
        self.train, self.recipe, self.seed, self.dtype, self.train_on = train, recipe, seed, dtype, train_on
        self.device = train.images.device
        self.steps = len(train) // recipe.batch_size
        if self.steps == 0:
            raise ValueError(f"{len(train)} images do not fill one batch of {recipe.batch_size}; use a smaller batch_size")
        made = train_on if isinstance(train_on, Distortion) else distortion(train_on)
        self.distort = None if made == Distortion() else made
        self.optimizer, self.schedule = make_optimizer(model, recipe, recipe.epochs * self.steps)
        self.history: list[dict] = []
        self.note = ""  # what the next row of the history must say: how this run goes on differently from how it began
        self.seed_generators(seed)

    def seed_generators(self, seed: int) -> None:
        """Begin the trainer's own generator, and those that dropout will draw from, anew."""
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.random = {kind: torch.Generator(kind).manual_seed(seed).get_state() for kind in {"cpu", self.device.type}}

    @contextmanager
    def own_randomness(self):
        """Run with a random state of our own, and leave the caller's as it was."""
        cuda = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if cuda else []):
            torch.set_rng_state(self.random["cpu"])
            if cuda:
                torch.cuda.set_rng_state(self.random["cuda"], self.device)
            yield
            self.random = {"cpu": torch.get_rng_state()}
            if cuda:
                self.random["cuda"] = torch.cuda.get_rng_state(self.device)

    def step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of gradient descent: (loss, logits), still on the device."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
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

    def run_epoch(self, look: Callable[[Epoch], None] = lambda epoch: None) -> Epoch:
        """One pass over the training images. `look` is called about once a second, to show how it goes.

        Raises FloatingPointError where it leaves a loss or a weight that is not finite.
        """
        number = len(self.history) + 1
        sums = Epoch(self.steps, self.device)
        shown = time.monotonic()
        self.model.train()
        with self.own_randomness():
            try:
                for images, labels in self.batches():
                    sums.add(*self.step(images, labels), labels)
                    if time.monotonic() - shown > 1:
                        look(sums)
                        shown = time.monotonic()
            except NotFiniteError as error:
                sums.check(number)  # a loss that diverged before explains it
                raise FloatingPointError(f"step {sums.step + 1} of epoch {number}: {error}") from error
        sums.check(number)
        # The last step's update comes after its loss: it may have broken the weights unseen.
        if not all(tensor.isfinite().all() for tensor in self.model.state_dict().values()):
            raise FloatingPointError(f"a weight is not finite after epoch {number}; the last good checkpoint is kept")
        return sums

    def state(self) -> dict:
        """Everything that a later process needs to go on."""
        return {
            "recipe": asdict(self.recipe),
            "device": self.device.type,
            "dtype": dtype_name(self.dtype),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "random": self.random,
            "history": self.history,
        }

    def restore(self, state: dict, path) -> None:
        """Take up a state. Raises ValueError where it belongs to another architecture.

        The state's precision is kept where this device has it. Where it has not, and where the state comes from another kind of
        device, whose random numbers are others, `note` says how the run goes on.
        """
        fill(self.model, state["model"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self.optimizer.state.items():
            for key, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and key != "step":
                    values[key] = torch.empty_like(parameter).copy_(value)  # in the parameter's layout, as it was before
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        notes, dtype = [], PRECISIONS[state["dtype"]]
        if dtype == torch.float32 or has_bfloat16(self.device):
            self.dtype = dtype
        elif self.dtype != dtype:
            notes.append(f"in {dtype_name(self.dtype)}, because this device has no {state['dtype']}")
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"])
            self.random = state["random"]
        else:
            self.seed_generators((self.seed + 1) * 1_000_003 + len(self.history))
            notes.append(f"on {self.device.type} after {state['device']}, with new random numbers")
        self.note = f"from epoch {len(self.history) + 1}: " + "; ".join(notes) if notes else ""


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
    train_on: str | Distortion = "upright",
    kind: type[Trainer] = Trainer,
) -> list[dict]:
    """Train a model, epoch by epoch, and return its history: one dict an epoch.

    recipe: a `Recipe` or a name from RECIPES. seed: shuffling, augmentation, distortion and dropout.
    device: auto, cpu or cuda. precision: auto, float32 or bfloat16; auto takes bfloat16 where the hardware has it.
    out: a folder for checkpoint.stn, written whole after every epoch; where one is, training goes on from it, and on a CPU
    ends bit for bit where an undisturbed run ends. Of two processes with one folder the second waits for the first.
    Under precision "auto" a run goes on in the precision in which it began, where this device has it; any change is said,
    and stands as `note` in the next row of the history.
    stop_after: stop at this epoch of the recipe's schedule. name: what the checkpoint says it is.
    train_on: a distortion, or the name of one, new for every batch; `test` is taken as it is.
    kind: a `Trainer` that makes other batches or takes other steps.
    The last epoch counts, whatever the test set says of it: nothing is chosen by looking at `test`.
    Raises FloatingPointError at a loss that is not finite, ValueError for a checkpoint of another run.
    Taught in notebook 05.
    """
    recipe, device = named_recipe(recipe), pick_device(str(device))
    _check_images(test)
    dtype = pick_precision(precision, device)
    trainer, test = kind(model.to(device), train.to(device), recipe, seed, dtype, train_on), test.to(device)
    path = Path(out) / "checkpoint.stn" if out else None
    last = recipe.epochs if stop_after is None else min(stop_after, recipe.epochs)
    # Two processes in one folder would write over each other's epochs: the second waits, and finds the run finished.
    waiting = f"Another process trains in {out}; waiting for it." if progress else ""
    with alone(path.with_suffix(".lock"), waiting) if path else nullcontext():
        run = _begin(trainer, path, name, precision) if path else {}
        steps, done = last * trainer.steps, len(trainer.history) * trainer.steps
        with tqdm(total=steps, initial=done, unit="step", disable=not progress, dynamic_ncols=True) as bar:
            say = bar.write if progress else lambda words: None
            if len(trainer.history) < last:
                say(", ".join(filter(None, [describe_device(trainer.device, trainer.dtype), trainer.note])))
            elif path:
                say(f"finished before, after {len(trainer.history)} epochs; to train anew, delete {path}")
            while len(trainer.history) < last:
                row = _one_epoch(trainer, test, bar)
                trainer.history.append(row)
                if path:
                    save_checkpoint(path, {**trainer.state(), "run": run})
                say(describe(row, recipe.epochs))
                after_epoch(trainer.history)
    return trainer.history


def _begin(trainer: Trainer, path: Path, name: str, precision: str) -> dict:
    """Go on from the checkpoint, or write the first one; what it says of the run. Raises ValueError for that of another run."""
    clear_orphans(path)
    data = trainer.train
    run = {"name": name, "seed": trainer.seed, "data": data.name, "images": len(data), "content": data.digest()}
    run["train_on"] = str(trainer.train_on)
    if not path.exists():
        save_checkpoint(path, {**trainer.state(), "run": run})
        return run
    state = load_checkpoint(path)
    then, now = {**asdict(Recipe()), **state["recipe"], **state["run"]}, {**asdict(trainer.recipe), **run}
    if precision != "auto":  # said by hand, it decides
        then["precision"], now["precision"] = state["dtype"], dtype_name(trainer.dtype)
    if changed := [f"{key} {then.get(key)!r}, not {now.get(key)!r}" for key in {**then, **now} if then.get(key) != now.get(key)]:
        raise ValueError(f"{path} belongs to another run ({', '.join(changed)}); choose another folder (out, --out)")
    trainer.restore(state, path)
    return run


def _one_epoch(trainer: Trainer, test: Images, bar) -> dict:
    """Train and test once; the row of the history."""
    began, done, number = time.monotonic(), len(trainer.history) * trainer.steps, len(trainer.history) + 1

    def look(sums: Epoch) -> None:
        now, rate = sums.summary(), sums.images / (time.monotonic() - began)
        bar.set_postfix_str(f"loss {now['loss']:.3f}, accuracy {now['accuracy']:.1f} %, {rate:,.0f} images/s", refresh=False)
        bar.update(done + sums.step - bar.n)

    sums = trainer.run_epoch(look)
    trained, seconds = sums.summary(), time.monotonic() - began
    tested = evaluate(trainer.model, test)
    if not math.isfinite(tested["loss"]):
        raise FloatingPointError(f"the test loss is not finite after epoch {number}; the last good checkpoint is kept")
    bar.update(done + sums.step - bar.n)
    note, trainer.note = {"note": trainer.note} if trainer.note else {}, ""
    return {
        "epoch": number,
        "train_loss": trained["loss"],
        "train_accuracy": trained["accuracy"],
        "test_loss": tested["loss"],
        "test_accuracy": tested["accuracy"],
        "seconds": seconds,
        "images_per_second": sums.images / seconds,
        **note,
    }


def describe(row: dict, epochs: int) -> str:
    """One line about one epoch."""
    return (
        f"epoch {row['epoch']:2d}/{epochs}  loss {row['train_loss']:.3f}  train {row['train_accuracy']:.1f} %  "
        f"test {row['test_accuracy']:.2f} %  {row['images_per_second']:,.0f} images/s"
    )

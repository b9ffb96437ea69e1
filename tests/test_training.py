"""training/: a run is its seed's alone, goes on after a stop on whatever card, and ends when the loss does."""

import re
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import stn_helpers.training.trainer
from stn_helpers.data.distortions import DISTORTIONS, Distortion
from stn_helpers.data.sets import load
from stn_helpers.training import devices
from stn_helpers.training.checkpoint import load_checkpoint, save_checkpoint
from stn_helpers.training.devices import describe_device, has_bfloat16, pick_device, pick_precision
from stn_helpers.training.recipes import RECIPES, Recipe
from stn_helpers.training.trainer import Trainer, evaluate, fit, make_optimizer
from stn_helpers.transformer import SpatialTransformer, light_localization


class Net(nn.Module):
    """A small classifier of pictures of any size, with a transformer in front of it or without."""

    def __init__(self, transformer: bool, channels: int, dropout: float):
        super().__init__()
        self.transformer = SpatialTransformer(light_localization(channels)) if transformer else nn.Identity()
        self.classifier = nn.Sequential()
        self.classifier.conv = nn.Conv2d(channels, 8, 5, stride=2)
        self.classifier.norm = nn.BatchNorm2d(8)
        self.classifier.drop = nn.Dropout2d(dropout)
        self.classifier.pool = nn.AdaptiveAvgPool2d(5)
        self.classifier.flat = nn.Flatten()
        self.classifier.linear = nn.Linear(200, 10)

    def forward(self, images):
        return self.classifier(self.transformer(images))


def build(name: str, seed: int = 0, channels: int = 3, dropout: float = 0.5) -> Net:
    """ "stn" or "plain", decided by its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(name == "stn", channels, dropout)


# Everything that has a state: momentum, schedule, dropout, shuffling, flips, crops and cutout.
FULL = Recipe(
    epochs=4,
    batch_size=32,
    lr=0.02,
    localization=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    one_cycle=True,
    flips=True,
    crop_pixels=2,
    cutout_pixels=4,
)
QUICK = Recipe(epochs=2, batch_size=32)


def timeless(history: list[dict]) -> list[dict]:
    """A history without the clock's part."""
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in history]


def same(one, two) -> bool:
    """Equal to the bit, through dicts, lists and tensors."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


@pytest.fixture
def train_here(digits_as_cifar):
    """fit on the small digits, on the CPU and silent: train_here(model, recipe, ...) -> history."""

    def run(model, recipe=QUICK, **options):
        options = {"device": "cpu", "precision": "float32", "progress": False, **options}
        return fit(model, digits_as_cifar.train, digits_as_cifar.test, recipe, **options)

    return run


# --- going on ---


@pytest.fixture(scope="module")
def undisturbed(digits_as_cifar, tmp_path_factory):
    """Four epochs in one go: (folder, model, history)."""
    out, model = tmp_path_factory.mktemp("undisturbed"), build("stn", 0)
    how = {"device": "cpu", "precision": "float32", "progress": False}
    return out, model, fit(model, digits_as_cifar.train, digits_as_cifar.test, FULL, out=out, **how)


def test_two_epochs_and_two_more_equal_four(undisturbed, train_here, tmp_path):
    out, whole, history = undisturbed
    first = train_here(build("stn", 0), FULL, out=tmp_path, stop_after=2)
    assert timeless(first) == timeless(history[:2])
    torch.rand(7)  # what happens between must not count; nor do the weights that the second network starts from
    model = build("stn", 99)
    assert timeless(train_here(model, FULL, out=tmp_path)) == timeless(history)
    assert same(model.state_dict(), whole.state_dict())
    ends = [load_checkpoint(folder / "checkpoint.stn") for folder in (out, tmp_path)]
    for end in ends:
        end["history"] = timeless(end["history"])
    assert same(*ends)


@pytest.mark.parametrize("changes", [{"thirds": True}, {"optimizer": "adamw", "one_cycle": True}], ids=["thirds", "adamw"])
def test_every_schedule_and_optimizer_goes_on_to_the_bit(train_here, tmp_path, changes):
    recipe, whole, model = Recipe(epochs=3, batch_size=32, lr=0.01, **changes), build("stn"), build("stn", 9)
    history = train_here(whole, recipe)
    train_here(build("stn"), recipe, out=tmp_path, stop_after=1)
    assert timeless(train_here(model, recipe, out=tmp_path)) == timeless(history)
    assert same(model.state_dict(), whole.state_dict())


def test_a_finished_run_is_not_trained_again(undisturbed, train_here):
    out, whole, history = undisturbed
    before, model = (out / "checkpoint.stn").read_bytes(), build("stn", 5)
    assert train_here(model, FULL, out=out) == history
    assert same(model.state_dict(), whole.state_dict())
    assert (out / "checkpoint.stn").read_bytes() == before


def test_the_loss_falls_and_every_epoch_has_a_full_row(undisturbed):
    history = undisturbed[2]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    wanted = {"epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "images_per_second"}
    assert all(row.keys() == wanted and row["images_per_second"] > 0 for row in history)


@pytest.mark.parametrize("move", [{"flips": True}, {"crop_pixels": 2}, {"cutout_pixels": 4}], ids=lambda move: next(iter(move)))
def test_what_a_recipe_says_is_done_to_the_training_images(digits_as_cifar, move):
    recipes, train = (QUICK, replace(QUICK, **move)), digits_as_cifar.train
    as_they_are, moved = (next(Trainer(build("plain"), train, recipe, 0).batches()) for recipe in recipes)
    assert torch.equal(as_they_are[1], moved[1]) and not torch.equal(as_they_are[0], moved[0])


def test_a_run_is_decided_by_its_seed_and_not_by_the_caller(train_here):
    dropping = replace(QUICK, flips=True, crop_pixels=1)
    runs = []
    for seed in (3, 3, 4):
        torch.rand(5)
        runs.append(timeless(train_here(build("plain"), dropping, seed=seed)))
    assert runs[0] == runs[1] != runs[2]


def test_fit_leaves_the_random_state_of_the_caller_alone(train_here, tmp_path):
    before = torch.get_rng_state()
    train_here(build("plain"), replace(FULL, epochs=2), out=tmp_path, stop_after=1)
    train_here(build("plain"), replace(FULL, epochs=2), out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_drops_other_features(digits_as_cifar):
    dropped, model = [], build("plain")
    model.classifier.drop.register_forward_hook(lambda layer, images, kept: dropped.append((kept == 0).all((2, 3))))
    trainer = Trainer(model, digits_as_cifar.train, Recipe(batch_size=128), seed=0)
    trainer.run_epoch()
    trainer.run_epoch()
    assert len(dropped) == 2 and not torch.equal(*dropped)


# --- refused checkpoints ---


@pytest.fixture
def one_epoch(train_here, tmp_path):
    """A folder with the checkpoint of one epoch of QUICK."""
    train_here(build("plain"), out=tmp_path, stop_after=1, name="plain")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"recipe": replace(QUICK, lr=0.5)}, r"another run \(lr 0.01, not 0.5\)"),
        ({"recipe": replace(QUICK, epochs=9, clip=0.1)}, r"another run \(epochs 2, not 9, clip 0.0, not 0.1\)"),
        ({"seed": 1}, r"another run \(seed 0, not 1\)"),
        ({"name": "other"}, r"another run \(name 'plain', not 'other'\)"),
        ({"precision": "bf16"}, r"another run \(precision 'float32', not 'bfloat16'\)"),
        ({"train_on": "turned"}, r"another run \(train_on 'upright', not 'turned'\)"),
        ({"model": "stn"}, r"another architecture: transformer\.localization\.0\.bias is absent in the file"),
    ],
    ids=["recipe", "recipe twice", "seed", "name", "precision", "distortion", "architecture"],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference_and_left_alone(train_here, one_epoch, changed, reason):
    before = (one_epoch / "checkpoint.stn").read_bytes()
    model = build(changed.pop("model", "plain"))
    with pytest.raises(ValueError, match=reason) as caught:
        train_here(model, **{"out": one_epoch, "name": "plain", **changed})
    assert str(one_epoch / "checkpoint.stn") in str(caught.value)
    assert (one_epoch / "checkpoint.stn").read_bytes() == before


def test_a_checkpoint_of_other_data_is_refused(one_epoch, digits_as_cifar):
    train, test = digits_as_cifar.train, digits_as_cifar.test
    changed = train.images.clone()
    changed[100, 0, 9, 9] ^= 1
    for other, said in (
        (train.subset(slice(96)), "images 128, not 96"),
        (replace(train, name="CIFAR-10"), "data 'digits', not 'CIFAR-10'"),
        (replace(train, images=changed), f"content '{train.digest()}', not"),
    ):
        with pytest.raises(ValueError, match=rf"another run \(.*{said}"):
            fit(build("plain"), other, test, QUICK, device="cpu", out=one_epoch, name="plain", progress=False)


def test_a_refused_checkpoint_does_not_touch_the_model(train_here, one_epoch):
    model, untouched = build("plain", 1), build("plain", 1)
    with pytest.raises(ValueError, match="another run .lr"):
        train_here(model, replace(QUICK, lr=0.5), out=one_epoch, name="plain")
    assert same(model.state_dict(), untouched.state_dict())


def test_a_damaged_checkpoint_stops_the_run_and_stays(train_here, one_epoch):
    file = one_epoch / "checkpoint.stn"
    file.write_bytes(file.read_bytes()[:-1])
    before = file.read_bytes()
    with pytest.raises(ValueError, match="damaged.*Delete it to start again"):
        train_here(build("plain"), out=one_epoch, name="plain")
    assert file.read_bytes() == before


# --- a loss that is not finite ---


class GoesBad(nn.Module):
    """A classifier whose answer is NaN at one training step."""

    def __init__(self, step: int):
        super().__init__()
        self.inner, self.left = build("plain"), step

    def forward(self, images):
        self.left -= self.training
        return self.inner(images) * (float("nan") if self.training and self.left == 0 else 1.0)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step_and_keeps_the_good_epoch(train_here, tmp_path):
    with pytest.raises(FloatingPointError, match="not finite at step 3 of epoch 2"):  # four steps an epoch
        train_here(GoesBad(4 + 3), replace(QUICK, epochs=3), out=tmp_path)
    assert len(load_checkpoint(tmp_path / "checkpoint.stn")["history"]) == 1
    healthy = GoesBad(-1)
    assert len(train_here(healthy, replace(QUICK, epochs=3), out=tmp_path)) == 3
    assert all(tensor.isfinite().all() for tensor in healthy.state_dict().values())


@pytest.mark.parametrize("model", ["seed", "plain"])
def test_an_absurd_learning_rate_stops_the_run_with_the_step(train_here, tmp_path, model):
    with pytest.raises(FloatingPointError, match="not finite at step 2 of epoch 1"):
        train_here(build(model), replace(QUICK, lr=1e30), out=tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.stn")["history"] == []


def test_a_theta_that_is_not_finite_stops_the_run_with_the_step(train_here):
    model = build("stn")

    def diverge(history):
        model.transformer.to_theta.bias.data.fill_(float("inf"))

    with pytest.raises((FloatingPointError, ValueError), match="step 1 of epoch 2"):
        train_here(model, after_epoch=diverge)


def test_weights_that_break_in_the_last_step_of_an_epoch_are_not_saved(train_here, tmp_path):
    one_step = Recipe(epochs=2, batch_size=128, lr=1e30)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        train_here(build("plain"), one_step, out=tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.stn")["history"] == []


# --- one step ---


class Reads(TorchDispatchMode):
    """Counts how often a value is read off the device: .item(), float(), int(), bool(), an if."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_reads_sees_every_way_to_wait():
    one = torch.ones(())
    for wait in (one.item, lambda: float(one), lambda: int(one), lambda: bool(one)):
        with Reads() as reads:
            wait()
        assert reads.count == 1


def test_no_step_waits_for_the_device(digits_as_cifar):
    counts = []
    for images in (64, 128):
        trainer = Trainer(build("plain"), digits_as_cifar.train.subset(slice(images)), FULL, seed=0)
        with Reads() as reads:
            assert trainer.run_epoch().step == images // FULL.batch_size
        counts.append(reads.count)
    assert counts[0] == counts[1]  # what is read is read once, after the last step


def test_an_epoch_looks_about_once_a_second(digits_as_cifar, monkeypatch):
    asked = iter(range(1000))  # the clock moves on by 0.7 seconds each time it is asked
    monkeypatch.setattr(stn_helpers.training.trainer, "time", SimpleNamespace(monotonic=lambda: 0.7 * next(asked)))
    steps = []
    Trainer(build("plain"), digits_as_cifar.train, QUICK, seed=0).run_epoch(lambda sums: steps.append(sums.step))
    assert steps == [2, 4]


def test_the_grid_stays_float32_when_training_in_bf16(train_here, monkeypatch):
    seen, real = [], F.grid_sample
    monkeypatch.setattr(
        F, "grid_sample", lambda images, grid, *how, **more: (seen.append(grid), real(images, grid, *how, **more))[1]
    )
    model, start = build("stn"), build("stn")
    history = train_here(model, Recipe(epochs=1, batch_size=32), precision="bf16")
    assert {grid.dtype for grid in seen} == {torch.float32}
    assert torch.isfinite(torch.tensor(history[0]["train_loss"]))
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert not same(model.state_dict(), start.state_dict())


def test_bf16_really_computes_in_bf16(digits_as_cifar):
    seen, model = [], build("plain")
    model.classifier.conv.register_forward_hook(lambda layer, images, features: seen.append(features.dtype))
    fit(
        model,
        digits_as_cifar.train,
        digits_as_cifar.test,
        Recipe(epochs=1, batch_size=128),
        device="cpu",
        precision="bf16",
        progress=False,
    )
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32  # training, then testing


# --- the optimizer ---


def settings(model: nn.Module, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter, by name."""
    groups = make_optimizer(model, recipe, steps=3)[0].param_groups
    by_id = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(by_id) == sum(len(group["params"]) for group in groups)  # none twice
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def test_localization_networks_get_their_share_of_the_learning_rate():
    model = build("stn")
    rates = {name: rate for name, (rate, _) in settings(model, Recipe(lr=0.5, localization=0.1)).items()}
    assert rates.keys() == dict(model.named_parameters()).keys()
    assert {rate for name, rate in rates.items() if name.startswith("transformer.")} == {0.05}
    assert {rate for name, rate in rates.items() if name.startswith("classifier.")} == {0.5}


def test_weight_decay_reaches_weights_and_no_bias():
    decays = {name: decay for name, (_, decay) in settings(build("stn"), Recipe(weight_decay=0.01)).items()}
    assert decays["transformer.to_theta.bias"] == decays["classifier.conv.bias"] == 0.0
    assert decays["classifier.norm.weight"] == decays["classifier.norm.bias"] == 0.0  # the scale of a normalisation is no weight
    assert decays["transformer.to_theta.weight"] == decays["classifier.linear.weight"] == 0.01


def test_what_is_frozen_is_not_trained(train_here):
    model, start = build("stn"), build("stn")
    model.transformer.requires_grad_(False)
    assert all(name.startswith("classifier.") for name in settings(model, FULL))
    train_here(model)
    assert same(model.transformer.state_dict(), start.transformer.state_dict())
    assert not same(model.classifier.state_dict(), start.classifier.state_dict())


def test_one_cycle_keeps_the_share_rises_and_ends_near_zero():
    optimizer, schedule = make_optimizer(build("stn"), Recipe(lr=0.5, localization=0.1, one_cycle=True), steps=40)
    rates = []
    for _ in range(40):
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
        optimizer.step()
        schedule.step() if len(rates) < 40 else None
    assert all(low == pytest.approx(0.1 * high) for low, high in rates)
    highest = [high for _, high in rates]
    assert highest[9] == max(highest) == pytest.approx(0.5) and highest[0] < 0.05 and highest[-1] < 1e-4  # after a quarter


def test_in_thirds_the_rate_falls_to_a_tenth_after_each_third():
    optimizer, schedule = make_optimizer(build("stn"), Recipe(lr=0.5, localization=0.1, thirds=True), steps=9)
    rates = []
    for _ in range(9):
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
        optimizer.step()
        schedule.step()
    expected = [[scale * 0.05, scale * 0.5] for scale in (1, 0.1, 0.01) for _ in range(3)]
    assert all(rate == pytest.approx(wanted) for rate, wanted in zip(rates, expected, strict=True))


def test_without_one_cycle_the_rate_stays():
    optimizer, schedule = make_optimizer(build("stn"), Recipe(lr=0.5), steps=3)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize("schedule", ["one_cycle", "thirds"])
@pytest.mark.parametrize("steps", range(1, 13))
def test_a_run_of_any_number_of_steps_works(schedule, steps):
    model = build("plain")
    optimizer, scheduler = make_optimizer(model, Recipe(lr=0.5, momentum=0.9, **{schedule: True}), steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= 0.5 for rate in rates) and (steps < 3 or max(rates) > 0.3 and rates[-1] < 0.1)


def test_four_steps_train(digits_as_cifar):
    some = digits_as_cifar.train.subset(slice(20))
    rows = fit(build("plain"), some, digits_as_cifar.test, Recipe(epochs=2, batch_size=10, one_cycle=True), progress=False)
    assert len(rows) == 2


def test_the_tutorials_recipe_is_plain_sgd():
    optimizer, _ = make_optimizer(build("stn"), RECIPES["tutorial"], steps=3)
    assert {(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.01, 0.0, 0.0)}
    assert RECIPES["tutorial"] == Recipe(epochs=20, batch_size=64, lr=0.01, optimizer="sgd", flips=False, one_cycle=False)


def test_sgd_takes_nesterovs_step():
    model, recipe = build("stn"), Recipe(lr=0.5, localization=0.1, weight_decay=0.01, momentum=0.9)
    optimizer, _ = make_optimizer(model, recipe, steps=3)
    expected, moved = [p.detach().double() for p in model.parameters()], [0.0] * 99
    for _ in range(3):
        for k, ((lr, decay), p) in enumerate(zip(settings(model, recipe).values(), model.parameters(), strict=True)):
            p.grad = torch.randn_like(p)
            slope = p.grad.double() + decay * expected[k]
            moved[k] = 0.9 * moved[k] + slope
            expected[k] = expected[k] - lr * (slope + 0.9 * moved[k])
        optimizer.step()
    for one, two in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=1e-5)


def test_every_field_of_a_recipe_is_explained():
    said = re.findall(r"^    (\w+): ", Recipe.__doc__, re.MULTILINE)
    assert said == [field.name for field in fields(Recipe)]


def test_adamw_is_the_textbooks_with_the_same_groups():
    model, recipe = build("stn"), Recipe(lr=0.5, localization=0.1, weight_decay=0.01, optimizer="adamw")
    optimizer, _ = make_optimizer(model, recipe, steps=3)
    assert type(optimizer) is torch.optim.AdamW
    start, rates = [p.detach().double() for p in model.parameters()], settings(model, recipe).values()
    slopes = [[torch.randn_like(p) for p in model.parameters()] for _ in range(2)]
    for step in slopes:
        for parameter, slope in zip(model.parameters(), step, strict=True):
            parameter.grad = slope.clone()
        optimizer.step()
    for before, after, (lr, decay), *both in zip(start, model.parameters(), rates, *slopes, strict=True):
        mean = square = 0
        for k, slope in enumerate((one.double() for one in both), start=1):
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            before = before * (1 - lr * decay) - lr * mean / (1 - 0.9**k) / ((square / (1 - 0.999**k)).sqrt() + 1e-8)
        torch.testing.assert_close(after.double(), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of sgd, adamw"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"cutout_pixels": -3}, "cutout_pixels is -3; expected at least 0"),
        ({"one_cycle": True, "thirds": True}, "one_cycle and thirds are both set"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"recipe": "godo"}, "recipe is 'godo'; expected one of tutorial, good, digits"),
        ({"train_on": "bent"}, "'bent'; expected one of upright"),
        ({"device": "cuda:x"}, "device is 'cuda:x'"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_is_written(train_here, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        train_here(build("plain"), **{"out": tmp_path, **wrong})
    assert list(tmp_path.iterdir()) == []  # else the recipe put right would be refused as another


def test_a_test_set_without_images_is_refused_before_training_and_by_evaluate(digits_as_cifar, tmp_path):
    nothing = digits_as_cifar.test.subset(slice(0))
    for call in (
        lambda: fit(build("plain"), digits_as_cifar.train, nothing, out=tmp_path),
        lambda: evaluate(build("plain"), nothing),
    ):
        with pytest.raises(ValueError, match="the set 'digits' holds no images"):
            call()
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluate(build("plain"), digits_as_cifar.test, batch_size=0)
    assert list(tmp_path.iterdir()) == []


# --- distortion ---


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """fit of a plain network on a few turned digits: turned(train_on, folder's name, ...) -> (model, history)."""
    train, test = load("digits", train=True).subset(slice(96)), load("digits", train=False).subset(slice(40))
    root = tmp_path_factory.mktemp("turned")

    def run(train_on="turned", folder="", model=None, **options):
        model = model or build("plain", channels=1)
        recipe = Recipe(epochs=2, batch_size=32, optimizer="adamw")
        options = {"device": "cpu", "precision": "float32", "progress": False, **options}
        out = {"out": root / folder} if folder else {}
        return model, fit(model, train, test, recipe, train_on=train_on, **out, **options)

    return run


def test_the_network_trains_on_distorted_images_and_is_tested_on_the_set_as_it_is(turned):
    seen, model = {True: [], False: []}, build("plain", channels=1)
    model.register_forward_hook(lambda net, images, logits: seen[net.training].append(images[0].clone()))
    turned("cluttered", model=model)
    assert {tuple(images.shape) for images in seen[True]} == {(32, 1, 48, 48)} and len(seen[True]) == 6
    assert all(torch.equal(images, load("digits", train=False).images[:40] / 255) for images in seen[False])
    totals = torch.cat(seen[True]).sum((1, 2, 3))
    assert len(totals.unique()) > 0.95 * len(totals)  # an image is never laid twice alike


def test_a_distorted_run_goes_on_where_it_stopped_to_the_bit(turned):
    whole, history = turned()
    turned(folder="halves", stop_after=1)
    model, went_on = turned(folder="halves", model=build("plain", 9, channels=1))
    assert timeless(went_on) == timeless(history) and same(model.state_dict(), whole.state_dict())


def test_a_distortion_may_be_one_of_the_callers_own(turned):
    (_, named), (_, own) = turned(DISTORTIONS["turned"]), turned()
    assert timeless(named) == timeless(own)
    assert timeless(turned(Distortion())[1]) == timeless(turned("upright")[1]) != timeless(own)


def test_a_checkpoint_from_before_a_recipe_had_all_its_fields_goes_on_with_their_defaults(train_here, one_epoch):
    file = one_epoch / "checkpoint.stn"
    state = load_checkpoint(file)
    del state["recipe"]["optimizer"], state["recipe"]["clip"]
    save_checkpoint(file, state)
    with pytest.raises(ValueError, match=r"another run \(optimizer 'sgd', not 'adamw'\)"):
        train_here(build("plain"), replace(QUICK, optimizer="adamw"), out=one_epoch, name="plain")
    whole, model = build("plain"), build("plain", 3)
    history = train_here(whole, name="plain")
    assert timeless(train_here(model, out=one_epoch, name="plain")) == timeless(history)
    assert same(model.state_dict(), whole.state_dict())


# --- evaluate ---


def test_evaluate_equals_the_accuracy_and_loss_counted_image_by_image(digits_as_cifar):
    test, model = digits_as_cifar.test, build("stn")
    measured = evaluate(model, test, batch_size=30)  # the last batch holds 10
    right, loss = 0, 0.0
    with torch.no_grad():
        for image, label in zip(test.images, test.labels, strict=True):
            logits = model(image[None].float() / 255)[0].double()
            right += int(logits.argmax()) == int(label)
            loss -= float(logits[label] - torch.logsumexp(logits, 0))
    assert measured["accuracy"] == 100 * right / 100
    assert measured["loss"] == pytest.approx(loss / 100, rel=1e-6)


def test_evaluate_switches_dropout_off(digits_as_cifar):
    model = build("plain").train()
    assert evaluate(model, digits_as_cifar.test) == evaluate(model.train(), digits_as_cifar.test)


# --- what is shown and what is refused ---


def test_progress_prints_one_line_an_epoch(train_here, capsys):
    train_here(build("plain"), progress=True)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "training on the CPU in float32"
    assert [line[:10] for line in lines] == ["epoch  1/2", "epoch  2/2"]
    assert all(word in lines[0] for word in ("loss", "train", "test", "images/s"))


def test_a_finished_run_says_so_and_how_to_begin_anew(train_here, tmp_path, capsys):
    for _ in range(2):
        train_here(build("plain"), out=tmp_path)
    assert capsys.readouterr().out == ""
    train_here(build("plain"), out=tmp_path, progress=True)
    assert capsys.readouterr().out == f"finished before, after 2 epochs; to train anew, delete {tmp_path / 'checkpoint.stn'}\n"


def test_the_bar_shows_loss_accuracy_speed_and_time_left(train_here, monkeypatch, capsys):
    asked = iter(range(1000))
    monkeypatch.setattr(stn_helpers.training.trainer, "time", SimpleNamespace(monotonic=lambda: 0.7 * next(asked)))
    train_here(build("plain"), progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"8/8 \[\d\d:\d\d<\d\d:\d\d, .*step/s, loss \d\.\d{3}, accuracy \d+\.\d %, [\d,]+ images/s\]", last)


def test_without_progress_nothing_is_printed(train_here, capsys):
    train_here(build("plain"))
    assert capsys.readouterr() == ("", "")


def test_after_epoch_sees_the_history_grow(train_here):
    seen = []
    train_here(build("plain"), after_epoch=lambda history: seen.append(len(history)))
    assert seen == [1, 2]


def test_fewer_images_than_one_batch_are_refused(train_here):
    with pytest.raises(ValueError, match="128 images do not fill one batch of 500; use a smaller batch_size"):
        train_here(build("plain"), Recipe(batch_size=500))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="sees no CUDA GPU; use cpu or auto"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("foo", "device is 'foo'; expected auto, cpu or cuda"),
        ("mps", "'mps', which is not supported: torch before 2.13 has no border padding there"),
        ("xla", "'xla', which is not supported; expected auto, cpu or cuda"),
        ("meta", "'meta', which is not supported; expected auto, cpu or cuda"),
    ],
)
def test_a_device_that_is_not_supported_is_refused_with_the_reason(name, said):
    with pytest.raises(ValueError, match=said):
        pick_device(name)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'fp8'; expected one of auto, float32, bfloat16, bf16"):
        pick_precision("fp8", torch.device("cpu"))


@pytest.mark.parametrize(("capability", "kind"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_a_card_trains_in_bfloat16_where_its_hardware_does(monkeypatch, capability, kind):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *words, **more: True)  # which is so by emulation
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision("auto", torch.device("cuda", 0)) == kind
    assert pick_precision("bf16", torch.device("cuda", 0)) == torch.bfloat16  # said by hand, it decides
    assert pick_precision("float32", torch.device("cuda", 0)) == torch.float32


@pytest.mark.parametrize(("amx", "avx512", "has"), [(False, False, False), (True, False, True), (False, True, True)])
def test_a_processor_trains_in_bfloat16_where_its_hardware_does(monkeypatch, amx, avx512, has):
    for name, supported in (("_is_amx_tile_supported", amx), ("_is_avx512_bf16_supported", avx512)):
        monkeypatch.setattr(torch.cpu, name, lambda supported=supported: supported, raising=False)
    assert has_bfloat16(torch.device("cpu")) == has
    assert pick_precision("auto", torch.device("cpu")) == (torch.bfloat16 if has else torch.float32)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # a torch that cannot be asked
    assert has_bfloat16(torch.device("cpu")) == avx512


def test_a_run_says_on_what_it_trains_and_in_what_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert describe_device(torch.device("cuda", 0), torch.float32) == "training on Tesla T4 in float32"
    assert describe_device(torch.device("cpu"), torch.bfloat16) == "training on the CPU in bfloat16"


# --- going on elsewhere ---


@pytest.fixture
def hardware(monkeypatch):
    """hardware(has): as if this processor had bfloat16, or had not."""

    def pretend(has: bool) -> None:
        for module in (devices, stn_helpers.training.trainer):
            monkeypatch.setattr(module, "has_bfloat16", lambda device: has)

    return pretend


def test_a_run_goes_on_in_the_precision_in_which_it_began(train_here, hardware, tmp_path, capsys):
    whole = timeless(train_here(build("plain"), precision="float32"))
    hardware(False)
    train_here(build("plain"), precision="auto", out=tmp_path, stop_after=1)
    hardware(True)
    rows = train_here(build("plain", 9), precision="auto", out=tmp_path, progress=True)
    assert timeless(rows) == whole and "training on the CPU in float32\n" in capsys.readouterr().out


def test_a_run_goes_on_in_another_precision_where_it_must_and_says_so(train_here, hardware, tmp_path, capsys):
    hardware(True)
    train_here(build("plain"), precision="auto", out=tmp_path, stop_after=1)
    hardware(False)
    rows = train_here(build("plain"), precision="auto", out=tmp_path, progress=True)
    said = "from epoch 2: in float32, because this device has no bfloat16"
    assert "note" not in rows[0] and rows[1]["note"] == said
    assert f"training on the CPU in float32, {said}\n" in capsys.readouterr().out
    state = load_checkpoint(tmp_path / "checkpoint.stn")
    assert state["dtype"] == "float32" and state["history"][1]["note"] == said


def test_a_run_that_began_on_a_card_goes_on_on_the_cpu_and_says_so(train_here, tmp_path, capsys):
    ends = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        train_here(build("plain"), FULL, out=folder, stop_after=2)
        state = load_checkpoint(folder / "checkpoint.stn")
        card = torch.zeros(16, dtype=torch.uint8)  # as long as the state of a card's generator is
        save_checkpoint(folder / "checkpoint.stn", {**state, "device": "cuda", "generator": card, "random": {"cuda": card}})
        rows = train_here(build("plain"), FULL, out=folder, stop_after=3, progress=True)
        assert rows[2]["note"] == "from epoch 3: on cpu after cuda, with new random numbers"
        assert rows[2]["note"] in capsys.readouterr().out
        ends.append(timeless(train_here(build("plain"), FULL, out=folder)))
    assert ends[0] == ends[1] and len(ends[0]) == 4 and "note" not in ends[0][3]
    assert load_checkpoint(folder / "checkpoint.stn")["device"] == "cpu"


RUN = """
import sys, time, torch
from torch import nn
from stn_helpers.data.sets import Images
from stn_helpers.training import Recipe, fit
from stn_helpers.transformer import SpatialTransformer, light_localization
torch.set_num_threads(1)

def run(out, hang=0):
    torch.manual_seed(0)
    model = nn.Sequential(SpatialTransformer(light_localization(1)), nn.Flatten(), nn.Dropout(), nn.Linear(784, 10))
    left = [hang]
    def look(layer, *words):
        left[0] -= model.training
        if model.training and left[0] == 0:
            print("half way", flush=True)
            time.sleep(600)
    model.register_forward_hook(look)
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (200, 1, 28, 28), dtype=torch.uint8, generator=random)
    every = Images("noise", pictures, torch.arange(200) % 10, ())
    train, test = every.subset(slice(160)), every.subset(slice(160, None))
    recipe = Recipe(epochs=4, batch_size=32, momentum=0.9, one_cycle=True, crop_pixels=1)
    return model, fit(model, train, test, recipe, device="cpu", out=out, progress=False, train_on="turned")
"""


def test_kill_9_in_an_epoch_and_going_on_equals_an_undisturbed_run(start, tmp_path):
    child = start(["-c", f"{RUN}\nrun(sys.argv[1], hang=13)", str(tmp_path / "killed")], data=tmp_path)
    assert child.stdout.readline() == "half way\n", child.stderr.read()
    child.kill()
    child.communicate()
    assert len(load_checkpoint(tmp_path / "killed" / "checkpoint.stn")["history"]) == 2  # the third step of the third epoch
    exec(RUN, own := {})
    (model, history), (whole, undisturbed) = own["run"](tmp_path / "killed"), own["run"](tmp_path / "whole")
    assert timeless(history) == timeless(undisturbed) and same(model.state_dict(), whole.state_dict())


def test_what_an_optimizer_remembers_comes_back_in_the_layout_of_its_weights(digits_as_cifar, tmp_path):
    layouts = []
    for _ in range(2):
        trainer = Trainer(build("plain"), digits_as_cifar.train, FULL, seed=0)
        if layouts:
            trainer.restore(load_checkpoint(tmp_path / "file"), "file")
        else:
            trainer.run_epoch()
            save_checkpoint(tmp_path / "file", trainer.state())
        remembered = [trainer.optimizer.state[p]["momentum_buffer"] for p in trainer.model.parameters()]
        layouts.append([tensor.stride() for tensor in remembered])
    assert layouts[0] == layouts[1] and layouts[0][0][1] == 1  # channels_last


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_trainer_seeds_its_own_device_and_leaves_the_others_alone(digits_as_cifar):
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    before = [torch.cuda.get_rng_state(k) for k in range(torch.cuda.device_count())]
    trainers = [Trainer(build("plain").to(last), digits_as_cifar.train.to(last), QUICK, seed=3) for _ in range(2)]
    losses = [trainer.run_epoch().losses for trainer in trainers]
    assert torch.equal(*losses)
    assert all(torch.equal(torch.cuda.get_rng_state(k), state) for k, state in enumerate(before))


# --- what is minimised ---


def test_label_smoothing_spreads_its_share_over_all_classes(digits_as_cifar):
    trainer = Trainer(build("plain"), digits_as_cifar.train, replace(QUICK, label_smoothing=0.1), seed=0)
    images, labels = digits_as_cifar.train.images[:32].float() / 255, digits_as_cifar.train.labels[:32]
    loss, logits = trainer.step(images, labels)
    wanted = 0.9 * F.one_hot(labels, 10) + 0.1 / 10
    torch.testing.assert_close(loss, -(wanted * logits.log_softmax(1)).sum(1).mean())


def test_cross_entropy_is_what_is_minimised(digits_as_cifar):
    model = build("plain", dropout=0.0)
    images, labels = digits_as_cifar.train.images[:32].float() / 255, digits_as_cifar.train.labels[:32]
    expected = F.cross_entropy(build("plain", dropout=0.0)(images), labels)
    loss, _ = Trainer(model, digits_as_cifar.train, QUICK, seed=0).step(images, labels)
    torch.testing.assert_close(loss, expected)


def test_a_long_gradient_is_shortened_to_its_clip(digits_as_cifar):
    steps, data = {}, digits_as_cifar.train.subset(slice(64))
    for clip in (0.0, 1e-3):
        model = build("plain")
        before = [weight.clone() for weight in model.parameters()]
        fit(model, data, data, replace(RECIPES["tutorial"], epochs=1, clip=clip), progress=False)
        steps[clip] = sum((weight - old).square().sum() for weight, old in zip(model.parameters(), before, strict=True)).sqrt()
    assert steps[1e-3] <= 1.01 * RECIPES["tutorial"].lr * 1e-3 < steps[0.0]


def test_decay_can_spare_the_localization_network():
    decays = settings(build("stn"), Recipe(weight_decay=0.5, localization_decay=0.0))
    assert {decay for name, (_, decay) in decays.items() if name.startswith("transformer.")} == {0.0}
    assert decays["classifier.conv.weight"][1] == 0.5

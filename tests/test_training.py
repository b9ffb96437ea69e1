"""training.py: a run is its seed's alone, goes on after a stop, and ends when the loss does."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import stn_helpers.families
import stn_helpers.training.trainer
import stn_helpers.transformer
from stn_helpers.data.distortions import DISTORTIONS
from stn_helpers.data.sets import load
from stn_helpers.training.checkpoint import load_checkpoint, save_checkpoint
from stn_helpers.training.recipes import Recipe
from stn_helpers.training.trainer import (
    RECIPES,
    Trainer,
    evaluate,
    fit,
    make_optimizer,
    parameter_groups,
    pick_device,
    pick_precision,
)
from stn_helpers.transformer import SpatialTransformer, light_localization
from studies.networks import build

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
        options = {"device": "cpu", "progress": False, **options}
        return fit(model, digits_as_cifar.train, digits_as_cifar.test, recipe, **options)

    return run


# --- going on ---


@pytest.fixture(scope="module")
def undisturbed(digits_as_cifar, tmp_path_factory):
    """Four epochs in one go: (folder, model, history)."""
    out, model = tmp_path_factory.mktemp("undisturbed"), build("seed", 0)
    return out, model, fit(model, digits_as_cifar.train, digits_as_cifar.test, FULL, device="cpu", out=out, progress=False)


def test_two_epochs_and_two_more_equal_four(undisturbed, train_here, tmp_path):
    out, whole, history = undisturbed
    first = train_here(build("seed", 0), FULL, out=tmp_path, stop_after=2)
    assert timeless(first) == timeless(history[:2])
    torch.rand(7)  # what happens between must not count; nor do the weights that the second network starts from
    model = build("seed", 99)
    assert timeless(train_here(model, FULL, out=tmp_path)) == timeless(history)
    assert same(model.state_dict(), whole.state_dict())
    ends = [load_checkpoint(folder / "checkpoint.stn") for folder in (out, tmp_path)]
    for end in ends:
        end["history"] = timeless(end["history"])
    assert same(*ends)


def test_a_finished_run_is_not_trained_again(undisturbed, train_here):
    out, whole, history = undisturbed
    before, model = (out / "checkpoint.stn").read_bytes(), build("seed", 5)
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
    as_they_are, moved = (next(Trainer(build("seed-plain"), train, recipe, 0).batches()) for recipe in recipes)
    assert torch.equal(as_they_are[1], moved[1]) and not torch.equal(as_they_are[0], moved[0])


def test_a_run_is_decided_by_its_seed_and_not_by_the_caller(train_here):
    dropping = replace(QUICK, flips=True, crop_pixels=1)
    runs = []
    for seed in (3, 3, 4):
        torch.rand(5)
        runs.append(timeless(train_here(build("seed-plain"), dropping, seed=seed)))
    assert runs[0] == runs[1] != runs[2]


def test_fit_leaves_the_random_state_of_the_caller_alone(train_here, tmp_path):
    before = torch.get_rng_state()
    train_here(build("seed-plain"), replace(FULL, epochs=2), out=tmp_path, stop_after=1)
    train_here(build("seed-plain"), replace(FULL, epochs=2), out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_drops_other_features(digits_as_cifar):
    dropped, model = [], build("seed-plain")
    model.classifier.drop2.register_forward_hook(lambda layer, images, kept: dropped.append((kept == 0).all((2, 3))))
    trainer = Trainer(model, digits_as_cifar.train, Recipe(batch_size=128), seed=0)
    trainer.run_epoch()
    trainer.run_epoch()
    assert len(dropped) == 2 and not torch.equal(*dropped)


# --- refused checkpoints ---


@pytest.fixture
def one_epoch(train_here, tmp_path):
    """A folder with the checkpoint of one epoch of QUICK."""
    train_here(build("seed-plain"), out=tmp_path, stop_after=1, name="seed-plain")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"recipe": replace(QUICK, lr=0.5)}, r"another recipe \(lr differ\)"),
        ({"recipe": replace(QUICK, epochs=9, dropout=0.1)}, r"another recipe \(epochs, dropout differ\)"),
        ({"seed": 1}, r"another run \(seed 0, not 1\)"),
        ({"name": "seed"}, r"another run \(name 'seed-plain', not 'seed'\)"),
        ({"precision": "bf16"}, r"another run \(dtype 'torch.float32', not 'torch.bfloat16'\)"),
        ({"model": "seed"}, r"another architecture: transformer\.localization\.1\.0\.bias is absent in the file"),
    ],
    ids=["recipe", "recipe twice", "seed", "name", "precision", "architecture"],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference_and_left_alone(train_here, one_epoch, changed, reason):
    before = (one_epoch / "checkpoint.stn").read_bytes()
    model = build(changed.pop("model", "seed-plain"))
    with pytest.raises(ValueError, match=reason) as caught:
        train_here(model, **{"out": one_epoch, "name": "seed-plain", **changed})
    assert str(one_epoch / "checkpoint.stn") in str(caught.value)
    assert (one_epoch / "checkpoint.stn").read_bytes() == before


def test_a_checkpoint_of_other_data_is_refused(one_epoch, digits_as_cifar):
    train, test = digits_as_cifar.train, digits_as_cifar.test
    with pytest.raises(ValueError, match=r"another run \(images 128, not 96\)"):
        fit(
            build("seed-plain"),
            train.subset(slice(96)),
            test,
            QUICK,
            device="cpu",
            out=one_epoch,
            name="seed-plain",
            progress=False,
        )
    other = replace(train, name="CIFAR-10")
    with pytest.raises(ValueError, match=r"another run \(data 'digits', not 'CIFAR-10'\)"):
        fit(build("seed-plain"), other, test, QUICK, device="cpu", out=one_epoch, name="seed-plain", progress=False)


def test_a_refused_checkpoint_does_not_touch_the_model(train_here, one_epoch):
    model, untouched = build("seed-plain", 1), build("seed-plain", 1)
    with pytest.raises(ValueError, match="another recipe"):
        train_here(model, replace(QUICK, lr=0.5), out=one_epoch, name="seed-plain")
    assert same(model.state_dict(), untouched.state_dict())


def test_a_damaged_checkpoint_stops_the_run_and_stays(train_here, one_epoch):
    file = one_epoch / "checkpoint.stn"
    file.write_bytes(file.read_bytes()[:-1])
    before = file.read_bytes()
    with pytest.raises(ValueError, match="damaged.*Delete it to start again"):
        train_here(build("seed-plain"), out=one_epoch, name="seed-plain")
    assert file.read_bytes() == before


# --- a loss that is not finite ---


class GoesBad(nn.Module):
    """A classifier whose answer is NaN at one training step."""

    def __init__(self, step: int):
        super().__init__()
        self.inner, self.left = build("seed-plain"), step

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


@pytest.mark.parametrize("model", ["seed", "seed-plain"])
def test_an_absurd_learning_rate_stops_the_run_with_the_step(train_here, tmp_path, model):
    with pytest.raises(FloatingPointError, match="not finite at step 2 of epoch 1"):
        train_here(build(model), replace(QUICK, lr=1e30), out=tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.stn")["history"] == []


def test_a_theta_that_is_not_finite_stops_the_run_with_the_step(train_here):
    model = build("seed")

    def diverge(history):
        model.transformer.to_theta.bias.data.fill_(float("inf"))

    with pytest.raises((FloatingPointError, ValueError), match="step 1 of epoch 2"):
        train_here(model, after_epoch=diverge)


def test_weights_that_break_in_the_last_step_of_an_epoch_are_not_saved(train_here, tmp_path):
    one_step = Recipe(epochs=2, batch_size=128, lr=1e30)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        train_here(build("seed-plain"), one_step, out=tmp_path)
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


def test_no_step_waits_for_the_device(digits_as_cifar, monkeypatch):
    # The one check that reads values, of theta, is left out on a GPU; here it is taken out by hand.
    monkeypatch.setattr(stn_helpers.families, "check_finite", lambda *values: None)
    counts = []
    for images in (64, 128):
        trainer = Trainer(build("seed"), digits_as_cifar.train.subset(slice(images)), FULL, seed=0)
        with Reads() as reads:
            assert trainer.run_epoch().step == images // FULL.batch_size
        counts.append(reads.count)
    assert counts[0] == counts[1]  # what is read is read once, after the last step


def test_an_epoch_looks_about_once_a_second(digits_as_cifar, monkeypatch):
    asked = iter(range(1000))  # the clock moves on by 0.7 seconds each time it is asked
    monkeypatch.setattr(stn_helpers.training.trainer, "time", SimpleNamespace(monotonic=lambda: 0.7 * next(asked)))
    steps = []
    Trainer(build("seed-plain"), digits_as_cifar.train, QUICK, seed=0).run_epoch(lambda sums: steps.append(sums.step))
    assert steps == [2, 4]


def test_the_grid_stays_float32_when_training_in_bf16(train_here, monkeypatch):
    seen = []
    real = stn_helpers.transformer.sample
    monkeypatch.setattr(
        stn_helpers.transformer, "sample", lambda images, grid, **how: (seen.append(grid), real(images, grid, **how))[1]
    )
    model, start = build("seed"), build("seed")
    history = train_here(model, Recipe(epochs=1, batch_size=32), precision="bf16")
    assert {grid.dtype for grid in seen} == {torch.float32}
    assert torch.isfinite(torch.tensor(history[0]["train_loss"]))
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    assert not same(model.state_dict(), start.state_dict())


def test_bf16_really_computes_in_bf16(digits_as_cifar):
    seen, model = [], build("seed-plain")
    model.classifier.conv1.register_forward_hook(lambda layer, images, features: seen.append(features.dtype))
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


class TwoParts(nn.Module):
    """A transformer and a classifier, to see who gets which rate."""

    def __init__(self):
        super().__init__()
        self.transformer = SpatialTransformer(light_localization())
        self.classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))


def settings(model: nn.Module, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter, by name."""
    groups = parameter_groups(model, recipe)
    by_id = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(by_id) == sum(len(group["params"]) for group in groups)  # none twice
    return {name: by_id[id(p)] for name, p in model.named_parameters() if id(p) in by_id}


def test_localization_networks_get_their_share_of_the_learning_rate():
    model = TwoParts()
    rates = {name: rate for name, (rate, _) in settings(model, Recipe(lr=0.5, localization=0.1)).items()}
    assert rates.keys() == dict(model.named_parameters()).keys()
    assert {rate for name, rate in rates.items() if name.startswith("transformer.")} == {0.05}
    assert {rate for name, rate in rates.items() if name.startswith("classifier.")} == {0.5}


def test_weight_decay_reaches_weights_and_no_bias():
    decays = {name: decay for name, (_, decay) in settings(TwoParts(), Recipe(weight_decay=0.01)).items()}
    assert decays["transformer.to_theta.bias"] == decays["classifier.0.bias"] == 0.0
    assert decays["classifier.1.weight"] == decays["classifier.1.bias"] == 0.0  # the scale of a normalisation is no weight
    assert decays["transformer.to_theta.weight"] == decays["classifier.3.weight"] == 0.01


def test_what_is_frozen_is_not_trained(train_here):
    model, start = build("seed-frozen"), build("seed-frozen")
    assert all(name.startswith("classifier.") for name in settings(model, FULL))
    train_here(model)
    assert same(model.transformer.state_dict(), start.transformer.state_dict())
    assert not same(model.classifier.state_dict(), start.classifier.state_dict())


def test_one_cycle_keeps_the_share_rises_and_ends_near_zero():
    optimizer, schedule = make_optimizer(TwoParts(), Recipe(lr=0.5, localization=0.1, one_cycle=True), steps=40)
    rates = []
    for _ in range(40):
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
        optimizer.step()
        schedule.step() if len(rates) < 40 else None
    assert all(low == pytest.approx(0.1 * high) for low, high in rates)
    highest = [high for _, high in rates]
    assert max(highest) == pytest.approx(0.5) and highest[0] < 0.05 and highest[-1] < 1e-4


def test_in_thirds_the_rate_falls_to_a_tenth_after_each_third():
    optimizer, schedule = make_optimizer(TwoParts(), Recipe(lr=0.5, localization=0.1, thirds=True), steps=9)
    rates = []
    for _ in range(9):
        rates.append(sorted({group["lr"] for group in optimizer.param_groups}))
        optimizer.step()
        schedule.step()
    expected = [[scale * 0.05, scale * 0.5] for scale in (1, 0.1, 0.01) for _ in range(3)]
    assert all(rate == pytest.approx(wanted) for rate, wanted in zip(rates, expected, strict=True))


def test_without_one_cycle_the_rate_stays():
    optimizer, schedule = make_optimizer(TwoParts(), Recipe(lr=0.5), steps=3)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_the_seeds_recipe_is_plain_sgd_as_written():
    optimizer, _ = make_optimizer(build("seed"), RECIPES["seed"], steps=3)
    assert {(g["lr"], g["momentum"], g["weight_decay"]) for g in optimizer.param_groups} == {(0.01, 0.0, 0.0)}
    assert RECIPES["seed"] == Recipe(epochs=20, batch_size=64, lr=0.01, conv_dropout=0.5, dropout=0.5)


def test_adamw_is_the_textbooks_with_the_same_groups():
    model, recipe = TwoParts(), Recipe(lr=0.5, localization=0.1, weight_decay=0.01, optimizer="adamw")
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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_an_optimizer_and_a_distortion_that_there_are(name):
    make_optimizer(TwoParts(), RECIPES[name], steps=3)
    assert RECIPES[name].distortion in DISTORTIONS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected sgd or adamw"),
        ({"distortion": "bent"}, "'bent'; expected one of upright"),
    ],
)
def test_an_unknown_optimizer_or_distortion_is_refused_before_anything_is_written(train_here, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        train_here(build("seed-plain"), replace(QUICK, **wrong), out=tmp_path)
    assert list(tmp_path.iterdir()) == []  # else the recipe put right would be refused as another


# --- distortion ---


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """fit of "digit-plain" on a few turned digits: turned(recipe's changes, folder's name, ...) -> (model, history)."""
    train, test = load("digits", train=True).subset(slice(96)), load("digits", train=False).subset(slice(40))
    root = tmp_path_factory.mktemp("turned")

    def run(changes=None, folder="", model=None, **options):
        model = model or build("digit-plain")
        recipe = Recipe(**{"epochs": 2, "batch_size": 32, "optimizer": "adamw", "distortion": "turned", **(changes or {})})
        out = {"out": root / folder} if folder else {}
        return model, fit(model, train, test, recipe, device="cpu", progress=False, **out, **options)

    return run


def test_the_network_trains_on_distorted_images_and_is_tested_on_the_set_as_it_is(turned):
    seen, model = {True: [], False: []}, build("digit-plain")
    model.register_forward_hook(lambda net, images, logits: seen[net.training].append(images[0].clone()))
    turned({"distortion": "cluttered"}, model=model)
    assert {tuple(images.shape) for images in seen[True]} == {(32, 1, 48, 48)} and len(seen[True]) == 6
    assert all(torch.equal(images, load("digits", train=False).images[:40] / 255) for images in seen[False])
    totals = torch.cat(seen[True]).sum((1, 2, 3))
    assert len(totals.unique()) > 0.95 * len(totals)  # an image is never laid twice alike


def test_a_distorted_run_goes_on_where_it_stopped_to_the_bit(turned):
    whole, history = turned()
    turned(folder="halves", stop_after=1)
    model, went_on = turned(folder="halves", model=build("digit-plain", 9))
    assert timeless(went_on) == timeless(history) and same(model.state_dict(), whole.state_dict())


def test_a_checkpoint_from_before_there_were_distortions_goes_on_as_upright_sgd(train_here, one_epoch):
    file = one_epoch / "checkpoint.stn"
    state = load_checkpoint(file)
    del state["recipe"]["optimizer"], state["recipe"]["distortion"]
    save_checkpoint(file, state)
    with pytest.raises(ValueError, match=r"another recipe \(optimizer, distortion differ\)"):
        train_here(build("seed-plain"), replace(QUICK, optimizer="adamw", distortion="turned"), out=one_epoch, name="seed-plain")
    whole, model = build("seed-plain"), build("seed-plain", 3)
    history = train_here(whole, name="seed-plain")
    assert timeless(train_here(model, out=one_epoch, name="seed-plain")) == timeless(history)
    assert same(model.state_dict(), whole.state_dict())


# --- evaluate ---


def test_evaluate_equals_the_accuracy_and_loss_counted_image_by_image(digits_as_cifar):
    test, model = digits_as_cifar.test, build("seed")
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
    model = build("seed-plain").train()
    assert evaluate(model, digits_as_cifar.test) == evaluate(model.train(), digits_as_cifar.test)


# --- what is shown and what is refused ---


def test_progress_prints_one_line_an_epoch(train_here, capsys):
    train_here(build("seed-plain"), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines] == ["epoch  1/2", "epoch  2/2"]
    assert all(word in lines[0] for word in ("loss", "train", "test", "images/s"))


def test_the_bar_shows_loss_accuracy_speed_and_time_left(train_here, monkeypatch, capsys):
    asked = iter(range(1000))
    monkeypatch.setattr(stn_helpers.training.trainer, "time", SimpleNamespace(monotonic=lambda: 0.7 * next(asked)))
    train_here(build("seed-plain"), progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"8/8 \[\d\d:\d\d<\d\d:\d\d, .*step/s, loss \d\.\d{3}, accuracy \d+\.\d %, [\d,]+ images/s\]", last)


def test_without_progress_nothing_is_printed(train_here, capsys):
    train_here(build("seed-plain"))
    assert capsys.readouterr() == ("", "")


def test_after_epoch_sees_the_history_grow(train_here):
    seen = []
    train_here(build("seed-plain"), after_epoch=lambda history: seen.append(len(history)))
    assert seen == [1, 2]


def test_fewer_images_than_one_batch_are_refused(train_here):
    with pytest.raises(ValueError, match="128 images do not fill one batch of 500; use a smaller batch_size"):
        train_here(build("seed-plain"), Recipe(batch_size=500))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="sees no CUDA GPU; use --device cpu or auto"):
        pick_device("cuda")


def test_an_unknown_device_is_a_value_error():
    with pytest.raises(ValueError, match="foo"):
        pick_device("foo")


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'fp8'; expected one of float32, bf16, auto"):
        pick_precision("fp8", torch.device("cpu"))


def test_cross_entropy_is_what_is_minimised(digits_as_cifar):
    model = build("seed-plain", conv_dropout=0.0, dropout=0.0)
    images, labels = digits_as_cifar.train.images[:32].float() / 255, digits_as_cifar.train.labels[:32]
    expected = F.cross_entropy(build("seed-plain", conv_dropout=0.0, dropout=0.0)(images), labels)
    loss, _ = Trainer(model, digits_as_cifar.train, QUICK, seed=0).step(images, labels)
    torch.testing.assert_close(loss, expected)


def test_a_long_gradient_is_shortened_to_its_clip():
    data = load("digits", train=True).subset(slice(64))
    steps = {}
    for clip in (0.0, 1e-3):
        torch.manual_seed(0)
        model = build("digit-plain")
        before = [weight.clone() for weight in model.parameters()]
        fit(model, data, data, replace(RECIPES["seed"], epochs=1, clip=clip), progress=False)
        steps[clip] = sum((weight - old).square().sum() for weight, old in zip(model.parameters(), before, strict=True)).sqrt()
    assert steps[1e-3] <= 1.01 * RECIPES["seed"].lr * 1e-3 < steps[0.0]


def test_decay_can_spare_the_localization_network():
    groups = parameter_groups(build("digit"), replace(RECIPES["study-free"], weight_decay=0.5))
    assert [group["weight_decay"] for group in groups if group["lr"] < RECIPES["study-free"].lr] == [0.0, 0.0]
    assert {group["weight_decay"] for group in groups if group["lr"] == RECIPES["study-free"].lr} == {0.0, 0.5}

"""python -m studies train | evaluate | run | check | gpu | list: the same functions that the notebooks call, from a terminal."""

import argparse
import os
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import torch

from stn_helpers.data.sets import data_root
from stn_helpers.training.checkpoint import load_weights, save_weights
from stn_helpers.training.trainer import evaluate, fit, pick_device

from .runner import about_weights, run_study
from .study import Sets, get, names, restore


def train(args: argparse.Namespace) -> None:
    """One arm of a study, with a bar, and its weights at the end."""
    study = get(args.study)
    arm = study.arms[study.choose([args.arm])[0]]
    if arm.parts or arm.train:
        raise ValueError(
            f'{args.arm!r} is made of trained parts; run it with: python -m studies run {args.study} --arms "{args.arm}"'
        )
    recipe = replace(arm.recipe, epochs=args.epochs or arm.recipe.epochs, batch_size=args.batch_size or arm.recipe.batch_size)
    device, sets = pick_device(args.device), Sets(study, "cpu", args.stand_in)
    out = Path(args.out or f"runs/{args.study}-{args.arm.replace(' ', '-').replace(',', '')}-{args.seed}")
    print(f"{args.arm} on {sets.train.name}, {arm.train_on}, seed {args.seed}, on {device}; checkpoints in {out}")
    model, test = arm.build(args.seed), sets.bent(arm.test)[0]
    try:
        where = (args.seed, device, args.precision, out)
        fit(model, sets.train, test, recipe, *where, name=f"{args.study}, {args.arm}", train_on=arm.train_on)
    except KeyboardInterrupt:
        print(f"\nStopped. {out / 'checkpoint.stn'} is complete; the same command goes on from it.")
        sys.exit(130)
    file = out / "weights.safetensors"
    save_weights(file, model, {**about_weights(study, arm, args.seed), "data": sets.train.name})
    print(f"test accuracy {evaluate(model, test.to(device))['accuracy']:.2f} %, {arm.test}; weights in {file}")


def evaluate_file(args: argparse.Namespace) -> None:
    """The accuracy of a file of weights, on what it was made for."""
    model, about = restore(args.file), load_weights(args.file)[1]
    device, name = pick_device(args.device), args.distortion or about["test_on"]
    test, _ = Sets(get(about["study"]), str(device)).bent(name)
    found = evaluate(model.to(device, memory_format=torch.channels_last), test)["accuracy"]
    print(f"{args.file}: test accuracy {found:.2f} % on {len(test):,} images, {name}")


def run(args: argparse.Namespace) -> None:
    """All that a study lacks."""
    arms, sets = ([name.strip() for name in text.split(";")] if text else None for text in (args.arms, args.sets))
    command = "python -m studies " + shlex.join(sys.argv[1:])
    options = {"device": args.device, "precision": args.precision, "sets": sets, "command": command}
    with workers(args.workers) as executor:
        results = run_study(args.study, args.seeds, arms, args.epochs, executor=executor, **options)
    for row in results["summary"]:
        spread = "" if row["sd"] is None else f" +- {row['sd']:.2f}"
        line = f"{row['arm']:34s} {row['epochs']:3d} epochs, {row['seeds']} seeds: {row['mean']:.2f}{spread} %"
        gain = row.get("gain", {"seeds": 0})
        if gain["seeds"] > 1:
            line += f", gain {gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})"
        print(line + (f", {row['diverged']} diverged" if "diverged" in row else ""))


def show(args: argparse.Namespace) -> None:
    """The studies, or the arms of one: what each trains, by which recipe, on what."""
    for name in [] if args.study else names():
        print(f"{name:12s} {import_module(f'studies.{name}').__doc__.split(': ', 1)[1]}")
    for name, arm in get(args.study).arms.items() if args.study else []:
        words = [*map(str, arm.network.args), *(f"{key}={value}" for key, value in arm.network.keywords.items())]
        changed = {key: value for key, value in vars(arm.recipe).items() if value != vars(type(arm.recipe)())[key]}
        recipe = ", ".join(f"{key} {value}" for key, value in changed.items())
        print(f"{name}\n    {arm.network.func.__name__}({', '.join(words)}); {arm.train_on} -> {arm.test}; {recipe}")


def check(args: argparse.Namespace) -> None:
    """Whether every number in prose is one that a file or a cell makes."""
    from .check import check as found

    wrong = found()
    for name, words in wrong.items():
        print(name, *words, sep="\n    ")
    sys.exit(1 if wrong else 0)


def gpu(args: argparse.Namespace) -> None:
    """All that needs a card; exit code 1 where something failed."""
    from .gpu import gpu as measure
    from .gpu import told

    file, failed = measure(args.out, args.minutes)
    print(*told([file]), f"All of it is in {file}", *failed, sep="\n")
    sys.exit(1 if failed else 0)


def workers(count: int):
    """An executor of so many processes, which share the cores; for one, None: run here."""
    if count == 1:
        return nullcontext()
    threads = max(1, (os.cpu_count() or 1) // count)
    # Spawned, not forked: a fork of a process whose torch has threads can hang.
    return ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (threads,))


def positive(text: str) -> int:
    """A whole number from 1 up; argparse turns the ValueError into its usage message."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action, words: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.set_defaults(action=action)
        return added

    one = command("train", train, "train one arm of a study; after a kill the same command goes on where it was")
    one.add_argument("study", help="a name that `python -m studies list` shows")
    one.add_argument("arm", help="a name that `python -m studies list STUDY` shows")
    one.add_argument("--epochs", type=positive, help="default: the recipe's")
    one.add_argument("--batch-size", type=positive, help="default: the recipe's")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--stand-in", action="store_true", help="where the data cannot be had, take digits in its place")
    one.add_argument("--out", help="folder for checkpoint and weights; default runs/STUDY-ARM-SEED")

    test = command("evaluate", evaluate_file, "test accuracy of a .safetensors file, on what it was made for")
    test.add_argument("file")
    test.add_argument("--distortion", help="test it under this one instead")

    every = command("run", run, "all runs that a study lacks -> assets/results/STUDY.json")
    every.add_argument("study", help="a name that `python -m studies list` shows")
    every.add_argument("--seeds", type=positive, default=5, help="how many; 5")
    every.add_argument("--arms", help="some arms only, separated by semicolons")
    every.add_argument("--sets", help="only the arms tested under these distortions, separated by semicolons")
    every.add_argument("--workers", type=positive, default=1, help="how many processes share the work")
    every.add_argument("--epochs", type=positive, help="shorter runs, for a try, into a file of their own")

    command("check", check, "recompute every number in README, on the site and in the notebooks")

    card = command("gpu", gpu, "all that needs a CUDA card -> assets/results/gpu-NAME.json; the same command goes on with the rest")
    card.add_argument("--out", help="another file; runs of studies go to their own")
    card.add_argument("--minutes", type=float, default=9.0, help="how long at most; 9")

    told = command("list", show, "the studies, or the arms of one with network, data and recipe")
    told.add_argument("study", nargs="?")

    where = f"Data is looked for in {data_root()} (STN_DATA)."
    for each in (one, test, every):
        each.add_argument("--device", default="auto", help="auto, cpu or cuda")
        each.epilog = where
    kinds = ("auto", "float32", "bfloat16")
    one.add_argument("--precision", default="auto", choices=kinds, help="auto: what the machine is fast in")
    every.add_argument("--precision", default="", choices=kinds[1:], help="default: the study's own")
    return top


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    try:
        args.action(args)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"studies: {error}")


if __name__ == "__main__":
    main()

"""python -m studies train | evaluate | study: the same functions that the notebooks call, from a terminal."""

import argparse
import os
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from stn_helpers.data.sets import DATASETS, data_root, load
from stn_helpers.training.checkpoint import save_weights
from stn_helpers.training.trainer import RECIPES, evaluate, fit, pick_device
from studies.networks import MODELS, build, restore
from studies.runner import run_study
from studies.study import STUDIES


def train(args: argparse.Namespace) -> None:
    recipe = replace(RECIPES[args.recipe], epochs=args.epochs or RECIPES[args.recipe].epochs)
    recipe = replace(recipe, batch_size=args.batch_size or recipe.batch_size)
    name = f"{args.model}-plain" if args.no_transformer else args.model
    options = {"conv_dropout": recipe.conv_dropout, "dropout": recipe.dropout}
    model = build(name, args.seed, **options)
    out = Path(args.out or f"runs/{args.data}-{name}-{args.recipe}-{args.seed}")
    train_set = load(args.data, train=True, stand_in=args.stand_in)
    test_set = load(args.data, train=False, stand_in=args.stand_in)
    device = pick_device(args.device)
    print(f"{name} on {train_set.name}, recipe {args.recipe}, seed {args.seed}, on {device}; checkpoints in {out}")
    try:
        fit(model, train_set, test_set, recipe, args.seed, device, args.precision, out, name=name)
    except KeyboardInterrupt:
        print(f"\nStopped. {out / 'checkpoint.stn'} is complete; the same command goes on from it.")
        sys.exit(130)
    file = out / "weights.safetensors"
    save_weights(file, model, {"model": name, "options": options, "data": train_set.name, "seed": args.seed})
    accuracy = evaluate(model, test_set.to(device))["accuracy"]
    print(f"test accuracy {accuracy:.2f} %; weights in {file}")


def evaluate_file(args: argparse.Namespace) -> None:
    model = restore(args.file)
    device = pick_device(args.device)
    test_set = load(args.data, train=False).to(device)
    model = model.to(device, memory_format=torch.channels_last)
    print(f"{args.file}: test accuracy {evaluate(model, test_set)['accuracy']:.2f} % on {len(test_set):,} images")


def study(args: argparse.Namespace) -> None:
    arms, sets = ([name.strip() for name in text.split(";")] if text else None for text in (args.arms, args.sets))
    command = "python -m studies " + shlex.join(sys.argv[1:])
    options = {"device": args.device, "precision": args.precision, "sets": sets, "command": command}
    with workers(args.workers) as executor:
        results = run_study(args.name, args.seeds, arms, args.epochs, executor=executor, **options)
    for row in results["summary"]:
        spread = "" if row["sd"] is None else f" +- {row['sd']:.2f}"
        gain, line = (
            row.get("gain"),
            f"{row['arm']:34s} {row['epochs']:3d} epochs, {row['seeds']} seeds: {row['mean']:.2f}{spread} %",
        )
        if gain and gain["seeds"] > 1:
            line += f", gain {gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})"
        if count := row.get("diverged"):
            line += f", {count} diverged"
        print(line)


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
    commands = top.add_subparsers(required=True)

    one = commands.add_parser("train", help="train a network; after a kill the same command goes on where it was")
    one.set_defaults(run=train)
    one.add_argument(
        "--data", default="cifar10", choices=DATASETS, help=f"looked for in {str(data_root()).replace('%', '%%')} (STN_DATA)"
    )
    one.add_argument("--stand-in", action="store_true", help="where the data cannot be had, take digits in its place")
    one.add_argument("--model", default="seed", choices=MODELS)
    one.add_argument("--no-transformer", action="store_true", help="the matched twin without a spatial transformer")
    one.add_argument("--recipe", default="good", choices=RECIPES)
    one.add_argument("--epochs", type=positive, help="default: the recipe's, 20")
    one.add_argument("--batch-size", type=positive, help="default: the recipe's")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--out", help="folder for checkpoint and weights; default runs/DATA-MODEL-RECIPE-SEED")

    two = commands.add_parser("evaluate", help="test accuracy of a .safetensors file")
    two.set_defaults(run=evaluate_file)
    two.add_argument("file")
    two.add_argument("--data", default="cifar10", choices=DATASETS)

    three = commands.add_parser("study", help="a seeded set of runs -> assets/results/NAME.json; runs only what is missing")
    three.set_defaults(run=study)
    three.add_argument("name", choices=STUDIES)
    three.add_argument("--seeds", type=positive, default=3, help="how many")
    three.add_argument("--arms", help="some arms only, separated by semicolons")
    three.add_argument("--sets", help="only the arms tested under these distortions, separated by semicolons")
    three.add_argument("--workers", type=positive, default=1, help="how many processes share the work")
    three.add_argument("--epochs", type=positive, help="shorter runs, for a try")

    for command in (one, two, three):
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    for command in (one, three):
        command.add_argument("--precision", default="auto", choices=("auto", "float32", "bf16"), help="auto: bf16 on CUDA")
    return top


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"studies: {error}")


if __name__ == "__main__":
    main()

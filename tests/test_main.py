"""python -m studies: real processes, killed and started again, and every way it says no."""

import os
import signal
from dataclasses import replace

import pytest

from stn_helpers.data.files import sha256
from stn_helpers.data.sets import load
from stn_helpers.training.checkpoint import load_checkpoint, load_weights, save_weights
from stn_helpers.training.trainer import fit
from studies.__main__ import main
from studies.study import get, names
from studies.tutorial import tutorial_net

posix_only = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to one process on Windows")


def train_words(out) -> list[str]:
    """Two epochs on the stand-in: the one command that all these processes run."""
    words = ["--stand-in", "--epochs", "2", "--device", "cpu", "--precision", "float32", "--out", str(out)]
    return ["train", "tutorial", "with ST", *words]


def read_until(stream, text: str) -> None:
    """Wait until a process has said this."""
    seen = ""
    while not seen.endswith(text):
        letter = stream.read(1)
        assert letter, f"the process ended; it said {seen!r}"
        seen += letter


@pytest.fixture(scope="module")
def run(start, tmp_path_factory):
    """run(words) -> a real `python -m studies` process, with an empty STN_DATA and no network."""
    empty = tmp_path_factory.mktemp("empty")
    return lambda words: start(["-m", "studies", *words], data=empty)


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """A whole run: (folder, what it printed, what it said on stderr)."""
    out = tmp_path_factory.mktemp("undisturbed")
    child = run(train_words(out))
    said, errors = child.communicate(timeout=600)
    assert child.returncode == 0, errors
    return out, said, errors


# The first checkpoint, of nothing, is written: its content and its name. The second one never reaches the disk.
ON_A_DISK_THAT_STALLS = """
import os, sys, time
from studies.__main__ import main
real, synced = os.fsync, []
def stall(file):
    synced.append(file)
    if len(synced) > (2 if os.name == "posix" else 1):
        print("stalled", flush=True)
        time.sleep(600)
    real(file)
os.fsync = stall
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def killed(run, start, tmp_path_factory):
    """A folder where the same run was killed twice: while it saved the first epoch, and after it had said so."""
    out = tmp_path_factory.mktemp("disturbed")
    empty = tmp_path_factory.mktemp("empty")
    child = start(["-c", ON_A_DISK_THAT_STALLS, *train_words(out)], data=empty)
    read_until(child.stdout, "stalled")
    child.kill()
    child.communicate()
    assert list(out.glob(".*.part"))  # it was killed while it saved
    assert load_checkpoint(out / "checkpoint.stn")["history"] == []

    child = run(train_words(out))
    read_until(child.stdout, "epoch  1/2")  # its checkpoint is written before that is said
    child.kill()
    child.communicate()
    return out, load_checkpoint(out / "checkpoint.stn")


@pytest.fixture(scope="module")
def interrupted(run, killed):
    """The same folder after a third process went on, and Ctrl-C stopped it: (process, printed, stderr, checkpoint)."""
    if os.name != "posix":
        return None
    out, _ = killed
    child = run(train_words(out))
    read_until(child.stderr, "step/s]")  # the bar is there: the epoch has begun
    child.send_signal(signal.SIGINT)
    said, errors = child.communicate(timeout=600)
    return child, said, errors, (out / "checkpoint.stn").read_bytes()


@pytest.fixture(scope="module")
def finished(run, killed, interrupted):
    """The same folder after the same command ran to its end: (folder, what it printed)."""
    out, _ = killed
    child = run(train_words(out))
    said, errors = child.communicate(timeout=600)
    assert child.returncode == 0, errors
    return out, said


# --- killed, interrupted, finished ---


def test_a_killed_run_keeps_the_epochs_that_were_done(killed):
    assert len(killed[1]["history"]) == 1


def test_a_run_killed_twice_and_interrupted_ends_bit_for_bit_like_an_undisturbed_one(undisturbed, finished):
    assert sha256(finished[0] / "weights.safetensors") == sha256(undisturbed[0] / "weights.safetensors")


def test_its_history_is_that_of_the_undisturbed_run_but_for_the_clock(undisturbed, finished):
    keys = ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    histories = [load_checkpoint(folder / "checkpoint.stn")["history"] for folder, *_ in (undisturbed, finished)]
    one, two = ([[row[key] for key in keys] for row in history] for history in histories)
    assert one == two and len(one) == 2


def test_it_did_not_train_again_what_was_done(finished):
    assert "epoch  2/2" in finished[1] and "epoch  1/2" not in finished[1]


def test_nothing_half_is_left_of_the_killed_processes(finished):
    assert sorted(path.name for path in finished[0].iterdir()) == ["checkpoint.stn", "weights.safetensors"]


@posix_only
def test_ctrl_c_ends_with_130_and_a_clean_line(interrupted):
    child, said, errors, _ = interrupted
    assert child.returncode == 130
    assert said.splitlines()[-1].startswith("Stopped.") and "the same command goes on" in said
    assert "Traceback" not in errors


@posix_only
def test_ctrl_c_leaves_a_complete_checkpoint(interrupted, tmp_path):
    (tmp_path / "checkpoint.stn").write_bytes(interrupted[3])
    assert len(load_checkpoint(tmp_path / "checkpoint.stn")["history"]) == 1


# --- what is said ---


def test_training_says_what_runs_on_what_and_where_it_went(undisturbed):
    out, said, _ = undisturbed
    lines = said.splitlines()
    told = f"with ST on digits (standing in for cifar10), upright, seed 0, on cpu; checkpoints in {out}"
    assert told in lines and any(line.startswith("training on ") and "in float32" in line for line in lines)
    assert [line[:10] for line in lines if line.startswith("epoch")] == ["epoch  1/2", "epoch  2/2"]
    assert lines[-1].startswith("test accuracy ") and lines[-1].endswith(f"%, upright; weights in {out / 'weights.safetensors'}")


def test_the_last_line_is_the_last_epochs_accuracy_and_far_above_chance(undisturbed):
    out, said, _ = undisturbed
    accuracy = load_checkpoint(out / "checkpoint.stn")["history"][-1]["test_accuracy"]
    assert f"test accuracy {accuracy:.2f} %, upright;" in said
    assert accuracy > 40


def test_the_stand_in_is_announced(undisturbed):
    said, errors = undisturbed[1:]
    assert "Using digits" in said and "cifar10 is not in" in said and "Using digits" not in errors


def test_the_weights_say_what_they_are(undisturbed):
    about = load_weights(undisturbed[0] / "weights.safetensors")[1]
    assert (about["study"], about["network"], about["seed"]) == ("tutorial", "tutorial_net", 0)
    assert about["data"] == "digits (standing in for cifar10)" and about["test_on"] == "upright"
    assert about["arguments"] == {"args": ["learned"], "options": {}}


def test_without_data_and_network_train_stops_with_the_three_ways_on_and_no_traceback(run, tmp_path):
    child = run(["train", "tutorial", "with ST", "--epochs", "1", "--out", str(tmp_path / "out")])
    said, errors = child.communicate(timeout=600)
    assert child.returncode == 1 and said == ""
    assert errors.startswith("studies: cifar10 is not in ")
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in errors
    assert all(way in errors for way in ("run again with a network", "place torchvision's files", "set STN_DATA"))
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


# --- in this process, on a small CIFAR-10 ---


@pytest.fixture(scope="module")
def trained(small_cifar_for_module, tmp_path_factory):
    """The weights of one epoch on 200 images, without a transformer."""
    out = tmp_path_factory.mktemp("trained")
    main(quick_words(out))
    return out / "weights.safetensors"


def quick_words(out, *more: str) -> list[str]:
    words = ["--epochs", "1", "--batch-size", "32", "--device", "cpu", "--precision", "float32", "--out", str(out)]
    return ["train", "tutorial", "without ST", *words, *more]


def exits(words: list[str]) -> str:
    """The reason that the command ends with; any other exception goes through and fails the test."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, str)  # Python prints it on stderr and exits with 1
    return caught.value.code


def test_evaluate_prints_the_accuracy_that_train_printed(small_cifar_for_module, tmp_path, capsys):
    main(
        [
            "train",
            "tutorial",
            "with ST",
            "--epochs",
            "1",
            "--batch-size",
            "32",
            "--device",
            "cpu",
            "--seed",
            "3",
            "--out",
            str(tmp_path),
        ]
    )
    printed = capsys.readouterr().out.split("test accuracy ")[1].split(" %")[0]
    file = tmp_path / "weights.safetensors"
    main(["evaluate", str(file), "--device", "cpu"])
    assert capsys.readouterr().out == f"{file}: test accuracy {printed} % on 50 images, upright\n"


def test_a_network_is_measured_on_what_it_was_made_for_and_on_another_distortion_if_one_asks(tmp_path, capsys):
    out = ["--epochs", "1", "--device", "cpu", "--out", str(tmp_path)]
    main(["train", "straighten", "with ST", *out])
    trained = capsys.readouterr().out.split("test accuracy ")[1].split(";")[0]
    assert trained.endswith(" %, turned")
    main(["evaluate", str(tmp_path / "weights.safetensors"), "--device", "cpu"])
    assert capsys.readouterr().out.endswith(f"test accuracy {trained.split(',')[0]} on 360 images, turned\n")
    main(["evaluate", str(tmp_path / "weights.safetensors"), "--device", "cpu", "--distortion", "upright"])
    assert capsys.readouterr().out.endswith("on 360 images, upright\n")


def test_the_list_has_every_study_and_every_arm_with_its_network_data_and_recipe(capsys):
    main(["list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names()
    main(["list", "deep"])
    said = capsys.readouterr().out
    assert "turned, two looks\n    looking_net(2); rotated -> rotated; epochs 1, lr 0.003" in said


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["run"], ["list"], ["check"]])
def test_help_fits_a_screen(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and len(said.splitlines()) <= 40


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--seed", "1"], "belongs to another run (seed 0, not 1)"),
        (["--epochs", "3"], "belongs to another run (epochs 1, not 3)"),
        (["--precision", "bfloat16"], "belongs to another run (precision"),
    ],
)
def test_going_on_with_other_words_is_refused_with_the_difference(trained, more, reason):
    said = exits(quick_words(trained.parent, *more))
    assert said.startswith("studies: ") and reason in said and "choose another folder" in said


def test_weights_of_another_architecture_are_refused_with_the_first_difference(small_cifar_for_module, tmp_path):
    file = tmp_path / "other.safetensors"
    about = {
        "study": "tutorial",
        "network": "tutorial_net",
        "arguments": {"args": ["learned"], "options": {}},
        "test_on": "upright",
    }
    save_weights(file, tutorial_net(None), about)
    said = exits(["evaluate", str(file)])
    assert f"{file} is of another architecture: transformer.localization.1.0.bias is absent in the file" in said


def test_weights_of_an_unknown_network_or_study_are_refused_with_the_known_ones(tmp_path):
    file = tmp_path / "other.safetensors"
    save_weights(file, tutorial_net(None), {"study": "tutorial", "network": "net_2030", "arguments": {}})
    assert "holds a 'net_2030', which tutorial does not have; expected tutorial_net" in exits(["evaluate", str(file)])
    save_weights(file, tutorial_net(None), {"study": "study_2030"})
    assert "is of the study 'study_2030', which is not here; expected addition" in exits(["evaluate", str(file)])


def test_weights_that_do_not_say_their_model_are_refused(tmp_path):
    file = tmp_path / "nameless.safetensors"
    save_weights(file, tutorial_net(None), {})
    assert str(file) in exits(["evaluate", str(file)])


def test_a_missing_file_is_refused(tmp_path):
    assert exits(["evaluate", str(tmp_path / "none.safetensors")]) == f"studies: there is no file {tmp_path / 'none.safetensors'}"


def test_a_damaged_file_is_refused_and_stays(trained, tmp_path):
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(trained.read_bytes()[:-1] + b"?")
    before = file.read_bytes()
    assert f"{file} is damaged" in exits(["evaluate", str(file)])
    assert file.read_bytes() == before


@pytest.fixture
def half_done(small_cifar_for_module, tmp_path):
    """A folder where the first epoch of two is done."""
    arm = get("tutorial").arms["without ST"]
    recipe = replace(arm.recipe, epochs=2, batch_size=32)
    train, test = load("cifar10", train=True), load("cifar10", train=False)
    how = {"out": tmp_path, "stop_after": 1, "progress": False, "name": "tutorial, without ST"}
    fit(arm.build(), train, test, recipe, 0, "cpu", "float32", **how)
    return tmp_path


def test_a_full_disk_leaves_the_old_checkpoint_and_with_room_the_run_goes_on(half_done, full_disk, capsys):
    before = (half_done / "checkpoint.stn").read_bytes()
    with full_disk:
        assert "File too large" in exits(quick_words(half_done, "--epochs", "2"))
    assert {path.name: path.read_bytes() for path in half_done.iterdir()} == {"checkpoint.stn": before}
    capsys.readouterr()
    main(quick_words(half_done, "--epochs", "2"))
    assert [line[:10] for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")] == ["epoch  2/2"]


@pytest.mark.parametrize("words", [["train"], ["train", "tutorial"], ["study", "deep"], ["run", "deep", "--precision", "half"], []])
def test_unknown_words_end_with_the_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and "usage: python -m studies" in capsys.readouterr().err


def test_an_unknown_study_or_arm_is_refused_with_the_known_ones(tmp_path):
    assert "study is 'cifar100'; expected one of addition" in exits(["train", "cifar100", "no ST"])
    assert "unknown arms ['no such']; expected some of with ST; without ST" in exits(["train", "tutorial", "no such"])
    assert "study is 'no such'" in exits(["run", "no such"])


@pytest.mark.parametrize("words", [["--epochs", "0"], ["--batch-size", "0"], ["--epochs", "-1"]])
def test_counts_below_one_are_refused(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(quick_words(tmp_path, *words))
    assert caught.value.code == 2 and f"argument {words[0]}: invalid" in capsys.readouterr().err


def test_help_works_whatever_stn_data_is_called(monkeypatch, capsys):
    monkeypatch.setenv("STN_DATA", "/100%data")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0 and "/100%data" in capsys.readouterr().out

"""Files that survive: written whole or not at all, and refused when a byte has changed.

Both kinds are safetensors, tensors with JSON beside them: nothing in them can run code. *Weights* are what is shipped. A
*checkpoint* holds all that training needs to go on.
"""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from stn_helpers.data.files import sha256, write_whole

FORMAT = 1  # raise it when an older program could not read the file


def save_weights(path: Path | str, model: nn.Module, about: dict) -> str:
    """Write a model's weights, with `about` (plain JSON: its name and options, what it was made for) inside.

    Returns the file's SHA-256.
    """
    _write(path, model.state_dict(), about)
    return sha256(path)


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """(tensors, about) as `save_weights` wrote them; the file is only read.

    Raises FileNotFoundError, or ValueError for a file of another kind, with a changed byte, or from a newer version.
    """
    return _read(path, "Fetch it again.")


def save_checkpoint(path: Path | str, state: dict) -> None:
    """Write a state: dicts, lists, tensors, numbers, text and None, as deep as you like. A tuple comes back as a list.

    Raises TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    facts = {"checkpoint": _without_tensors(state, tensors)}  # which fills `tensors`
    _write(path, tensors, facts)


def load_checkpoint(path: Path | str) -> dict:
    """Read what `save_checkpoint` wrote; the file is only read, and the tensors lie on the CPU.

    Raises FileNotFoundError, or ValueError for a file of another kind, with a changed byte, or from another version.
    """
    tensors, facts = _read(path, "Delete it to start again.")
    if "checkpoint" not in facts:
        raise ValueError(f"{path} is not a checkpoint: it holds weights and nothing to go on from")
    return _with_tensors(facts["checkpoint"], tensors)


def _without_tensors(value, tensors: dict[str, Tensor]):
    """A nested state as JSON, its tensors put aside by number. A dict becomes its pairs, for JSON turns keys into text."""
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, dict):
        return {"dict": [[key, _without_tensors(inside, tensors)] for key, inside in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(inside, tensors) for inside in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold {value!r}, a {type(value).__name__}")


def _with_tensors(value, tensors: dict[str, Tensor]):
    if isinstance(value, list):
        return [_with_tensors(inside, tensors) for inside in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _with_tensors(inside, tensors) for key, inside in value["dict"]}


def _write(path: Path | str, tensors: dict[str, Tensor], facts: dict) -> None:
    from safetensors.torch import save

    # Copies: tied weights share their memory, which safetensors refuses.
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    facts = json.loads(json.dumps({"format": FORMAT, **facts}))  # as it will be read
    facts["digest"] = _digest(tensors, facts)
    write_whole(path, save(tensors, metadata={"stn_helpers": json.dumps(facts)}))


def _read(path: Path | str, remedy: str) -> tuple[dict[str, Tensor], dict]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("stn_helpers", "null"))
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # else they keep the file open
    except (SafetensorError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, or not a whole safetensors file ({error}). {remedy}") from error
    if not isinstance(facts, dict) or not {"format", "digest"} <= facts.keys():
        raise ValueError(f"{path} holds no stn_helpers entry: it was not written by save_weights, or it is damaged. {remedy}")
    version = facts["format"]
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"{path} was written by a newer version (format {version}; this one reads up to {FORMAT}). "
            "Update stn_helpers to use it."
        )
    if facts.pop("digest") != _digest(tensors, facts):
        raise ValueError(f"{path} is damaged: the SHA-256 of its content is not the one it was saved with. {remedy}")
    return tensors, facts


def _digest(tensors: dict[str, Tensor], facts: dict) -> str:
    """SHA-256 over what is said of the tensors, and their names, types, shapes and values."""
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())  # as bytes, because numpy knows no bfloat16
    return total.hexdigest()


def fill(model: nn.Module, tensors: dict[str, Tensor], path) -> None:
    """Put tensors into a model. Raises ValueError, naming the first difference, where they are of another architecture."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    other = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(own.keys() | other.keys()):
        if own.get(name) != other.get(name):
            raise ValueError(
                f"{path} is of another architecture: {name} is {other.get(name, 'absent')} in the file "
                f"and {own.get(name, 'absent')} in the model"
            )
    model.load_state_dict(tensors)

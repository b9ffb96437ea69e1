"""Files that survive: written whole or not at all, and refused when a byte has changed.

A *checkpoint* holds all that training needs to go on. *Weights* are what is shipped: safetensors, nothing that can run code.
"""

import hashlib
import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from stn_helpers.data.files import sha256, write_whole

MAGIC = b"STN-CKPT"
FORMAT = 1  # raise it when an older program could not read the file


def save_checkpoint(path: Path | str, state: dict) -> None:
    """Write a checkpoint: eight letters, the format in two bytes, the SHA-256 of the rest, then what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    head, payload = MAGIC + FORMAT.to_bytes(2, "big"), buffer.getvalue()
    write_whole(path, head + hashlib.sha256(head + payload).digest() + payload)


def load_checkpoint(path: Path | str) -> dict:
    """Read what `save_checkpoint` wrote; the file is only read.

    Raises ValueError for a file of another kind, with a changed byte, or from a newer version.
    """
    data = Path(path).read_bytes()
    if not data.startswith(MAGIC):
        raise ValueError(f"{path} is not a checkpoint of this project: it does not begin with {MAGIC.decode()}")
    head, digest, payload = data[:10], data[10:42], data[42:]
    _check_format(path, int.from_bytes(head[8:], "big"))
    if hashlib.sha256(head + payload).digest() != digest:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one it was saved with. Delete it to start again.")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def _check_format(path, version: int) -> None:
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"{path} was written by a newer version (format {version}; this one reads up to {FORMAT}). "
            "Update stn_helpers to use it."
        )


def _digest(tensors: dict[str, Tensor], facts: dict) -> str:
    """SHA-256 over what is said of the tensors, and their names, types, shapes and values."""
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def save_weights(path: Path | str, model: nn.Module, about: dict) -> str:
    """Write a model's weights as safetensors, with `about` (its name and options, plain JSON) inside. Returns the SHA-256."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    facts = {"format": FORMAT, **about}
    facts["digest"] = _digest(tensors, facts)
    write_whole(path, save(tensors, metadata={"stn_helpers": json.dumps(facts)}))
    return sha256(path)


def load_weights(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """(tensors, about) as `save_weights` wrote them; the file is only read.

    Raises FileNotFoundError, or ValueError for a file of another kind, with a changed byte, or from a newer version.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("stn_helpers", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    if not isinstance(facts, dict) or not {"format", "digest"} <= facts.keys():
        raise ValueError(f"{path} holds no stn_helpers entry: it was not written by save_weights, or it is damaged")
    _check_format(path, facts["format"])
    if facts.pop("digest") != _digest(tensors, facts):
        raise ValueError(f"{path} is damaged: the SHA-256 of its content is not the one it was saved with. Fetch it again.")
    return tensors, facts


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

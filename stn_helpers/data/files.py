"""Files that are written whole or not at all, by one process at a time."""

import glob
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def write_whole(path: Path | str, data: bytes) -> None:
    """Write a file so that a power cut leaves the old one or the new one, never half. Raises OSError (disk full ...).

    Threads and processes may write one path at once: the last one counts.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_orphans(path, age=3600)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name itself must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def clear_orphans(path: Path | str, age: float = 0.0) -> None:
    """Remove what a killed `write_whole` of this path left behind, where it is older than `age` seconds.

    Only the one process that may write the path can know that what is there is left behind, and ask for age 0.
    """
    path = Path(path)
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # it may be gone by now; Windows refuses while its process lives
            if time.time() - part.stat().st_mtime >= age:
                part.unlink()


@contextmanager
def alone(lock: Path | str, waiting: str = "") -> Iterator[None]:
    """`with alone(file):` only one process or thread at a time is in here. The others wait, and say `waiting` first.

    The file is made, with its folder, and is gone afterwards; after a kill the next one in removes it. Raises OSError where it
    cannot be made.
    """
    lock = Path(lock)
    lock.parent.mkdir(parents=True, exist_ok=True)
    key = FileLock(lock)
    try:
        key.acquire(blocking=False)
    except Timeout:
        if waiting:
            print(waiting, flush=True)
        key.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows refuses, and removes it in release()
            lock.unlink()
        key.release()


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

"""What the tests share: a small CIFAR-10 in the official layout, an HTTP server of our own, and real processes to kill."""

import hashlib
import http.server
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stn_helpers.data import sets
from stn_helpers.data.sets import Images, load

# Two threads on two busy cores wait for each other; one is quicker here, and repeats to the bit.
torch.set_num_threads(1)

REPO = Path(__file__).resolve().parent.parent
NOBODY = "http://127.0.0.1:9"  # no one listens there, so a download fails at once


@pytest.fixture(scope="session")
def digits_as_cifar() -> SimpleNamespace:
    """128 + 100 real digits in CIFAR-10's shape: .train and .test."""

    def some(train: bool, count: int) -> Images:
        small = load("digits", train=train).subset(slice(count))
        images = F.pad(small.images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        return Images("digits", images, small.labels, small.classes)

    return SimpleNamespace(train=some(True, 128), test=some(False, 100))


@pytest.fixture
def server(monkeypatch):
    """A real HTTP server: .files {path: bytes} that it serves, .asked (paths).

    .cut: None, or "length" or "chunked", two ways to serve half of a file and hang up. .refused: {path: HTTP status}.
    .stalls: serve half of a file, then nothing, and keep the line open. .half: set when half of a file has gone out.
    """
    monkeypatch.setenv("no_proxy", "*")
    state = SimpleNamespace(files={}, asked=[], cut=None, refused={}, stalls=False, half=threading.Event())
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            state.asked.append(self.path)
            self.close_connection = True
            if self.path in state.refused or self.path not in state.files:
                return self.send_error(state.refused.get(self.path, 404))
            body = state.files[self.path]
            self.send_response(200)
            chunked = state.cut == "chunked"
            self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))))
            self.end_headers()
            try:
                self.wfile.write(b"%x\r\n" % len(body) if chunked else b"")
                self.wfile.write(body[: len(body) // 2] if state.cut or state.stalls else body)
                if state.stalls:
                    self.wfile.flush()
                    state.half.set()
                    over.wait()
            except ConnectionError:
                pass  # who was kept waiting has hung up
            return None

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        over.set()
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def cifar_files() -> dict[str, bytes]:
    """The files of a CIFAR-10 of 200 + 50 images, by their official names."""
    random = np.random.default_rng(0)
    files = {"batches.meta": pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        count = 50 if name == "test_batch" else 40
        data = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": data, "labels": [(i + number) % 10 for i in range(count)]})
    return files


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def know_small_cifar(monkeypatch, files: dict[str, bytes]) -> None:
    """Give `load` the MD5s of our small CIFAR-10, and an address where nobody answers."""
    inside = {f"cifar-10-batches-py/{name}": md5(content) for name, content in files.items()}
    monkeypatch.setitem(sets.ARCHIVES, "cifar10", {"cifar-10-python.tar.gz": inside})
    monkeypatch.setitem(sets.MIRRORS, "cifar10", [f"{NOBODY}/"])


@pytest.fixture
def small_cifar(monkeypatch, cifar_files) -> SimpleNamespace:
    """A small CIFAR-10 that `load` takes for the real one: .files, .archive (tar.gz), .unpack(root)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in cifar_files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    know_small_cifar(monkeypatch, cifar_files)
    return SimpleNamespace(files=cifar_files, archive=packed.getvalue(), unpack=lambda root: unpack_cifar(root, cifar_files))


def unpack_cifar(root: Path, files: dict[str, bytes]) -> Path:
    """Place the unpacked files as the official archive would; returns root."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return root


@pytest.fixture
def served_cifar(small_cifar, server, monkeypatch):
    """The small CIFAR-10 behind `server`."""
    server.files["/cifar-10-python.tar.gz"] = small_cifar.archive
    monkeypatch.setitem(sets.MIRRORS, "cifar10", [f"{server.url}/"])
    return small_cifar


@pytest.fixture(scope="module")
def small_cifar_for_module(cifar_files, tmp_path_factory):
    """The folder of an unpacked small CIFAR-10, STN_DATA set to it, for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        know_small_cifar(patch, cifar_files)
        root = unpack_cifar(tmp_path_factory.mktemp("data"), cifar_files)
        patch.setenv("STN_DATA", str(root))
        yield root


class FullDisk:
    """`with` it, no file of this process can grow beyond 100 kB: the kernel refuses, as it does on a full disk."""

    def __enter__(self):
        import resource

        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, self.before[1]))

    def __exit__(self, *error):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def full_disk() -> FullDisk:
    if os.name != "posix":
        pytest.skip("Windows has no limit on the size of a file")
    return FullDisk()


@pytest.fixture(scope="session")
def start():
    """start(words, data=folder): a real Python process of this project, with no network and one thread."""

    def launch(words: list[str], data: Path) -> subprocess.Popen:
        cut = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), NOBODY)
        own = {
            "STN_DATA": str(data),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "no_proxy": "",
            "NO_PROXY": "",
        }
        # Where this process ignores Ctrl-C (a background job does), its children would too.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                [sys.executable, *words],
                cwd=REPO,
                env={**os.environ, **cut, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        finally:
            signal.signal(signal.SIGINT, before)

    return launch

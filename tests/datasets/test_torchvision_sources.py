import functools
import gzip
import hashlib
import http.server
import struct
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from mixbench.datasets.torchvision_sources import TorchvisionSource
from mixbench.errors import DatasetError, RecordError

DIGITS = tuple("0123456789")


def idx_files(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    """Return MNIST's four files, with the same examples in both splits but for the training labels."""
    n, height, width = images.shape
    pixels = struct.pack(">4I", 2051, n, height, width) + images.tobytes()
    test = struct.pack(">2I", 2049, n) + labels.astype(np.uint8).tobytes()
    train = struct.pack(">2I", 2049, n) + labels[::-1].astype(np.uint8).tobytes()
    return {
        "train-images-idx3-ubyte": pixels,
        "train-labels-idx1-ubyte": train,
        "t10k-images-idx3-ubyte": pixels,
        "t10k-labels-idx1-ubyte": test,
    }


@pytest.fixture
def images() -> np.ndarray:
    return np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 28, 28), dtype=np.uint8)


@pytest.fixture
def mirror(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a tiny MNIST, served on this machine as torchvision's only mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = list[tuple[str, str]]()
    for name, content in idx_files(images, np.array([7, 0, 9])).items():
        packed = gzip.compress(content)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed, usedforsecurity=False).hexdigest()))
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)
        without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        monkeypatch.setattr(urllib.request, "_opener", without_proxy)
        yield folder
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


def mnist(root: Path) -> TorchvisionSource:
    return TorchvisionSource("MNIST", root, class_names=DIGITS)


@pytest.mark.parametrize(("split", "labels"), [("test", [7, 0, 9]), ("train", [9, 0, 7])])
def test_idx_files_that_are_there_already_are_read(
    tmp_path: Path, images: np.ndarray, split: str, labels: list[int]
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files(images, np.array([7, 0, 9])).items():
        (raw / name).write_bytes(content)
    mnist(tmp_path).signature(split)
    examples = mnist(tmp_path).read(name="mnist", split=split)
    assert examples.images.shape == (3, 1, 28, 28)
    assert (examples.images[:, 0] == images).all()
    assert examples.labels.tolist() == labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]


def test_data_is_downloaded_on_first_use_only(tmp_path: Path, images: np.ndarray, mirror: Path) -> None:
    root = tmp_path / "downloads"
    first = mnist(root).signature("test")
    for file in mirror.iterdir():
        file.unlink()
    assert mnist(root).signature("test") == first
    assert (mnist(root).read(name="mnist", split="test").images[:, 0] == images).all()
    assert [path.name for path in root.iterdir()] == ["MNIST"]


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, mirror: Path) -> None:
    root = tmp_path / "downloads"
    last = mirror / "t10k-labels-idx1-ubyte.gz"
    whole = last.read_bytes()
    last.write_bytes(whole[:-4])
    with pytest.raises(
        DatasetError, match=r"could not download MNIST with torchvision to .*corrupted.*pass --data-dir .* MNIST in it"
    ):
        mnist(root).signature("test")
    assert list(root.iterdir()) == []
    last.write_bytes(whole)
    assert mnist(root).signature("test")


def test_without_network_the_error_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request goes to a proxy on a port where nobody listens."""
    nowhere = "http://127.0.0.1:9"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": nowhere, "https": nowhere}))
    monkeypatch.setattr(urllib.request, "_opener", opener)
    source = TorchvisionSource("CIFAR100", tmp_path, class_names=DIGITS)
    with pytest.raises(
        DatasetError, match=r"could not download CIFAR100 .*Connection refused.* cifar-100-python in it"
    ):
        source.signature("test")
    assert list(tmp_path.iterdir()) == []


def test_a_download_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "downloads").touch()
    with pytest.raises(RecordError, match=r"cannot write .*downloads/MNIST: a file is in the way"):
        mnist(tmp_path / "downloads").signature("test")


def cifar_batch(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "test_batch").write_bytes(content)


def test_cifar10_that_is_not_the_published_one_suggests_its_lookalike(tmp_path: Path) -> None:
    cifar_batch(tmp_path / "cifar-10-batches-py", b"images that went through JPEG")
    source = TorchvisionSource("CIFAR10", tmp_path, class_names=DIGITS, lookalike="cifar10_jpeg75")
    with pytest.raises(DatasetError, match=r"does not hold the published CIFAR10 .* use cifar10_jpeg75; otherwise"):
        source.read(name="cifar10", split="test")


def test_damaged_idx_files_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files(images, np.array([7, 0, 9])).items():
        (raw / name).write_bytes(content[:-20])
    with pytest.raises(DatasetError, match=r"MNIST does not hold the published MNIST .* delete that folder"):
        mnist(tmp_path).read(name="mnist", split="test")


def test_the_signature_follows_the_files_of_the_split(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    cifar_batch(folder, b"one")
    source = TorchvisionSource("CIFAR10", tmp_path, class_names=DIGITS)
    before = source.signature("test")
    (folder / "data_batch_1").write_bytes(b"not of this split")
    assert source.signature("test") == before
    (folder / "test_batch").write_bytes(b"two")
    assert source.signature("test") != before


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    source = TorchvisionSource("CIFAR10", tmp_path, class_names=DIGITS)
    with pytest.raises(DatasetError, match=r"cannot read .*test_batch: No such file"):
        source.signature("test")

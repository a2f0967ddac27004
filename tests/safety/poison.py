"""Pickles that leave a mark when they are opened, in every dress that a file may come in."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


class Reduced:
    """Runs a command while it is rebuilt."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.mark}'",)


class Restored:
    """Leaves the mark when its state is put back."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, Path]) -> None:
        state["mark"].touch()


def _torch_file(value: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _zip(mark: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Reduced(mark)))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def _array(mark: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Reduced(mark)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _arrays(mark: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, weight=np.array([Reduced(mark)], dtype=object))
    return stream.getvalue()


def _open_torch(data: bytes) -> object:
    return torch.load(io.BytesIO(data), weights_only=False)


def _open_numpy(data: bytes) -> object:
    found = np.load(io.BytesIO(data), allow_pickle=True)
    return found["weight"] if isinstance(found, np.lib.npyio.NpzFile) else found


DRESSES: dict[str, tuple[Callable[[Path], bytes], Callable[[bytes], object]]] = {
    "pickle": (lambda mark: pickle.dumps(Reduced(mark)), pickle.loads),
    "pickle-of-text": (lambda mark: pickle.dumps(Reduced(mark), protocol=0), pickle.loads),
    "setstate": (lambda mark: pickle.dumps(Restored(mark)), pickle.loads),
    "torch": (lambda mark: _torch_file({"state": Reduced(mark)}), _open_torch),
    "torch-of-old": (lambda mark: _torch_file(Reduced(mark), zipped=False), _open_torch),
    "zip": (
        _zip,
        lambda data: pickle.loads(zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl")),
    ),
    "numpy": (_array, _open_numpy),
    "numpy-of-many": (_arrays, _open_numpy),
}
"""Name to how it is made, and how somebody careless opens it."""


def poisoned(dress: str, mark: Path) -> bytes:
    """A file's content that makes `mark` when it is opened carelessly."""
    return DRESSES[dress][0](mark)

"""Tensors read straight from the bytes of a file, once they are seen to lie in it."""

import math
import mmap
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dalle.errors import CheckpointError
from dalle.pretrained.records import Name

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_AXES = 16


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers that a file says it holds."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        """How many bytes they take."""
        return self.count * self.dtype.itemsize


def storage_of(key: Any) -> Storage:
    """What a persistent id of torch says: ("storage", class, key, device, count, view).

    Raises:
        CheckpointError: it is no such id.
    """
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage":
        raise CheckpointError("it points to something that is no storage of tensors")
    kind, name, count = key[1], key[2], key[4]
    if not isinstance(kind, Name) or kind.module not in ("torch", "torch.cuda", "torch.storage"):
        raise CheckpointError("it holds numbers of an unknown class")
    if kind.name not in DTYPES:
        raise CheckpointError(f"it holds numbers of the class {kind}, which are not read here")
    if not isinstance(name, str) or type(count) is not int or count < 0:
        raise CheckpointError("it names a storage without a name or a size")
    if len(key) == 6 and key[5] is not None:
        raise CheckpointError("it holds views of storages, which only very old versions wrote")
    return Storage(name, DTYPES[kind.name], count)


class FileBytes:
    """The bytes of a file, in which storages lie."""

    def __init__(self, data: mmap.mmap) -> None:
        """Args:
        data: the whole file, as a private copy on write.
        """
        self.data = data
        self.places: dict[str, tuple[int, int]] = {}
        """Of each storage's key: where its bytes begin, and how many there are."""
        self._flat: dict[Storage, Tensor] = {}
        self._spare = len(data)

    def flat(self, storage: Storage) -> Tensor:
        """All numbers of a storage."""
        if storage.key not in self.places:
            raise CheckpointError(f"it lacks the numbers called {storage.key!r:.100}")
        start, length = self.places[storage.key]
        if storage.num_bytes > length or start + length > len(self.data):
            raise CheckpointError(
                f"it should hold {storage.num_bytes} bytes called {storage.key!r:.100}, and has "
                f"{min(length, max(0, len(self.data) - start))}: it is cut off or damaged"
            )
        if storage not in self._flat:
            self._flat[storage] = self._read(storage, start)
        return self._flat[storage]

    def _read(self, storage: Storage, start: int) -> Tensor:
        if not storage.count:
            return torch.empty(0, dtype=storage.dtype)
        if start % storage.dtype.itemsize == 0:
            return torch.frombuffer(
                self.data, dtype=storage.dtype, count=storage.count, offset=start
            )
        aligned = bytearray(self.data[start : start + storage.num_bytes])
        return torch.frombuffer(aligned, dtype=storage.dtype)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        """A tensor over a storage.

        Raises:
            CheckpointError: it reaches beyond its storage, or repeats its numbers so often that
                all such tensors together would be larger than the file.
        """
        if not isinstance(storage, Storage):
            raise CheckpointError("it holds a tensor without numbers")
        numbers = (offset, *size, *stride)
        if (
            len(size) != len(stride)
            or len(size) > MAX_AXES
            or any(type(n) is not int or n < 0 for n in numbers)
        ):
            raise CheckpointError("it holds a tensor whose shape is none")
        flat, count = self.flat(storage), math.prod(size)
        reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if count and reach > storage.count:
            raise CheckpointError(
                f"it holds a tensor of the shape {size} that reaches beyond its {storage.count} "
                "numbers"
            )
        if count > storage.count:
            self._spare -= count * storage.dtype.itemsize
            if self._spare < 0:
                raise CheckpointError(
                    f"it holds a tensor of the shape {size} made of {storage.count} numbers; "
                    "written out, it would be larger than the file"
                )
        return flat.as_strided(size, stride, offset if count else 0)

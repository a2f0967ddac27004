"""Files of `torch.save`, in its two formats, and plain pickles: read, never executed.

Source: torch.serialization (the layout of both formats).
"""

import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from dalle.errors import CheckpointError, InputError
from dalle.pretrained.pickle_machine import run
from dalle.pretrained.records import Name, Record, made, named
from dalle.pretrained.storages import FileBytes, Storage, storage_of

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file in the older format."""
_TENSOR = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETER = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
_SUBCLASS = "torch._tensor._rebuild_from_type_v2"


def read_torch_file(path: Path, *, called: Path | None = None) -> Any:
    """What a file of `torch.save` or of `pickle` holds: containers, tensors, records.

    Tensors lie in the file, which is mapped into memory; nothing is allocated for them.

    Args:
        path: the file.
        called: its name in messages, where it was unpacked from somewhere else.

    Raises:
        CheckpointError: it is damaged, or asks for something to be executed.
        InputError: it cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            if not path.stat().st_size:
                raise CheckpointError("it is empty")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if data[: len(ZIP)] == ZIP:
            return _read_zip(path, data)
        return _read_stream(data)
    except CheckpointError as error:
        raise CheckpointError(f"{called or path} is not read: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {called or path}: {error.strerror}") from None


class _Builder:
    """Tensors over the bytes of a file; all else are records."""

    def __init__(self, numbers: FileBytes | None) -> None:
        """Args:
        numbers: None notes the storages only, before it is known where they lie.
        """
        self.numbers = numbers
        self.storages: dict[str, Storage] = {}

    def name(self, module: str, name: str) -> Name:
        return named(module, name)

    def stored(self, key: Any) -> Storage:
        storage = storage_of(key)
        self.storages[storage.key] = storage
        return storage

    def filled(self, target: Any, state: Any) -> None:
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, (dict, Tensor, set)) and target is not None:
            raise CheckpointError("it gives attributes to what has none")

    def made(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        called = str(what) if isinstance(what, Name) else ""
        if called in _TENSOR and len(arguments) >= 4:
            return None if self.numbers is None else self.numbers.tensor(*arguments[:4])
        if called in _PARAMETER and arguments:
            return arguments[0]
        if called == _SUBCLASS and len(arguments) == 4:
            return self.made(arguments[0], arguments[2])
        return made(what, arguments)


def _read_stream(data: mmap.mmap) -> Any:
    """A plain pickle, or torch's older format: pickles, then the storages one after another."""
    noted = _Builder(None)
    first = run(data, noted)
    if first != MAGIC or isinstance(first, bool):
        if noted.storages:
            raise CheckpointError("it points to tensors that are not in it")
        return first
    data.seek(0)
    for _ in ("magic", "protocol", "system"):
        system = run(data, _Builder(None))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("its numbers are big-endian")
    start = data.tell()
    noted = _Builder(None)
    run(data, noted)
    keys = run(data, _Builder(None))
    numbers = FileBytes(data)
    place = data.tell()
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in noted.storages:
            raise CheckpointError("it lists numbers that it does not use")
        length = noted.storages[key].num_bytes
        count = data[place : place + 8]
        if len(count) < 8 or struct.unpack("<q", count)[0] != noted.storages[key].count:
            raise CheckpointError(f"the numbers called {key!r:.100} are cut off or damaged")
        numbers.places[key] = (place + 8, length)
        place += 8 + length
    data.seek(start)
    return run(data, _Builder(numbers))


def _read_zip(path: Path, data: mmap.mmap) -> Any:
    """torch's newer format: a zip of data.pkl and one stored entry for each storage."""
    entries = _entries(path)
    pickles = [name for name in entries if name.split("/")[-1] == "data.pkl"]
    if any(name.split("/")[-1] == "constants.pkl" for name in entries):
        raise CheckpointError(
            "it is a TorchScript program, not a file of tensors; ask for its state dict"
        )
    if len(pickles) != 1 or pickles[0].count("/") > 1:
        raise CheckpointError(
            f"it is a zip with {len(pickles)} data.pkl; torch.save writes exactly one"
        )
    folder = pickles[0].removesuffix("data.pkl")
    numbers = FileBytes(data)
    for name, entry in entries.items():
        if name.startswith(f"{folder}data/"):
            place = (_start(data, entry), entry.file_size)
            numbers.places[name.removeprefix(f"{folder}data/")] = place
    if f"{folder}byteorder" in entries:
        start = _start(data, entries[f"{folder}byteorder"])
        if data[start : start + 6] != b"little":
            raise CheckpointError("its numbers are big-endian")
    data.seek(_start(data, entries[pickles[0]]))
    return run(data, _Builder(numbers))


def _entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise CheckpointError(f"it is a zip that is cut off or damaged ({error})") from None
    entries = {entry.filename: entry for entry in listed}
    if len(entries) != len(listed):
        raise CheckpointError("it is a zip in which two entries have the same name")
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise CheckpointError(
                f"it is a zip whose entry {entry.filename!r:.100} is compressed, which torch.save "
                "never does; unpack it first if it is an archive of checkpoints"
            )
    return entries


def _start(data: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin: behind its own header, which may differ in length."""
    header = data[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != ZIP:
        raise CheckpointError(f"its entry {entry.filename!r:.100} is cut off or damaged")
    name, extra = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + 30 + name + extra
    called = data[entry.header_offset + 30 : entry.header_offset + 30 + name]
    if called.decode("utf-8", "replace") != entry.orig_filename or start + entry.file_size > len(
        data
    ):
        raise CheckpointError(f"its entry {entry.filename!r:.100} is cut off or damaged")
    return start

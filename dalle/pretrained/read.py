"""From a path to what lies there: a file of tensors, a folder of them, or a tar."""

import itertools
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dalle.errors import CheckpointError, InputError
from dalle.pretrained.deepspeed import AUXILIARY, consolidated
from dalle.pretrained.family import Source, Weights
from dalle.pretrained.records import Record
from dalle.pretrained.torch_file import ZIP, read_torch_file

SMALL = (".json", ".yaml", ".yml", ".txt", ".model")
MAX_SMALL_BYTES = 20 * 2**20
MAX_FILES = 500
CONFIG = "config.json"
WRAPPERS = ("state_dict", "weights", "ema", "model", "module")
"""Where a state dict lies in a checkpoint with more in it; averaged weights before the others."""
MAX_UNPACKED = 20
"""A tar may unpack to so many times its size; weights hardly shrink at all."""
MAX_DEPTH = 64
BEGINNING = 4096
_WEIGHTS = ("zip", "safetensors", "pickle")
_MAPS = {bytes([byte]) for byte in (*range(0x81, 0x90), 0xDE, 0xDF)}
"""With which the maps of msgpack begin, in which Flax writes weights."""


def read(path: str | Path) -> Source:
    """Read a checkpoint of another project; nothing in it is executed.

    Args:
        path: a file of `torch.save`, of `pickle` or of safetensors; a folder or a tar of such; a
            folder that DeepSpeed wrote.

    Raises:
        InputError: there is no such path.
        CheckpointError: a file is damaged or no file of tensors, or asks to be executed.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        if (place / AUXILIARY).is_file():
            value = consolidated(place)
            weights = Weights(path=place, value=value, state=state_of(value))
            return Source(path=place, weights=(weights,), beside=_beside(place, place.iterdir()))
        return _read_folder(place, place)
    if not place.is_file():
        raise InputError(f"there is no file or folder {place}")
    starts = _starts(place)
    if starts == "tar":
        return _read_tar(place)
    if starts == "msgpack":
        return Source(path=place, weights=(), beginning=_beginning(place))
    weights = _read_weights(place)
    siblings = sorted(p for p in place.parent.iterdir() if p != place)[:MAX_FILES]
    # A module was saved whole: OpenAI's encoder and decoder are a file each.
    others = _modules(place, siblings) if isinstance(weights.value, Record) else ()
    return Source(path=place, weights=(weights, *others), beside=_beside(place.parent, siblings))


def with_tokenizer(source: Source, file: Path) -> Source:
    """As if this file lay beside the weights, and no other that could be a tokenizer.

    Raises:
        InputError: there is no such file, or it is none of the kinds that are tokenizers.
    """
    if not file.is_file() or file.suffix not in SMALL or file.stat().st_size > MAX_SMALL_BYTES:
        raise InputError(
            f"{file} is no text tokenizer; expected a file of at most {MAX_SMALL_BYTES >> 20} MB "
            f"that ends in one of {', '.join(SMALL)}"
        )
    kept = {name: data for name, data in source.beside.items() if Path(name).name == CONFIG}
    return replace(source, beside={**kept, file.name: file.read_bytes()})


def holds_weights(folder: Path) -> bool:
    """Whether a folder has a file of tensors in it, or what DeepSpeed wrote."""
    files = itertools.islice((path for path in folder.rglob("*") if path.is_file()), MAX_FILES)
    return any(_starts(path) in (*_WEIGHTS, "msgpack") for path in files)


def state_of(value: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds, out of what wraps it; empty where there is none."""
    found: Any = module_state(value) if isinstance(value, Record) else value
    for name in WRAPPERS:
        if isinstance(value, dict) and _is_state(value.get(name)):
            found = value[name]
            break
    if not _is_state(found):
        return {}
    if all(key.startswith("module.") for key in found):
        return {key.removeprefix("module."): tensor for key, tensor in found.items()}
    return dict(found)


def module_state(record: Record) -> dict[str, Tensor]:
    """The state dict of a module that was pickled whole."""
    return dict(_parameters(record, "", MAX_DEPTH))


def _parameters(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    state = module.state if isinstance(module, Record) else None
    if not isinstance(state, dict) or not depth:
        return
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _items(state.get(kind)):
            if isinstance(tensor, Tensor):
                yield f"{prefix}{name}", tensor
    for name, inner in _items(state.get("_modules")):
        yield from _parameters(inner, f"{prefix}{name}.", depth - 1)


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(k, v) for k, v in value.items() if isinstance(k, str)] if type(value) is dict else []


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _starts(path: Path) -> str:
    """What a file is by its first bytes; "" where that is nothing known here."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(ZIP):
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "tar"
    if head[:1] in _MAPS:
        return "msgpack"
    return "pickle" if head.startswith(b"\x80") else ""


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(BEGINNING)


def _read_weights(path: Path, called: Path | None = None) -> Weights:
    called = called or path
    if _starts(path) != "safetensors":
        value = read_torch_file(path, called=called)
        return Weights(path=called, value=value, state=state_of(value))
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{called} is truncated or no safetensors file ({error}); copy it again"
        ) from None
    return Weights(path=called, value=state, state=state)


def _read_folder(folder: Path, named: Path) -> Source:
    """All files below a folder, which messages call `named`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if len(files) > MAX_FILES:
        raise InputError(
            f"{named} holds {len(files)} files; give the folder of one checkpoint, or its file"
        )
    weights = [
        _read_weights(path, named / path.relative_to(folder))
        for path in files
        if _starts(path) in _WEIGHTS
    ]
    others = [path for path in files if _starts(path) == "msgpack"]
    if not weights and not others:
        raise InputError(f"{named} holds no file of tensors (.pt, .ckpt, .bin, .safetensors, ...)")
    return Source(
        path=named,
        weights=tuple(weights),
        beside=_beside(folder, files),
        beginning=_beginning(others[0]) if others else b"",
    )


def _modules(path: Path, siblings: list[Path]) -> tuple[Weights, ...]:
    """The other files of the same kind in the folder in which modules were saved whole."""
    found = []
    for other in siblings:
        if other.suffix == path.suffix and other.is_file() and _starts(other) in ("zip", "pickle"):
            try:
                weights = _read_weights(other)
            except CheckpointError:
                continue  # it was not asked for, and may be anything
            if isinstance(weights.value, Record):
                found.append(weights)
    return tuple(found)


def _beside(folder: Path, files: Any) -> dict[str, bytes]:
    small = {}
    for path in files:
        if path.suffix.lower() in SMALL and path.is_file():
            if path.stat().st_size > MAX_SMALL_BYTES:
                continue
            small[path.relative_to(folder).as_posix()] = path.read_bytes()
    return small


def _read_tar(path: Path) -> Source:
    """Unpacked for the time of reading; what is mapped into memory outlives its name."""
    left = MAX_UNPACKED * path.stat().st_size + MAX_SMALL_BYTES
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            with tarfile.open(path) as archive:
                for number, member in enumerate(archive):
                    left -= max(member.size, 0)
                    if left < 0 or number >= MAX_FILES:
                        raise CheckpointError(f"{path} unpacks to far more than it is; not read")
                    if member.isreg():
                        archive.extract(member, scratch, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise CheckpointError(f"{path} is a damaged archive ({error}); copy it again") from None
        return _read_folder(Path(scratch), path)

"""Files that would run something when they are unpickled are refused, and run nothing."""

import functools
import importlib
import operator
import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dalle.errors import CheckpointError
from dalle.pretrained.read import read
from dalle.pretrained.records import Record
from dalle.pretrained.torch_file import MAGIC, read_torch_file
from tests.pretrained.originals import zip_file


class Call:
    """Pickles as a call of `what`."""

    def __init__(self, what: Callable[..., Any], *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _touch(canary: Path) -> str:
    return f"touch {canary}"


def _script(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


def _called(module: str, name: str, argument: str) -> bytes:
    """module.name(argument), with dots in the name as protocol 4 allows them."""
    return b"\x80\x04" + _text(module) + _text(name) + b"\x93" + _text(argument) + b"\x85R."


RUN: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda c: pickle.dumps(Call(os.system, _touch(c))),
    "os.system in protocol 0": lambda c: pickle.dumps(Call(os.system, _touch(c)), protocol=0),
    "exec within lists and dicts": lambda c: pickle.dumps({"state_dict": [Call(exec, _script(c))]}),
    "eval by Python 2's name": lambda c: b"c__builtin__\neval\n(" + _text(_script(c)) + b"tR.",
    "getattr of getattr": lambda c: (
        b"\x80\x02cbuiltins\ngetattr\n(ctorch.serialization\nos\n"
        + _text("system")
        + b"tR"
        + _text(_touch(c))
        + b"\x85R."
    ),
    "a chain of attributes": lambda c: _called("torch", "serialization.os.system", _touch(c)),
    "another module that has it": lambda c: _called("torch.serialization", "os.system", _touch(c)),
    "a pickle in a pickle": lambda c: pickle.dumps(
        Call(pickle.loads, pickle.dumps(Call(os.system, _touch(c))))
    ),
    "subprocess": lambda c: pickle.dumps(Call(subprocess.call, ["touch", str(c)])),
    "INST": lambda c: b"(" + _text(_touch(c)) + b"ios\nsystem\n.",
    "OBJ": lambda c: b"(cos\nsystem\n" + _text(_touch(c)) + b"o.",
    "the module of a system": lambda c: _called("posix", "system", _touch(c)),
    "map and list": lambda c: (
        b"cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n]" + _text(_touch(c)) + b"atRtR."
    ),
    "a method called later": lambda c: (
        b"\x80\x02coperator\nmethodcaller\n("
        + _text("system")
        + _text(_touch(c))
        + b"tRcimportlib\nimport_module\n"
        + _text("os")
        + b"\x85R\x85R."
    ),
}
"""These run in the standard unpickler, which a test proves."""

HIDDEN: dict[str, Callable[[Path], bytes]] = {
    "torch.load inside": lambda c: pickle.dumps(
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, _touch(c))))
    ),
    "torch.load of a path": lambda c: _called("torch", "load", str(c)),
    "NEWOBJ": lambda c: b"\x80\x02csubprocess\nPopen\n(" + _text(_touch(c)) + b"t\x81.",
    "partial": lambda c: pickle.dumps(functools.partial(os.system, _touch(c))),
    "methodcaller": lambda c: pickle.dumps(operator.methodcaller("system", _touch(c))),
    "a rebuild that torch has not": lambda c: _called("torch._utils", "_rebuild_any", _touch(c)),
    "a rebuild elsewhere": lambda c: _called("evil", "_rebuild_tensor_v2", _touch(c)),
    "a rebuild of a subclass": lambda c: pickle.dumps(
        Call(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (_touch(c),), {})
    ),
    "a function of numpy": lambda c: _called("numpy.testing._private.utils", "runstring", "1"),
    "an extension code": lambda c: b"\x80\x02\x82\x01" + _text(_touch(c)) + b"\x85R.",
    "a call of what a call gave": lambda c: (
        b"\x80\x02ccollections\nOrderedDict\n)R" + _text(_touch(c)) + b"\x85R."
    ),
    "a storage of a class to be called": lambda c: (
        b"\x80\x02(" + _text("storage") + b"cos\nsystem\n" + _text("0") + _text("cpu") + b"K\x01tQ."
    ),
    "a function given attributes": lambda c: b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
    "memory of any size": lambda c: b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R.",
    "an out-of-band buffer": lambda c: b"\x80\x05\x97.",
}


def _plain(path: Path, evil: bytes) -> None:
    path.write_bytes(evil)


def _legacy(path: Path, evil: bytes) -> None:
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(head) + evil + pickle.dumps([], 2))


def _legacy_keys(path: Path, evil: bytes) -> None:
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, {"little_endian": True}, {})]
    path.write_bytes(b"".join(head) + evil)


LAYOUTS = {"plain": _plain, "zip": zip_file, "legacy": _legacy, "legacy's list": _legacy_keys}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trick", RUN | HIDDEN)
def test_nothing_is_run(tmp_path: Path, trick: str, layout: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    LAYOUTS[layout](path, (RUN | HIDDEN)[trick](canary))
    with pytest.raises(CheckpointError, match=r"weights\.pt is not read: it"):
        read_torch_file(path)
    assert not canary.exists()


@pytest.mark.parametrize("trick", RUN)
def test_the_standard_unpickler_would_run_it(tmp_path: Path, trick: str) -> None:
    evil = RUN[trick](tmp_path / "canary")
    pickle.loads(evil)
    assert (tmp_path / "canary").exists()


def test_the_message_names_file_and_function(tmp_path: Path) -> None:
    (path := tmp_path / "dalle.pt").write_bytes(RUN["os.system"](tmp_path / "canary"))
    with pytest.raises(CheckpointError, match=r"dalle\.pt.*asks to run 'posix\.system'.*trusted"):
        read(path)


def test_no_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_on_import.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    (path := tmp_path / "weights.pt").write_bytes(
        b"\x80\x02cevil_on_import\nModel\n)\x81}" + _text("w") + b"K\x01sb."
    )
    record = read_torch_file(path)
    assert isinstance(record, Record) and record.state == {"w": 1}
    assert record.name == "evil_on_import.Model"
    assert not (tmp_path / "canary").exists() and "evil_on_import" not in sys.modules
    importlib.invalidate_caches()


def test_nested_doublings_take_no_time(tmp_path: Path) -> None:
    """Tuples that hold the one before twice: as a key, their hash would take 2^60 steps."""
    doubled = b"\x80\x02N\x85" + b"2\x86" * 60
    (path := tmp_path / "weights.pt").write_bytes(doubled + b".")
    start = time.monotonic()
    read_torch_file(path)
    path.write_bytes(b"\x80\x02}" + doubled[2:] + b"Ns.")
    with pytest.raises(CheckpointError, match="keys are no plain values"):
        read_torch_file(path)
    assert time.monotonic() - start < 1

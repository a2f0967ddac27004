"""What stands for the classes that a pickle names: inert records, and a few plain containers."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dalle.errors import CheckpointError

OLD_STANDARD = {"__builtin__", "copy_reg", "cPickle", "commands", "exceptions", "urllib2"}
"""The standard library of Python 2, as old pickles call it."""

_TYPES = ("object", "int", "float", "str", "unicode", "bool", "long", "complex", "slice", "range")
INERT = {
    *(f"{home}.{name}" for home in ("builtins", "__builtin__") for name in _TYPES),
    "argparse.Namespace",
    "collections.deque",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "torch.device",
    "types.SimpleNamespace",
    "uuid.UUID",
}
"""What is no class of some package by the look of its name, and stays a record too."""

_CLASS = re.compile(r"_*[A-Z]\w*(\._*[A-Z]\w*)*")


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a file names; it was not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Record:
    """What would have been an object of a foreign class."""

    name: str
    """The class, with its module."""
    arguments: tuple[Any, ...] = ()
    state: Any = None
    """Usually its attributes, as a dict."""
    items: list[Any] = field(default_factory=list)
    """Of a list, or the (key, value) pairs of a mapping."""

    def append(self, item: Any) -> None:
        """As the pickle does with an object that is a list."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """As the pickle does with an object that is a list."""
        self.items.extend(items)

    update = extend

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


_KEYS = (str, bytes, int, float, Name, Record)


def named(module: str, name: str) -> Name:
    """The name, if nothing speaks against it.

    Raises:
        CheckpointError: it is of the standard library, and nothing that data are made of.
    """
    found = Name(module, name)
    top = module.partition(".")[0]
    known = str(found) in INERT or str(found) in BUILDERS or module == "typing"
    if not known and (top in sys.stdlib_module_names or top in OLD_STANDARD):
        raise refused(found)
    if "." in name and not _CLASS.fullmatch(name):
        raise refused(found)
    return found


def made(what: Any, arguments: tuple[Any, ...]) -> Any:
    """A container, or the record of an object.

    Raises:
        CheckpointError: what is called is a function, or no name at all.
    """
    if not isinstance(what, Name):
        raise CheckpointError(
            "it asks to call something that it made itself, as files do that hide code; nothing "
            "of it was run, and it should not be trusted"
        )
    if str(what) in BUILDERS:
        return BUILDERS[str(what)](*arguments)
    if str(what) in INERT or _CLASS.fullmatch(what.name):
        return Record(str(what), arguments)
    raise refused(what)


def refused(what: Name) -> CheckpointError:
    """The error for a name that has no place in a file of tensors."""
    return CheckpointError(
        f"it asks to run {str(what)[:200]!r}, which no file of tensors needs; nothing of it was "
        "run, and it should not be trusted"
    )


def _reconstructed(what: Any, *rest: Any) -> Any:
    return made(what, rest)


def _encoded(text: Any, encoding: Any = "utf-8") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise CheckpointError("it holds bytes in an unknown encoding")
    return text.encode(encoding)


def _defaultdict(factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _mapping(items)


def key_of(value: Any) -> Any:
    """What a mapping or a set has as a key; nested ones could take for ever to be looked up.

    Raises:
        CheckpointError: it is no plain value.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if all(part is None or isinstance(part, _KEYS) for part in parts):
        return value
    raise CheckpointError("it holds a mapping or a set whose keys are no plain values")


def _sequence(kind: type) -> Callable[..., Any]:
    """Calls of a container, of containers only: a number could ask for any amount of memory."""

    def build(*arguments: Any) -> Any:
        if any(not isinstance(a, (list, tuple, set, frozenset, bytes)) for a in arguments):
            raise CheckpointError(f"it asks for a {kind.__name__} of what is no container")
        if kind in (set, frozenset):
            return kind(map(key_of, *arguments)) if arguments else kind()
        return kind(*arguments)

    return build


def _mapping(items: Any = ()) -> dict[Any, Any]:
    pairs = items.items() if isinstance(items, dict) else items
    return {key_of(key): value for key, value in pairs}


_SEQUENCES = (set, frozenset, list, tuple, bytes, bytearray)
BUILDERS: dict[str, Callable[..., Any]] = {
    **{f"builtins.{kind.__name__}": _sequence(kind) for kind in _SEQUENCES},
    **{f"__builtin__.{kind.__name__}": _sequence(kind) for kind in _SEQUENCES},
    "builtins.dict": _mapping,
    "__builtin__.dict": _mapping,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _defaultdict,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
    "copyreg.__newobj__": _reconstructed,
    "copy_reg.__newobj__": _reconstructed,
    "_codecs.encode": _encoded,
    "torch.Size": _sequence(tuple),
}
"""Names of which plain values are made."""

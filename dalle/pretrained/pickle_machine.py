"""Pickles read as data: containers are built, names are looked at, and nothing is ever called.

The standard unpickler runs what a file names. This one knows the opcodes and gives names, and what
would be built from them, to a `Builder` of ours.

Source: the opcodes as documented in Python's `pickletools`.
"""

import mmap
import pickletools
from typing import Any, Protocol

from dalle.errors import CheckpointError
from dalle.pretrained.records import key_of

NEWEST_PROTOCOL = 5
_NUMBERS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"}
_BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE8", "BYTEARRAY8"}
_VALUES = _NUMBERS | _TEXTS | _BYTES
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"FRAME", "STOP"}


class Builder(Protocol):
    """What makes values of names."""

    def name(self, module: str, name: str) -> Any:
        """A class or function that the file names."""
        ...

    def made(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call of `what` stands for."""
        ...

    def stored(self, key: Any) -> Any:
        """What lies outside the pickle under `key`."""
        ...

    def filled(self, target: Any, state: Any) -> None:
        """`target` gets the state it was saved with."""
        ...


def run(file: mmap.mmap, builder: Builder) -> Any:
    """The value of the pickle at the file's position, which is moved behind it.

    Raises:
        CheckpointError: it is no whole pickle, or `builder` refuses something in it.
    """
    machine = _Machine(builder)
    try:
        # It reads, seeks and tells as any file, though its class is none.
        for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
            machine.do(opcode.name, argument)
        return machine.pop()
    except CheckpointError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise CheckpointError(f"it is damaged or no pickle ({reason})") from None


class _Machine:
    """The stack of a pickle; a mark puts it aside and begins another."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.stack: list[Any] = []
        self.aside: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.aside.pop()
        return items

    def do(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLES:
            count = _SHORT_TUPLES[name]
            items = tuple(self.stack[-count:])
            if len(items) != count:
                raise ValueError("a tuple of more than there is")
            self.stack[-count:] = [items]
        elif name == "PROTO":
            if argument > NEWEST_PROTOCOL:
                raise ValueError(f"protocol {argument}")
        elif name not in _NOTHING:
            getattr(self, f"_{name.lower()}", self._refuse)(argument)

    def _refuse(self, argument: Any) -> None:
        raise CheckpointError("it uses a part of the pickle format that files of tensors never do")

    def _mark(self, _: Any) -> None:
        self.aside.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def _pop_mark(self, _: Any) -> None:
        self.pop_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._put(len(self.memo))

    def _get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self.pop_mark()
        keys = map(key_of, items[::2])
        self.stack.append(dict(zip(keys, items[1::2], strict=True)))

    def _frozenset(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(key_of, items)))

    def _append(self, _: Any) -> None:
        item = self.pop()
        self.stack[-1].append(item)

    def _appends(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def _additems(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack[-1].update(map(key_of, items))

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.stack[-1][key_of(key)] = value

    def _setitems(self, _: Any) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def _global(self, both: str) -> None:
        module, _, name = both.partition(" ")
        self.stack.append(self.builder.name(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.stack.append(self.builder.name(module, name))

    def _made(self, what: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise ValueError("arguments that are no tuple")
        self.stack.append(self.builder.made(what, arguments))

    def _reduce(self, _: Any) -> None:
        arguments, what = self.pop(), self.pop()
        self._made(what, arguments)

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        named, arguments, what = self.pop(), self.pop(), self.pop()
        self._made(what, (*arguments, named))

    def _inst(self, both: str) -> None:
        arguments = tuple(self.pop_mark())
        self._global(both)
        self._made(self.pop(), arguments)

    def _obj(self, _: Any) -> None:
        what, *arguments = self.pop_mark()
        self._made(what, tuple(arguments))

    def _build(self, _: Any) -> None:
        state = self.pop()
        self.builder.filled(self.stack[-1], state)

    def _persid(self, key: Any) -> None:
        self.stack.append(self.builder.stored(key))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.builder.stored(self.pop()))

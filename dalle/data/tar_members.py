"""The members of a tar archive, by their headers alone: nothing is extracted, nothing executed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dalle.errors import DataError

BLOCK = 512
MAX_NAME_BYTES = 2**20
"""Of a long name or of the extended header that holds one."""

_REGULAR = frozenset({b"0", b"\0", b"7"})
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"


class Stream(Protocol):
    """Bytes that are read forwards."""

    def read(self, size: int, /) -> bytes: ...

    def tell(self) -> int: ...

    def seek(self, position: int, /) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of an archive."""

    name: str
    offset: int
    """Where its bytes begin."""
    size: int
    regular: bool
    """False for links, folders, devices, pipes and sparse files: their bytes are not used."""


def members(stream: Stream, *, size: int) -> Iterator[Member]:
    """Every member, in order. Whoever wants the bytes of one reads them before asking for the next.

    POSIX and GNU archives, long names and large sizes included.

    Args:
        stream: at the beginning of the archive.
        size: how many bytes it has.

    Raises:
        DataError: it is cut off or damaged from here on; the members before are whole.
    """
    position = 0
    given: dict[str, str] = {}
    while position < size:
        _go_to(stream, position)
        header = stream.read(BLOCK)
        if len(header) < BLOCK:
            raise DataError(f"cut off in a header at byte {position}")
        if header == bytes(BLOCK):
            return
        _check(header, position)
        kind = header[156:157]
        length = int(given["size"]) if given.get("size", "").isdigit() else _number(header[124:136])
        if length < 0:
            raise DataError(f"a damaged header at byte {position}")
        start = position + BLOCK
        if kind == _SPARSE:
            start = _after_map(stream, header, start)
        if kind not in _WITHOUT_DATA and start + length > size:
            raise DataError(f"cut off in {_name(header, given)!r} at byte {size}")
        if kind in (_EXTENDED, _LONG_NAME):
            if length > MAX_NAME_BYTES:
                raise DataError(f"a name of {length} bytes at byte {position}")
            given |= _given(kind, stream.read(length))
        elif kind not in (_LONG_LINK, _GLOBAL):
            name = _name(header, given)
            regular = kind in _REGULAR and "sparse" not in given
            yield Member(name=name, offset=start, size=length, regular=regular)
            given = {}
        data = 0 if kind in _WITHOUT_DATA else length
        position = start + (data + BLOCK - 1) // BLOCK * BLOCK


def _go_to(stream: Stream, position: int) -> None:
    if stream.tell() != position:
        stream.seek(position)


def _check(header: bytes, position: int) -> None:
    said = _number(header[148:156])
    if said != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        what = "no tar archive" if position == 0 else f"a damaged header at byte {position}"
        raise DataError(what)


def _number(field: bytes) -> int:
    """Octal digits, or a binary number after the byte 0x80; -1 where it is neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    try:
        return int(digits or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes, given: dict[str, str]) -> str:
    if "path" in given:
        return given["path"]
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:262] == b"ustar" else b""
    if header[257:265] == b"ustar  \0":  # GNU keeps times there
        prefix = b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _given(kind: bytes, data: bytes) -> dict[str, str]:
    """What a header in front of a member says of it: its name, size, and whether it is sparse."""
    if kind == _LONG_NAME:
        return {"path": _text(data.split(b"\0")[0])}
    fields: dict[str, str] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data):
            break
        name, _, value = data[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if name in (b"path", b"size"):
            fields[name.decode()] = _text(value)
        elif name.startswith(b"GNU.sparse."):
            fields["sparse"] = ""
        data = data[int(length) :]
    return fields


def _after_map(stream: Stream, header: bytes, start: int) -> int:
    """Where the bytes of a sparse file begin: after the blocks that continue its map."""
    more = header[482]
    while more:
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise DataError(f"cut off in a header at byte {start}")
        more, start = block[504], start + BLOCK
    return start

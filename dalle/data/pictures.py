"""A data set of picture files with their captions: what every kind of listing ends in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from dalle.data.captions import Captions, PackedTexts
from dalle.errors import DataError
from dalle.picture_files import open_image, read_bytes
from dalle.protocols import Sample

SUPPORTED = (
    "a folder of pictures (.jpg .jpeg .png .webp .gif) with .txt captions of the same name beside "
    "them or in folders named for what they show, a table (.csv .tsv .json .jsonl .parquet) or a "
    "folder with a metadata.jsonl, .csv or .tsv, the captions of COCO (.json), .tar files or a "
    "folder of them, a folder of the `datasets` package, hub:NAME, mix:2*A+1*B, or shapes"
)
MAX_PROBLEMS = 20
_SEPARATOR = "\0"
"""Between the captions of one picture: no caption holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found in a data set, and what was left out."""

    place: str
    pairs: int
    """Pictures that are used."""
    no_caption: int = 0
    """Pictures without any caption."""
    empty: int = 0
    """Pictures whose captions are all blank."""
    kept_empty: bool = False
    """Whether the pictures of the last two kinds are among those used."""
    no_picture: int = 0
    """Captions without a picture."""
    mended: int = 0
    """Pictures of whose captions characters were replaced or removed."""
    unreadable: int = 0
    """Files, links and folders that cannot be opened."""
    other_kinds: int = 0
    """Pictures in formats that are not read."""
    linked_folders: int = 0
    bad_rows: int = 0
    """Rows of a table that cannot be used."""
    repeated: int = 0
    """Members of an archive whose name was there before."""
    other_members: int = 0
    """Members of an archive that are neither pictures nor captions."""
    note: str | None = None
    """How it was understood, where that is a guess."""
    problems: tuple[str, ...] = ()
    """The first of them in words."""

    def line(self) -> str:
        """Everything in one line of printable characters."""
        return "; ".join([f"{self.pairs} pictures in {self.place!r}", *self.remarks()])

    def remarks(self) -> list[str]:
        """What was left out or mended, and the first problem."""
        uncaptioned = "used without a caption" if self.kept_empty else "left out"
        counts = [
            (self.no_caption, f"pictures without a caption ({uncaptioned})"),
            (self.empty, f"pictures with an empty caption ({uncaptioned})"),
            (self.no_picture, "captions without a picture"),
            (self.mended, "captions with damaged characters (mended)"),
            (self.unreadable, "unreadable files or folders"),
            (self.other_kinds, "pictures of other formats"),
            (self.linked_folders, "linked folders (not followed)"),
            (self.bad_rows, "unusable rows"),
            (self.repeated, "members whose name was there before (left out)"),
            (self.other_members, "members that are neither pictures nor captions"),
        ]
        told = [self.note] if self.note is not None else []
        told += [f"{count} {what}" for count, what in counts if count]
        return told + [f"first problem: {problem}" for problem in self.problems[:1]]


class Pictures:
    """A source of picture files with captions. Files are opened when they are asked for.

    Args:
        keys: the name of each picture.
        captions: of each picture.
        load: the number and the key of a picture to its file or its bytes.
        report: what was found.
        at_least: the shorter side that is needed, in pixels; large JPEGs are decoded at a fraction
            of their size (never below it).
    """

    def __init__(
        self,
        *,
        keys: Iterable[str],
        captions: Iterable[tuple[str, ...]],
        load: Callable[[int, str], Path | bytes],
        report: Report,
        at_least: int | None = None,
    ) -> None:
        self._keys = PackedTexts(keys)
        self._captions = PackedTexts(_SEPARATOR.join(texts) for texts in captions)
        self._load = load
        self._at_least = at_least
        self.report = report
        if len(self._keys) == 0:
            remarks = "".join(f"; {remark}" for remark in report.remarks())
            raise DataError(
                f"no image-text pairs found in {report.place!r}{remarks}. A data set is {SUPPORTED}"
            )

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int, /) -> Sample:
        return self.decoded(index, self.data(index))

    def data(self, index: int) -> bytes:
        """The file of a picture as it is.

        Raises:
            DataError: it cannot be read, or is too long.
        """
        file = self._load(index, self.key(index))
        return file if isinstance(file, bytes) else read_bytes(file, name=self._name(index))

    def decoded(self, index: int, data: bytes) -> Sample:
        """The sample of which `data` has the picture.

        Raises:
            DataError: it is damaged, or no picture.
        """
        image = open_image(data, name=self._name(index), at_least=self._at_least)
        return Sample(key=self.key(index), image=image, captions=self.captions(index))

    def _name(self, index: int) -> str:
        return f"{self.report.place}: {self.key(index)}"

    def key(self, index: int) -> str:
        """The name of a picture, without opening it."""
        return self._keys[index]

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a picture, without opening it."""
        joined = self._captions[index]
        return tuple(joined.split(_SEPARATOR)) if joined else ()

    def mark(self, index: int) -> str:
        """What changes when the picture's file does, without reading it.

        Raises:
            DataError: there is no such file any more.
        """
        key = self.key(index)
        told = getattr(self._load, "mark", None)
        if told is not None:
            return str(told(index))
        file = self._load(index, key)
        if isinstance(file, bytes):
            return blake2b(file, digest_size=16).hexdigest()
        try:
            info = file.stat()
        except OSError as error:
            raise DataError(f"{str(file)!r} cannot be read: {error.strerror}") from None
        return f"{info.st_size}/{info.st_mtime_ns}/{info.st_ctime_ns}"


class Tally:
    """Counts what a listing meets, and keeps the first problems in words."""

    def __init__(self, place: str, *, keep_empty: bool) -> None:
        self._place = place
        self._keep_empty = keep_empty
        self._counts: dict[str, int] = {}
        self._problems: list[str] = []
        self._note: str | None = None

    def note(self, text: str) -> None:
        """Say how the listing was understood."""
        self._note = text

    def add(self, kind: str, problem: str | None = None, *, count: int = 1) -> None:
        """Count some more of a field of `Report`."""
        self._counts[kind] = self._counts.get(kind, 0) + count
        if problem is not None and len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def keeps(self, captions: Captions | None) -> bool:
        """Count the captions of one picture (None: it has none); whether it is used."""
        if captions is not None and captions.mended:
            self.add("mended")
        if captions is not None and captions.texts:
            return True
        self.add("no_caption" if captions is None else "empty")
        return self._keep_empty

    def report(self, pairs: int) -> Report:
        """What was counted."""
        return Report(
            place=self._place,
            pairs=pairs,
            kept_empty=self._keep_empty,
            problems=tuple(self._problems),
            note=self._note,
            **self._counts,
        )

"""What the caption files of a folder hold, kept so that later runs do not open them again."""

import json
import os
from hashlib import blake2b
from pathlib import Path

from dalle.data import captions
from dalle.data.captions import Captions, read_file
from dalle.errors import SaveError


class CaptionFiles:
    """Text files below a folder. One of the same size and dates as before is not opened.

    Args:
        root: the folder.
        cache: where it is kept, a line for each file; None keeps nothing.
    """

    def __init__(self, root: str, cache: Path | None) -> None:
        code = Path(captions.__file__).read_bytes()
        digest = blake2b(os.fsencode(os.path.abspath(root)) + b"\0" + code, digest_size=16)
        self._file = None if cache is None else cache / "captions" / digest.hexdigest()
        self._before = _lines(self._file)
        self._lines: list[bytes] = []
        self._opened = 0

    def read(self, name: str, path: str) -> Captions:
        """The captions in a file.

        Raises:
            OSError: as of `captions.read_file`.
        """
        if self._file is None:
            return read_file(path)
        info = os.stat(path)
        label = json.dumps(name).encode()
        stamp = f"{info.st_size}/{info.st_mtime_ns}/{info.st_ctime_ns}"
        line = self._before.get(label)
        found = None if line is None else json.loads(line)
        if found is None or found[0] != stamp:
            self._opened += 1
            new = read_file(path)
            found = [stamp, new.mended, new.texts]
            line = json.dumps(found).encode()
        assert line is not None
        self._lines.append(label + b"\t" + line + b"\n")
        return Captions(texts=tuple(found[2]), mended=found[1])

    def keep(self) -> None:
        """Write down what was read, where it is not written yet.

        Raises:
            SaveError: it cannot be written.
        """
        if self._file is None or (self._opened == 0 and len(self._lines) == len(self._before)):
            return
        beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as stream:
                stream.writelines(self._lines)
            beside.replace(self._file)
        except OSError as error:
            raise SaveError(f"{self._file} cannot be written: {error.strerror}") from None
        finally:
            beside.unlink(missing_ok=True)


def _lines(file: Path | None) -> dict[bytes, bytes]:
    if file is None or not file.is_file():
        return {}
    with file.open("rb") as stream:
        parts = (line.partition(b"\t") for line in stream if line.endswith(b"\n"))
        return {label: rest for label, _, rest in parts}

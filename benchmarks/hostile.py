"""Broken and odd inputs in every format they can occur in, held to a table of what is right.

    python benchmarks/hostile.py FOLDER [--json FILE]

FOLDER has `images`, `captions`, `pairs`, `fs`, `archives`, `tables` and a `cases.json`: a list of
objects with `path` and `expect`, which is `ok` (must load), `skip` (must be left out), `error`
(must end in a sentence) or `policy` (either, but no crash). Pictures are read beside a caption,
from tables, from an archive and from Parquet. Peak memory is that of the whole process. For root no
file is unreadable: what is expected to be left out for its mode is read then.
"""

import argparse
import json
import resource
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dalle.data.captions import read_file
from dalle.data.sources import numbered, open_source
from dalle.errors import DalleError, DataError
from dalle.picture_files import EXTENSIONS
from dalle.protocols import Source
from tests.data.formats import FORMATS, tar

SINGLE = ("json_lines", "comma_separated", "parquet", "saved_dataset")


def main() -> None:
    """Print what was not as the table says, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as place:
        for case in json.loads((flags.folder / "cases.json").read_text("utf-8")):
            for form, came in outcomes(flags.folder, case["path"], Path(place)).items():
                right = case["expect"] in ("policy", came)
                rows.append({**case, "form": form, "came": came, "right": str(right)})
    for row in rows:
        if row["right"] == "False":
            print(f"{row['path']} ({row['form']}): {row['came']}; expected {row['expect']}")
    counts = Counter((row["form"], row["right"]) for row in rows)
    for (form, verdict), count in sorted(counts.items()):
        print(f"{form:20} {'as the table says' if verdict == 'True' else 'OTHERWISE':20} {count}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory {peak} MB")
    if flags.json:
        flags.json.write_text(json.dumps({"rows": rows, "peak_mb": peak}, indent=1) + "\n")


def outcomes(folder: Path, path: str, place: Path) -> dict[str, str]:
    """Form -> ok, skip or error, of one case."""
    kind, _, name = path.partition("/")
    file = folder / path
    if kind == "images":
        return pictures(file, place)
    if kind == "captions":
        return {"text file": "ok" if read_file(str(file)).texts else "skip"}
    if kind in ("archives", "tables"):
        return {kind: whole(file)}
    if name == "empty-folder/":
        return {"folder": whole(file)}
    wanted = name.removesuffix(".*").removesuffix(".png").removesuffix(".txt")
    if "{" in wanted or "," in wanted or " " in wanted:
        return {}  # several files: tests/data/test_folder.py has them one by one
    found = [key for key in readable(opened(folder / kind)) if key.startswith(wanted)]
    return {"folder": "ok" if found else "skip"}


def pictures(file: Path, place: Path) -> dict[str, str]:
    """One picture file in each format that can carry it."""
    if file.is_dir():
        return {}
    data, found = file.read_bytes(), dict[str, str]()
    pairs = [(data, ("a caption", "another"))]
    if file.suffix.lower() in EXTENSIONS:
        (place / file.name).mkdir()
        (place / file.name / file.name).write_bytes(data)
        (place / file.name / file.name).with_suffix(".txt").write_text("a caption")
        found["beside"] = loads(opened(place / file.name))
    for form in SINGLE if data else ():
        found[form] = loads(opened(FORMATS[form](place / f"{file.name}-{form}", pairs)))
    if file.suffix.lower() in EXTENSIONS:
        name = f"1{file.suffix.lower()}"
        tar(place / f"{file.name}.tar", [(name, data), ("1.txt", b"a caption")])
        found["archive"] = loads(opened(place / f"{file.name}.tar"))
    return found


def opened(path: Path | str) -> Source:
    """The data set there."""
    return numbered(open_source(path), str(path))


def loads(source: Source) -> str:
    """Whether the only sample can be read; anything but a DataError would end this program."""
    try:
        source[0]
    except DataError:
        return "skip"
    return "ok"


def readable(source: Source) -> Sequence[str]:
    """The keys of all samples that can be read."""
    keys = []
    for index in range(len(source)):
        try:
            keys.append(source[index].key)
        except DataError:
            continue
    return keys


def whole(path: Path) -> str:
    """Of a data set on its own; one that is only listed as damaged is left out in a run of many."""
    try:
        source = opened(path)
    except DalleError as error:
        return "skip" if "unreadable" in str(error) else "error"
    return "ok" if readable(source) else "skip"


if __name__ == "__main__":
    main()

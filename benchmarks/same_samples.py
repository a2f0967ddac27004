"""The same captioned pictures in every format a data set may have: are they the same samples?

    python benchmarks/same_samples.py DATA [--pairs N]

DATA is anything that `--data` takes whose pictures are files; the first two captions are used.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

from dalle.data.pictures import Pictures
from dalle.data.sources import numbered, open_source
from dalle.protocols import Sample, Source
from tests.data.formats import FORMATS, Pair


def main() -> None:
    """Say it of each format; end with status 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=500)
    flags = parser.parse_args()
    source = open_source(flags.data)
    if not isinstance(source, Pictures):
        raise SystemExit("give a data set of picture files")
    pairs = [pair(source, index) for index in range(min(flags.pairs, len(source)))]
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name, write in FORMATS.items():
            found[name] = samples(numbered(open_source(write(Path(place) / name, pairs)), name))
            same = found[name] == found["beside"]
            print(f"{name:24} {len(found[name])} samples, {'the same' if same else 'OTHERS'}")
    raise SystemExit(int(any(rows != found["beside"] for rows in found.values())))


def pair(source: Pictures, index: int) -> Pair:
    """The file of a picture and two captions, unlike those of every other picture."""
    file = source._load(index, source.key(index))
    first = source.captions(index)[0]
    return (file if isinstance(file, bytes) else file.read_bytes()), (first, f"number {index}")


def samples(source: Source) -> list[tuple[tuple[str, ...], str]]:
    """Captions and a hash of the pixels, in the order of the captions."""
    rows = []
    for index in range(len(source)):
        sample = source[index]
        assert isinstance(sample, Sample)
        rows.append((sample.captions, hashlib.sha256(sample.image.tobytes()).hexdigest()))
    return sorted(rows)


if __name__ == "__main__":
    main()

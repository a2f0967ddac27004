"""Several data sets as one, each drawn from as often as its weight says."""

import re
from collections.abc import Sequence

import numpy as np

from dalle.data.order import permutation
from dalle.data.pictures import Pictures, Report
from dalle.data.split import Subset, captions_at, key_at, origin_of
from dalle.errors import ConfigError
from dalle.protocols import EncodedSample, Sample, Source, Stream

MIX = "mix:"
_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)\*(.+)", re.DOTALL)


class Chain:
    """Sources one after another."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in self.sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int, /) -> Sample | EncodedSample:
        source, within = self._at(index)
        return source[within]

    def key(self, index: int) -> str:
        """The name of a sample, without reading it."""
        return key_at(*self._at(index))

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a sample, without its picture being decoded where that is possible."""
        return captions_at(*self._at(index))

    def origin(self, index: int) -> tuple[Source, int]:
        """Where a sample is from: a source, and its number there."""
        return origin_of(*self._at(index))

    def _at(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self.sources[number]
        return source, index - int(self._ends[number]) + len(source)


def reports(source: Source | Stream) -> list[Report]:
    """What was found in a data set, or in each one that it is made of."""
    if isinstance(source, Pictures):
        return [source.report]
    whole = getattr(source, "source", None)
    parts = getattr(source, "sources", ()) if whole is None else (whole,)
    return [report for part in parts for report in reports(part)]


def mixture_parts(spec: str) -> list[tuple[float, str]]:
    """Weight and name of each part of `mix:2*birds+1*cats.csv?caption=title`.

    Raises:
        ConfigError: it is not written so.
    """
    parts = []
    for part in re.split(r"\s*\+\s*(?=\d+(?:\.\d+)?\*)", spec.removeprefix(MIX)):
        found = _WEIGHT.fullmatch(part.strip())
        if found is None or float(found[1]) == 0 or found[2].startswith(MIX):
            raise ConfigError(
                f"{part.strip()!r} in {spec!r}: expected a weight above 0, a star and a data set, "
                "as in mix:2*birds+1*cats.csv"
            )
        parts.append((float(found[1]), found[2].strip()))
    return parts


def open_mixture(parts: Sequence[tuple[float, Source]]) -> Subset:
    """One data set of several.

    An epoch has each source's share of samples and every sample at least once: samples of sources
    whose share is larger than their size come several times, as evenly as that is possible.

    Args:
        parts: weight and source; weights count as shares of their sum.
    """
    total = sum(weight for weight, _ in parts)
    length = max(len(source) * total / weight for weight, source in parts)
    indices, start = [], 0
    for number, (weight, source) in enumerate(parts):
        size = len(source)
        whole, more = divmod(max(size, round(length * weight / total)), size)
        indices.append(np.tile(np.arange(start, start + size), whole))
        indices.append(start + permutation(0, number, size)[:more])
        start += size
    return Subset(Chain([source for _, source in parts]), np.concatenate(indices))

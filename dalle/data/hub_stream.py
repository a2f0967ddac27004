"""Data sets of the `datasets` package as streams: read from the hub or a folder, never stored."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from dalle.data.hub import folder_of, load, picture_of, split_of, undecoded
from dalle.data.hub_columns import columns_of, texts_of
from dalle.data.order import permutation
from dalle.errors import DataError
from dalle.picture_files import open_image
from dalle.protocols import Sample, StreamRow

if TYPE_CHECKING:
    import datasets

BUFFER = 1000
"""Rows of which the next one is drawn; they are held undecoded."""
_ROWS = 2**32
"""More than any file of a data set has."""


class HubStream:
    """A `Stream` of a data set's files in a random order, and of rows drawn from a buffer.

    Args:
        data: as `datasets` streams it.
        place: what it is called.
        image, captions: its columns.
        keep_empty: whether pictures without a caption are used, with no captions.
        at_least: the shorter side that is needed, in pixels.
    """

    def __init__(
        self,
        data: "datasets.IterableDataset",
        *,
        place: str,
        image: str,
        captions: tuple[str, ...],
        keep_empty: bool,
        at_least: int | None,
    ) -> None:
        self._data = undecoded(data.select_columns([image, *captions]), image)
        self._place = place
        self._folder = folder_of(place)
        self._image = image
        self._captions = captions
        self._keep_empty = keep_empty
        self._at_least = at_least

    def rows(self, *, seed: int, epoch: int) -> Iterator[StreamRow]:
        """All rows in the order of an epoch.

        Raises:
            DataError: the data break off.
        """
        random = Random(f"buffer/{seed}/{epoch}")
        buffer: list[StreamRow] = []
        for row in self._in_turn(permutation(seed, epoch, self._data.num_shards).tolist()):
            if len(buffer) < BUFFER:
                buffer.append(row)
                continue
            place = random.randrange(BUFFER)
            yield buffer[place]
            buffer[place] = row
        random.shuffle(buffer)
        yield from buffer

    def _in_turn(self, shards: list[int]) -> Iterator[StreamRow]:
        for shard in shards:
            part = self._data.shard(num_shards=self._data.num_shards, index=shard)
            try:
                for number, row in enumerate(part):
                    found = texts_of(row[name] for name in self._captions)
                    captions = () if found is None else found.texts
                    if captions or self._keep_empty:
                        whole = shard * _ROWS + number
                        yield StreamRow(
                            number=whole,
                            key=self.key(whole),
                            value=row[self._image],
                            captions=captions,
                        )
            except Exception as error:  # network, formats: the package has no common ancestor
                raise DataError(f"{self._place!r} breaks off in part {shard}: {error}") from None

    def sample(self, row: StreamRow) -> Sample:
        """A row, decoded."""
        file: Path | bytes = picture_of(row.value, self._folder, row.key)
        name = f"{self._place}: {row.key}"
        image = open_image(file, name=name, at_least=self._at_least)
        return Sample(key=row.key, image=image, captions=row.captions)

    def key(self, number: int) -> str:
        """The key of the row of that number."""
        shard, row = divmod(number, _ROWS)
        return f"{shard}/{row}"


def open_stream(
    place: str,
    *,
    split: str = "train",
    config: str | None = None,
    image_column: str | None = None,
    caption_columns: tuple[str, ...] = (),
    keep_empty: bool = False,
    at_least: int | None = None,
) -> HubStream:
    """A data set of the `datasets` package that is read as it comes; see `hub.open_dataset`."""
    data = split_of(load(place, config, streaming=True), split, place)
    if data.features is None:
        data = data._resolve_features()
    image, captions = columns_of(data, place, image_column, caption_columns)
    return HubStream(
        data,
        place=place,
        image=image,
        captions=captions,
        keep_empty=keep_empty,
        at_least=at_least,
    )

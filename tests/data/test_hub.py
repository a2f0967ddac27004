"""Data sets of the `datasets` package, saved in folders: pictures are decoded under our guard."""

import gc
import io
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from PIL import Image

from dalle.data.hub import open_dataset
from dalle.data.pictures import Pictures
from dalle.data.sources import open_source
from dalle.errors import ConfigError, DataError
from dalle.protocols import Stream


def jpeg(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture
def table(tmp_path: Path) -> Dataset:
    Image.new("RGB", (6, 4), "blue").save(tmp_path / "blue.png")
    pictures = [
        {"bytes": jpeg(), "path": None},
        {"bytes": jpeg()[:200], "path": None},
        {"bytes": None, "path": str(tmp_path / "blue.png")},
        None,
        {"bytes": jpeg(), "path": None},
    ]
    columns = {"photo": pictures, "text": ["a", "b", "c", "d", ""], "url": ["u"] * 5}
    kinds = {"photo": datasets.Image(), "text": Value("string"), "url": Value("string")}
    return Dataset.from_dict(columns, features=Features(kinds))


def rows(source: Pictures) -> list[tuple[str, tuple[str, ...]]]:
    return [(source.key(i), source.captions(i)) for i in range(len(source))]


def test_columns_are_found_by_their_kind(table: Dataset, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "saved")
    source = open_dataset(tmp_path / "saved")
    assert rows(source) == [("0", ("a",)), ("1", ("b",)), ("2", ("c",)), ("3", ("d",))]
    assert source.report.empty == 1
    assert source[0].image.size == (6, 4)
    assert source[2].image.getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(DataError, match=r"saved: 1' is no JPEG|saved: 1' cannot be decoded"):
        source[1]
    with pytest.raises(DataError, match="row 3 has no picture"):
        source[3]
    kept = open_dataset(tmp_path / "saved", keep_empty=True)
    assert rows(kept)[4] == ("4", ())


def test_columns_can_be_chosen(table: Dataset, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "saved")
    source = open_dataset(tmp_path / "saved", caption_columns=("url",), image_column="photo")
    assert rows(source)[0] == ("0", ("u",))
    for image, captions, message in (
        (None, ("photo",), "columns photo, text, url; 'photo' is no column of text"),
        ("url", (), "'url' is no column of pictures"),
        (None, ("text", "no"), "'no' is no column of text"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_dataset(tmp_path / "saved", image_column=image, caption_columns=captions)


def test_what_cannot_be_told_is_asked(table: Dataset, tmp_path: Path) -> None:
    table.rename_column("text", "words").save_to_disk(tmp_path / "words")
    with pytest.raises(ConfigError, match="several hold text"):
        open_dataset(tmp_path / "words")
    table.remove_columns("photo").save_to_disk(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"0 of them hold pictures\. A data set of pictures"):
        open_dataset(tmp_path / "none")
    second = table.select_columns("photo").rename_column("photo", "second")
    two = datasets.concatenate_datasets([table, second], axis=1)
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"2 of them hold pictures\. Say which"):
        open_dataset(tmp_path / "two")


def test_lists_of_captions_and_none(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": jpeg(), "path": None}] * 3}
    texts = [["x", None, " y "], [], None]
    kinds = {"image": datasets.Image(), "sentences": List(Value("string"))}
    table = Dataset.from_dict({**columns, "sentences": texts}, features=Features(kinds))
    table.save_to_disk(tmp_path / "lists")
    source = open_dataset(tmp_path / "lists", keep_empty=True)
    assert rows(source) == [("0", ("x", "y")), ("1", ()), ("2", ())]
    table.remove_columns("sentences").save_to_disk(tmp_path / "bare")
    assert rows(open_dataset(tmp_path / "bare", keep_empty=True)) == [
        (str(i), ()) for i in range(3)
    ]
    with pytest.raises(DataError, match="3 pictures without a caption"):
        open_dataset(tmp_path / "bare")


def test_several_columns_of_captions_are_put_together(tmp_path: Path) -> None:
    kinds = {"image": datasets.Image(), "a": Value("string"), "b": List(Value("string"))}
    columns = {
        "image": [{"bytes": jpeg(), "path": None}] * 4,
        "a": ["x", None, "z", ""],
        "b": [["y", "x"], ["q"], None, []],
    }
    Dataset.from_dict(columns, features=Features(kinds)).to_parquet(tmp_path / "rows.parquet")
    expected = [("0", ("x", "y")), ("1", ("q",)), ("2", ("z",))]
    name = f"{tmp_path / 'rows.parquet'}?caption=a&caption=b"
    source = open_source(name)
    assert isinstance(source, Pictures)
    assert rows(source) == expected
    assert source.report.empty == 1
    streamed = open_source(f"hub:{name.replace('?', '?stream=yes&')}")
    assert isinstance(streamed, Stream)
    found = {row.key: row.captions for row in streamed.rows(seed=0, epoch=0)}
    assert found == {f"0/{key}": captions for key, captions in expected}


def test_the_format_of_a_saved_table_plays_no_part(table: Dataset, tmp_path: Path) -> None:
    for kind in ("numpy", "pandas", "torch"):
        table.select([0]).with_format(kind).save_to_disk(tmp_path / kind)
        source = open_dataset(tmp_path / kind)
        assert rows(source) == [("0", ("a",))]
        assert source[0].image.size == (6, 4)


def test_splits_are_chosen_by_name(table: Dataset, tmp_path: Path) -> None:
    parts = DatasetDict({"train": table, "test": table.select([0])})
    parts.save_to_disk(tmp_path / "parts")
    assert len(open_dataset(tmp_path / "parts")) == 4
    assert len(open_dataset(tmp_path / "parts", split="test")) == 1
    with pytest.raises(ConfigError, match="no split 'dev'; it has: train, test"):
        open_dataset(tmp_path / "parts", split="dev")
    DatasetDict({"only": table}).save_to_disk(tmp_path / "one")
    assert len(open_dataset(tmp_path / "one")) == 4


def test_damaged_and_missing_tables_are_named(table: Dataset, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "saved")
    file = next((tmp_path / "saved").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"`datasets` cannot load .*saved"):
        open_dataset(tmp_path / "saved")
    with pytest.raises(DataError, match="cannot load 'nobody/nothing'"):
        open_dataset("nobody/nothing")


# The package leaves the csv file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_csv_folders_and_parquet_are_loaded(
    table: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "csv"
    folder.mkdir()
    Image.new("RGB", (6, 4), "blue").save(folder / "a.png")
    (folder / "metadata.csv").write_text('file_name,text\na.png,"a sign, ""STOP"""\n')
    source = open_dataset(folder)
    assert rows(source) == [("0", ('a sign, "STOP"',))]
    assert source[0].image.getpixel((0, 0)) == (0, 0, 255)
    (tmp_path / "parquet").mkdir()
    table.select([0]).to_parquet(tmp_path / "parquet" / "train.parquet")
    assert open_dataset(tmp_path / "parquet")[0].image.size == (6, 4)
    gc.collect()


def test_paths_in_a_table_stay_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for place in ("out.jpg", "in/in.jpg"):
        (tmp_path / place).write_bytes(jpeg())
    names = ["in.jpg", "../out.jpg", str(tmp_path / "out.jpg"), str(tmp_path / "in" / "in.jpg")]
    pictures = [{"bytes": None, "path": name} for name in names]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(pictures, kind), "text": ["a"] * 4})
    pq.write_table(table, tmp_path / "in" / "rows.parquet")
    source = open_source(tmp_path / "in" / "rows.parquet")
    for index in (0, 3):
        assert source[index].captions == ("a",)  # type: ignore[index]
    for index in (1, 2):
        with pytest.raises(DataError, match=r"out\.jpg' is outside of"):
            source[index]  # type: ignore[index]


def test_a_table_without_rows_is_said_to_be_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="it has no rows"):
        open_source(tmp_path / "none.parquet")

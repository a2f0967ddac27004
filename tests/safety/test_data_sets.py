"""Data sets that somebody else made: nothing in them runs, is fetched, or comes out of its folder.

What `datasets` does with archives is its own; here is what of it comes through our code.
"""

import gc
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow.parquet
import pytest
from datasets import Dataset, Features, Value
from PIL import Image

from dalle.data.hub import open_dataset
from dalle.data.sources import open_source
from dalle.errors import ConfigError, DataError
from tests.safety.poison import DRESSES, poisoned

Members = list[tuple[str, bytes | tuple[bytes, str]]]
"""Names with contents, or with a kind of link and what it points at."""


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data set's folder; connections are refused, although nothing says "offline"."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", cache / "extracted")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")
    datasets.disable_progress_bars()
    folder = tmp_path / "deep" / "er" / "data"
    folder.mkdir(parents=True)
    yield folder
    gc.collect()  # the package leaves csv files open


def outside(place: Path) -> set[Path]:
    """All files but those of the data set and of the cache."""
    root = place.parents[2]
    kept = (place, root / "cache")
    return {p for p in root.rglob("*") if p.is_file() and not any(map(p.is_relative_to, kept))}


def write_tar(path: Path, members: Members) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def read(place: Path, **options: str) -> None:
    """All of it, or a refusal that names it."""
    try:
        source = open_dataset(place, keep_empty=True, **options)
        for index in range(len(source)):
            source[index]
    except (DataError, ConfigError) as error:
        assert str(place) in str(error)


@pytest.mark.parametrize(
    "ending", ["pyd", "pickle", "pkl", "pth", "pt", "npy", "npz", "bin", "png"]
)
def test_members_of_a_tar_are_not_opened(place: Path, ending: str) -> None:
    mark = place / "mark"
    for dress in DRESSES:
        data = poisoned(dress, mark)
        write_tar(place / "a.tar", [("a.jpg", png()), ("a.txt", b"hi"), (f"a.{ending}", data)])
        read(place, caption_columns=("txt",), image_column="jpg")
        assert not mark.exists(), dress
        shutil.rmtree(place.parents[2] / "cache", ignore_errors=True)


NAMES = ("../../../evil.png", "/evil.png", "..\\..\\evil.png", "a/../../evil.png", "C:\\evil.png")


@pytest.mark.parametrize("name", NAMES)
def test_members_of_archives_stay_inside(place: Path, name: str) -> None:
    before, text = outside(place), name.replace("png", "txt")
    write_tar(place / "a.tar", [(name, png()), (text, b"hi")])
    read(place)
    (place / "a.tar").unlink()
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        archive.writestr(name, png())
        archive.writestr("a.png", png())
    read(place)
    assert outside(place) == before and not Path("/evil.png").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_members_that_are_no_files_are_not_followed(place: Path, kind: bytes) -> None:
    secret = place.parent / "secret.png"
    secret.write_bytes(png())
    write_tar(place / "a.tar", [("a.png", (kind, str(secret))), ("a.txt", b"hi")])
    with pytest.raises((DataError, ConfigError), match=str(place)):
        open_dataset(place)


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\n---\n"
CARDS: dict[str, Callable[[str], str]] = {
    "a path": CARD.format,
    "a list": lambda path: CARD.format(f'["a.parquet", "{path}"]'),
    "one word": lambda path: f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n",
    "a folder": lambda path: f"---\nconfigs:\n- config_name: default\n  data_dir: {path}\n---\n",
}


@pytest.mark.parametrize("form", CARDS)
def test_a_card_cannot_send_the_reader_elsewhere(place: Path, form: str) -> None:
    kinds = Features({"image": datasets.Image(), "text": Value("string")})
    row = {"image": [{"bytes": png(), "path": None}], "text": ["secret"]}
    for file in (place / "a.parquet", place.parent / "secret.parquet"):
        Dataset.from_dict(row, features=kinds).to_parquet(file)
    for path in (
        "https://example.com/a.parquet",
        "hf://datasets/somebody/else/a.parquet",
        "zip://a.parquet::https://example.com/a.zip",
        str(place.parent / "secret.parquet"),
        "../secret.parquet",
        "a/../../secret.parquet",
    ):
        for name in ("README.md", ".huggingface.yaml"):
            text = CARDS[form](path)
            (place / name).write_text(text if name == "README.md" else text.replace("---\n", ""))
            with pytest.raises(DataError, match="which is not inside the folder"):
                open_source(place)
            (place / name).unlink()
    (place / "README.md").write_text(CARD.format("a.parquet"))
    assert open_source(place)[0].captions == ("secret",)


def test_yaml_of_a_card_makes_no_objects(place: Path) -> None:
    (place / "a.parquet").write_bytes(b"")
    mark = place / "mark"
    text = f"a: !!python/object/apply:os.system ['touch {mark}']\n"
    for name, content in (("README.md", f"---\n{text}---\n"), (".huggingface.yaml", text)):
        (place / name).write_text(content)
        with pytest.raises(DataError, match="could not determine a constructor"):
            open_source(place)
        (place / name).unlink()
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/secret.png", "https://example.com/a.png", "zip://a.png::https://a.com/z"],
)
def test_tables_name_no_picture_outside(place: Path, name: str) -> None:
    for file in (place / "a.png", place.parent / "secret.png"):
        file.write_bytes(png())
    (place / "metadata.csv").write_text(f"file_name,text\n{name},hi\n")
    with pytest.raises(DataError, match=r"no image-text pairs found .*1 unusable rows"):
        open_source(place)
    (place / "metadata.csv").unlink()
    (place / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "hi"}))
    with pytest.raises(DataError, match=r"not a relative path inside the folder|no file"):
        open_source(place)


def test_an_address_in_a_table_is_not_fetched(place: Path) -> None:
    kinds = Features({"image": datasets.Image(), "text": Value("string")})
    row = {"image": [{"bytes": None, "path": "https://example.com/a.png"}], "text": ["a"]}
    table = Dataset.from_dict(row, features=kinds).data.table
    pyarrow.parquet.write_table(table, place / "a.parquet")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_source(place)[0]


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_saved_table_is_no_pickle(place: Path, name: str) -> None:
    kinds = Features({"image": datasets.Image(), "text": Value("string")})
    row = {"image": [{"bytes": png(), "path": None}], "text": ["a"]}
    Dataset.from_dict(row, features=kinds).save_to_disk(place / "saved")
    for dress in DRESSES:
        (place / "saved" / name).write_bytes(poisoned(dress, place / "mark"))
        with pytest.raises(DataError, match=f"cannot load '{place / 'saved'}'"):
            open_source(place / "saved")
    assert not (place / "mark").exists()


@pytest.mark.parametrize("name", ["a.parquet", "a.pkl", "a.h5", "a.eval", "data.py", "script.py"])
def test_files_of_every_sort_are_data_or_nothing(place: Path, name: str) -> None:
    mark = place / "mark"
    for dress in DRESSES:
        (place / name).write_bytes(poisoned(dress, mark))
        with pytest.raises(DataError, match=str(place)):
            open_dataset(place)
    (place / name).write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    with pytest.raises(DataError, match=str(place)):
        open_dataset(place)
    assert not mark.exists()


def test_captions_and_pictures_are_no_pickles(place: Path) -> None:
    for dress in DRESSES:
        (place / "a.png").write_bytes(poisoned(dress, place / "mark"))
        (place / "a.txt").write_bytes(poisoned(dress, place / "mark"))
        with pytest.raises(DataError, match=r"a\.png' (is no JPEG|cannot be decoded)"):
            open_source(place)[0]
        (place / "metadata.jsonl").write_bytes(poisoned(dress, place / "mark"))
        with pytest.raises(DataError, match=r"metadata\.jsonl"):
            open_source(place)
        os.unlink(place / "metadata.jsonl")
    assert not (place / "mark").exists()

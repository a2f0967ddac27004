"""Data sets by name: which rule decides, and what is said when none does."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from dalle.data.pictures import Pictures
from dalle.data.shapes import ShapesSource
from dalle.data.sources import open_source
from dalle.errors import ConfigError, DataError, InputError
from dalle.protocols import Sample


def pair(folder: Path, name: str, caption: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption)


def table(folder: Path, caption: str, name: str = "metadata.jsonl") -> Path:
    path = folder / name
    path.write_text(json.dumps({"file_name": "a.png", "text": caption}))
    return path


def captions(source: object) -> tuple[str, ...]:
    assert isinstance(source, Pictures)
    return source.captions(0)


def test_a_folder_is_pictures_and_text_files_unless_it_has_a_table(tmp_path: Path) -> None:
    pair(tmp_path, "a", "beside")
    assert captions(open_source(tmp_path)) == ("beside",)
    other = table(tmp_path, "other", "Rows.JSONL")
    assert captions(open_source(str(tmp_path))) == ("beside",)
    assert captions(open_source(other)) == ("other",)
    table(tmp_path, "in the table")
    assert captions(open_source(tmp_path)) == ("in the table",)


def test_folders_of_datasets_are_recognised(tmp_path: Path) -> None:
    pair(tmp_path, "a", "beside")
    kinds = Features({"image": ImageFeature(), "text": Value("string")})
    rows = {"image": [{"path": str(tmp_path / "a.png"), "bytes": None}], "text": ["saved"]}
    Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "saved")
    assert captions(open_source(tmp_path / "saved")) == ("saved",)
    assert captions(open_source(f"hub:{tmp_path}/saved?image=image&caption=text")) == ("saved",)
    with pytest.raises(ConfigError, match="'text' is no column of pictures"):
        open_source(f"hub:{tmp_path}/saved?image=text")


def test_the_built_in_pictures_have_names() -> None:
    source = open_source("shapes", num_samples=7, size=32, seed=3)
    assert isinstance(source, ShapesSource)
    assert (len(source), source.size, source.seed, source.held_out) == (7, 32, 3, False)
    held_out = open_source("shapes:heldout", num_samples=5)
    assert isinstance(held_out, ShapesSource)
    assert held_out.held_out


def test_options_reach_every_kind(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"file_name": "a.jpg"}))
    for spec in (tmp_path, path):
        sample = open_source(spec, keep_empty=True, at_least=100)[0]
        assert isinstance(sample, Sample)
        assert (sample.captions, sample.image.size) == ((), (160, 120))
        with pytest.raises(DataError, match="pictures without a caption"):
            open_source(spec)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("no/such/place", InputError, r"in 'no/such/place': it does not exist\. A data set is"),
        ("", InputError, r"in ''"),
        (__file__, InputError, r"test_sources\.py': it is no kind of data set that is known"),
        ("hub:", ConfigError, "needs the name"),
        ("hub:x?part=y", ConfigError, "'part'; expected image, caption, split, config"),
        ("hub:nobody/nothing", DataError, "cannot load 'nobody/nothing'"),
    ],
)
def test_what_is_no_data_set_is_named(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(spec)


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image-text pairs found in .*metadata\.jsonl"):
        open_source(tmp_path)


def test_a_table_one_folder_deeper_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "train" / "a.png")
    table(tmp_path / "train", "a")
    with pytest.raises(DataError, match=r"There is a metadata\.jsonl in .*train': give that"):
        open_source(tmp_path)
    assert captions(open_source(tmp_path / "train")) == ("a",)

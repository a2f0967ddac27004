"""JSON of unknown origin: every file of it is refused by name, whatever is in it, and at once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle import checkpoint
from dalle.checkpoint import load, manifest, steps
from dalle.cli import main
from dalle.errors import CheckpointError, DalleError
from dalle.json_files import MAX_BYTES, read_json
from dalle.sampling.rerank import load_reranker
from dalle.tokenizers.text import TextTokenizer
from tests.fakes import tiny_dvae, tiny_text_tokenizer


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    model = tiny_dvae()
    tokenizer = tiny_text_tokenizer()
    checkpoint.save_model_folder(
        folder, kind="dvae", config=model.config, module=model, text_tokenizer=tokenizer
    )
    (folder / "run.json").write_text('{"step": 3, "held_out": {"loss": 1.0}}')
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def write(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def grow(path: Path) -> None:
    with open(path, "wb") as file:
        os.truncate(file.fileno(), 21 * 2**20)


HARMS: dict[str, Callable[[Path], object]] = {
    "deep": write("[" * 200_000),
    "deep object": write('{"a":' * 200_000),
    "cut": write('{"format": 1,'),
    "empty": write(""),
    "a list": write("[1, 2]"),
    "a number": write("3"),
    "null": write("null"),
    "not a number": write('{"format": 1, "kind": "dvae", "step": NaN, "files": {}}'),
    "digits": write('{"format": ' + "9" * 10_000 + "}"),
    "not UTF-8": lambda path: path.write_bytes(b'{"format": "\xff"}'),
    "UTF-16": lambda path: path.write_bytes('{"format": 1}'.encode("utf-16")),
    "huge": grow,
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "config.json": load.read_config,
    "MANIFEST.json": manifest.read_manifest,
    "run.json": steps.read_run,
    "text_tokenizer.json": lambda folder: TextTokenizer.load(folder / "text_tokenizer.json"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_json_of_ours_is_refused_by_name(folder: Path, name: str) -> None:
    for harm, do in HARMS.items():
        (folder / name).unlink() if not (folder / name).is_dir() else (folder / name).rmdir()
        do(folder / name)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            READERS[name](folder)
            pytest.fail(harm)


def test_a_reranker_with_such_a_config_is_refused_too(folder: Path) -> None:
    for do in HARMS.values():
        shutil.rmtree(folder / "config.json") if (folder / "config.json").is_dir() else (
            folder / "config.json"
        ).unlink(missing_ok=True)
        do(folder / "config.json")
        with pytest.raises(DalleError, match=str(folder)):
            load_reranker(folder)


def test_the_best_step_is_found_among_such_ones(folder: Path, tmp_path: Path) -> None:
    """All steps are looked at for the lowest loss, whole or not."""
    run = tmp_path / "run"
    for number, (_, do) in enumerate(HARMS.items(), start=1):
        shutil.copytree(folder, steps.step_folder(run, number))
        (steps.step_folder(run, number) / "run.json").unlink()
        do(steps.step_folder(run, number) / "run.json")
    for number, said in enumerate(('{"held_out": [1]}', '{"held_out": {"loss": "x"}}'), start=50):
        shutil.copytree(folder, steps.step_folder(run, number))
        (steps.step_folder(run, number) / "run.json").write_text(said)
    shutil.copytree(folder, steps.step_folder(run, 99))
    assert steps.best_step(run) == steps.step_folder(run, 99)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@settings(max_examples=50)
@given(value=JSON, name=st.sampled_from(list(READERS)))
def test_any_values_are_read_or_refused(
    original: Path, tmp_path_factory: pytest.TempPathFactory, value: object, name: str
) -> None:
    folder = shutil.copytree(original, tmp_path_factory.mktemp("any") / "model")
    old = json.loads((folder / name).read_text())
    for new in (value, *({**old, key: value} for key in old)):
        (folder / name).write_text(json.dumps(new))
        try:
            READERS[name](folder)
            if name == "config.json":
                checkpoint.load_folder(folder, weights="model")
        except DalleError as error:
            assert name in str(error)


def test_what_a_folder_says_cannot_move_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    nasty = "\x1b]0;owned\x07\x1b[2J\u202e"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": nasty, nasty: 1}))
    (folder / "run.json").write_text(json.dumps({"step": nasty, "held_out": {nasty: nasty}}))
    manifest.write_manifest(folder)
    assert main(["inspect", str(folder)]) == 0
    listed = json.loads((folder / "MANIFEST.json").read_text())
    listed["files"][nasty] = {"bytes": 1, "sha256": ""}
    (folder / "MANIFEST.json").write_text(json.dumps(listed))
    run = folder.parent / "run"
    folder.rename(steps.step_folder(run.mkdir() or run, 1))
    assert main(["inspect", str(run)]) == 3
    said = "".join(capsys.readouterr()) + caplog.text
    assert "owned" in said and not {"\x1b", "\x07", "\u202e"} & set(said)


def test_the_limit_is_the_last_byte_that_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]" + " " * (MAX_BYTES - 3))
    assert read_json(path) == [1]
    path.write_text("[1]" + " " * (MAX_BYTES - 2))
    with pytest.raises(ValueError, match="has 16777217 bytes; at most 16777216 are read"):
        read_json(path)


def test_json_that_comes_through_a_pipe_is_not_taken(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    pipe = os.open(tmp_path / "a.json", os.O_RDWR)
    os.write(pipe, b"{}")
    with pytest.raises(OSError, match="not a regular file"):
        read_json(tmp_path / "a.json")
    os.close(pipe)

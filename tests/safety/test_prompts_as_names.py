"""Whatever a prompt is, its files have names of ours, in the folder, and terminals stay whole."""

import json
import unicodedata
from pathlib import PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dalle.cli.drawing import _line
from dalle.sampling.output import save_results
from dalle.sampling.picture import read_metadata
from dalle.sampling.prompts import without_surrogates
from tests.sampling.test_output import NASTY, picture

PROMPTS = st.lists(st.text(st.characters(), max_size=300), min_size=1, max_size=4)


@settings(max_examples=20)
@given(prompts=PROMPTS)
@example(prompts=["COM1", "lpt9.txt", "a.", "a ", "NUL\n", "con/../con"])
@example(prompts=NASTY)
def test_files_of_any_prompts(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    root = tmp_path_factory.mktemp("prompts")
    results = [[picture(without_surrogates(prompt), size=(2, 2))] for prompt in prompts]
    saved = save_results(root / "out", results)
    files = [*saved.pictures, *saved.sheets, saved.record]
    assert {path for path in root.rglob("*") if path.is_file()} == set(files)
    assert len({path.name.casefold() for path in files}) == len(files)
    for path in files:
        assert path.parent == root / "out" and not path.is_symlink()
        windows = PureWindowsPath(path.name)
        assert windows.name == path.name and not windows.is_reserved()
        assert (
            path.name.isascii() and not set(path.name) & set('<>:"/\\|?*') and len(path.name) < 99
        )
        assert path.name.rstrip(" .") == path.name and not path.name.startswith("-")
    told = [entry["prompt"] for entry in json.loads(saved.record.read_text("utf-8"))["pictures"]]
    assert told == [read_metadata(path).prompt for path in saved.pictures]
    assert told == [without_surrogates(prompt) for prompt in prompts]


@given(prompt=st.text(st.characters(), max_size=300))
@example(prompt="\x1b]0;title\x07\x1b[2J")
@example(prompt="a\x9b2Jb\u202ec\u2028d")
def test_what_is_told_of_it_is_one_line_that_moves_nothing(prompt: str) -> None:
    line = _line(picture(without_surrogates(prompt), size=(2, 2)))
    assert len(line.splitlines()) == 1
    kinds = {unicodedata.category(letter) for letter in line.replace("\u200d", "")}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}

"""The demo from end to end, for a few steps of each model on a few pictures."""

import dataclasses
import json

import pytest
from PIL import Image

from dalle.demo import judge, precision, recipe, run
from dalle.errors import DalleError, InputError
from dalle.evaluation.shapes import GROUPS, ReaderReport


@pytest.fixture
def short(monkeypatch):
    """Two steps of each model, and a reader that passes: what it reads are blots."""
    for name in ("VAE", "CLIP", "DALLE"):
        preset = getattr(recipe, name)
        loop = dataclasses.replace(preset.loop, steps=2, batch_size=4)
        monkeypatch.setattr(recipe, name, dataclasses.replace(preset, loop=loop))
    judging = dataclasses.replace(recipe.JUDGING, prompts=2, candidates=2)
    monkeypatch.setattr(recipe, "JUDGING", judging)
    monkeypatch.setattr(recipe, "NUM_PICTURES", 600)
    monkeypatch.setattr(recipe, "NUM_HELD_OUT", 8)
    monkeypatch.setattr(run, "NUM_READ", 8)
    monkeypatch.setattr(judge, "LAUNCH", 4)
    monkeypatch.setattr(judge, "SHEET_PROMPTS", 1)
    monkeypatch.setattr(ReaderReport, "passed", property(lambda self: True))


def test_everything_runs_ends_with_a_sheet_and_goes_on_where_it_stopped(short, tmp_path):
    said = []
    judged = run.run_demo(tmp_path, seed=0, say=said.append)
    assert [group.name for group in judged.groups] == [name for name, _, _ in GROUPS]
    assert all(group.one.num == 2 and group.num_candidates == 2 for group in judged.groups)
    with Image.open(judged.contact_sheet) as sheet:
        assert sheet.size[0] > 100
    assert said[-1] == f"contact sheet: {judged.contact_sheet}"
    assert any("training will take about" in line for line in said)
    for word in ("seen, one thing", "held out, two things", "prompts shuffled", "chance"):
        assert word in judged.table
    assert set(json.loads(judged.results.read_text())) == {name for name, _, _ in GROUPS}

    weights = tmp_path / "dalle" / "step-00000002" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run.run_demo(tmp_path, seed=0, say=said.append)
    assert weights.stat().st_mtime_ns == before  # nothing was trained anew
    assert again.groups == judged.groups


def test_a_reader_that_fails_ends_the_demo(short, tmp_path, monkeypatch):
    monkeypatch.setattr(ReaderReport, "passed", property(lambda self: False))
    with pytest.raises(DalleError, match="train the discrete VAE for longer"):
        run.run_demo(tmp_path, seed=0, say=lambda line: None)


def test_precision_is_settled_once(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "choose_precision", lambda: "float32")
    assert precision.settled_precision(tmp_path / "new") == "float32"
    monkeypatch.setattr(precision, "choose_precision", lambda: "bfloat16")
    assert precision.settled_precision(tmp_path / "new") == "float32"
    (tmp_path / "new" / "precision.txt").write_text("int4")
    with pytest.raises(InputError, match="int4"):
        precision.settled_precision(tmp_path / "new")

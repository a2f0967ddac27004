"""A model folder is all that generation needs."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import dalle
from dalle.checkpoint import save_model_folder
from dalle.errors import CheckpointError, InputError
from dalle.sampling.filters import Sampling
from dalle.sampling.load import load
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.rerank import ClipReranker
from dalle.tokenizers.image import DvaeTokenizer
from tests.fakes import tiny_clip, tiny_dalle, tiny_dvae, tiny_text_tokenizer

PROMPT = "a red cube"


@pytest.fixture(scope="module")
def model() -> Pipeline:
    """Never on a disk."""
    text = tiny_text_tokenizer()
    return Pipeline(
        tiny_dalle(text),
        text_tokenizer=text,
        image_tokenizer=DvaeTokenizer(tiny_dvae()),
        reranker=ClipReranker(tiny_clip(text), text),
        sampling=Sampling(temperature=0.8, guidance=1.5),
    )


@pytest.fixture(scope="module")
def folder(model: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("saved") / "model")


def same(one: list[dalle.Picture], other: list[dalle.Picture]) -> None:
    assert [p.seed for p in one] == [p.seed for p in other]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.codes, b.codes)
        assert a.image.tobytes() == b.image.tobytes()
        assert a.score_kind == b.score_kind
        # Weights read from a file lie otherwise in memory, which moves the last bits of sums.
        assert (a.score, a.log_prob) == pytest.approx((b.score, b.log_prob), abs=1e-5)


def test_a_saved_model_gives_the_same_pictures(model: Pipeline, folder: Path) -> None:
    loaded = load(folder, device="cpu")
    before = model.generate(PROMPT, num_samples=6, keep=3, seed=1)
    after = loaded.generate(PROMPT, num_samples=6, keep=3, seed=1)
    same(before, after)
    assert after[0].score_kind == "clip"
    assert after[0].made.sampling == Sampling(temperature=0.8, guidance=1.5)
    assert after[0].made.model == str(folder)
    assert len(after[0].made.model_hash) == 64
    assert (after[0].made.dtype, after[0].made.device) == ("float32", "cpu")


def test_a_copy_elsewhere_is_enough(folder: Path, tmp_path: Path) -> None:
    first = load(folder, device="cpu").generate(PROMPT, num_samples=2)
    shutil.copytree(folder, tmp_path / "copy")
    again = load(tmp_path / "copy", device="cpu")
    same(first, again.generate(PROMPT, num_samples=2))
    same(first, load(again.save(tmp_path / "third"), device="cpu").generate(PROMPT, num_samples=2))


def test_the_newest_step_of_a_run_is_taken(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "step-00000010")
    loaded = load(tmp_path, device="cpu")
    same(loaded.generate(PROMPT), load(folder, device="cpu").generate(PROMPT))


def test_without_its_reranker_the_model_ranks(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("reranker"))
    (tmp_path / "bare" / "MANIFEST.json").unlink()
    loaded = load(tmp_path / "bare", device="cpu")
    assert {p.score_kind for p in loaded.generate(PROMPT, num_samples=2)} == {"log_prob"}
    given = load(tmp_path / "bare", device="cpu", clip=folder / "reranker")
    ranked = given.generate(PROMPT, num_samples=2)
    same(ranked, load(folder, device="cpu").generate(PROMPT, num_samples=2))
    assert ranked[0].made.reranker == str(folder / "reranker")
    assert load(given.save(tmp_path / "whole"), device="cpu").reranker is not None


def test_another_kind_or_no_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="dvae"):
        load(folder / "image_tokenizer", device="cpu")
    with pytest.raises(InputError, match="no model folder"):
        load(tmp_path / "nothing", device="cpu")
    shutil.copytree(folder, tmp_path / "part", ignore=shutil.ignore_patterns("image_tokenizer"))
    (tmp_path / "part" / "MANIFEST.json").unlink()
    with pytest.raises((InputError, CheckpointError), match="image_tokenizer"):
        load(tmp_path / "part", device="cpu")


def test_settings_that_cannot_work_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "odd")
    (tmp_path / "odd" / "MANIFEST.json").unlink()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for sampling, message in (
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"heat": 1.0}, "sampling.heat is not a field"),
        ("hot", "sampling is a string"),
    ):
        text = json.dumps({**config, "sampling": sampling})
        (tmp_path / "odd" / "config.json").write_text(text, "utf-8")
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "odd", device="cpu")


def test_tokenizers_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "mixed")
    (tmp_path / "mixed" / "MANIFEST.json").unlink()
    shutil.rmtree(tmp_path / "mixed" / "image_tokenizer")
    other = tiny_dvae(num_codes=15)
    save_model_folder(
        tmp_path / "mixed" / "image_tokenizer", kind="dvae", config=other.config, module=other
    )
    with pytest.raises(InputError, match="number of codes is 16 in the model and 15"):
        load(tmp_path / "mixed", device="cpu")


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(InputError, match="cannot be used here"):
        load(folder, device=device)


def test_dtypes_are_chosen_by_name(folder: Path) -> None:
    loaded = load(folder, device="cpu", dtype="bfloat16")
    picture = loaded.generate(PROMPT, seed=2)[0]
    assert picture.made.dtype == "bfloat16"
    assert torch.equal(picture.codes, loaded.again(picture.record()).codes)
    with pytest.raises(InputError, match="dtype is 'int8'"):
        load(folder, device="cpu", dtype="int8")

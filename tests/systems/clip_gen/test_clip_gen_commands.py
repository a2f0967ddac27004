"""CLIP-GEN by its commands: a folder of pictures whose captions nobody opens, to pictures."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dalle
from dalle.checkpoint.steps import list_steps
from dalle.cli import main
from dalle.data.shapes import ShapesSource
from dalle.errors import InputError
from dalle.sampling.joint_prompts import read_condition
from dalle.sampling.picture import read_metadata
from dalle.sampling.pipeline import Pipeline
from tests.fakes import fill_with_noise
from tests.training.compare import assert_same

WATCHED: list[Path] = []
"""Folders whose text files nobody may open."""
OPENED: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and WATCHED:
        name = str(arguments[0])
        if name.endswith(".txt") and any(name.startswith(str(folder)) for folder in WATCHED):
            OPENED.append(name)


sys.addaudithook(_watch)


@pytest.fixture
def captions_are_watched(pictures: Path) -> Iterator[None]:
    OPENED.clear()
    WATCHED.append(pictures)
    yield
    WATCHED.clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny discrete VAE and a tiny CLIP."""
    root = tmp_path_factory.mktemp("clip-gen")
    for kind in ("vae", "clip"):
        out = ["--out", str(root / kind)]
        assert main(["train", kind, "--preset", "tiny", "--device", "cpu", *out]) == 0
    return root


@pytest.fixture(scope="module")
def pictures(root: Path) -> Path:
    """A folder of pictures with captions beside them."""
    folder = root / "pictures"
    folder.mkdir()
    source = ShapesSource(24, size=32, seed=3)
    for index in range(len(source)):
        source[index].image.save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(source[index].captions[0], encoding="utf-8")
    return folder


def train(root: Path, out: Path, *more: str, data: str | None = None) -> int:
    command = ["train", "dalle", "--preset", "tiny", "--device", "cpu", "--out", str(out)]
    given = ["--vae", str(root / "vae"), "--condition", "clip"]
    clip = ["--condition-clip", str(root / "clip"), "--cache", str(root / "cache")]
    if data is not None:
        given += ["--data", data]
    return main([*command, *given, *clip, *more])


@pytest.fixture(scope="module")
def trained(root: Path, pictures: Path) -> Path:
    """A run with all of the remedies, from vectors made on the way."""
    others = ShapesSource(9, size=32, seed=9)
    unpaired = "".join(f"{others[i].captions[0]}\n" for i in range(len(others)))
    (root / "captions.txt").write_text(unpaired, encoding="utf-8")
    remedies = ["--xi", "2", "--center", "--center-captions", str(root / "captions.txt")]
    out = root / "clip-gen"
    more = ["--views", "2", "--vector-slots", "2", *remedies, "--embedding-weight", "0.1"]
    assert train(root, out, *more, data=str(pictures)) == 0
    return out


@pytest.fixture(scope="module")
def model(trained: Path) -> Pipeline:
    """The trained one, with a head that tells codes and vectors apart."""
    loaded = dalle.load(trained, device="cpu")
    torch.manual_seed(0)
    assert isinstance(loaded.model, torch.nn.Module)
    fill_with_noise(loaded.model, std=0.5)
    return loaded


@pytest.mark.usefixtures("captions_are_watched")
@pytest.mark.parametrize("views", ["0", "2"])
def test_no_caption_is_opened(root: Path, pictures: Path, tmp_path: Path, views: str) -> None:
    assert train(root, tmp_path / "run", "--views", views, data=str(pictures)) == 0
    cache = ["--vae", str(root / "vae"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    clip = ["--condition-clip", str(root / "clip"), "--data", str(pictures)]
    assert main(["embed", *clip, *cache]) == 0
    assert OPENED == []
    main(
        ["train", "dalle", "--preset", "tiny", "--data", str(pictures), "--vae", str(root / "vae")]
    )
    (pictures / "00.txt").read_text()
    assert len(OPENED) == 1  # the watch sees


def test_embedding_ahead_leaves_nothing_to_embed(
    root: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache", str(tmp_path / "cache"), "--device", "cpu", "--data", str(pictures)]
    models = ["--condition-clip", str(root / "clip"), "--vae", str(root / "vae")]
    ahead = ["embed", *models, *cache, "--views", "2", "--gap", "--held-out-share", "0.25"]
    assert main(ahead) == 0
    said = capsys.readouterr().out
    assert "vectors of" in said and "pictures to train on are in the cache, 2 vectors" in said
    assert "picture and its text" in said
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    notes = [json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("made.json")]
    assert {note["crops"] for note in notes} == {1, 2}
    assert {note["clip"] for note in notes} == {str(root / "clip")}
    out = ["--out", str(tmp_path / "run"), "--condition", "clip", "--views", "2"]
    assert main(["train", "dalle", "--preset", "tiny", *out, *models, *cache]) == 0
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert {path: time for path, time in after.items() if path in made} == made
    assert len(after) == 2 * len(made)  # codes beside the vectors


def test_the_folder_says_what_made_its_conditions(
    trained: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = read_condition(trained / "step-00000004")
    assert recipe.xi == 2 and recipe.clip == str(root / "clip")
    assert len(recipe.mean_image) == len(recipe.mean_text) == recipe.vector_size
    assert main(["inspect", str(trained)]) == 0
    said = capsys.readouterr().out
    assert "clip_gen, format 1" in said
    assert recipe.fingerprint in said and "xi 2, means subtracted" in said


def test_a_resumed_run_ends_as_an_unbroken_one(root: Path, tmp_path: Path) -> None:
    flags = ["--xi", "1", "--views", "2", "--save-every", "2", "--shapes", "48"]
    for out in ("whole", "broken"):
        assert train(root, tmp_path / out, *flags) == 0
    shutil.rmtree(tmp_path / "broken" / "step-00000004")
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "broken" / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert main(["train", "dalle", "--resume", str(tmp_path / "broken")]) == 0
    assert_same(tmp_path / "broken", tmp_path / "whole")


def test_another_clip_is_refused(
    trained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    out = ["--out", str(other), "--seed", "1", "--device", "cpu"]
    assert main(["train", "clip", "--preset", "tiny", *out]) == 0
    copy = shutil.copytree(trained / "step-00000004", tmp_path / "model")
    shutil.rmtree(copy / "condition_clip")
    shutil.copytree(other / "step-00000004", copy / "condition_clip")
    (copy / "MANIFEST.json").unlink()
    assert main(["generate", "--model", str(copy), "x", "--out", str(tmp_path / "out")]) == 2
    assert "give the CLIP it was trained with" in capsys.readouterr().err
    resumed = ["train", "dalle", "--resume", str(trained), "--condition-clip", str(other)]
    assert main(resumed) == 2
    assert "condition_clip" in capsys.readouterr().err


def test_what_cannot_be_is_said(
    root: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = ["--center", "--center-captions", str(root / "captions.txt")]
    for flags, said in (
        (["--center"], "--center-captions"),
        (captions, "--views"),
        (["--xi", "-1"], "xi is -1"),
        (["--caption-order", "0.5"], "no captions to write"),
    ):
        assert train(root, tmp_path / "run", *flags) == 2
        assert said in capsys.readouterr().err
    bare = ["train", "dalle", "--preset", "tiny", "--condition", "clip", "--vae", str(root / "vae")]
    assert main([*bare, "--out", str(tmp_path / "run")]) == 2
    assert "--condition-clip is missing" in capsys.readouterr().err
    assert main(["plan", "dalle", "--preset", "tiny", "--condition", "clip"]) == 2
    assert "cannot be planned" in capsys.readouterr().err
    assert main(["generate", "--model", str(trained), "--complete-text", "x"]) == 2
    assert "writes no captions" in capsys.readouterr().err


def test_a_prompt_is_read_by_the_checkpoints_own_clip(model: Pipeline) -> None:
    prompts = model.text_tokenizer
    said = ["a red circle", "a blue star"]
    ids = [prompts.encode_stream(text, slots=2).ids for text in said]
    vectors = prompts.condition.of_texts(prompts.embedder.encode_texts(said))  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.from_numpy(np.stack(ids)), vectors)
    of_texts = [model.generate(text, seed=1)[0].log_prob for text in said]
    none = model.generate("", seed=1)[0].log_prob
    assert len({*of_texts, none}) == 3
    plain, guided = (model.generate(said[0], seed=1, guidance=g)[0] for g in (1.0, 20.0))
    assert not torch.equal(plain.codes, guided.codes)


def test_variations_are_those_of_the_picture_and_can_be_made_again(
    model: Pipeline, pictures: Path, tmp_path: Path
) -> None:
    prompts = [model.variation(pictures / f"{i:02d}.png") for i in (0, 1)]
    assert prompts[0].said == "variations of 00.png"
    request = dalle.Request(num_samples=2, guidance=2.0)
    results = list(model.generate_each([*prompts, "a red circle"], request))
    assert not torch.equal(results[0][0].codes, results[1][0].codes)
    assert results[0][0].score_kind == "log_prob"
    for picture in results[0] + results[2]:
        record = read_metadata(picture.save(tmp_path / f"{picture.prompt}{picture.seed}.png"))
        assert record == picture.record()
        again = model.again(record)
        assert torch.equal(again.codes, picture.codes)
        assert again.image.tobytes() == picture.image.tobytes()


def test_the_way_between_two_prompts_begins_and_ends_at_them(model: Pipeline) -> None:
    way = model.between("a red circle", "a blue star", steps=4)
    slots = {"slots": model.model.layout.image_start}
    for prompt, text in ((way[0], "a red circle"), (way[-1], "a blue star")):
        expected = model.text_tokenizer.encode_stream(text, **slots).ids
        assert prompt.vector == pytest.approx(expected.tolist(), abs=1e-5)
    assert way[1].said == "33% of the way from 'a red circle' to 'a blue star'"
    with pytest.raises(InputError, match="steps is 1"):
        model.between("a", "b", steps=1)


def test_a_saved_model_samples_the_same(model: Pipeline, tmp_path: Path) -> None:
    saved = dalle.load(model.save(tmp_path / "saved"), device="cpu")
    for prompt in ("a red circle", ""):
        one, other = (m.generate(prompt, seed=3)[0] for m in (model, saved))
        assert torch.equal(one.codes, other.codes)


def test_vectors_by_the_command(
    trained: Path, root: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    command = ["generate", "--model", str(trained), *out, "--clip", str(root / "clip")]
    vectors = ["--variations-of", str(pictures / "00.png"), "--between", "a ring", "a star"]
    assert main([*command, "a ring", *vectors, "--steps", "3"]) == 0
    made = json.loads((tmp_path / "out" / "generation.json").read_text())["pictures"]
    assert [picture["score_kind"] for picture in made] == ["clip"] + ["log_prob"] * 4
    assert [picture["vector"] is None for picture in made] == [True] + [False] * 4
    assert "50% of the way from 'a ring' to 'a star'" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("0*.png"))) == 5


def test_models_of_texts_take_no_vectors(
    root: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dalle"
    text = ["train", "dalle", "--preset", "tiny", "--device", "cpu", "--out", str(out)]
    assert main([*text, "--vae", str(root / "vae")]) == 0
    assert "condition" not in json.loads((list_steps(out)[-1] / "run.json").read_text())["config"]
    picture = ["--variations-of", str(pictures / "00.png"), "--out", str(tmp_path / "pictures")]
    assert main(["generate", "--model", str(out), *picture]) == 2
    assert "take a model trained with --condition clip" in capsys.readouterr().err
    with Image.open(pictures / "00.png") as image:
        assert image.size == (32, 32)

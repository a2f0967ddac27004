"""From a `dalle.pt` to a model folder, and from there to ranked pictures."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from dalle.checkpoint import save_model_folder
from dalle.checkpoint.foreign import write_converted
from dalle.errors import CheckpointError
from dalle.pretrained.dalle_pytorch.model import DallePytorch
from dalle.pretrained.family import Converted
from dalle.pretrained.read import read
from dalle.pretrained.recognize import convert, recognise
from dalle.sampling.load import load
from dalle.sampling.rerank import ClipReranker
from dalle.tokenizers.json_tokenizer import JsonTokenizer
from tests.pretrained.dalle_pytorch import originals

WORDS = ["[PAD]", *["a", "an", "the", "red", "blue", "green", "cube", "ball", "on", "in"]]


def tokenizer_json(entries: int) -> str:
    vocab = {word: i for i, word in enumerate(WORDS)}
    vocab |= {f"word{i}": i for i in range(len(WORDS), entries)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return str(tokenizer.to_str())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    torch.save(originals.dalle_pt("a"), folder / "dalle.pt")
    (folder / "notes.txt").write_text("#version of nothing")
    (folder / "other.json").write_text(tokenizer_json(39))
    (folder / "tokenizer.json").write_text(tokenizer_json(40))
    return folder / "dalle.pt"


@pytest.fixture(scope="module")
def converted(file: Path) -> Converted:
    return convert(read(file))


@pytest.fixture(scope="module")
def folder(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(originals.filled(originals.described("clip")["state_dict"]), clip)
    (clip.parent / "tokenizer.json").write_text(tokenizer_json(40))
    reranker = convert(read(clip))
    place = tmp_path_factory.mktemp("ours")
    save_model_folder(
        place / "clip",
        kind="dalle_pytorch_clip",
        config=reranker.module.config,
        module=reranker.module,
        text_tokenizer=reranker.text_tokenizer,
    )
    return save_model_folder(
        place / "dalle",
        kind="dalle_pytorch",
        config=converted.module.config,
        module=converted.module,
        extra={"sampling": dict(converted.sampling)},
        text_tokenizer=converted.text_tokenizer,
        image_tokenizer=converted.image_tokenizer,
        reranker=place / "clip",
    )


def test_the_file_says_what_it_is_and_what_it_lacks(file: Path) -> None:
    sighting = recognise(read(file))
    assert (sighting.family, sighting.version) == ("DALLE-pytorch", "1.6.6")
    assert sighting.sizes["num_text_tokens"] == 40 and sighting.missing == ()
    alone = recognise(originals.source(originals.dalle_pt("a")))
    assert "text tokenizer of 40 entries" in alone.missing[0]
    for hparams in ({"num_text_tokens": 49408}, {"num_text_tokens": 21128}):
        of_hub = recognise(originals.source(originals.dalle_pt("a", hparams=hparams)))
        assert "on the hub" in of_hub.missing[0]


def test_the_file_alone_says_what_must_lie_beside_it(tmp_path: Path) -> None:
    torch.save(originals.dalle_pt("a"), tmp_path / "dalle.pt")
    write_converted(tmp_path / "dalle.pt", tmp_path / "bare")
    with pytest.raises(CheckpointError, match="without its text tokenizer of 40 entries"):
        load(tmp_path / "bare")
    (tmp_path / "mine.json").write_text(tokenizer_json(40))
    write_converted(tmp_path / "dalle.pt", tmp_path / "folder")
    assert load(tmp_path / "folder").text_tokenizer.vocab_size == 40


def test_sampling_is_theirs_by_default(converted: Converted) -> None:
    # A tenth of 40 words, 6 pads and 32 codes: 7 of the codes, as their arithmetic has it.
    assert dict(converted.sampling) == {"temperature": 1.0, "top_k": 7}
    config = converted.module.config
    assert isinstance(converted.text_tokenizer, JsonTokenizer)
    assert converted.text_tokenizer.vocab_size == config.text_vocab == 40


def test_the_folder_draws_what_the_file_drew(converted: Converted, folder: Path) -> None:
    pipeline = load(folder)
    assert isinstance(pipeline.model, DallePytorch)
    assert isinstance(pipeline.reranker, ClipReranker)
    assert pipeline.sampling.top_k == 7
    pictures = pipeline.generate("a red cube", num_samples=3, seed=5)
    assert [p.score_kind for p in pictures] == ["clip"] * 3
    assert [p.score for p in pictures] == sorted((p.score for p in pictures), reverse=True)
    assert pictures[0].image.size == (16, 16)

    [greedy] = pipeline.generate("a red cube", temperature=0.0)
    text = torch.from_numpy(pipeline.text_tokenizer.encode_stream("a red cube", slots=7).ids)
    with torch.no_grad():
        best = converted.module(text[None], greedy.codes.flatten()[None]).image.argmax(-1)
    assert torch.equal(best.view(4, 4), greedy.codes)


def test_texts_are_completed_and_the_folder_is_written_again(folder: Path, tmp_path: Path) -> None:
    pipeline = load(folder)
    assert all(text.startswith("a red") for text in pipeline.complete_text("a red", num_samples=2))
    again = load(pipeline.save(tmp_path / "again"))
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["kind"] == "dalle_pytorch"
    for seed in (1, 2):
        [first], [second] = (p.generate("a ball", seed=seed) for p in (pipeline, again))
        assert torch.equal(first.codes, second.codes) and first.score == second.score


def test_pictures_are_continued_from_a_given_one(folder: Path) -> None:
    pipeline = load(folder)
    [first] = pipeline.generate("a ball", seed=1)
    [second] = pipeline.generate("a cube", image=first.image, rect=(2, 0), seed=2)
    kept = pipeline.image_tokenizer.encode(
        torch.frombuffer(bytearray(first.image.tobytes()), dtype=torch.uint8)
        .view(1, 16, 16, 3)
        .movedim(3, 1)
        / 255
    )[0, :2]
    assert torch.equal(second.codes[:2], kept)

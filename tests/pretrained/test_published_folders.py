"""Folders as they are published, tiny: to a pipeline, a folder of ours, and the same pictures."""

import argparse
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import CharBPETokenizer
from torch import Tensor, nn

from dalle.errors import InputError
from dalle.nn.masks import dense_mask
from dalle.pretrained import beside, llamagen, mindalle, recognize, rudalle
from dalle.pretrained.llamagen_model import Llamagen, LlamagenConfig
from dalle.pretrained.mindalle_model import Mindalle, MindalleConfig
from dalle.pretrained.read import read
from dalle.pretrained.rudalle_model import Rudalle, RudalleConfig
from dalle.sampling.filters import Sampling
from dalle.sampling.load import load
from dalle.sampling.pipeline import Pipeline
from dalle.tokenizers.image import tokenizer_of
from dalle.tokenizers.t5_features import T5Features
from tests.published import filled_state
from tests.tokenizers.test_conditions import save_t5
from tests.tokenizers.test_yttm import FILE as YTTM

SIZES: dict[str, Any] = {"image_vocab": 64, "side": 8, "depth": 1, "width": 16, "heads": 2}
"""The image tokenizers of the golden files have 64 codes and cells of 4 x 4 pixels."""


@pytest.fixture(autouse=True)
def known_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this width say their number of heads."""
    for family in (rudalle, mindalle, llamagen):
        monkeypatch.setitem(family.HEADS, SIZES["width"], SIZES["heads"])


def state_of(model: nn.Module, theirs: Callable[[str], str]) -> dict[str, Tensor]:
    """Random weights, by the original's names."""
    torch.manual_seed(0)
    return {theirs(name): torch.randn(t.shape) / 2 for name, t in model.state_dict().items()}


def save_rudalle(folder: Path) -> str:
    config = RudalleConfig(version="v3", text_vocab=16, text_slots=5, **SIZES)
    state = state_of(Rudalle(config), rudalle._theirs)
    state["transformer.conv_mask"] = dense_mask(config.layer_patterns[0], config.layout)
    torch.save(state, folder / "pytorch_model.bin")
    vqgan = {f"model.{k}": t for k, t in filled_state("taming_gumbel_vqgan").items()}
    torch.save({"state_dict": vqgan}, folder / "vqgan.ckpt")
    (folder / "bpe.model").write_text(YTTM)
    return "кот"


def save_mindalle(folder: Path) -> str:
    learned: Any = CharBPETokenizer(unk_token="[UNK]")
    learned.train_from_iterator(
        ["a cat"], vocab_size=20, special_tokens=["[UNK]", "[PAD]"], show_progress=False
    )
    (folder / "tokenizer").mkdir()
    learned.save_model(str(folder / "tokenizer"), "bpe-16k")
    config = MindalleConfig(text_vocab=learned.get_vocab_size(), text_slots=5, **SIZES)
    state = state_of(Mindalle(config), mindalle._theirs)
    for name in [name for name in state if "query, key, value" in name]:
        parts = zip(("query", "key", "value"), state.pop(name).chunk(3), strict=True)
        state |= {name.replace("query, key, value", part): tensor for part, tensor in parts}
    torch.save({"state_dict": state, "epoch": 1}, folder / "stage2_last.ckpt")
    torch.save({"state_dict": filled_state("mindalle_vqgan")}, folder / "stage1_last.ckpt")
    (folder / "config.yaml").write_text("stage1:\n  type: vqgan\n")
    return "a cat"


def save_llamagen(folder: Path, condition: str) -> str:
    size, slots = (10, 1) if condition == "class" else (8, 6)
    config = LlamagenConfig(
        condition=condition, condition_size=size, condition_slots=slots, mlp_width=24, **SIZES
    )
    state = state_of(Llamagen(config), llamagen._theirs)
    args = argparse.Namespace(image_size=32, downsample_size=4)
    torch.save({"model": state, "steps": 3, "args": args}, folder / "gpt.pt")
    torch.save({"model": filled_state("llamagen_vq")}, folder / "vq.pt")
    return "7" if condition == "class" else "a red cube"


def pixels_of(image: Image.Image) -> Tensor:
    """As an image tokenizer reads it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


FOLDERS: dict[str, Callable[[Path], str]] = {
    "ru-DALL·E": save_rudalle,
    "minDALL-E": save_mindalle,
    "LlamaGen c2i": lambda folder: save_llamagen(folder, "class"),
    "LlamaGen t2i": lambda folder: save_llamagen(folder, "features"),
}
MARKS = {"LlamaGen c2i": (pytest.mark.proof,), "LlamaGen t2i": (pytest.mark.slow,)}


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS.get(n, ())) for n in FOLDERS])
def test_a_published_folder_draws_and_so_does_ours_made_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published"
    published.mkdir()
    prompt = FOLDERS[name](published)
    if name.endswith("t2i"):
        t5 = save_t5(tmp_path / "t5")
        monkeypatch.setattr(llamagen, "PUBLISHED", str(t5))
    source = read(published)
    sighting = recognize.recognise(source)
    assert (sighting.family, sighting.missing) == (name.split()[0], ())
    converted = recognize.convert(source)
    codec: Any = converted.image_tokenizer
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pipeline = load(published, device="cpu")
    assert pipeline.sampling == Sampling(**converted.sampling)
    picture, other = pipeline.generate(prompt, num_samples=2, launch=2)
    assert picture.image.size == (32, 32) and not torch.equal(picture.codes, other.codes)
    [begun] = pipeline.generate(prompt, image=picture.image, rect=(7, 0), launch=1)
    assert torch.equal(begun.codes[:7], codec.codes_of(pixels_of(picture.image))[0, :7])
    with pytest.raises(InputError, match="writes no captions"):
        pipeline.complete_text("a")

    ours = load(pipeline.save(tmp_path / "ours"), device="cpu")
    assert (ours.model.config, ours.sampling) == (converted.module.config, pipeline.sampling)
    [again] = ours.generate(prompt, seed=picture.seed, launch=2)
    assert torch.equal(again.codes, picture.codes)
    assert again.image.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize("name", ["ru-DALL·E", "LlamaGen c2i"])
def test_what_lies_on_the_hub_is_fetched_from_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FOLDERS[name](tmp_path)
    whole = recognize.convert(read(tmp_path))
    hub = tmp_path.parent / f"hub-{tmp_path.name}"
    hub.mkdir()
    asked = []

    def fetched(file: tuple[str, str]) -> Path:
        asked.append(file)
        return hub / {"bpe.model": "bpe.model"}.get(file[1], "codec")

    monkeypatch.setattr(beside, "fetched", fetched)
    for path, there in (("vq.pt", "codec"), ("vqgan.ckpt", "codec"), ("bpe.model", "bpe.model")):
        if (tmp_path / path).exists():
            (tmp_path / path).rename(hub / there)
    alone = recognize.convert(read(tmp_path))
    expected = [llamagen.IMAGE_TOKENIZERS["class"]]
    if name == "ru-DALL·E":
        expected = [rudalle.TEXT_TOKENIZER, rudalle.IMAGE_TOKENIZER]
    assert asked == expected
    assert alone.text_tokenizer is not None and alone.image_tokenizer is not None
    assert whole.image_tokenizer is not None
    weights = whole.image_tokenizer.state_dict()
    for key, tensor in alone.image_tokenizer.state_dict().items():
        assert torch.equal(tensor, weights[key])


def test_mindalles_archive_is_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "1.3B"
    folder.mkdir()
    save_mindalle(folder)
    archive = tmp_path / "1.3B.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "1.3B")
    converted = recognize.convert(read(archive))
    assert converted.text_tokenizer is not None and converted.image_tokenizer is not None
    expected = recognize.convert(read(folder)).module.state_dict()
    for name, tensor in converted.module.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("name", ["ru-DALL·E", "minDALL-E", "LlamaGen c2i"])
def test_no_caption_is_the_same_for_tokenizer_and_model(name: str, tmp_path: Path) -> None:
    prompt = FOLDERS[name](tmp_path)
    converted = recognize.convert(read(tmp_path))
    model: Any = converted.module
    tokenizer: Any = converted.text_tokenizer
    slots = model.layout.image_start
    texts = torch.from_numpy(tokenizer.encode_stream(prompt, slots=slots).ids)[None]
    empty = torch.from_numpy(tokenizer.empty_stream(slots))[None]
    assert torch.equal(model.no_caption(texts), empty) and not torch.equal(texts, empty)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_alone_says_what_is_missing(name: str, tmp_path: Path) -> None:
    FOLDERS[name](tmp_path)
    for path in [*tmp_path.glob("vq*"), *tmp_path.glob("stage1*"), *tmp_path.glob("*.model")]:
        path.unlink()
    missing = recognize.recognise(read(tmp_path)).missing
    assert any(part.startswith("the image tokenizer: ") for part in missing)
    assert recognize.convert(read(tmp_path)).image_tokenizer is None


def test_the_published_t5_is_named_in_the_folder(tmp_path: Path) -> None:
    save_llamagen(tmp_path, "features")
    tokenizer = recognize.convert(read(tmp_path)).text_tokenizer
    assert isinstance(tokenizer, T5Features)
    path = tmp_path / "text_tokenizer.json"
    tokenizer.save(path)
    assert json.loads(path.read_text())["t5"] == "google/flan-t5-xl"


def test_a_class_that_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    save_llamagen(tmp_path, "class")
    converted = recognize.convert(read(tmp_path))
    codec: Any = converted.image_tokenizer
    pipeline = Pipeline(
        converted.module,
        text_tokenizer=converted.text_tokenizer,
        image_tokenizer=tokenizer_of(codec),
    )
    with pytest.raises(InputError, match="'a cat'; this model draws classes"):
        pipeline.generate("a cat")

"""BLIP, BLIP-2 and GIT as captioners, on tiny random ones that are made here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.errors import InputError
from dalle.systems.round_trip.captioner_transformers import (
    PREFIXES,
    CaptionSampling,
    TransformersCaptioner,
    load_captioner,
)
from tests.safety.poison import poisoned
from tests.systems.round_trip.captioners import SAVERS, WORDS, save_blip


@pytest.fixture(scope="module", params=SAVERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    SAVERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def captioner(folder: Path) -> TransformersCaptioner:
    return TransformersCaptioner(folder)


def pictures(number: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(number)
    ]


def test_each_picture_has_its_captions(captioner: TransformersCaptioner) -> None:
    together = captioner.caption(pictures(3), num_captions=4, seed=1)
    assert [len(captions) for captions in together] == [4, 4, 4]
    assert len({tuple(captions) for captions in together}) == 3
    assert all(len(set(captions)) > 1 for captions in together)
    for image, captions in zip(pictures(3), together, strict=True):
        assert captioner.caption([image], num_captions=4, seed=1) == [captions]
    assert captioner.caption(pictures(1), num_captions=4, seed=2) != together[:1]


def test_torchs_own_generator_is_left_as_it_was(captioner: TransformersCaptioner) -> None:
    torch.manual_seed(7)
    before = torch.rand(3)
    torch.manual_seed(7)
    captioner.caption(pictures(1), num_captions=1, seed=3)
    assert torch.equal(torch.rand(3), before)


def test_greedy_captions_are_those_of_the_library(folder: Path) -> None:
    """With one choice left, as without any: the prompt, the processor and the stripping are right.

    The library's processor is given the prompt; what it decodes begins with it.
    """
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    sampling = CaptionSampling(top_k=1, top_p=None, repetition_penalty=1.0, least_tokens=0)
    ours = TransformersCaptioner(folder, sampling=sampling)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        str(folder), attn_implementation="eager"
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    pixels = AutoImageProcessor.from_pretrained(str(folder), backend="pil")(
        images=pictures(2), return_tensors="pt"
    )
    kind = model.config.model_type
    inputs: dict[str, Any] = {}
    if kind == "blip":
        inputs = dict(tokenizer(["a picture of"] * 2, return_tensors="pt"))
        inputs.pop("token_type_ids", None)
    written = model.eval().generate(
        **pixels, **inputs, do_sample=False, max_new_tokens=20 - (4 if kind == "blip" else 1)
    )
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    if kind == "blip":
        assert all(text.startswith("[DEC] a picture of") for text in texts)
        texts = [text.removeprefix("[DEC] a picture of").strip() for text in texts]
    assert len(set(texts)) == 2
    assert [captions[0] for captions in ours.caption(pictures(2), num_captions=1, seed=0)] == texts


def test_prefixes_lead_and_are_taken_off(folder: Path) -> None:
    long = TransformersCaptioner(folder, prefix="the red circle")
    none = TransformersCaptioner(folder, prefix="")
    assert len(long._prompt) == 4 and len(none._prompt) == 1
    [captions] = long.caption(pictures(1), num_captions=6, seed=0)
    assert none.caption(pictures(1), num_captions=6, seed=0) != [captions]
    assert not any(caption.startswith("the red circle") for caption in captions)
    assert max(len(caption.split()) for caption in captions) <= 16
    with pytest.raises(InputError, match="has as many tokens as a caption may have, 20"):
        TransformersCaptioner(folder, prefix="red " * 19)


def test_the_lengths_are_those_of_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[torch.Tensor] = []
    original = TransformersCaptioner._after_prompt

    def noted(self: TransformersCaptioner, ids: torch.Tensor) -> torch.Tensor:
        written.append(original(self, ids))
        return written[-1]

    monkeypatch.setattr(TransformersCaptioner, "_after_prompt", noted)
    for least, most in ((9, 9), (0, 12)):
        sampling = CaptionSampling(least_tokens=least, most_tokens=most, top_p=None)
        captioner = TransformersCaptioner(folder, sampling=sampling)
        captioner.caption(pictures(1), num_captions=16, seed=0)
        ids, prompt = written[-1], len(captioner._prompt)
        end = captioner._writer.generation_config.eos_token_id
        end = 3 if captioner.model.config.model_type == "blip" else end
        lengths = [(row == end).nonzero()[:1].flatten().tolist() or [len(row)] for row in ids]
        counts = [length for [length] in lengths]
        assert max(counts) == most - prompt == ids.shape[1]
        assert (min(counts) >= least - prompt) and (least > 0 or min(counts) < most - prompt)


def test_settings_of_the_folder_do_not_count(folder: Path, tmp_path: Path) -> None:
    """A folder could ask for beams without end, or for words that are never to be said."""
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / "generation_config.json"
    fields = json.loads(path.read_text())
    fields |= {"bad_words_ids": [[8]], "num_beams": 64, "max_length": 3, "temperature": 9.0}
    path.write_text(json.dumps(fields | {"do_sample": True}))
    plain = TransformersCaptioner(folder).caption(pictures(1), num_captions=3, seed=0)
    assert TransformersCaptioner(copy).caption(pictures(1), num_captions=3, seed=0) == plain


def test_only_blip_has_a_prefix() -> None:
    assert PREFIXES == {"blip": "a picture of ", "blip-2": "", "git": ""}


def test_pickled_weights_are_not_taken(tmp_path: Path) -> None:
    save_blip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(poisoned("pickle", tmp_path / "mark"))
    with pytest.raises(InputError, match="cannot be used as a captioner of transformers"):
        load_captioner(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(InputError, match="type 'clip'; for captions it takes one of blip, blip-2"):
        load_captioner(tmp_path)
    with pytest.raises(InputError, match="there is no folder nobody/blip"):
        load_captioner("nobody/blip")


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"top_p": 1.5}, {"top_k": 0}, {"most_tokens": 3}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} of a captioner is"):
        CaptionSampling(**wrong)


def test_the_words_are_those_of_the_tokenizer(captioner: TransformersCaptioner) -> None:
    [captions] = captioner.caption(pictures(1), num_captions=5, seed=0)
    assert {word for text in captions for word in text.split()} <= {*WORDS, "[DEC]", "[UNK]"}

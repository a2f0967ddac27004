"""Scores by our CLIP, loading of rerankers, and the order of scores."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dalle.checkpoint import save_model_folder
from dalle.errors import CheckpointError, InputError
from dalle.models.clip import Clip, ClipConfig, TowerConfig
from dalle.sampling.rerank import ClipReranker, fit, load_reranker, rank
from dalle.tokenizers.text import TextTokenizer

CAPTIONS = ["a red cube", "a blue ring", "a green triangle above a red star"]
TOKENIZER = TextTokenizer.train(CAPTIONS, vocab_size=270)


def tiny_clip(seed: int = 0) -> Clip:
    torch.manual_seed(seed)
    config = ClipConfig(
        image_height=16,
        image_width=24,
        text_vocab=TOKENIZER.vocab_size,
        text_slots=12,
        embed_dim=8,
        stem=(8,),
        patch=4,
        vision=TowerConfig(width=16, depth=1, heads=2),
        text=TowerConfig(width=16, depth=1, heads=2),
    )
    return Clip(config).eval()


def pictures(number: int, height: int = 16, width: int = 24) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(number, 3, height, width)


def test_the_score_is_the_cosine_of_the_pair():
    clip, images = tiny_clip(), pictures(3)
    scores = ClipReranker(clip, TOKENIZER).score(CAPTIONS, images)
    for caption, image, score in zip(CAPTIONS, images, scores, strict=True):
        tokens = torch.from_numpy(TOKENIZER.encode_stream(caption, slots=12).ids)[None]
        expected = F.cosine_similarity(clip.encode_image(image[None]), clip.encode_text(tokens))
        torch.testing.assert_close(score, expected[0], atol=1e-6, rtol=0)


def test_chunks_do_not_matter():
    texts, images = CAPTIONS * 3, pictures(9)
    whole = ClipReranker(tiny_clip(), TOKENIZER).score(texts, images)
    for size in (1, 4, 9):
        chunked = ClipReranker(tiny_clip(), TOKENIZER, images_at_once=size).score(texts, images)
        torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=0)


def test_each_different_text_is_encoded_once(monkeypatch: pytest.MonkeyPatch):
    clip, seen = tiny_clip(), []
    original = clip.encode_text
    monkeypatch.setattr(
        clip, "encode_text", lambda tokens: (seen.append(len(tokens)), original(tokens))[1]
    )
    ClipReranker(clip, TOKENIZER, images_at_once=2).score(
        [CAPTIONS[1], CAPTIONS[0], CAPTIONS[1], CAPTIONS[1]], pictures(4)
    )
    assert seen == [2]


def test_odd_texts_get_scores():
    texts = ["", "cube " * 20_000, "مكعب أحمر 🟥", "\ud800"]
    assert torch.isfinite(ClipReranker(tiny_clip(), TOKENIZER).score(texts, pictures(4))).all()


def test_pictures_of_another_size_are_fitted():
    reranker, images = ClipReranker(tiny_clip(), TOKENIZER), pictures(2, 64, 96)
    fitted = fit(images, height=16, width=24)
    texts = CAPTIONS[:2]
    torch.testing.assert_close(reranker.score(texts, images), reranker.score(texts, fitted))


def test_fitting_takes_the_central_part_of_the_aspect():
    image = torch.zeros(1, 3, 10, 40)
    image[..., 10:30] = 0.75
    fitted = fit(image, height=8, width=16)
    assert fitted.shape == (1, 3, 8, 16)
    torch.testing.assert_close(fitted, torch.full_like(fitted, 0.75))
    same = pictures(1)
    assert torch.equal(fit(same, height=16, width=24), same)


def test_a_tokenizer_of_another_size_is_refused():
    other = TextTokenizer.train(CAPTIONS, vocab_size=258)
    with pytest.raises(InputError, match="258 entries, the CLIP was made for 262"):
        ClipReranker(tiny_clip(), other)


def test_texts_and_pictures_must_be_pairs():
    reranker = ClipReranker(tiny_clip(), TOKENIZER)
    with pytest.raises(InputError, match="1 texts came with 2 pictures"):
        reranker.score(["a"], pictures(2))
    with pytest.raises(InputError, match="at least one"):
        reranker.score([], pictures(0))


def save_ours(folder: Path) -> Clip:
    clip = tiny_clip()
    save_model_folder(
        folder, kind="clip", config=clip.config, module=clip, text_tokenizer=TOKENIZER
    )
    return clip


def test_a_folder_of_ours_gives_the_same_scores(tmp_path: Path):
    clip = save_ours(tmp_path / "clip")
    loaded = load_reranker(tmp_path / "clip", "cpu")
    assert isinstance(loaded, ClipReranker)
    expected = ClipReranker(clip, TOKENIZER).score(CAPTIONS, pictures(3))
    assert torch.equal(loaded.score(CAPTIONS, pictures(3)), expected)


def test_a_folder_of_transformers_goes_to_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    asked = []

    class Stand:
        def __init__(self, where: object, *, device: object) -> None:
            asked.append((where, device))

        def score(self, texts: list[str], images: torch.Tensor) -> torch.Tensor:
            return images.mean((1, 2, 3))

    monkeypatch.setattr("dalle.sampling.rerank.TransformersReranker", Stand)
    assert isinstance(load_reranker(tmp_path, "cpu"), Stand)
    assert asked == [(tmp_path, "cpu")]


def test_folders_without_a_clip_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_reranker(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="type 'bert'"):
        load_reranker(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "kind": "dvae", "model": {}}))
    with pytest.raises(CheckpointError, match="kind 'dvae'; expected 'clip'"):
        load_reranker(tmp_path)


@pytest.mark.parametrize("where", ["nowhere/at all", "nobody/nothing"])
def test_a_missing_folder_is_named(where: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=f"no folder '{where}', and no model of that name"):
        load_reranker(where)


def test_the_best_come_first_and_equal_ones_in_their_order():
    scores = torch.tensor([0.1, 0.7, 0.3, 0.7, 0.7, -2.0])
    assert rank(scores, 4).tolist() == [1, 3, 4, 2]
    assert rank(scores, 100).tolist() == [1, 3, 4, 2, 0, 5]
    assert rank(torch.zeros(1000), 1000).tolist() == list(range(1000))


def test_a_score_that_is_no_number_comes_last():
    assert rank(torch.tensor([torch.nan, -5.0, torch.inf]), 3).tolist() == [2, 1, 0]


def test_keeping_none_is_refused():
    with pytest.raises(InputError, match="keep is 0"):
        rank(torch.zeros(3), 0)

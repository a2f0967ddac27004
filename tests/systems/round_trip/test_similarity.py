"""Similarity by a CLIP of ours, and by one of `transformers` in either space."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.errors import InputError
from dalle.models.clip_transformers import TransformersReranker
from dalle.sampling.rerank import ClipReranker
from dalle.systems.round_trip.ours import RerankerScorer
from dalle.systems.round_trip.similarity import ClipSimilarity, similarity_of
from tests.fakes import BrightnessReranker, tiny_clip, tiny_text_tokenizer
from tests.models.test_clip_transformers import CONTEXT, save_clip

TEXTS = ["a red cube", "large", "a blue ring below a green star", "a red cube"]


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TransformersReranker]:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder, TransformersReranker(folder)


@pytest.fixture(scope="module")
def own() -> ClipReranker:
    tokenizer = tiny_text_tokenizer()
    return ClipReranker(tiny_clip(tokenizer), tokenizer)


def pictures() -> list[Image.Image]:
    """Noise of two sizes, the first picture among the others too."""
    random = np.random.default_rng(0)
    shapes = [(40, 56, 3), (16, 12, 3), (16, 12, 3), (40, 56, 3)]
    made = [Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes]
    return [*made, made[0]]


@pytest.mark.parametrize("space", ["projected", "pooler"])
def test_of_transformers_it_is_the_cosine_of_the_published_outputs(
    foreign: tuple[Path, TransformersReranker], space: Any
) -> None:
    """Each picture and text alone, by the classes of the library."""
    from transformers import AutoImageProcessor, CLIPModel

    folder, reranker = foreign
    model: Any = CLIPModel.from_pretrained(str(folder)).eval()
    processor: Any = AutoImageProcessor.from_pretrained(str(folder), backend="pil")

    @torch.no_grad()
    def seen(image: Image.Image) -> torch.Tensor:
        inputs = processor(images=image, return_tensors="pt")
        pooled = model.vision_model(**inputs).pooler_output
        return (pooled if space == "pooler" else model.visual_projection(pooled))[0]

    @torch.no_grad()
    def read(text: str) -> torch.Tensor:
        inputs = reranker.tokenizer(
            [text], truncation=True, max_length=CONTEXT, return_tensors="pt"
        )
        pooled = model.text_model(**inputs).pooler_output
        return (pooled if space == "pooler" else model.text_projection(pooled))[0]

    similarity = similarity_of(reranker, space=space)
    first, *others = pictures()
    expected = [torch.cosine_similarity(seen(first), seen(o), dim=0).item() for o in others]
    assert similarity.images(first, others).tolist() == pytest.approx(expected, abs=1e-5)
    assert expected[-1] == pytest.approx(1) and min(expected) < 0.9999
    expected = [torch.cosine_similarity(read(TEXTS[0]), read(t), dim=0).item() for t in TEXTS[1:]]
    assert similarity.texts(TEXTS[0], TEXTS[1:]).tolist() == pytest.approx(expected, abs=1e-5)


def test_of_ours_it_is_the_cosine_of_its_vectors(own: ClipReranker) -> None:
    similarity = similarity_of(own, space="projected")
    first, *others = pictures()
    vectors = similarity.encode_images([first, *others])
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 5)
    found = similarity.images(first, others)
    assert found.tolist() == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-6)
    assert found[-1].item() == pytest.approx(1) and found[:-1].max() < 0.9999
    alone = [similarity.images(first, [other]).item() for other in others]
    assert found.tolist() == pytest.approx(alone, abs=1e-6)
    texts = similarity.texts(TEXTS[0], TEXTS[1:])
    assert texts[-1].item() == pytest.approx(1) and texts[:-1].max() < 0.9999


def test_more_than_go_together_are_the_same(
    own: ClipReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    similarity = similarity_of(own, space="projected")
    first, *others = pictures()
    images, texts = similarity.images(first, others), similarity.texts(TEXTS[0], TEXTS)
    monkeypatch.setattr("dalle.systems.round_trip.similarity.AT_ONCE", 2)
    torch.testing.assert_close(similarity.images(first, others), images)
    torch.testing.assert_close(similarity.texts(TEXTS[0], TEXTS), texts)


def test_a_reranker_scores_captions_of_one_picture(own: ClipReranker) -> None:
    image = pictures()[1]
    scores = RerankerScorer(own).score(image, TEXTS)
    pixels = torch.from_numpy(np.array(image)).movedim(-1, 0)[None] / 255
    assert scores.tolist() == pytest.approx(
        [own.score([t], pixels).item() for t in TEXTS], abs=1e-6
    )


def test_what_has_no_such_vectors_is_refused(own: ClipReranker) -> None:
    with pytest.raises(InputError, match="the space pooler is that of CLIPs of transformers"):
        similarity_of(own, space="pooler")
    with pytest.raises(InputError, match="a BrightnessReranker has no vectors"):
        similarity_of(BrightnessReranker(), space="projected")
    assert isinstance(similarity_of(own, space="projected"), ClipSimilarity)

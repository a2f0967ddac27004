"""Reranking with the models of `transformers`, on tiny random ones that are made here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.errors import InputError
from dalle.models.clip_transformers import TransformersReranker

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CONTEXT = 12
WORDS = ["a red cube", "a blue ring below a green star", "small small small", "large"]


def save_clip_tokenizer(folder: Path) -> None:
    """The byte-level BPE of CLIP, learnt on a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|startoftext|>", end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.model.save(str(folder))
    CLIPTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))


def save_word_tokenizer(folder: Path) -> None:
    """Whole words, filled up on the right, in place of the large vocabulary of SigLIP."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for line in WORDS for word in line.split()})
    vocab = {word: number for number, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", padding_side="right"
    ).save_pretrained(str(folder))


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    text = TOWER | {
        "vocab_size": 600,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = TOWER | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(str(folder))
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(str(folder))
    save_clip_tokenizer(folder)


def save_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(0)
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": CONTEXT, "projection_size": 32}
    vision = TOWER | {"image_size": 32, "patch_size": 8}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(str(folder))
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(str(folder))
    save_word_tokenizer(folder)


def save_siglip2(folder: Path) -> None:
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    torch.manual_seed(0)
    text = TOWER | {"vocab_size": 40, "max_position_embeddings": CONTEXT, "projection_size": 32}
    vision = TOWER | {"num_patches": 16, "patch_size": 8}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(str(folder))
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(str(folder))
    save_word_tokenizer(folder)


SAVERS = {"clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2}


@pytest.fixture(scope="module", params=SAVERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    SAVERS[request.param](path)
    return path


@pytest.fixture(scope="module")
def reranker(folder: Path) -> TransformersReranker:
    return TransformersReranker(folder, images_at_once=2)


def pictures(number: int, height: int = 40, width: int = 56) -> torch.Tensor:
    """Noise of which every value is a whole number of 255ths."""
    torch.manual_seed(1)
    return torch.randint(0, 256, (number, 3, height, width)) / 255


def published_way(folder: Path, texts: list[str], images: torch.Tensor) -> torch.Tensor:
    """Cosines by the classes of transformers, one pair at a time, from PIL pictures."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model: Any = AutoModel.from_pretrained(str(folder)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    processor: Any = AutoImageProcessor.from_pretrained(str(folder), backend="pil")
    scores = []
    for text, image in zip(texts, images, strict=True):
        levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        inputs = processor(
            images=Image.fromarray(np.ascontiguousarray(levels)), return_tensors="pt"
        )
        ids = tokenizer(
            [text], padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            seen = model.get_image_features(**inputs).pooler_output
            said = model.get_text_features(input_ids=ids).pooler_output
        scores.append(torch.cosine_similarity(seen, said)[0])
    return torch.stack(scores)


def test_scores_are_those_of_the_models_own_processors(
    folder: Path, reranker: TransformersReranker
):
    texts = [WORDS[0], WORDS[1], WORDS[0], "large", WORDS[2]]
    images = pictures(5)
    expected = published_way(folder, texts, images)
    torch.testing.assert_close(reranker.score(texts, images), expected, atol=1e-5, rtol=0)
    assert expected.std() > 1e-3  # the pairs differ at all


def test_chunks_and_company_do_not_matter(reranker: TransformersReranker):
    texts, images = [WORDS[1], WORDS[0], WORDS[1]], pictures(3)
    together = reranker.score(texts, images)
    for number in range(3):
        alone = reranker.score(texts[number : number + 1], images[number : number + 1])
        torch.testing.assert_close(alone[0], together[number], atol=1e-5, rtol=0)


def test_text_beyond_the_context_is_cut(reranker: TransformersReranker):
    long, longer = "small " * 50, "small " * 50_000
    scores = reranker.score([long, longer], pictures(1).repeat(2, 1, 1, 1))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[0], scores[1])


def test_each_different_text_is_encoded_once(
    reranker: TransformersReranker, monkeypatch: pytest.MonkeyPatch
):
    encoded: list[str] = []
    original = reranker.tokenizer.__class__.__call__

    def count(self: Any, texts: list[str], **settings: Any) -> Any:
        encoded.extend(texts)
        return original(self, texts, **settings)

    monkeypatch.setattr(reranker.tokenizer.__class__, "__call__", count)
    reranker.score([WORDS[0]] * 3 + ["large"], pictures(4))
    assert encoded == [WORDS[0], "large"]


def test_texts_and_pictures_must_be_pairs(reranker: TransformersReranker):
    with pytest.raises(InputError, match="2 texts came with 3 pictures"):
        reranker.score(["large"] * 2, pictures(3))


def test_a_model_of_another_type_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="type 'bert'; for reranking it takes one of clip, siglip"):
        TransformersReranker(tmp_path)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_gradients_flow_through_the_models_own_preprocessing(tmp_path: Path, kind: str) -> None:
    SAVERS[kind](tmp_path)
    model = TransformersReranker(tmp_path)
    generator = torch.Generator().manual_seed(0)
    # Smooth pictures of two shapes: their resizing is what is compared, not the noise in them.
    for shape in ((3, 48, 48), (3, 64, 40)):
        coarse = torch.rand(2, *shape[:1], 5, 5, generator=generator)
        pictures = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
        smooth = pictures.requires_grad_()
        found = model.encode_images_smoothly(smooth)
        expected = model.encode_images(pictures.detach())
        torch.testing.assert_close(found.detach(), expected, atol=0.01, rtol=0.05)
        assert (found * expected).sum(dim=-1).min() > 0.999
        found[0, 0].backward()
        assert smooth.grad is not None and smooth.grad[0].abs().sum() > 0
    assert all(p.grad is None for p in model.model.parameters())


def test_vectors_have_a_size_and_models_a_fingerprint(tmp_path: Path) -> None:
    save_clip(tmp_path / "a")
    model = TransformersReranker(tmp_path / "a")
    assert model.vector_size == model.encode_texts(["large"]).shape[1] == 16
    assert model.num_tokens("large " * 50) > model.context == CONTEXT
    again = TransformersReranker(tmp_path / "a")
    assert again.fingerprint() == model.fingerprint()
    again.processor.image_mean = [0.5, 0.5, 0.5]
    assert again.fingerprint() != model.fingerprint()
    with torch.no_grad():
        model.model.visual_projection.weight[0, 0] += 1
    assert len({model.fingerprint(), again.fingerprint()}) == 2
    assert TransformersReranker(tmp_path / "a").fingerprint() != model.fingerprint()

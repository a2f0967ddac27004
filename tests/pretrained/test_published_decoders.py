"""Decoding with the cache against the whole stream, for each decoder of another project."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dalle.pretrained.llamagen_model import Llamagen, LlamagenConfig
from dalle.pretrained.mindalle_model import Mindalle, MindalleConfig
from dalle.pretrained.rudalle_model import Rudalle, RudalleConfig
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling

GREEDY = Sampling(temperature=0.0)


def randomised(model: nn.Module) -> Any:
    """The model with weights of which every one matters."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "embedding" in name or "position" in name:
            nn.init.normal_(parameter, std=2.0)  # else greedy pictures are all of one code
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
        else:
            nn.init.normal_(parameter, std=0.25)
    return model.eval().requires_grad_(False)


def rudalle(version: str) -> tuple[Any, Tensor]:
    """A ru-DALL·E whose last layer reads less than everything, and three texts, two with pads."""
    config = RudalleConfig(
        version=version, text_vocab=20, image_vocab=13, text_slots=5, side=4, depth=3, width=16,
        heads=2, conv_kernel=3,
    )  # fmt: skip
    texts = torch.tensor([[2, 7, 9, 3, 0], [2, 5, 3, 0, 0], [2, 11, 12, 13, 3]])
    return randomised(Rudalle(config)), texts


def mindalle() -> tuple[Any, Tensor]:
    """A minDALL-E and three texts, two with pads."""
    config = MindalleConfig(
        text_vocab=20, image_vocab=13, text_slots=5, side=4, depth=3, width=16, heads=2, pad=1
    )
    texts = torch.tensor([[2, 7, 9, 1, 1], [5, 1, 1, 1, 1], [11, 12, 13, 3, 17]])
    return randomised(Mindalle(config)), texts


def llamagen(condition: str) -> tuple[Any, Tensor]:
    """A LlamaGen, and three classes or three captions of different length."""
    size, slots = (7, 1) if condition == "class" else (6, 5)
    config = LlamagenConfig(
        condition=condition, condition_size=size, condition_slots=slots, image_vocab=13, side=4,
        depth=3, width=16, heads=2, mlp_width=24,
    )  # fmt: skip
    texts = torch.tensor([[3], [0], [6]])
    if condition == "features":
        texts = 4 * torch.randn(3, slots, size, generator=torch.Generator().manual_seed(0))
        texts[0, :3] = texts[1, :1] = 0.0
    return randomised(Llamagen(config)), texts


MODELS: dict[str, Callable[[], tuple[Any, Tensor]]] = {
    "rudalle-v2": lambda: rudalle("v2"),
    "rudalle-v3": lambda: rudalle("v3"),
    "mindalle": mindalle,
    "llamagen-c2i": lambda: llamagen("class"),
    "llamagen-t2i": lambda: llamagen("features"),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    """A model, and what it reads of three prompts."""
    return MODELS[request.param]()


def image_logits(model: Any, texts: Tensor, codes: Tensor) -> Tensor:
    """What the whole stream says of every code."""
    output = model(texts, codes)
    return output if isinstance(output, Tensor) else output.image


def codes_for(model: Any, texts: Tensor, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(texts), model.layout.image)
    return torch.randint(0, model.image_vocab, shape, generator=generator)


def steps(model: Any, texts: Tensor, codes: Tensor, *, samples: int, known: int = 0) -> Tensor:
    """The logits of every step from `known` on, as decoding computes them."""
    cache = model.new_cache(prompts=len(texts), samples=samples)
    model.prefill(texts, codes.view(len(texts), samples, -1)[:, 0, :known], cache)
    last = codes[:, known - 1] if known else torch.full((len(codes),), model.start_of_image)
    collected = []
    for p in range(known, model.layout.image):
        collected.append(model.step(last, torch.tensor(p), cache))
        last = codes[:, p]
    return torch.stack(collected, dim=1)


def test_greedy_decoding_is_that_of_the_whole_stream_step_by_step(pair: tuple[Any, Tensor]) -> None:
    model, texts = pair
    codes = torch.zeros(len(texts), model.layout.image, dtype=torch.long)
    for p in range(model.layout.image):
        codes[:, p] = image_logits(model, texts, codes)[:, p].argmax(-1)
    sampled = sample_codes(
        model, texts, prompt_of=[0, 1, 2], seeds=[0, 0, 0], sampling=GREEDY, launch=4
    )
    assert torch.equal(sampled.codes.flatten(1), codes)
    assert len(set(codes.flatten().tolist())) > 3


@pytest.mark.parametrize("known", [0, 1, 6])
def test_every_step_has_the_logits_of_the_whole_stream(
    pair: tuple[Any, Tensor], known: int
) -> None:
    model, texts = pair
    codes = codes_for(model, texts)
    stepped = steps(model, texts, codes, samples=1, known=known)
    torch.testing.assert_close(
        stepped, image_logits(model, texts, codes)[:, known:], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("known", [0, 3])
def test_a_prefill_shared_by_samples_is_one_for_each(pair: tuple[Any, Tensor], known: int) -> None:
    model, texts = pair
    repeated = texts.repeat_interleave(4, dim=0)
    codes = codes_for(model, repeated)
    codes[:, :known] = codes[::4, :known].repeat_interleave(4, dim=0)
    shared = steps(model, texts, codes, samples=4, known=known)
    alone = steps(model, repeated, codes, samples=1, known=known)
    torch.testing.assert_close(shared, alone, atol=1e-5, rtol=1e-5)


def test_no_output_depends_on_what_it_predicts_or_later(pair: tuple[Any, Tensor]) -> None:
    model, texts = pair
    codes = codes_for(model, texts)
    before = image_logits(model, texts, codes)
    for p in range(model.layout.image):
        changed = codes.clone()
        changed[:, p] = (changed[:, p] + 1) % model.image_vocab
        after = image_logits(model, texts, changed)
        assert torch.equal(after[:, : p + 1], before[:, : p + 1])
        assert p + 1 == model.layout.image or not torch.equal(after[:, p + 1], before[:, p + 1])


def test_guided_decoding_is_that_of_two_whole_streams(pair: tuple[Any, Tensor]) -> None:
    model, texts = pair
    sampling = Sampling(temperature=0.0, guidance=3.0)
    codes = sample_codes(
        model, texts, prompt_of=[0, 1, 2], seeds=[0, 0, 0], sampling=sampling
    ).codes.flatten(1)
    conditional = image_logits(model, texts, codes)
    null = image_logits(model, model.no_caption(texts), codes)
    assert torch.equal((null + 3.0 * (conditional - null)).argmax(-1), codes)
    plain = sample_codes(model, texts, prompt_of=[0, 1, 2], seeds=[0, 0, 0], sampling=GREEDY)
    assert not torch.equal(plain.codes.flatten(1), codes)


def test_a_kept_part_of_a_picture_is_continued(pair: tuple[Any, Tensor]) -> None:
    model, texts = pair
    given = codes_for(model, texts)[0].view(model.layout.grid)
    keep = torch.ones(model.layout.grid, dtype=torch.bool)
    keep[1:, 1:] = False
    [codes] = sample_codes(
        model, texts[:1], prompt_of=[0], seeds=[0], sampling=GREEDY, given=given, keep=keep
    ).codes
    best = image_logits(model, texts[:1], codes.view(1, -1))[0].argmax(-1).view(model.layout.grid)
    assert torch.equal(codes, torch.where(keep, given, best))


def test_the_prompt_matters_from_the_first_token_on(pair: tuple[Any, Tensor]) -> None:
    model, texts = pair
    first = image_logits(model, texts, codes_for(model, texts))[:, 0]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_16_bits_draw_nearly_the_same(name: str) -> None:
    model, texts = MODELS[name]()
    codes = codes_for(model, texts)
    exact = image_logits(model, texts, codes)
    stepped = steps(model.to(torch.bfloat16), texts, codes, samples=1)
    assert stepped.dtype == torch.float32
    torch.testing.assert_close(stepped, exact, atol=0.5, rtol=0.1)
    assert not torch.equal(stepped, exact)

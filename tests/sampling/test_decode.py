"""Sampling: seeds, launches, image prompts, guidance and text, on a tiny random model."""

import pytest
import torch

from dalle.errors import InputError
from dalle.models.dalle import Dalle, DalleConfig
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling, draw_token, uniform_table
from dalle.sampling.texts import complete_text
from tests.fakes import fill_with_noise


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = DalleConfig(
        text_vocab=11,
        image_vocab=13,
        text_slots=5,
        rows=3,
        cols=5,
        depth=4,
        width=16,
        heads=2,
        conv_kernel=3,
    )
    model = Dalle(config).eval()
    fill_with_noise(model, std=0.5)
    return model


@pytest.fixture(scope="module")
def texts(model):
    texts = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(1))
    texts[:, 0] = model.start_of_text
    return texts


def test_sampled_tokens_are_argmax_of_the_whole_stream_at_temperature_zero(model, texts):
    sampled = sample_codes(
        model, texts, prompt_of=[0, 1, 2], seeds=[0, 0, 0], sampling=Sampling(temperature=0.0)
    )
    output = model(texts, sampled.codes.flatten(1))
    assert torch.equal(output.image.argmax(-1), sampled.codes.flatten(1))


def test_each_slot_draws_with_its_own_number_of_the_table(model, texts):
    sampling = Sampling(temperature=0.8, top_k=9)
    sampled = sample_codes(
        model, texts, prompt_of=[0, 1, 2], seeds=[3, 4, 5], sampling=sampling, launch=4
    )
    codes = sampled.codes.flatten(1)
    logits, table = model(texts, codes).image, uniform_table([3, 4, 5], 15)
    redrawn = [draw_token(logits[:, p], table[p], sampling) for p in range(15)]
    assert torch.equal(torch.stack(redrawn, dim=1), codes)


def test_log_prob_is_that_of_the_whole_stream(model, texts):
    sampled = sample_codes(
        model, texts, prompt_of=[0, 1, 2], seeds=[3, 4, 5], sampling=Sampling(top_k=4, guidance=2.0)
    )
    codes = sampled.codes.flatten(1)
    with torch.no_grad():
        all_log_probs = torch.log_softmax(model(texts, codes).image, dim=-1)
    expected = all_log_probs.gather(2, codes.unsqueeze(2)).sum(dim=(1, 2))
    torch.testing.assert_close(sampled.log_prob, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_picture_depends_on_its_seed_and_prompt_alone(model, texts, guidance):
    sampling = Sampling(guidance=guidance, top_p=0.95)
    prompt_of = [0, 0, 0, 0, 0, 1, 2, 2, 2]
    seeds = [7, 8, 9, 10, 11, 7, 7, 8, 9]
    together = sample_codes(
        model, texts, prompt_of=prompt_of, seeds=seeds, sampling=sampling, launch=4
    )
    for i, (prompt, seed) in enumerate(zip(prompt_of, seeds, strict=True)):
        alone = sample_codes(
            model, texts[[prompt]], prompt_of=[0], seeds=[seed], sampling=sampling, launch=4
        )
        assert torch.equal(alone.codes[0], together.codes[i])
    assert len({tuple(c.flatten().tolist()) for c in together.codes}) >= 5


def test_guidance_ignores_the_text_at_zero_and_changes_pictures_above_one(model, texts):
    def at(guidance, prompt):
        sampling = Sampling(guidance=guidance)
        chosen = sample_codes(
            model, texts, prompt_of=[prompt] * 4, seeds=[1, 2, 3, 4], sampling=sampling
        )
        return chosen.codes

    assert torch.equal(at(0.0, 0), at(0.0, 1))
    assert not torch.equal(at(1.0, 0), at(1.0, 1))
    assert not torch.equal(at(1.0, 0), at(4.0, 0))


def test_guided_logits_are_those_of_two_whole_streams(model, texts):
    sampling = Sampling(temperature=0.0, guidance=3.0)
    codes = sample_codes(model, texts, prompt_of=[0, 1], seeds=[0, 0], sampling=sampling).codes
    codes = codes.flatten(1)
    with torch.no_grad():
        conditional = model(texts[:2], codes).image
        null = model(model.no_caption(texts[:2]), codes).image
    assert torch.equal((null + 3.0 * (conditional - null)).argmax(-1), codes)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (2, 0), (1, 3), (0, 4), (2, 4)])
def test_kept_cells_are_given_and_the_rest_continues_them(model, texts, top, left):
    given = torch.randint(0, 13, (3, 5), generator=torch.Generator().manual_seed(2))
    keep = torch.ones(3, 5, dtype=torch.bool)
    keep[top:, left:] = False
    sampling = Sampling(temperature=0.0)
    sampled = sample_codes(
        model, texts, prompt_of=[0, 1], seeds=[0, 1], sampling=sampling, given=given, keep=keep
    )
    for codes, text in zip(sampled.codes, texts, strict=False):
        assert torch.equal(codes[keep], given[keep])
        best = model(text[None], codes.flatten()[None]).image[0].argmax(-1).view(3, 5)
        assert torch.equal(codes[~keep], best[~keep])


def test_progress_counts_every_token_of_every_real_picture(model, texts):
    seen = []
    sample_codes(
        model,
        texts,
        prompt_of=[0, 0, 1],
        seeds=[1, 2, 3],
        sampling=Sampling(),
        launch=8,
        progress=seen.append,
    )
    assert sum(seen) == 3 * 15


def test_text_goes_on_as_the_whole_stream_would(model):
    [completed] = complete_text(model, [3], seeds=[0], sampling=Sampling(temperature=0.0))
    assert completed[0] == 3
    stream = torch.tensor([[model.start_of_text, *completed][:5] + [0] * (4 - len(completed))])
    best = model(stream, torch.zeros(1, 15, dtype=torch.long)).text[0].argmax(-1).tolist()
    ending = [] if len(completed) == 4 else [model.end_of_text]
    assert best[1 : len(completed) + len(ending)] == completed[1:] + ending


def test_text_completions_stop_at_the_end_and_vary_with_the_seed(model):
    rows = complete_text(model, [], seeds=list(range(40)), sampling=Sampling())
    assert len({tuple(row) for row in rows}) > 10
    assert {len(row) for row in rows} > {4}  # some end early, some fill all slots
    assert all(0 <= token < 11 for row in rows for token in row)
    assert rows[7:8] == complete_text(model, [], seeds=[7], sampling=Sampling())
    full = [1, 2, 3, 4, 5, 6]
    assert complete_text(model, full, seeds=[0], sampling=Sampling()) == [full[:4]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 2 pictures"),
        ({"launch": 0}, "launch is 0"),
        ({"given": torch.zeros(3, 5, dtype=torch.long)}, "needs both"),
        (
            {
                "given": torch.zeros(3, 4, dtype=torch.long),
                "keep": torch.zeros(3, 4, dtype=torch.bool),
            },
            "grid is",
        ),
    ],
)
def test_wrong_requests_are_refused(model, texts, changes, message):
    request = {"prompt_of": [0, 1], "seeds": [0, 1], "sampling": Sampling(), **changes}
    with pytest.raises(InputError, match=message):
        sample_codes(model, texts, **request)

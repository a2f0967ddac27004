"""Generation: what a picture depends on, what is kept, what is ranked."""

import threading
import warnings
import weakref
from dataclasses import replace

import pytest
import torch
from PIL import Image

from dalle.errors import InputError, OutOfMemoryError
from dalle.processes import Processes
from dalle.sampling import behind, work
from dalle.sampling.filters import Sampling
from dalle.sampling.image_prompt import image_prompt, kept_cells
from dalle.sampling.launches import Launch, LaunchShape, launch_shape, launches
from dalle.sampling.pipeline import Pipeline
from dalle.sampling.request import Request, Wanted
from dalle.sampling.streams import PromptCutWarning
from dalle.sampling.work import Plan, Work
from tests.fakes import BrightnessReranker, FlatTokenizer, tiny_dalle, tiny_text_tokenizer

GRID = (4, 3)


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    """A pipeline without a reranker."""
    text = tiny_text_tokenizer()
    return Pipeline(
        tiny_dalle(text),
        text_tokenizer=text,
        image_tokenizer=FlatTokenizer(vocab_size=16, grid=GRID),
    )


@pytest.fixture(scope="module")
def ranked(plain: Pipeline) -> Pipeline:
    """The same with a reranker that prefers bright pictures."""
    return Pipeline(
        plain.model,
        text_tokenizer=plain.text_tokenizer,
        image_tokenizer=plain.image_tokenizer,
        reranker=BrightnessReranker(),
    )


def given_picture(seed: int = 5) -> Image.Image:
    """Grey squares of random brightness, one for each cell."""
    codes = torch.randint(16, GRID, generator=torch.Generator().manual_seed(seed))
    levels = (codes.float() / 15 * 255).round().to(torch.uint8)
    return Image.fromarray(levels.numpy()).resize((12, 16), Image.Resampling.NEAREST)


def test_a_seed_gives_its_picture_whatever_else_is_asked(plain: Pipeline) -> None:
    many = plain.generate("a red cube", num_samples=7, seed=3)
    by_seed = {picture.seed: picture for picture in many}
    assert sorted(by_seed) == list(range(3, 10))
    alone = plain.generate("a red cube", seed=5)[0]
    small_launch = plain.generate("a red cube", num_samples=7, seed=3, launch=2)
    others = plain.generate_many(["a star", "a red cube", ""], num_samples=4, seed=4)
    for picture in (
        alone,
        *(p for p in small_launch if p.seed == 5),
        *(p for p in others[1] if p.seed == 5),
    ):
        assert torch.equal(picture.codes, by_seed[5].codes)
        assert picture.image.tobytes() == by_seed[5].image.tobytes()
        assert picture.log_prob == pytest.approx(by_seed[5].log_prob, abs=1e-4)
    assert not torch.equal(by_seed[4].codes, by_seed[5].codes)


def test_several_prompts_give_what_each_gives_alone(plain: Pipeline) -> None:
    prompts = ["a red cube", "", "a blue circle", "a red cube"]
    together = plain.generate_many(prompts, num_samples=3, keep=2, seed=8)
    for prompt, pictures in zip(prompts, together, strict=True):
        alone = plain.generate(prompt, num_samples=3, keep=2, seed=8)
        assert [p.seed for p in pictures] == [p.seed for p in alone]
        assert all(p.prompt == prompt for p in pictures)
        for one, other in zip(pictures, alone, strict=True):
            assert torch.equal(one.codes, other.codes)


def test_prompts_go_through_in_groups(plain: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"a {i}" for i in range(7)]
    whole = plain.generate_many(prompts, num_samples=2, launch=2)
    monkeypatch.setattr(work, "LAUNCHES_AT_ONCE", 1)
    parts = plain.generate_many(prompts, num_samples=2, launch=2)
    assert [p.prompt for pictures in parts for p in pictures[:1]] == prompts
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one[0].codes, other[0].codes)


def test_each_group_is_scored_by_its_own_prompts(
    ranked: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LAUNCHES_AT_ONCE", 1)
    prompts = [f"a {i}" for i in range(5)]
    assert isinstance(ranked.reranker, BrightnessReranker)
    ranked.reranker.texts.clear()
    ranked.generate_many(prompts, num_samples=2, launch=2)
    assert list(dict.fromkeys(ranked.reranker.texts)) == prompts


@pytest.mark.parametrize("counts", [[1] * 60, [5] * 20, [3, 40, 1, 1, 9, 16] * 4], ids=str)
@pytest.mark.parametrize("launch", [4, 7, 32])
def test_pictures_lie_in_the_same_launches_whatever_the_number_of_processes(
    plain: Pipeline, counts: list[int], launch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "LAUNCHES_AT_ONCE", 2)
    wanted = [Wanted(prompt=str(i), num_samples=n, seed=0) for i, n in enumerate(counts)]
    plan = Plan(request=Request(launch=launch), sampling=Sampling(), given=None)
    shape = launch_shape(counts, launch, full=False)
    whole = list(launches([i for i, n in enumerate(counts) for _ in range(n)], shape))
    for size in (1, 2, 5, 64):
        processes = Processes(rank=0, size=size, control=None)
        todo, found = Work(replace(plain._parts, processes=processes), wanted, plan), []
        while todo.start < len(todo.prompt_of):
            start = todo.start
            todo.go_on(todo.shape.size)
            for one in launches(todo.prompt_of[start : todo.start], todo.shape):
                found.append(Launch(one.prompts, [start + picture for picture in one.pictures]))
        assert found == whole


def test_prompts_may_have_numbers_of_their_own(ranked: Pipeline) -> None:
    prompts, counts, seeds = (
        ["a red cube", "", "a star", "a blue circle"],
        [5, 1, 12, 2],
        [3, 0, 7, 9],
    )
    request = Request(num_samples=4, keep=4, launch=4)
    each = list(ranked.generate_each(prompts, request, seeds=seeds, num_samples=counts))
    assert [len(pictures) for pictures in each] == [4, 1, 4, 2]
    for prompt, count, seed, pictures in zip(prompts, counts, seeds, each, strict=True):
        alone = ranked.generate(prompt, num_samples=count, keep=min(4, count), seed=seed, launch=64)
        assert [p.seed for p in pictures] == [p.seed for p in alone]
        for one, other in zip(pictures, alone, strict=True):
            assert torch.equal(one.codes, other.codes)
            assert one.score == pytest.approx(other.score, abs=1e-4)
    with pytest.raises(InputError, match="1 numbers of samples came for 2 prompts"):
        ranked.generate_each(["a", "b"], request, num_samples=[1])
    with pytest.raises(InputError, match="num_samples is 0"):
        ranked.generate_each(["a"], Request(), num_samples=[0])


def test_scoring_behind_the_next_launch_changes_nothing(
    ranked: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = {"num_samples": 21, "keep": 9, "launch": 4}
    serial = ranked.generate_many(["a red cube", "a star"], **wishes)
    threads: set[int] = set()
    decode_codes = FlatTokenizer.decode

    def noted(self: FlatTokenizer, codes: torch.Tensor) -> torch.Tensor:
        threads.add(threading.get_ident())
        return decode_codes(self, codes)

    monkeypatch.setattr(FlatTokenizer, "decode", noted)
    monkeypatch.setattr(behind, "runs_beside", lambda device: True)
    beside = ranked.generate_many(["a red cube", "a star"], **wishes)
    assert len(threads) == 2, "scored in a thread of its own, drawn in this one"
    for one, other in zip(serial, beside, strict=True):
        assert [(p.seed, p.score) for p in one] == [(p.seed, p.score) for p in other]
        assert all(torch.equal(a.codes, b.codes) for a, b in zip(one, other, strict=True))


def test_each_prompt_may_have_its_own_seed(plain: Pipeline) -> None:
    each = list(plain.generate_each(["a cube", "a cube"], Request(), seeds=[0, 9]))
    assert [pictures[0].seed for pictures in each] == [0, 9]
    assert torch.equal(each[1][0].codes, plain.generate("a cube", seed=9)[0].codes)
    with pytest.raises(InputError, match="1 seeds came for 2 prompts"):
        plain.generate_each(["a", "b"], Request(), seeds=[1])


def test_without_a_reranker_the_model_ranks_and_says_so(plain: Pipeline) -> None:
    pictures = plain.generate("a red cube", num_samples=9)
    assert all(p.score_kind == "log_prob" and p.score == p.log_prob for p in pictures)
    assert [p.score for p in pictures] == sorted((p.score for p in pictures), reverse=True)
    assert all(p.log_prob < 0 for p in pictures)


def test_the_kept_are_the_best(ranked: Pipeline) -> None:
    everything = ranked.generate("a red cube", num_samples=40)
    best = ranked.generate("a red cube", num_samples=40, keep=5)
    brightness = [p.codes.float().mean().item() / 15 for p in everything]
    assert brightness == sorted(brightness, reverse=True)
    assert [p.score for p in everything] == pytest.approx(brightness)
    assert [p.seed for p in best] == [p.seed for p in everything[:5]]
    assert all(p.score_kind == "clip" for p in best)
    by_model = ranked.generate("a red cube", num_samples=40, keep=5, rank_by="log_prob")
    assert all(p.score_kind == "log_prob" for p in by_model)
    assert [p.seed for p in by_model] != [p.seed for p in best]


def test_a_blank_prompt_is_no_condition_and_is_ranked_by_the_model(ranked: Pipeline) -> None:
    empty, blank = ranked.generate_many(["", " \t"], num_samples=3, seed=2)
    assert all(p.score_kind == "log_prob" for p in empty + blank)
    assert [p.log_prob for p in empty] == pytest.approx([p.log_prob for p in blank], abs=1e-4)
    guided = ranked.generate("", num_samples=3, seed=2, guidance=3.0)
    for one, other in zip(empty, guided, strict=True):
        assert torch.equal(one.codes, other.codes)


@pytest.mark.parametrize("rect", [(0, 0), (2, 0), (0, 2), (1, 1), (3, 2)])
def test_cells_outside_the_rectangle_are_kept(plain: Pipeline, rect: tuple[int, int]) -> None:
    image = given_picture()
    pixels = image_prompt(image, image_size=plain.image_tokenizer.image_size)
    given = plain.image_tokenizer.encode(pixels)[0]
    keep = kept_cells(rect, grid=GRID)
    assert keep.logical_not().nonzero().tolist() == [
        [row, col] for row in range(rect[0], 4) for col in range(rect[1], 3)
    ]
    pictures = plain.generate("a red cube", num_samples=30, image=image, rect=rect)
    drawn = torch.stack([p.codes for p in pictures])
    assert torch.equal(drawn[:, keep], given[keep].expand(30, -1))
    assert (drawn[:, ~keep] != drawn[0, ~keep]).any(dim=0).all(), "every other cell varies"
    assert all(p.made.rect == rect for p in pictures)


@pytest.mark.parametrize("rect", [(4, 0), (0, 3), (-1, 0)])
def test_a_rectangle_outside_the_grid_is_refused(plain: Pipeline, rect: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="grid of 4 x 3"):
        plain.generate("a", image=given_picture(), rect=rect)


def test_memory_holds_only_the_pictures_that_are_kept(
    ranked: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    peak = 0
    decode = FlatTokenizer.decode

    def counting(self: FlatTokenizer, codes: torch.Tensor) -> torch.Tensor:
        nonlocal peak
        images = decode(self, codes)
        alive.add(images)
        peak = max(peak, sum(len(x) for x in alive))
        return images

    monkeypatch.setattr(FlatTokenizer, "decode", counting)
    pictures = ranked.generate("a red cube", num_samples=200, keep=3)
    assert len(pictures) == 3
    assert peak <= 2 * 32, "no more than the chunk in hand and the one before it"


def test_a_long_prompt_is_cut_and_this_is_said(plain: Pipeline) -> None:
    with pytest.warns(PromptCutWarning, match="tokens of a prompt"):
        picture = plain.generate("x" * 100_000)[0]
    assert picture.num_cut == 100_000 - 11
    assert picture.prompt == "x" * 100_000
    assert plain.generate("a")[0].num_cut == 0


@pytest.mark.parametrize(
    "prompt",
    ["שלום עולם", "مرحبا", "👩‍👩‍👧‍👦", "\ud83d alone", "\x00\x1b[31m\u202e", "a\u0301" * 50, "﷽"],
)
def test_odd_prompts_go_through(plain: Pipeline, prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)
        picture = plain.generate(prompt)[0]
    assert picture.prompt == prompt.replace("\ud83d", "\ufffd")
    assert picture.image.size == (12, 16)


def test_settings_that_are_not_asked_for_are_the_models_own(plain: Pipeline) -> None:
    own = Sampling(temperature=0.5, top_k=3)
    model = Pipeline(
        plain.model,
        text_tokenizer=plain.text_tokenizer,
        image_tokenizer=plain.image_tokenizer,
        sampling=own,
    )
    assert model.generate("a")[0].made.sampling == own
    asked = model.generate("a", temperature=0.0)[0]
    assert asked.made.sampling == Sampling(temperature=0.0, top_k=3)
    greedy = {tuple(p.codes.flatten().tolist()) for p in model.generate("a", temperature=0.0)}
    assert greedy == {tuple(asked.codes.flatten().tolist())}


def test_a_picture_is_made_again_from_its_record(ranked: Pipeline) -> None:
    pictures = ranked.generate(
        "a red cube", num_samples=6, keep=2, seed=40, temperature=0.9, top_p=0.8, guidance=2.0,
        image=given_picture(), rect=(1, 1),
    )  # fmt: skip
    again = ranked.again(pictures[1].record())
    assert torch.equal(again.codes, pictures[1].codes)
    assert again.image.tobytes() == pictures[1].image.tobytes()
    assert again.score == pytest.approx(pictures[1].score)
    assert again.made.rect == (1, 1)


def test_text_is_completed_from_its_beginning(plain: Pipeline) -> None:
    texts = plain.complete_text("A red", num_samples=5, seed=3)
    assert len(texts) == 5
    assert all(text.startswith("a red") for text in texts)
    assert len(set(texts)) > 1
    assert plain.complete_text("A red", seed=4) == texts[1:2]
    assert (
        plain.complete_text("A red", num_samples=2, seed=3, temperature=0.0)[0]
        == (plain.complete_text("A red", seed=99, temperature=0.0)[0])
    )
    assert len(plain.complete_text("", num_samples=2)) == 2


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_samples": 2, "keep": 3}, "keep is 3; expected 1 to num_samples, which is 2"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63 - 1, "num_samples": 2}, "seed"),
        ({"launch": 0}, "launch is 0"),
        ({"rect": (1, 0)}, "needs both the picture"),
        ({"image": Image.new("RGB", (4, 4))}, "needs both the picture"),
        ({"rank_by": "clip"}, "no CLIP came with the model"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_bad_settings_are_refused(plain: Pipeline, wishes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.generate("a", **wishes)


def test_parts_that_do_not_fit_are_refused(plain: Pipeline) -> None:
    with pytest.raises(InputError, match=r"grid is \(4, 3\) in the model and \(3, 4\)"):
        Pipeline(
            plain.model,
            text_tokenizer=plain.text_tokenizer,
            image_tokenizer=FlatTokenizer(vocab_size=16, grid=(3, 4)),
        )


def test_too_little_memory_halves_the_launch_once(
    plain: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain.generate("a red cube", num_samples=8, launch=8)
    real, room = work.sample_codes, 4

    def limited(*args, launch: LaunchShape, **kwargs):
        if launch.size > room:
            raise torch.OutOfMemoryError(f"no room for {launch}")
        return real(*args, launch=launch, **kwargs)

    monkeypatch.setattr(work, "sample_codes", limited)
    with pytest.warns(UserWarning, match="too little memory for 8 pictures at once; trying 4"):
        pictures = plain.generate("a red cube", num_samples=8, launch=8)
    assert [p.seed for p in pictures] == [p.seed for p in expected]
    assert pictures[0].made.launch == 4
    room = 2
    with (
        pytest.warns(UserWarning, match="too little memory"),
        pytest.raises(OutOfMemoryError, match="lower launch"),
    ):
        plain.generate("a red cube", num_samples=8, launch=8)


def test_codes_can_be_trained_on(plain: Pipeline) -> None:
    codes = plain.generate("a", num_samples=2)[0].codes
    assert not codes.is_inference()
    assert codes.untyped_storage().nbytes() == 12 * 8, "a view would hold the codes of all"


def test_progress_counts_every_code(plain: Pipeline) -> None:
    counts: list[int] = []
    request = Request(num_samples=3)
    list(plain.generate_each(["a", "b"], request, progress=counts.append))
    assert sum(counts) == plain.num_tokens(2, request) == 2 * 3 * 12

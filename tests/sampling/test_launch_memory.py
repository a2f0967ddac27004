"""How many pictures are sampled at once, by the memory that there is."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn.cache import Cache
from dalle.processes import ALONE
from dalle.protocols import Batch
from dalle.sampling import work
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling
from dalle.sampling.launch_memory import SHARE, launch_in_room, launch_memory
from dalle.sampling.launches import LaunchShape
from dalle.sampling.pipeline import Pipeline
from dalle.storages import Live
from tests.fakes import FlatTokenizer, tiny_dalle, tiny_text_tokenizer

SMALL = DalleConfig(
    text_vocab=300, image_vocab=512, text_slots=32, rows=3, cols=4, depth=4, width=64, heads=2
)


@pytest.fixture(scope="module")
def small() -> Dalle:
    torch.manual_seed(0)
    return Dalle(SMALL).eval()


@pytest.mark.parametrize(("groups", "samples", "guidance"), [(1, 16, 1.0), (8, 1, 1.0), (2, 8, 2)])
def test_what_a_launch_is_said_to_hold_is_enough_and_not_far_off(
    small: Dalle, groups: int, samples: int, guidance: float
) -> None:
    shape = LaunchShape(groups, samples)
    texts = small.no_caption(torch.zeros(groups, 32, dtype=torch.long)).clone()
    texts[:, 1:9] = 5
    prompt_of = [i for i in range(groups) for _ in range(samples)]
    with Live(nn.Module(), Batch(tensors={}, counts={}), 1) as live:
        sample_codes(
            small,
            texts,
            prompt_of=prompt_of,
            seeds=list(range(len(prompt_of))),
            sampling=Sampling(guidance=guidance, top_k=20, top_p=0.9),
            launch=shape,
        )
    said = launch_memory(small).of(shape, nulls=1 if guidance != 1.0 else 0)
    said -= sum(parameter.nbytes for parameter in small.parameters())  # laid out unseen
    assert live.peak(without=set()) <= said <= 3 * live.peak(without=set())


def launch(model: Dalle, free: float, counts: list[int], *, guided: bool = False) -> int:
    return launch_in_room(model, counts, guided=guided, free=int(free), processes=ALONE)


def test_less_memory_takes_smaller_launches(small: Dalle) -> None:
    memory = launch_memory(small)
    room = {n: memory.of(LaunchShape(1, n), nulls=0) / SHARE + 1 for n in (64, 32, 4, 1)}
    assert [launch(small, free, [500]) for free in room.values()] == [64, 32, 4, 1]
    assert launch(small, 0, [500]) == 1
    # Guidance, and a text for each picture, need more.
    assert launch(small, room[64], [500], guided=True) <= 32
    assert launch(small, room[64], [1] * 500) <= 32


def test_in_16_bits_small_requests_have_launches_of_one_size(small: Dalle) -> None:
    half = Dalle(SMALL).eval().bfloat16()
    assert [launch(half, 1e12, [n]) for n in (1, 8, 32, 40, 100)] == [32, 32, 32, 32, 64]


def test_pictures_are_the_same_whatever_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    text = tiny_text_tokenizer()
    pipeline = Pipeline(
        tiny_dalle(text),
        text_tokenizer=text,
        image_tokenizer=FlatTokenizer(vocab_size=16, grid=(4, 3)),
    )
    memory = launch_memory(pipeline.model)
    made = []
    for size in (2, 64):
        free = int(memory.of(LaunchShape(1, size), nulls=0) / SHARE + 1)
        monkeypatch.setattr(work, "free_bytes", _always(free))
        made.append(pipeline.generate("a red cube", num_samples=11, seed=3))
    few, many = ({p.seed: p.codes.tolist() for p in pictures} for pictures in made)
    assert few == many
    assert made[0][0].made.launch == 2 and made[1][0].made.launch > 8


def _always(size: int) -> Callable[[torch.device], int]:
    return lambda device: size


@pytest.mark.parametrize(
    ("depth", "width", "heads", "megabytes"), [(24, 2048, 16, 56.50), (12, 768, 12, 10.84)]
)
def test_keys_and_values_of_a_sample_are_those_that_its_patterns_read(
    depth: int, width: int, heads: int, megabytes: float
) -> None:
    """1.3 billion parameters: below 57 MB a sample, where all 1024 slots would be 201 MB."""
    config = DalleConfig(text_vocab=2, image_vocab=2, depth=depth, width=width, heads=heads)
    cache = Cache(
        layout=config.layout,
        patterns=config.layer_patterns,
        prompts=1,
        samples=1,
        nulls=0,
        heads=heads,
        head_width=width // heads,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )
    assert cache.bytes_per_sample / 1e6 == pytest.approx(megabytes, abs=0.05)

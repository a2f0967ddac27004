"""The step that a GPU would record: nothing goes to the host, and every address stays."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dalle.models.dalle import Dalle, DalleConfig
from dalle.nn import layer_cache
from dalle.sampling.decode import sample_codes
from dalle.sampling.filters import Sampling, uniform_table
from dalle.sampling.fixed_step import FixedStep, FixedSteps
from dalle.sampling.launches import LaunchShape
from tests.fakes import fill_with_noise

ROWS, COLS = 5, 6
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.0),
    Sampling(temperature=0.7, top_k=5, guidance=2.0),
    Sampling(top_p=0.8),
    Sampling(top_k=9, top_p=0.9),
]


@pytest.fixture(scope="module")
def model() -> Dalle:
    """Every pattern, the convolution with more kept than it reads."""
    torch.manual_seed(0)
    config = DalleConfig(
        text_vocab=11, image_vocab=128, text_slots=5, rows=ROWS, cols=COLS, depth=4, width=16,
        heads=2, patterns=("row", "column", "conv", "full"), conv_kernel=3,
    )  # fmt: skip
    model = Dalle(config).eval()
    fill_with_noise(model, std=0.4)
    return model


@pytest.fixture
def without_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU: a step may not look at the number of its slot."""
    monkeypatch.setattr(layer_cache, "reads_numbers", lambda device: False)
    yield


class NothingToHost(TorchDispatchMode):
    """Refuses what reads numbers, or has a result whose shape depends on them."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.partition(".")[0]
        assert name not in self.REFUSED, f"{name} makes the host wait"
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def texts(groups: int) -> Tensor:
    found = torch.randint(0, 11, (groups, 5), generator=torch.Generator().manual_seed(1))
    found[:, 0] = 11
    return found


def start(step: FixedStep, *, seed: int = 0, keep: int = 0) -> int:
    image, pictures = ROWS * COLS, step.shape.size
    given = torch.randint(0, 128, (image,), generator=torch.Generator().manual_seed(2))
    return step.begin(
        texts(step.shape.groups),
        uniform=uniform_table([seed + i for i in range(pictures)], image),
        given=given,
        keep=torch.arange(image) < keep,
    )


def addresses(step: FixedStep) -> list[int]:
    """Of all tensors of a step, those of its cache among them."""
    layers = [
        tensor
        for layer in step.cache.layers
        for tensor in (layer.text_keys, layer.text_values, layer.image_keys, layer.image_values)
    ]
    own = [step.slot, step.last, step.codes, step.log_prob, step.uniform, step.keep]
    return [tensor.data_ptr() for tensor in own + layers]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@torch.inference_mode()
def test_the_recorded_function_is_the_plain_loop(
    model: Dalle, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, seeds = LaunchShape(2, 3), list(range(6))
    expected = sample_codes(
        model, texts(2), prompt_of=[0, 0, 0, 1, 1, 1], seeds=seeds, sampling=sampling, launch=shape
    )
    monkeypatch.setattr(layer_cache, "reads_numbers", lambda device: False)
    step = FixedSteps(record=True).get(model, texts(2), shape, sampling)
    start(step)
    before = addresses(step)
    sequences = []
    for _ in range(ROWS * COLS):
        with NothingToHost() as mode:
            step.advance()
        sequences.append(mode.names)
        assert addresses(step) == before
    assert all(names == sequences[0] for names in sequences), "the same kernels at every slot"
    assert torch.equal(step.codes.t().unflatten(1, (ROWS, COLS)), expected.codes)
    torch.testing.assert_close(step.log_prob, expected.log_prob, atol=1e-4, rtol=1e-4)
    assert int(step.slot) == ROWS * COLS


@torch.inference_mode()
def test_a_launch_leaves_nothing_to_the_next(model: Dalle, without_host: None) -> None:
    step = FixedStep(model, LaunchShape(1, 2), Sampling(guidance=2.0), nulls=1, record=False)

    def drawn(seed: int, keep: int) -> tuple[Tensor, Tensor]:
        for _ in range(start(step, seed=seed, keep=keep), ROWS * COLS):
            step.play()
        return step.codes.clone(), step.log_prob.clone()

    first = drawn(3, 0)
    drawn(9, 7)
    for layer in step.cache.layers:
        layer.image_keys.fill_(float("nan"))  # as after a launch whose numbers were too large
        layer.image_values.fill_(float("nan"))
    again = drawn(3, 0)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@torch.inference_mode()
def test_all_prompts_share_the_text_of_no_caption(model: Dalle) -> None:
    sampling, shape = Sampling(guidance=2.0), LaunchShape(3, 2)
    step = FixedSteps(record=False).get(model, texts(3), shape, sampling)
    assert step.cache.layers[0].text_keys.shape[0] == 3 + 1
    apart = FixedStep(model, shape, sampling, nulls=3, record=False)
    for one in (step, apart):
        start(one)
        for _ in range(ROWS * COLS):
            one.play()
    assert torch.equal(step.codes, apart.codes)
    torch.testing.assert_close(step.log_prob, apart.log_prob, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_memory_is_taken_once_for_launches_of_one_kind(model: Dalle) -> None:
    steps = FixedSteps(record=False)
    one = steps.get(model, texts(2), LaunchShape(1, 2), Sampling())
    assert steps.get(model, texts(2), LaunchShape(1, 2), Sampling()) is one
    assert steps.get(model, texts(2), LaunchShape(2, 1), Sampling()) is not one


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_step_samples_what_the_plain_one_does(
    model: Dalle, sampling: Sampling, dtype: torch.dtype
) -> None:
    there = Dalle(model.config).eval()
    there.load_state_dict(model.state_dict())
    there.to("cuda", dtype)
    found = [
        sample_codes(
            there,
            texts(2).cuda(),
            prompt_of=[0] * 7 + [1] * 2,
            seeds=list(range(9)),
            sampling=sampling,
            launch=4,
            steps=FixedSteps(record=record),
        )
        for record in (False, True)
    ]
    assert torch.equal(found[0].codes, found[1].codes)
    torch.testing.assert_close(found[0].log_prob, found[1].log_prob)


@pytest.mark.gpu
@torch.inference_mode()
def test_a_step_is_recorded_and_frees_what_it_took(model: Dalle) -> None:
    there = Dalle(model.config).eval().to("cuda")
    step = FixedStep(there, LaunchShape(1, 4), Sampling(), nulls=0, record=True)
    step.begin(
        texts(1).cuda(),
        uniform=uniform_table([0, 1, 2, 3], ROWS * COLS),
        given=torch.zeros(ROWS * COLS, dtype=torch.long),
        keep=torch.zeros(ROWS * COLS, dtype=torch.bool),
    )
    assert step._play is not None, "it is played, not run"
    before = torch.cuda.memory_allocated()
    for _ in range(ROWS * COLS):
        step.play()
    assert torch.cuda.memory_allocated() == before
    assert int(step.slot) == ROWS * COLS

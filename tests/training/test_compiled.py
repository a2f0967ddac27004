"""Layers through torch.compile: the same numbers as without it, by one code for all layers.

In processes of their own: the hooks that check annotations keep torch from compiling.
"""

import copy
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dalle.cli import main
from dalle.errors import ConfigError
from dalle.models.clip import Clip, ClipConfig, TowerConfig
from dalle.models.dalle import Dalle, DalleConfig
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.training import lora
from dalle.training.compiled import check_compiler, compile_layers
from dalle.training.plain_words import plain_words
from dalle.training.recompute import recompute_layers
from dalle.training.settings import TrainConfig
from tests.training.compare import assert_close, assert_same, files_of, weights
from tests.training.toy_group import ENVIRONMENTS, Group
from tests.training.toy_process import CONTEXT

CPU = torch.device("cpu")
LONG = {"text_slots": 40, "rows": 16, "cols": 16}
"""A stream in which, on a CPU, sparse layers run by windows, full ones do not, and oneDNN pays."""
FAR_FROM_32_BITS = 2.0
"""How much farther from float32 rounding may take what is compiled than what is not."""


def elsewhere(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a process of its own."""
    with CONTEXT.Pool(1) as pool:
        return pool.apply(work, arguments)


def decoder(*, depth: int = 5, dropout: float = 0.3, **changes: Any) -> Dalle:
    torch.manual_seed(0)
    sizes = {"text_slots": 5, "rows": 3, "cols": 4, "width": 64, "heads": 2, "conv_kernel": 3}
    patterns = tuple(("row", "column", "conv", "full")[layer % 4] for layer in range(depth))
    names = {"text_vocab": 20, "image_vocab": 11, "depth": depth, "patterns": patterns}
    model = Dalle(DalleConfig(dropout=dropout, **{**names, **sizes, **changes}))
    for head in (model.text_head, model.image_head):  # which begin at zero
        nn.init.normal_(head.weight, std=head.in_features**-0.5)
    return model


def decoder_inputs(model: Dalle, samples: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    text = torch.randint(20, (samples, model.layout.text))
    return text, torch.randint(11, (samples, model.layout.image))


def compile_here(model: nn.Module) -> nn.Module:
    compile_layers(model, device=CPU, strategy="single")
    return model


def numbers(
    model: nn.Module, inputs: tuple[Tensor, ...], *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Outputs and gradients of one step."""
    torch.manual_seed(2)
    device = inputs[0].device.type
    with torch.autocast(device, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        output = model(*inputs)
    parts = {name: getattr(output, name) for name in output.__slots__}
    torch.manual_seed(3)
    sum((part * torch.randn_like(part)).sum() for part in parts.values()).backward()
    parts |= {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name: part.detach() for name, part in parts.items()}


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of an output, or of a gradient by the largest in it."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - value).abs().max() / value.abs().max().clamp(min=1.0))
        for name, value in expected.items()
    )


def shared_codes() -> dict[str, Any]:
    """With the compiler's front only: what is traced, how often, and whether it is the same."""
    from torch._dynamo.utils import counters

    compiler = torch.compile
    torch.compile = lambda method, **_: compiler(method, fullgraph=True, backend="aot_eager")
    found: dict[str, Any] = {}
    plain = decoder(**LONG)
    model = copy.deepcopy(plain)
    compile_here(model)
    inputs = decoder_inputs(plain, 2)
    found["names"] = list(model.state_dict()) == list(plain.state_dict())
    expected = numbers(plain, inputs)
    counters.clear()
    found["apart"] = furthest(numbers(model, inputs), expected)
    found["codes"] = counters["stats"]["unique_graphs"]
    found["scale"] = float(expected["image"].std())

    torch._dynamo.config.error_on_recompile = True
    deep = compile_here(decoder(depth=9, **LONG))
    numbers(deep, inputs)
    again = copy.deepcopy(model)
    with torch.no_grad():
        for few in (1, 3):
            model.eval()(*decoder_inputs(plain, few))
        for parameter in model.transformer.blocks.parameters():
            parameter.zero_()
    found["copy"] = furthest(numbers(again, inputs), expected)
    recompute_layers(again)
    found["recomputed"] = furthest(numbers(again, inputs), expected)
    found["codes in the end"] = counters["stats"]["unique_graphs"]
    return found


def test_layers_share_two_codes_that_compute_the_same() -> None:
    found = elsewhere(shared_codes)
    assert found["names"]
    assert found["scale"] == pytest.approx(1.0, abs=0.3)
    assert max(found["apart"], found["copy"], found["recomputed"]) < 1e-5
    assert found["codes"] == found["codes in the end"] == 2


def test_models_and_strategies_without_it_are_refused() -> None:
    sizes = {"image_height": 16, "image_width": 16, "hidden": 8, "embed_dim": 8}
    with pytest.raises(ConfigError, match="a Dvae has no layers that can be compiled; leave it"):
        compile_here(Dvae(DvaeConfig(num_codes=9, **sizes)))
    with pytest.raises(ConfigError, match="compile is on under zero3, which gathers weights"):
        compile_layers(decoder(), device=CPU, strategy="zero3")


def without_a_compiler(folder: str) -> str:
    os.environ["PATH"] = folder
    os.environ.pop("CXX", None)
    try:
        check_compiler(CPU)
    except ConfigError as error:
        return str(error)
    return "compiled"


def test_a_machine_without_a_compiler_is_told_what_to_do(tmp_path: Path) -> None:
    said = elsewhere(without_a_compiler, str(tmp_path))
    assert "No working C++ compiler found" in said and "or leave compile out" in said


def failing() -> str:
    """What is said of a layer that cannot be compiled."""
    model = decoder(depth=1)
    model.transformer.blocks[0].activation = Talking()
    config = TrainConfig(steps=1, batch_size=1, compile=True)
    try:
        with plain_words(config, SimpleNamespace()):
            numbers(compile_here(model), decoder_inputs(model, 1))
    except ConfigError as error:
        return str(error)
    return "compiled"


class Talking(nn.Module):
    """Does what no compiler can take in."""

    def forward(self, x: Tensor) -> Tensor:
        """As it is."""
        torch._dynamo.graph_break()
        return x


def test_a_layer_that_cannot_be_compiled_is_told() -> None:
    assert "torch.compile does not work here (Call to `torch._dynamo.graph_break" in elsewhere(
        failing
    )


# With the whole compiler, which takes minutes where nothing is compiled yet.


def of_kind(kind: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model with weights that are no zeros, and its inputs."""
    if kind == "clip":
        tower = TowerConfig(width=16, depth=3, heads=2)
        sizes = {"image_height": 16, "image_width": 32, "embed_dim": 8, "patch": 4}
        clip = Clip(ClipConfig(text_vocab=20, text_slots=5, vision=tower, text=tower, **sizes))
        return clip, (torch.rand(6, 3, 16, 32), torch.randint(20, (6, 5)))
    if kind in ("rudalle", "mindalle"):
        from tests.training.test_lora import inputs, model_of

        model = model_of("rudalle_v3" if kind == "rudalle" else kind).requires_grad_(True)
        return model, inputs(model)
    if kind == "windows":
        model = decoder(**LONG)
        return model, decoder_inputs(model, 2)
    model = decoder()
    if kind == "lora":
        lora.add_lora(model, rank=2, strategy="single")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
    return model, decoder_inputs(model, 16)


def apart(kind: str) -> tuple[float, float, float]:
    """Compiled and plain in float32; then each in bfloat16 and plain in float32."""
    plain, inputs = of_kind(kind)
    model = compile_here(copy.deepcopy(plain))
    half = functools.partial(numbers, inputs=inputs, dtype=torch.bfloat16)
    exact = numbers(plain, inputs)
    found = numbers(model, inputs)
    return furthest(found, exact), furthest(half(model), exact), furthest(half(plain), exact)


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["patterns", "windows", "lora", "mindalle", "rudalle", "clip"])
def test_what_is_compiled_computes_the_same(kind: str) -> None:
    in_32_bits, compiled, plain = elsewhere(apart, kind)
    assert in_32_bits < 1e-5
    assert compiled < FAR_FROM_32_BITS * plain


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image tokenizer."""
    return trained(tmp_path_factory.mktemp("vae") / "run", kind="vae")


def trained(
    out: Path, *more: str, kind: str = "dalle", strategy: str = "single", size: int = 1
) -> Path:
    """`dalle train` of the tiny preset, its losses at every step."""
    words = ["train", kind, "--preset", "tiny", "--log-every", "1", "--num-workers", "0"]
    words += ["--device", "cpu", "--steps", "12", "--save-every", "4", "--keep-last", "9"]
    words += ["--preview-every", "6", "--out", str(out), *more]
    group = Group(main, words, log=out.with_name(f"{out.name}.log"), strategy=strategy, size=size)
    assert set(group.wait()) == {0}, group.said
    return out


def tune(out: Path, vae: Path, *more: str, strategy: str = "single", size: int = 1) -> Path:
    """The decoder, at a step size with which its losses move.

    Biases of keys have no gradient but rounding, of which Adam without `eps` would make steps.
    """
    words = ["--vae", str(vae), "--lr", "0.01", "--eps", "1e-4", "--dropout", "0.1"]
    words += ["--ema-decay", "0.9"]
    return trained(out, *words, *more, strategy=strategy, size=size)


@pytest.mark.proof
@pytest.mark.distributed
@pytest.mark.timeout(900)
def test_runs_compute_the_same_and_go_on_bit_for_bit(tmp_path: Path, vae: Path) -> None:
    plain = tune(tmp_path / "plain", vae)
    compiled = tune(tmp_path / "compiled", vae, "--compile")
    assert files_of(compiled) != files_of(plain)
    assert_close(compiled, plain)
    assert weights(compiled).keys() == weights(plain).keys()
    broken = tmp_path / "broken"
    shutil.copytree(compiled, broken)
    for step in ("step-00000008", "step-00000012"):
        shutil.rmtree(broken / step)
    words = ["train", "dalle", "--resume", str(broken)]
    group = Group(main, words, log=tmp_path / "resumed.log", strategy="single", size=1)
    assert group.wait() == [0], group.said
    assert_same(broken, compiled)
    again = tune(tmp_path / "recomputed", vae, "--compile", "--recompute")
    assert_close(again, compiled)


@pytest.mark.proof
@pytest.mark.distributed
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", [s for s in ENVIRONMENTS if "zero3" not in s])
def test_strategies_compute_what_they_do_without(tmp_path: Path, vae: Path, strategy: str) -> None:
    size = 1 if strategy == "single" else 2
    runs = [
        tune(tmp_path / name, vae, *more, strategy=strategy, size=size)
        for name, more in (("plain", ()), ("compiled", ("--compile",)))
    ]
    assert_close(*runs)


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_what_is_compiled_computes_the_same(dtype: torch.dtype) -> None:
    compiled, plain = elsewhere(on_a_gpu, dtype)
    assert compiled < (1e-4 if dtype == torch.float32 else FAR_FROM_32_BITS * plain)


def on_a_gpu(dtype: torch.dtype) -> tuple[float, float]:
    """How far compiled and plain are from plain in float32."""
    device = torch.device("cuda")
    plain = decoder(width=256, heads=4, **LONG).to(device)
    inputs = tuple(tensor.to(device) for tensor in decoder_inputs(plain, 4))
    model = copy.deepcopy(plain)
    compile_layers(model, device=device, strategy="single")
    exact = numbers(plain, inputs)
    found = [furthest(numbers(each, inputs, dtype=dtype), exact) for each in (model, plain)]
    return found[0], found[1]

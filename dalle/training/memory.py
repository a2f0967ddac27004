"""What a training step holds in memory, counted on tensors that have shapes and no numbers."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dalle.models.dalle import Dalle
from dalle.models.dvae import Dvae, DvaeConfig
from dalle.models.image_decoder import ImageDecoder
from dalle.nn.attention import WholeStream
from dalle.nn.masks import dense_mask
from dalle.protocols import Batch, Task
from dalle.storages import Live, key_of, saved_bytes
from dalle.training.fsdp import layers
from dalle.training.recompute import recompute_layers

FLOAT = 4
BLOCK = {"gpu": 512, "cpu": 1}
"""Bytes of which torch's allocator gives multiples."""
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMemory:
    """Bytes of one micro-batch's forward and backward pass, beside those of the weights."""

    saved: int
    """What autograd keeps for the backward pass, casts of weights included."""
    work: int
    """The most there is at a time besides weights and gradients, `saved` included."""
    with_gradients: int
    """The most there is at a time besides weights, where gradients come as activations go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """A model's parameters, which are float32, as the strategies divide them; bytes."""

    shapes: tuple[torch.Size, ...]
    layer: int
    """The largest member of its lists of layers; 0 where it has none."""
    outside: int
    """All that is outside of those lists."""
    buffers: int

    @property
    def parameters(self) -> int:
        """How many numbers."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def whole(self) -> int:
        """All of it."""
        return FLOAT * self.parameters

    @property
    def largest(self) -> int:
        """The largest parameter."""
        return FLOAT * max(shape.numel() for shape in self.shapes)

    def part(self, gpus: int, *, by_rows: bool) -> int:
        """What the first process has, which has the most.

        Args:
            gpus: processes.
            by_rows: whether each is cut along its first axis, as FSDP2 does it.
        """
        rows = (math.ceil(s[0] / gpus) * s[1:].numel() if s else 1 for s in self.shapes)
        flat = (math.ceil(s.numel() / gpus) for s in self.shapes)
        return FLOAT * sum(rows if by_rows else flat)


def size_of(task: Task) -> ModelSize:
    """A task's model, which is built without memory."""
    with torch.device("meta"):
        module = task.build()
    parts = [sum(p.nbytes for p in layer.parameters()) for layer in layers(module)]
    shapes = tuple(p.shape for p in module.parameters())
    return ModelSize(
        shapes=shapes,
        layer=max(parts, default=0),
        outside=FLOAT * sum(shape.numel() for shape in shapes) - sum(parts),
        buffers=sum(buffer.nbytes for buffer in module.buffers()),
    )


def measure_step(
    task: Task, sample: Batch, *, samples: int, on: str, precision: str, recompute: bool
) -> StepMemory:
    """Run a micro-batch of the task's own loss, and its backward pass, and count.

    Args:
        task: what is trained.
        sample: one prepared sample, of which the micro-batch takes its shapes.
        samples: in the micro-batch.
        on: "gpu" or "cpu": whose forms of attention are taken.
        precision: of the layers, as in training.
        recompute: whether layers are computed again in the backward pass.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), contextlib.ExitStack() as stack:
        module = task.build()
        if isinstance(module, ImageDecoder):
            module._whole_stream = _GpuStream(module) if on == "gpu" else _cpu_stream(module)
        if isinstance(module, Dalle) and module.both_orders is not None and on == "gpu":
            module.both_orders.form = _on_gpu
        if recompute:
            recompute_layers(module)
        if precision in TYPES:
            cast = torch.autocast("cpu", dtype=TYPES[precision], cache_enabled=False)
            module.forward = cast(module.forward)
        batch = _several(sample, samples)
        if on == "gpu":
            stack.enter_context(_GpuCasts(precision in TYPES))
        live = stack.enter_context(Live(module, batch, BLOCK[on]))
        with saved_bytes(module, block=BLOCK[on]) as saved:
            loss = task.loss(module, batch, step=0, counts=batch.counts).total
        kept = saved()
        loss.backward()
        del loss
        gradients = {key_of(p.grad) for p in module.parameters() if p.grad is not None}
    return StepMemory(
        saved=kept,
        work=live.peak(without=gradients),
        with_gradients=live.peak(without=set()),
    )


def count_flop(task: Task, sample: Batch) -> float:
    """Of the forward and backward pass of one sample: twice the multiplications of its products.

    Those of our decoders by hand: of attention what the patterns read, and heads over their slots.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = task.build()
        if not isinstance(module, ImageDecoder):
            with FlopCounterMode(display=False) as counter:
                task.loss(module, sample, step=0, counts=sample.counts).total.backward()
            return float(counter.get_total_flops())
    layout, width = module.layout, module.image_embedding.embedding_dim
    matrices = sum(p.numel() for p in module.transformer.blocks.parameters() if p.ndim == 2)
    products = matrices * layout.length
    if isinstance(module, Dalle):
        products += module.text_head.weight.numel() * (layout.text - 1)
    products += module.image_head.weight.numel() * layout.image
    pairs = {p: int(dense_mask(p, layout).sum()) for p in set(module.patterns)}
    products += sum(2 * width * pairs[pattern] for pattern in module.patterns)
    return 6.0 * products


def measure_encoding(config: DvaeConfig, *, samples: int, on: str) -> tuple[int, int]:
    """Bytes of a frozen discrete VAE's weights, and the most that it needs besides for a batch.

    Args:
        config: the discrete VAE's.
        samples: pictures that go through it at once.
        on: "gpu" or "cpu".
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module = Dvae(config).eval()
        images = torch.empty(samples, 3, config.image_height, config.image_width)
        batch = Batch(tensors={}, counts={})
        with Live(module, batch, BLOCK[on]) as live:
            images = images + 0  # so that it is seen
            module.encode_logits(images).argmax(dim=1)
        weights = sum(parameter.nbytes for parameter in module.parameters())
    return weights, live.peak(without=set())


class _GpuStream(WholeStream):
    """Attention over a whole stream by the kernels that torch takes on a GPU."""

    def __init__(self, module: ImageDecoder) -> None:
        self.device = torch.device("cpu")  # where tensors without numbers pretend to be
        with unset_fake_temporarily():
            masks = {p: dense_mask(p, module.layout) for p in set(module.patterns)}
        self.forms = tuple(
            partial(_on_gpu, mask=None if p.name == "full" else masks[p]) for p in module.patterns
        )


def _on_gpu(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    aten, bias = torch.ops.aten, None
    if mask is None and queries.dtype != torch.float32:
        flash = aten._scaled_dot_product_flash_attention(queries, keys, values, 0.0, True)
        return flash[0]  # type: ignore[no-any-return]
    if mask is not None:  # as torch does with one of booleans
        bias = torch.zeros(mask.shape, dtype=queries.dtype).expand(*queries.shape[:2], -1, -1)
    efficient = aten._scaled_dot_product_efficient_attention(
        queries, keys, values, bias, True, 0.0, mask is None
    )
    return efficient[0]  # type: ignore[no-any-return]


class _GpuCasts(TorchFunctionMode):
    """Softmax, which autocast takes to float32 on a GPU and leaves alone on a CPU."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self._mixed = mixed

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._mixed and func in (torch.softmax, Tensor.softmax, F.softmax):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _cpu_stream(module: ImageDecoder) -> WholeStream:
    with unset_fake_temporarily():  # the windows follow from a mask's numbers
        return WholeStream(module.patterns, module.layout, torch.device("cpu"))


def _several(sample: Batch, samples: int) -> Batch:
    tensors = {
        name: torch.empty((samples, *tensor.shape[1:]), dtype=tensor.dtype)
        for name, tensor in sample.tensors.items()
    }
    return Batch(tensors=tensors, counts={k: v * samples for k, v in sample.counts.items()})

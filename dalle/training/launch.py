"""Joining the processes that a launcher started; it starts what it was asked to, or nothing."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from dalle.errors import ConfigError
from dalle.launched import control_group, no_launcher, num_launched
from dalle.processes import TIMEOUT
from dalle.training.settings import TrainConfig
from dalle.training.world import World

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def open_world(config: TrainConfig) -> World:
    """Join the processes that the launcher started, and check that they are what was asked for.

    Raises:
        ConfigError: what runs is not what was launched; the message says what to set.
    """
    deepspeed, fsdp = _asked("ACCELERATE_USE_DEEPSPEED"), _asked("ACCELERATE_USE_FSDP")
    _check_launch(deepspeed=deepspeed, fsdp=fsdp)
    cpu = _on_cpu(config)
    precision = _precision(config, cpu=cpu)
    _ignore_warnings_of_others()
    if deepspeed and cpu:
        _quiet_deepspeed()
    group: dict[str, Any] = {"timeout": TIMEOUT}
    if deepspeed and cpu:
        group["backend"] = "gloo"
    # accelerate keeps its state for the process's life; another model may be trained after this.
    AcceleratorState._reset_state(reset_partial_state=True)
    handlers = [
        InitProcessGroupKwargs(**group),
        DistributedDataParallelKwargs(
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            # Not for unused parameters, of which there are none: with it DDP does not divide the
            # gradients anew after the first step, to which what compression keeps would not fit.
            find_unused_parameters=config.powersgd_rank is not None,
        ),
    ]
    try:
        with _unset("ACCELERATE_USE_FSDP"):  # the processes join as ever; see fsdp.py for the rest
            accelerator = Accelerator(
                cpu=cpu and not deepspeed,
                mixed_precision=MIXED["float32" if deepspeed else precision],
                kwargs_handlers=handlers,
            )
    except (ImportError, ValueError, AssertionError) as error:
        raise ConfigError(f"the launcher's settings do not work here: {error}") from error
    # A weight is used once in a pass: keeping its short copy till the end helps nobody, and holds
    # the whole model once more where layers are computed again, or gathered one by one.
    torch.set_autocast_cache_enabled(False)
    check_world(accelerator.num_processes, accelerator.distributed_type, deepspeed=deepspeed)
    if cpu and precision == "float16" and not deepspeed:
        # On CPUs accelerate computes in float32 then, and says nothing.
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
    _check_settings(accelerator, config)
    return World(
        accelerator=accelerator,
        rank=accelerator.process_index,
        size=accelerator.num_processes,
        strategy="fsdp2" if fsdp else _strategy(accelerator),
        offload=_offload(accelerator, fsdp=fsdp),
        precision=precision,
        control=control_group() if accelerator.num_processes > 1 else None,
    )


def close_world(world: World) -> None:
    """Let go of accelerate's state, so that the next run in this process starts afresh."""
    world.accelerator.free_memory()
    torch.set_autocast_cache_enabled(True)
    AcceleratorState._reset_state(reset_partial_state=True)


def _asked(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")


@contextlib.contextmanager
def _unset(name: str) -> Iterator[None]:
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _on_cpu(config: TrainConfig) -> bool:
    if _asked("ACCELERATE_USE_CPU") or config.device == "cpu":
        return True
    mps = torch.backends.mps.is_available()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but there is no usable GPU; set it to 'cpu' or 'auto'")
    if config.device == "mps" and not mps:
        raise ConfigError("device is 'mps', which this machine has not; set it to 'cpu' or 'auto'")
    return not torch.cuda.is_available() and not mps


def _precision(config: TrainConfig, *, cpu: bool) -> str:
    if config.precision != "auto":
        return config.precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    for name, theirs in MIXED.items():
        if launched == theirs and theirs != "no":
            return name
    if not cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return "bfloat16"
    return "float32"


def _quiet_deepspeed() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Else it compiles a C++ operator at the start: 70 s instead of 8 s, for the same bits.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _ignore_warnings_of_others() -> None:
    """What accelerate and DeepSpeed do with the torch of today; each would be said per process."""
    for message in (
        ".*all_gather_into_tensor.* is deprecated",
        ".*reduce_scatter_tensor.* is deprecated",
        "`broadcast_buffers` is deprecated",
        "find_unused_parameters=True was specified",
    ):
        warnings.filterwarnings("ignore", message=message)


def _check_launch(*, deepspeed: bool, fsdp: bool) -> None:
    if deepspeed and fsdp:
        raise ConfigError(
            "DeepSpeed and FSDP were both asked for; unset ACCELERATE_USE_DEEPSPEED or "
            "ACCELERATE_USE_FSDP"
        )
    if fsdp and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "FSDP's first version was asked for; set FSDP_VERSION=2 (fsdp_version: 2 in the "
            "launcher's file)"
        )
    num_launched()
    if "LOCAL_RANK" not in os.environ and (deepspeed or fsdp):
        raise no_launcher("DeepSpeed was asked for" if deepspeed else "FSDP was asked for")


def check_world(seen: int, kind: DistributedType, *, deepspeed: bool) -> None:
    """Refuse to train when what runs is not what was launched.

    Args:
        seen: the number of processes that accelerate sees.
        kind: how they are joined.
        deepspeed: whether DeepSpeed was asked for.
    """
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != seen:
        raise ConfigError(
            f"the launcher started {launched} processes, but accelerate sees {seen}: they would "
            "train apart and write the same files. On CPUs set ACCELERATE_USE_CPU=true and start "
            "with torchrun; on GPUs start with torchrun or `accelerate launch`"
        )
    if deepspeed and kind != DistributedType.DEEPSPEED:
        raise ConfigError(
            f"DeepSpeed was asked for (ACCELERATE_USE_DEEPSPEED), but {kind.value} is in force: "
            "unset ACCELERATE_USE_CPU, and leave out --cpu"
        )


def _check_settings(accelerator: Accelerator, config: TrainConfig) -> None:
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        stage = accelerator.state.deepspeed_plugin.zero_stage
        if stage not in (1, 2, 3):
            raise ConfigError(
                f"DeepSpeed was asked for with ZeRO stage {stage}; set it to 1, 2 or 3 "
                "(ACCELERATE_DEEPSPEED_ZERO_STAGE, or zero_stage in the launcher's file)"
            )
    parts = accelerator.num_processes * config.micro_batches
    if config.batch_size % parts:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be split over {accelerator.num_processes} "
            f"processes times {config.micro_batches} micro-batches; make it a multiple of {parts}"
        )


def _strategy(accelerator: Accelerator) -> str:
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    return "ddp" if accelerator.num_processes > 1 else "single"


def _offload(accelerator: Accelerator, *, fsdp: bool) -> bool:
    if fsdp:
        return _asked("FSDP_OFFLOAD_PARAMS")
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return False
    zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
    return (zero.get("offload_optimizer") or {}).get("device", "none") != "none"

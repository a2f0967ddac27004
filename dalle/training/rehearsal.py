"""The step of a run that needs the most memory, for real: without data, and without a trace."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dalle.device_memory import PeakMemory, free_bytes
from dalle.protocols import Task
from dalle.training import noise
from dalle.training.assembly import assemble
from dalle.training.finite import FiniteCheck
from dalle.training.launch import close_world, open_world
from dalle.training.plain_words import plain_words
from dalle.training.settings import TrainConfig
from dalle.training.step import Stepper
from dalle.training.world import World

CPU_SHARE = 0.8
"""Of the memory that is free: beyond it the system begins to drop its files, and then programs."""
TRIAL_SECONDS = 20.0
"""A larger micro-batch is tried on the CPU where it takes no longer."""
CLOSE_ENOUGH = 16
"""The search on a GPU ends when it is right within a 16th."""

Predict = Callable[[World, int], int]
"""Bytes that one of the processes holds at most, for so many samples of a micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What a step took; of several processes, the one that took the most."""

    parameters: int
    device: str
    processes: int
    strategy: str
    """By the names of `dalle launch-config`, or "single"."""
    precision: str
    micro_batch: int
    """Samples."""
    free: int
    """Bytes for each process, before anything was built."""
    before: int
    """Bytes in use before anything was built."""
    peak: int
    """Bytes; on the CPU beyond `before`."""
    reserved: int
    """Bytes that the allocator took for it."""
    planned: int
    """Bytes, as `dalle plan` counts them."""
    seconds: float
    """Of the second step, which finds everything in place."""
    largest: int
    """The largest micro-batch that fits, in samples."""
    trial: str
    """How that is known: "tried", "predicted" or "refuted", where it was predicted and tried and
    took more than there was."""


def rehearse(
    build: Callable[[torch.device], Task],
    arrays: Mapping[str, Tensor],
    config: TrainConfig,
    predict: Predict,
) -> Rehearsal:
    """Do two steps of a run, and look for the largest micro-batch that there is memory for.

    Args:
        build: the task, with what it has on the device beside its model.
        arrays: one sample, as the loader would give it.
        config: how the model is trained.
        predict: what is counted without doing it.

    Raises:
        OutOfMemoryError: the step that was asked for does not fit.
        ConfigError: what runs is not what was launched.
    """
    world = open_world(config)
    with contextlib.ExitStack() as stack:
        stack.callback(close_world, world)
        stack.enter_context(plain_words(config, world))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        free = free_bytes(world.device) // (here if world.device.type == "cpu" else 1)
        memory = PeakMemory(world.device)
        steps = _Steps(build(world.device), arrays, config, world)
        samples = config.batch_size // (world.size * config.micro_batches)
        steps.seconds(samples)
        seconds = steps.seconds(samples)
        planned = partial(predict, world)
        found = Rehearsal(
            parameters=steps.parameters,
            device=world.device.type,
            processes=world.size,
            strategy=world.plan_name,
            precision=world.precision,
            micro_batch=samples,
            free=_over_all(world, free, of=min),
            before=memory.before,
            peak=_over_all(world, memory.used, of=max),
            reserved=_over_all(world, memory.reserved, of=max),
            planned=planned(samples),
            seconds=seconds,
            largest=samples,
            trial="tried",
        )
        return _with_largest(found, steps, planned, world)


class _Steps:
    """Steps over micro-batches of any size, one after another."""

    def __init__(
        self, task: Task, arrays: Mapping[str, Tensor], config: TrainConfig, world: World
    ) -> None:
        noise.seed_noise(config.seed, noise.INIT)
        self._arrays, self._config, self._world = arrays, config, world
        self._module = task.build()
        self.parameters = sum(p.numel() for p in self._module.parameters())
        self._parts = assemble(self._module, world, config, folder=None)
        self._stepper = Stepper(
            task=task,
            config=config,
            world=world,
            updater=self._parts.updater,
            finite=FiniteCheck(),
        )
        self._done = 0

    def seconds(self, samples: int) -> float:
        """Do a step over micro-batches of so many samples."""
        # As the loader's: memory of its own for each sample.
        part = {k: v.expand(samples, *v.shape[1:]).clone() for k, v in self._arrays.items()}
        self._wait()
        began = time.perf_counter()
        self._stepper.run(
            [part] * self._config.micro_batches,
            step=self._done,
            lr=self._config.optim.lr_at(self._done, steps=self._config.steps),
            stop=False,
        )
        self._done += 1
        if self._parts.ema is not None:
            self._parts.ema.update(step=self._config.ema_every)
        self._wait()
        return time.perf_counter() - began

    def fits(self, samples: int) -> bool:
        """Whether there is memory for such a step on this GPU."""
        try:
            self.seconds(samples)
        except torch.OutOfMemoryError:
            fits = False
        else:
            fits = True
        for parameter in self._module.parameters():
            parameter.grad = None
        torch.cuda.empty_cache()
        return fits

    def _wait(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.synchronize()


def _with_largest(
    found: Rehearsal, steps: _Steps, planned: Callable[[int], int], world: World
) -> Rehearsal:
    """Where a process would wait for another that has run out of memory, nothing is tried."""
    samples = found.micro_batch
    if world.device.type == "cuda" and world.size == 1:
        return replace(found, largest=largest_that_fits(steps.fits, samples))
    on_cpu, counted = world.device.type == "cpu", planned(samples)
    room = found.free * (CPU_SHARE if on_cpu else 1.0) - found.peak
    more, uncounted = planned(2 * samples) - counted, 1.0

    def may_be_tried(samples: int) -> bool:
        in_time = samples * found.seconds / found.micro_batch <= TRIAL_SECONDS
        return on_cpu and world.size == 1 and in_time

    def peak_of(samples: int) -> int:
        memory = PeakMemory(world.device)
        steps.seconds(samples)
        return max(found.peak, memory.before - found.before + memory.used)

    if room > 2 * more and may_be_tried(2 * samples):
        # What libraries need besides grows too: convolutions want as much again.
        uncounted = max(1.0, (peak_of(2 * samples) - found.peak) / more)
    largest = samples + max(0, int(room * samples / (more * uncounted)))
    # Not all grows along a line: a CLIP holds every picture against every text.
    while largest > samples and (planned(largest) - counted) * uncounted > room:
        largest = max(samples, largest // 2)
    if not may_be_tried(largest):
        return replace(found, largest=largest, trial="predicted")
    fitted = peak_of(largest) <= found.free
    return replace(found, largest=largest, trial="tried" if fitted else "refuted")


def largest_that_fits(fits: Callable[[int], bool], known: int) -> int:
    """The largest number that fits, within a 16th below it: doubled until one does not, then halved
    in between.

    Args:
        fits: whether a number does; if one does, every smaller one does.
        known: one that fits.
    """
    low, high = known, 2 * known
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // CLOSE_ENOUGH):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _over_all(world: World, value: int, *, of: Callable[..., int]) -> int:
    """The least or the most of all processes, on the main one."""
    return of(world.gather_values(value) or [value])

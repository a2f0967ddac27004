"""`dalle train vae|clip|dalle --dry-run`: the step that needs the most memory, without data."""

from collections.abc import Iterator
from functools import partial

import torch

from dalle.checkpoint.load import resolve
from dalle.cli.picture_codes import load_image_tokenizer
from dalle.cli.plan import PlanClip, PlanDalle, PlanVae
from dalle.cli.plan_report import frozen_beside
from dalle.cli.plan_task import Planned, planned
from dalle.cli.training_data import say
from dalle.device_memory import keep_freed_memory
from dalle.models.dvae import Dvae
from dalle.protocols import Task
from dalle.tokenizers.image import DvaeTokenizer
from dalle.training.dalle_task import DalleTask
from dalle.training.memory import measure_step, size_of
from dalle.training.plan import Setting, held
from dalle.training.rehearsal import Rehearsal, rehearse
from dalle.training.world import World

MIB = 2**20
WORDS = {
    "tried": "tried",
    "predicted": "predicted from the counts of `dalle plan`, not tried",
    "refuted": "predicted, but when it was tried it took more than was free; take a smaller one",
}


def dry_run(command: PlanVae | PlanClip | PlanDalle) -> None:
    """Do the run's worst step on this process, or on all that a launcher started; write nothing.

    Raises:
        OutOfMemoryError: it does not fit.
        ConfigError: settings that cannot work.
    """
    keep_freed_memory()
    what, run = planned(command), command.run
    found = rehearse(
        partial(_on_the_device, what, command),
        what.arrays,
        run.train_config(),
        partial(_predicted, what, command),
    )
    for line in _lines(found, what, run.loop.micro_batches):
        say(line)


def _on_the_device(
    what: Planned, command: PlanVae | PlanClip | PlanDalle, device: torch.device
) -> Task:
    """The task, with the discrete VAE that turns pictures into codes, if it does so in a step.

    One that was not given has random weights, which take as much memory and time.
    """
    task = what.task
    if what.tokenizer is not None:
        assert isinstance(task, DalleTask) and isinstance(command, PlanDalle)
        vae = command.run.vae
        if vae is not None:
            task.image_tokenizer = load_image_tokenizer(resolve(vae), device=device.type)
        else:
            task.image_tokenizer = DvaeTokenizer(Dvae(what.tokenizer).to(device))
    return task


def _predicted(
    what: Planned, command: PlanVae | PlanClip | PlanDalle, world: World, samples: int
) -> int:
    """What `dalle plan` says of the peak of one of the processes."""
    loop, on = command.run.loop, "cpu" if world.device.type == "cpu" else "gpu"
    step = measure_step(
        what.task,
        what.sample,
        samples=samples,
        on=on,
        precision=world.precision,
        recompute=loop.recompute,
    )
    frozen = frozen_beside(what, samples=samples, on=on)
    setting = Setting(
        strategy=world.plan_name,
        gpus=world.size,
        micro_batches=loop.micro_batches,
        averages=command.run.optim.ema_decay is not None,
        frozen=frozen[0],
        frozen_work=frozen[1],
    )
    return held(size_of(what.task), step, setting).peak


def _lines(found: Rehearsal, what: Planned, micro_batches: int) -> Iterator[str]:
    """A rehearsal for people."""
    parts = found.processes * micro_batches
    samples = found.micro_batch * parts
    where = f"{found.processes} x {found.device}" if found.processes > 1 else found.device
    yield (
        f"{what.task.kind}: {found.parameters:,} parameters, {where}, {found.strategy}, "
        f"{found.precision}, {samples:,} samples a step in micro-batches of {found.micro_batch:,}"
    )
    for sentence in what.assumed:
        yield f"assumed: {sentence}"
    each = " of a process" if found.processes > 1 else ""
    if found.device == "cuda":
        yield (
            f"peak memory{each}: {_mib(found.peak)} in tensors, {_mib(found.reserved)} taken for "
            f"them (`dalle plan` counts {_mib(found.planned)}); {_mib(found.free)} were free"
        )
    else:
        yield (
            f"peak memory{each}: {_mib(found.peak)} above the {_mib(found.before)} before, "
            f"libraries included (`dalle plan` counts {_mib(found.planned)}); {_mib(found.free)} "
            "were free"
        )
    yield (
        f"{found.seconds:.3g} s a step: {samples * what.units / found.seconds:,.0f} {what.unit} a "
        "second"
    )
    yield (
        f"largest micro-batch that fits: {found.largest:,} samples, a batch of "
        f"{found.largest * parts:,} ({WORDS[found.trial]})"
    )
    yield "nothing was written"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f} MiB"

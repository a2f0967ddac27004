"""The tables of `dalle plan`: bytes by strategy and number of GPUs, and the time a run takes."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from dalle.cli.plan import PlanClip, PlanDalle, PlanVae
from dalle.cli.plan_task import Planned, planned
from dalle.errors import ConfigError
from dalle.training.memory import (
    ModelSize,
    StepMemory,
    count_flop,
    measure_encoding,
    measure_step,
    size_of,
)
from dalle.training.plan import STRATEGIES, Setting, days, fitting_samples, held

GIB = 2**30
COLUMNS = ("weights", "gradients", "moments", "averages", "saved", "peak", "host")
TOKENIZER_CHUNK = 64
PUBLISHED = (
    "published: 1,024 V100s of 16 GB in machines of 8, 430,000 updates of 1,024 samples, "
    "resblocks recomputed, weights of 24 GB in 16 bits shared out over the 8 GPUs of a machine"
)


class Counts:
    """Steps that were counted already: one takes seconds for billions of parameters."""

    def __init__(self, what: Planned, *, on: str, precision: str) -> None:
        self._what, self._on, self._precision = what, on, precision
        self._known: dict[tuple[int, bool], StepMemory] = {}

    def of(self, samples: int, *, recompute: bool) -> StepMemory:
        """A step over a micro-batch of so many samples."""
        key = (samples, recompute)
        if key not in self._known:
            self._known[key] = measure_step(
                self._what.task,
                self._what.sample,
                samples=samples,
                on=self._on,
                precision=self._precision,
                recompute=recompute,
            )
        return self._known[key]


def report(command: PlanVae | PlanClip | PlanDalle) -> dict[str, Any]:
    """All that is planned, as JSON values: bytes, FLOP, days.

    Raises:
        ConfigError: settings that cannot work.
    """
    run, settings, what = command.run, command.plan, planned(command)
    on = "cpu" if run.device == "cpu" else "gpu"
    precision = run.loop.precision
    if precision == "auto":
        precision = "bfloat16" if on == "gpu" else "float32"
    size, counts = size_of(what.task), Counts(what, on=on, precision=precision)
    flop = count_flop(what.task, what.sample)
    tables = []
    for gpus in settings.gpus:
        table: dict[str, Any] = {"gpus": gpus}
        table |= _memory(command, what, size, counts, gpus=gpus, on=on)
        if settings.tflops is not None:
            rate = gpus * settings.tflops * 1e12 / flop
            seen = run.loop.steps * run.loop.batch_size
            table["per_second"] = rate * what.units
            table["run_days"] = days(flop, samples=seen, gpus=gpus, tflops=settings.tflops)
            if settings.samples is not None:
                table["pass_days"] = days(
                    flop, samples=settings.samples, gpus=gpus, tflops=settings.tflops
                )
        tables.append(table)
    return {
        "model": what.task.kind,
        "parameters": size.parameters,
        "on": on,
        "precision": precision,
        "recompute": run.loop.recompute,
        "flop_a_sample": flop,
        "unit": what.unit,
        "units_a_sample": what.units,
        "steps": run.loop.steps,
        "batch_size": run.loop.batch_size,
        "gpu_bytes": int(settings.gpu_gib * GIB),
        "assumed": list(what.assumed),
        "published": PUBLISHED if what.task.kind == "dalle" and run.preset == "paper" else None,
        "tables": tables,
    }


def _memory(
    command: PlanVae | PlanClip | PlanDalle,
    what: Planned,
    size: ModelSize,
    counts: Counts,
    *,
    gpus: int,
    on: str,
) -> dict[str, Any]:
    """The rows of one number of GPUs."""
    run = command.run
    parts = gpus * run.loop.micro_batches
    if run.loop.batch_size % parts:
        raise ConfigError(
            f"batch_size {run.loop.batch_size} cannot be split over {gpus} processes times "
            f"{run.loop.micro_batches} micro-batches; make it a multiple of {parts}"
        )
    samples, recompute = run.loop.batch_size // parts, run.loop.recompute
    frozen = frozen_beside(what, samples=samples, on=on)
    few = counts.of(1, recompute=recompute)
    many = counts.of(samples, recompute=recompute)
    memory, rows = int(command.plan.gpu_gib * GIB), []
    for strategy in STRATEGIES:
        if (strategy == "single") != (gpus == 1):
            continue
        setting = Setting(
            strategy=strategy,
            gpus=gpus,
            micro_batches=run.loop.micro_batches,
            averages=run.optim.ema_decay is not None,
            frozen=frozen[0],
            frozen_work=frozen[1],
        )
        row = held(size, many, setting)
        fitting = fitting_samples(size, (1, few), (samples, many), setting, memory=memory)
        rows.append(
            {
                "strategy": strategy,
                **dataclasses.asdict(row),
                "fits": row.peak <= memory,
                "largest_micro_batch": fitting,
            }
        )
    return {"micro_batch": samples, "rows": rows}


def frozen_beside(what: Planned, *, samples: int, on: str) -> tuple[int, int]:
    """Bytes of the frozen discrete VAE's weights, where a step has one, and what it needs."""
    if what.tokenizer is None:
        return 0, 0
    return measure_encoding(what.tokenizer, samples=min(samples, TOKENIZER_CHUNK), on=on)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A report for people."""
    yield (
        f"{found['model']}: {found['parameters']:,} parameters, {found['precision']} on a "
        f"{found['on'].upper()}, {'with' if found['recompute'] else 'without'} --recompute, "
        f"{found['batch_size']:,} samples a step"
    )
    for sentence in found["assumed"]:
        yield f"assumed: {sentence}"
    if found["published"]:
        yield found["published"]
    yield f"a sample: {found['flop_a_sample'] / 1e12:.4g} TFLOP forward and backward"
    for table in found["tables"]:
        yield ""
        yield from _table_lines(found, table)


def _table_lines(found: dict[str, Any], table: dict[str, Any]) -> Iterator[str]:
    memory = found["gpu_bytes"]
    yield (
        f"{table['gpus']} x {memory / GIB:g} GiB, micro-batches of {table['micro_batch']:,}: "
        "GiB of each process"
    )
    yield f"{'':<14}" + "".join(f"{name:>10}" for name in COLUMNS) + "  fits"
    for row in table["rows"]:
        numbers = "".join(f"{row[name] / GIB:>10.4g}" for name in COLUMNS)
        yield f"{row['strategy']:<14}{numbers}  {_fits(row, table['micro_batch'], found)}"
    if "per_second" in table:
        yield f"{table['per_second']:,.0f} {found['unit']} a second; {_time(found, table)}"


def _fits(row: dict[str, Any], samples: int, found: dict[str, Any]) -> str:
    if row["fits"]:
        return "yes"
    most: int = row["largest_micro_batch"]
    if most:
        parts = next(n for n in range(1, samples + 1) if samples % n == 0 and samples // n <= most)
        return f"with --micro-batches {parts} times as many ({most} at once)"
    more = "" if found["recompute"] or found["model"] == "vae" else ", or --recompute"
    return f"no: divide more, more GPUs{more}"


def _time(found: dict[str, Any], table: dict[str, Any]) -> str:
    said = f"{found['steps']:,} steps take {table['run_days']:,.1f} days"
    if "pass_days" in table:
        said += f", one pass over the data {table['pass_days']:,.1f}"
    return said

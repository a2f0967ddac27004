"""`dalle plan vae|clip|dalle`: what a training run would take, without data, GPU or memory."""

from dataclasses import dataclass, field
from pathlib import Path

from dalle.errors import ConfigError
from dalle.presets import CLIP_PRESETS, DALLE_PRESETS, VAE_PRESETS, ClipRun, DalleRun, VaeRun


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """What the run would have; the rest is said as to `dalle train`."""

    gpus: tuple[int, ...] = (8,)
    """How many GPUs; several numbers give several tables."""
    gpu_gib: float = 80.0
    """Memory of one GPU in GiB."""
    tflops: float | None = None
    """What one GPU reaches in a training step, in TFLOP/s: the FLOP of a sample, which this command
    prints, times samples_per_second in the metrics.jsonl of a short run on one GPU, by 10^12."""
    samples: int | None = None
    """Samples of the data set: how long one pass over it takes."""
    json: str | None = None
    """A file for all of it, in bytes and seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanVae:
    """Memory and time of training a discrete VAE, by strategy and number of GPUs."""

    run: VaeRun
    plan: PlanSettings = field(default_factory=PlanSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanClip:
    """Memory and time of training a CLIP, by strategy and number of GPUs."""

    run: ClipRun
    plan: PlanSettings = field(default_factory=PlanSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanDalle:
    """Memory and time of training a DALL·E, by strategy and number of GPUs.

    Without --vae its codes and grid are those of the discrete VAE's preset of the same name.
    """

    run: DalleRun
    plan: PlanSettings = field(default_factory=PlanSettings)


VAE_PLANS = {name: PlanVae(run=run) for name, run in VAE_PRESETS.items()}
CLIP_PLANS = {name: PlanClip(run=run) for name, run in CLIP_PRESETS.items()}
DALLE_PLANS = {name: PlanDalle(run=run) for name, run in DALLE_PRESETS.items()}


def run(command: PlanVae | PlanClip | PlanDalle) -> None:
    """Print the tables, and write them as JSON where asked to.

    Raises:
        ConfigError: numbers that cannot be.
    """
    from dalle.checkpoint.manifest import write_json
    from dalle.cli.plan_report import lines, report

    settings = command.plan
    if not settings.gpus or min(settings.gpus) < 1:
        raise ConfigError(f"gpus is {settings.gpus}; expected numbers of 1 or more")
    for name in ("gpu_gib", "tflops", "samples"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; expected a number above 0")
    found = report(command)
    for line in lines(found):
        print(line)
    if settings.json is not None:
        write_json(Path(settings.json).expanduser(), found)

"""`dalle launch-config NAME`: how many processes train together, for `accelerate launch`."""

import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchConfigCommand:
    """Print a file for `accelerate launch`.

    dalle launch-config ddp > ddp.yaml
    accelerate launch --config_file ddp.yaml --num_processes 8 -m dalle train dalle ...
    """

    name: Annotated[Literal["ddp", "zero1", "zero2"], tyro.conf.Positional]
    """ddp: every GPU holds everything. zero1, zero2: DeepSpeed, which shares out the optimizer's
    state, and with 2 the gradients too."""


def run(command: LaunchConfigCommand) -> None:
    """Print it."""
    text = files("dalle").joinpath("launch", f"{command.name}.yaml").read_text(encoding="utf-8")
    sys.stdout.write(text)

"""`dalle launch-config NAME`: how many processes train together, for `accelerate launch`."""

import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal

import tyro

Name = Literal[
    "ddp",
    "zero1",
    "zero2",
    "zero2-offload",
    "zero3",
    "zero3-offload",
    "fsdp2",
    "fsdp2-offload",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchConfigCommand:
    """Print a file for `accelerate launch`.

    dalle launch-config ddp > ddp.yaml
    accelerate launch --config_file ddp.yaml --num_processes 8 -m dalle train dalle ...
    """

    name: Annotated[Name, tyro.conf.Positional]
    """ddp: every GPU holds everything. zero1, zero2, zero3: DeepSpeed, which shares out the
    optimizer's state, with 2 the gradients too, with 3 the weights too. fsdp2: torch's own way of
    sharing out all three. -offload: with the optimizer on the host."""


def run(command: LaunchConfigCommand) -> None:
    """Print it."""
    text = files("dalle").joinpath("launch", f"{command.name}.yaml").read_text(encoding="utf-8")
    sys.stdout.write(text)

"""From the words after a command to its dataclass."""

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from dalle.cli import named
from dalle.cli.commands import Command
from dalle.errors import ConfigError

DEFAULT_PRESET = "small"


def parse(command: Command, arguments: list[str]) -> Any:
    """The command's dataclass, filled from its flags.

    Raises:
        SystemExit: help was asked for (0), or a flag is wrong (2); tyro has said so.
    """
    options: dict[str, Any] = {}
    if command.presets is not None:
        options["default"] = _starting_point(command, arguments)
    return tyro.cli(
        named(command.flags),
        prog=f"dalle {command.name}",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        **options,
    )


def _starting_point(command: Command, arguments: list[str]) -> Any:
    """What flags that are not given are: those of a run, or of a preset."""
    resume, preset = _value("--resume", arguments), _value("--preset", arguments)
    if resume is not None:
        if preset is not None:
            raise ConfigError("--resume takes a run's own settings; leave --preset out")
        return _settings_of_run(named(command.flags), Path(resume).expanduser())
    presets = named(str(command.presets))
    # An unknown name is left to tyro, which knows how to say so.
    return presets.get(preset or DEFAULT_PRESET, presets[DEFAULT_PRESET])


def _value(flag: str, arguments: list[str]) -> str | None:
    for word, following in zip(arguments, [*arguments[1:], None], strict=False):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None


def _settings_of_run(flags: Any, out: Path) -> Any:
    from dalle.checkpoint.steps import find_whole, list_steps, read_run
    from dalle.config import from_json

    if not list_steps(out):
        raise ConfigError(f"{out} holds no run with a checkpoint; leave --resume out to begin one")
    settings = read_run(find_whole(out, training=False).path).get("config")
    planned = get_type_hints(flags).get("run")  # a plan has a run, and more
    run = from_json(planned or flags, settings, path=f"{out}: settings")
    run = dataclasses.replace(run, out=str(out))
    return flags(run=run) if planned else run

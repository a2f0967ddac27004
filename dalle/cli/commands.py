"""Which commands there are, and which one was meant."""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dalle import __version__

USAGE_ERROR = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command. Places are "module:name"; only those of `flags` load no torch."""

    name: str
    does: str
    flags: str
    """The dataclass that its flags fill."""
    run: str
    """The function that takes it."""
    presets: str | None = None
    """Named values of the dataclass to start from."""


COMMANDS = (
    Command(
        name="train vae",
        does="train a discrete VAE: pictures to grids of codes, and back",
        flags="dalle.presets:VaeRun",
        run="dalle.cli.train:train_vae",
        presets="dalle.presets:VAE_PRESETS",
    ),
    Command(
        name="train clip",
        does="train a CLIP, which ranks pictures",
        flags="dalle.presets:ClipRun",
        run="dalle.cli.train:train_clip",
        presets="dalle.presets:CLIP_PRESETS",
    ),
    Command(
        name="train dalle",
        does="train a DALL·E over the codes of a discrete VAE",
        flags="dalle.presets:DalleRun",
        run="dalle.cli.train:train_dalle",
        presets="dalle.presets:DALLE_PRESETS",
    ),
    Command(
        name="plan vae",
        does="what that would take: memory by strategy, days",
        flags="dalle.cli.plan:PlanVae",
        run="dalle.cli.plan:run",
        presets="dalle.cli.plan:VAE_PLANS",
    ),
    Command(
        name="plan clip",
        does="what that would take: memory by strategy, days",
        flags="dalle.cli.plan:PlanClip",
        run="dalle.cli.plan:run",
        presets="dalle.cli.plan:CLIP_PLANS",
    ),
    Command(
        name="plan dalle",
        does="what that would take: memory by strategy, days",
        flags="dalle.cli.plan:PlanDalle",
        run="dalle.cli.plan:run",
        presets="dalle.cli.plan:DALLE_PLANS",
    ),
    Command(
        name="generate",
        does="pictures from prompts, the best first",
        flags="dalle.cli.generate:GenerateCommand",
        run="dalle.cli.generate:run",
    ),
    Command(
        name="caption",
        does="captions of pictures, the best first",
        flags="dalle.cli.caption:CaptionCommand",
        run="dalle.cli.caption:run",
    ),
    Command(
        name="reconstruct image",
        does="the caption that reproduces a picture best",
        flags="dalle.cli.reconstruct:ReconstructImageCommand",
        run="dalle.cli.reconstruct:reconstruct_image",
    ),
    Command(
        name="reconstruct text",
        does="the picture that carries a text best",
        flags="dalle.cli.reconstruct:ReconstructTextCommand",
        run="dalle.cli.reconstruct:reconstruct_text",
    ),
    Command(
        name="reconstruct evaluate",
        does="judge such choices on a captioned data set, by rank",
        flags="dalle.cli.reconstruct_evaluate:ReconstructEvaluateCommand",
        run="dalle.cli.reconstruct_evaluate:run",
    ),
    Command(
        name="evaluate",
        does="how good a model is, in numbers; two evaluations side by side",
        flags="dalle.cli.evaluate:EvaluateCommand",
        run="dalle.cli.evaluate:run",
    ),
    Command(
        name="data inspect",
        does="look through a data set before it is trained on",
        flags="dalle.cli.data_inspect:DataInspectCommand",
        run="dalle.cli.data_inspect:run",
    ),
    Command(
        name="data encode",
        does="turn pictures into codes ahead of training",
        flags="dalle.cli.data_encode:EncodeCommand",
        run="dalle.cli.data_encode:run",
    ),
    Command(
        name="embed",
        does="turn pictures into a CLIP's vectors ahead of training",
        flags="dalle.cli.embed:EmbedCommand",
        run="dalle.cli.embed:run",
    ),
    Command(
        name="demo",
        does="all of it once, on built-in pictures, in minutes",
        flags="dalle.cli.demo:DemoCommand",
        run="dalle.cli.demo:run",
    ),
    Command(
        name="presets",
        does="list the named training runs",
        flags="dalle.cli.presets:PresetsCommand",
        run="dalle.cli.presets:run",
    ),
    Command(
        name="convert",
        does="another project's checkpoint as a model folder",
        flags="dalle.cli.convert:ConvertCommand",
        run="dalle.cli.convert:run",
    ),
    Command(
        name="inspect",
        does="say what a model folder, a run or a checkpoint holds",
        flags="dalle.cli.inspect:InspectCommand",
        run="dalle.cli.inspect:run",
    ),
    Command(
        name="launch-config",
        does="print a file for `accelerate launch`",
        flags="dalle.cli.launch_config:LaunchConfigCommand",
        run="dalle.cli.launch_config:run",
    ),
)


def chosen(arguments: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that the first words name, and the words after them.

    Raises:
        SystemExit: none is named; help was asked for, or what came is a usage error (2).
    """
    words = list(arguments)
    for command in COMMANDS:
        name = command.name.split()
        if words[: len(name)] == name:
            return command, words[len(name) :]
    if words[:1] == ["--version"]:
        print(f"dalle {__version__}")
        raise SystemExit(0)
    first = words[0] if words else ""
    group = [command for command in COMMANDS if command.name.split()[0] == first]
    if first in ("-h", "--help", "help") or (group and set(words[1:]) & {"-h", "--help"}):
        print(_help(group or COMMANDS))
        raise SystemExit(0)
    names = [command.name for command in group or COMMANDS]
    given = " ".join(words[:2] if group else words[:1])
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    meant = f"; did you mean `dalle {near[0]}`?" if near else ""
    problem = f"there is no command {given!r}{meant}" if given else "which command?"
    print(f"dalle: {problem}\n\n{_help(group or COMMANDS)}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def _help(commands: Sequence[Command]) -> str:
    lines = "\n".join(f"  {command.name:<21}{command.does}" for command in commands)
    return (
        f"usage: dalle COMMAND [OPTIONS]\n\n{lines}\n\n"
        "`dalle COMMAND --help` lists a command's options; the documentation is in docs/."
    )

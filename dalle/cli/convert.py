"""`dalle convert SOURCE FOLDER`: another project's checkpoint as a model folder of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dalle.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertCommand:
    """Write a model folder that needs neither the original file nor its project's code.

    What SOURCE is shows in its content; nothing in it is executed. `generate --model SOURCE` needs
    no conversion.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A file of weights, a folder or tar of such, a folder that DeepSpeed wrote; or owner/name,
    owner/name/file, owner/name@revision/file on the hub."""
    folder: Annotated[Path, tyro.conf.Positional]
    """The new model folder."""
    text_tokenizer: Path | None = None
    """The file of the text tokenizer, where it does not lie beside SOURCE."""


def run(command: ConvertCommand) -> None:
    """Convert, and say what it was."""
    from dalle.checkpoint.foreign import is_foreign, write_converted
    from dalle.checkpoint.places import local_path
    from dalle.cli.inspect import sighting_lines

    path = local_path(command.source)
    if path.exists() and not is_foreign(path):
        raise InputError(f"{path} is a model folder of ours already")
    converted = write_converted(path, command.folder, text_tokenizer=command.text_tokenizer)
    for line in sighting_lines(path, converted.sighting):
        print(line)
    print(f"model folder: {command.folder}")

"""`dalle inspect PATH`: what a model folder or a checkpoint holds, and whether it is whole."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dalle.cli import plain

if TYPE_CHECKING:
    from dalle.pretrained.family import Sighting


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectCommand:
    """Say what a model folder, a run or another project's checkpoint holds.

    Nothing in it is executed. A model folder's files are checked against its manifest.
    """

    folder: Annotated[str, tyro.conf.Positional]
    """A model folder, a run (its newest whole step is taken), a checkpoint of another project (a
    file, a folder or a tar), or the name of a model or file on the hub."""


def run(command: InspectCommand) -> None:
    """Print it."""
    from dalle.checkpoint.foreign import is_foreign
    from dalle.checkpoint.places import local_path, resolve

    path = local_path(command.folder)
    foreign = path.exists() and is_foreign(path)
    for line in foreign_lines(path) if foreign else lines(resolve(path)):
        print(plain(line))


def foreign_lines(path: Path) -> "Iterator[str]":
    """What there is to say of another project's checkpoint.

    Raises:
        CheckpointError: it is damaged, or of no family that is known here.
    """
    from dalle.pretrained.read import read
    from dalle.pretrained.recognize import recognise

    source = read(path)
    yield from sighting_lines(path, recognise(source))
    for weights in source.weights:
        tensors = weights.state.values()
        types = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
        numbers = sum(tensor.numel() for tensor in tensors)
        yield f"  {weights.path}: {numbers:,} numbers in {len(tensors)} tensors, {types}"


def sighting_lines(path: Path, sighting: "Sighting") -> "Iterator[str]":
    """What a checkpoint was recognised as."""
    version = f" {sighting.version}" if sighting.version else ""
    yield f"{path}: {sighting.family}{version}, {sighting.holds}"
    if sighting.sizes:
        yield "  " + ", ".join(f"{name} {value}" for name, value in sighting.sizes.items())
    yield f"  licence: {sighting.licence}"
    for missing in sighting.missing:
        yield f"  missing: {missing}"


def lines(folder: Path) -> Iterator[str]:
    """What there is to say of a model folder.

    Raises:
        CheckpointError: it is damaged, of a newer format, or no model folder of ours.
    """
    from dalle.checkpoint import IMAGE_TOKENIZER, MANIFEST, RERANKER
    from dalle.checkpoint.load import WEIGHTS, read_config
    from dalle.checkpoint.manifest import verify
    from dalle.checkpoint.steps import RUN, read_run
    from dalle.checkpoint.weights import read_header

    fields = read_config(folder)
    yield f"{folder}: {fields['kind']}, format {fields['format']}"
    for weights in (name for name in WEIGHTS.values() if (folder / name).is_file()):
        header = read_header(folder / weights)
        numbers = sum(math.prod(shape) for shape, _ in header.values())
        types = ", ".join(sorted({dtype for _, dtype in header.values()}))
        yield f"  {weights}: {numbers:,} parameters in {len(header)} tensors, {types}"
    yield from _fields("model", fields["model"])
    for name in sorted(set(fields) - {"format", "kind", "model"}):
        yield from _fields(name, fields[name])
    if (folder / RUN).is_file():
        said = read_run(folder)
        yield f"  trained: {said.get('step')} steps, {said.get('samples_seen')} samples"
        yield from _fields("held out", said.get("held_out"))
    if fields["kind"] == "clip_gen":
        yield from _condition(folder)
    for name in (IMAGE_TOKENIZER, RERANKER):
        if (folder / name).is_dir():
            yield f"  {name}: {_kind(folder / name)}"
    if (folder / MANIFEST).is_file():
        yield f"  whole: {len(verify(folder, training=False))} files are what {MANIFEST} says"
    else:
        yield f"  no {MANIFEST}: whether it is whole cannot be told"


def _condition(folder: Path) -> Iterator[str]:
    from dalle.sampling.joint_prompts import CONDITION_CLIP, read_condition

    said = read_condition(folder)
    yield (
        f"  condition: vectors of {said.vector_size} numbers by the CLIP {said.clip} (fingerprint "
        f"{said.fingerprint}), xi {_short(said.xi)}, means "
        f"{'subtracted' if said.mean_image else 'left'}"
    )
    yield f"  {CONDITION_CLIP}: {_kind(folder / CONDITION_CLIP)}"


def _kind(folder: Path) -> str:
    from dalle.checkpoint.load import read_config
    from dalle.errors import CheckpointError

    try:
        return str(read_config(folder)["kind"])
    except CheckpointError:
        return "not one of ours"


def _fields(name: str, values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        said = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
        yield f"  {name}: {said}"
    elif values is not None:
        yield f"  {name}: {_short(values)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return " ".join(_short(item) for item in value)
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(item)}" for key, item in value.items()) + ")"
    return str(value)

"""`dalle data inspect SOURCE`: what a data set holds, and what is wrong with it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

import tyro

from dalle.errors import ConfigError, DataError, SaveError

if TYPE_CHECKING:
    from PIL import Image

    from dalle.data.inspect import Findings, Inspection
    from dalle.protocols import Source, Stream

FIRST_LOOK = 1000
"""Samples after which it is said what was found so far."""
LARGEST_NUMBER_OF_PROCESSES = 8
SHOWN = 24
"""Pairs on the contact sheet."""
LETTERS = 40
"""Of a caption on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataInspectCommand:
    """Look through a data set before it is trained on.

    Every picture is opened once. The exit status is 0 when training would work, 8 when not.
    """

    source: Annotated[str, tyro.conf.Positional]
    """What --data of the training commands takes."""
    out: str | None = None
    """Folder for report.json, report.html and pairs.png; without it the report is only printed."""
    quarantine: str | None = None
    """Write the samples that cannot be read to this file, for --quarantine of the training
    commands."""
    quarantine_duplicates: bool = False
    """Also those whose pixels another sample has."""
    most: int | None = None
    """Look at so many samples only, chosen at random."""
    processes: int = 0
    """0: one for each core, 8 at most."""
    text_slots: int = 256
    """Slots for text of the model that is to be trained."""
    text_vocab: int = 16384
    """Entries of the tokenizer that is trained on the captions to measure them."""
    text_tokenizer: str | None = None
    """Measure with the tokenizer of this model folder, or this text_tokenizer.json, instead."""
    image_size: tuple[int, int] = (256, 256)
    """Height and width of the pictures that a model will see, for the contact sheet."""
    max_bad: float = 0.01
    """Share of samples that cannot be read from which training would stop."""
    keep_empty: bool = False
    """Pictures without a caption will be used too."""


def run(command: DataInspectCommand) -> None:
    """Look, print, write, and judge.

    Raises:
        DataError: training would not work.
    """
    from dalle.cli.data_report import lines, write_report
    from dalle.cli.training_data import text_tokenizer
    from dalle.data.cores import usable_cores
    from dalle.data.inspect import Inspection
    from dalle.data.mixture import reports
    from dalle.data.sources import open_source
    from dalle.data.split import Subset
    from dalle.presets.settings import TextSettings

    if command.text_slots < 2 or min(command.image_size) < 1 or command.processes < 0:
        raise ConfigError("text_slots is at least 2, image_size at least 1 1, processes 0 or more")
    source = open_source(command.source, keep_empty=command.keep_empty)
    found = reports(source)
    for report in found:
        print(report.line(), flush=True)
    if isinstance(source, Subset):  # a mixture, in which samples repeat
        source = source.source
    settings = TextSettings(
        text_slots=command.text_slots,
        text_vocab=command.text_vocab,
        text_tokenizer=command.text_tokenizer,
    )
    inspection = Inspection(
        source=source,
        tokenizer=text_tokenizer(settings, source, begun=None),
        room=command.text_slots - 1,
        processes=command.processes or min(LARGEST_NUMBER_OF_PROCESSES, usable_cores()),
        most=command.most,
    )
    findings = _look_through(inspection)
    verdict = judge(command, findings)
    said = lines(findings, verdict, room=inspection.room)
    print("\n".join(said), flush=True)
    sheet = _contact_sheet(source, findings, command.image_size)
    try:
        if command.out is not None:
            out = Path(command.out).expanduser()
            for path in write_report(out, command.source, found, findings, verdict, said, sheet):
                print(f"written: {path}")
        _quarantine(command, findings)
    except OSError as error:
        raise SaveError(f"the report cannot be written: {error}") from None
    if verdict:
        raise DataError("training would not work: " + "; ".join(verdict))


def judge(command: DataInspectCommand, findings: "Findings") -> list[str]:
    """Why training would not work; nothing where it would."""
    reasons = []
    usable = findings.looked_at - findings.num_bad
    if usable < 2:
        reasons.append(f"{usable} samples can be read, and at least 2 are needed")
    share = findings.num_bad / max(findings.looked_at, 1)
    if share > command.max_bad and command.quarantine is None:
        reasons.append(
            f"{findings.num_bad} of {findings.looked_at} samples cannot be read, more than "
            f"{command.max_bad:.2%}: write a list with --quarantine FILE and train with it"
        )
    return reasons


def _look_through(inspection: "Inspection") -> "Findings":
    from tqdm import tqdm

    from dalle.cli.data_report import lines

    total = inspection.total
    told = total is not None and total <= 2 * FIRST_LOOK
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, unit="picture", leave=False, disable=quiet) as progress:
        for done in inspection.run(progress.update):
            if done >= FIRST_LOOK and not told:
                told = True
                first = lines(inspection.findings(), [], room=inspection.room)
                tqdm.write("\n".join([f"of the first {done}:", *first[1:], "all of it:"]))
                sys.stdout.flush()
    return inspection.findings()


def _contact_sheet(
    source: "Source | Stream", findings: "Findings", size: tuple[int, int]
) -> "Image.Image | None":
    """Random pairs, cropped as the transformer's training crops them."""
    from PIL import Image

    from dalle.data.chosen_rows import HeldRows, first_rows
    from dalle.data.order import permutation
    from dalle.data.split import key_at
    from dalle.protocols import Sample, Stream
    from dalle.sampling.contact_sheet import Band, Entry, contact_sheet
    from dalle.training.image_tokens import view_of

    entries: list[Entry] = []
    if isinstance(source, Stream):
        source = HeldRows(source, list(first_rows(source, 4 * SHOWN)))
    for index in map(int, permutation(1, 0, len(source))[: 4 * SHOWN]):
        if key_at(source, index) in findings.bad or len(entries) == SHOWN:
            continue
        try:
            sample = source[index]
        except DataError:
            continue
        assert isinstance(sample, Sample)
        pixels = view_of(sample, Random(sample.key), size=size, augment=True)
        caption = sample.captions[0] if sample.captions else "(no caption)"
        short = caption if len(caption) <= LETTERS else f"{caption[: LETTERS - 3]}..."
        entries.append(Entry(image=Image.fromarray(pixels), caption=(short,)))
    if not entries:
        return None
    title = f"{len(entries)} of {findings.looked_at} pairs, as a model will see them"
    return contact_sheet([Band(title=title, note="", entries=tuple(entries))])


def _quarantine(command: DataInspectCommand, findings: "Findings") -> None:
    from dalle.data.quarantine import write_quarantine

    if command.quarantine is None:
        return
    reasons = dict(findings.bad)
    if command.quarantine_duplicates:
        reasons |= {key: f"the same pixels as {first}" for key, first in findings.same}
    path = Path(command.quarantine).expanduser()
    write_quarantine(path, reasons)
    print(f"{len(reasons)} samples to leave out: --quarantine {path}")

"""Prompts: from a file, made fit for every tokenizer, and made fit to be shown."""

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from dalle.config import from_json
from dalle.errors import ConfigError, InputError

MAX_FILE_BYTES = 1 << 26
LINE_END = re.compile(r"\r\n|\r|\n")
SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLine:
    """A prompt of a file, and what the file says of it."""

    prompt: str
    num_samples: int | None = None
    """Pictures to be drawn of it; None: as many as of the others."""
    seed: int | None = None
    """Of its first picture; None: that of the others."""


def read_prompts(path: str | Path) -> list[PromptLine]:
    """Prompts from a UTF-8 file, one a line, whatever the locale is.

    Blank lines are left out, since files tend to end in some: whoever wants pictures without a
    condition gives the empty prompt as an argument. White space around a prompt is dropped.

    Where the name ends in `.jsonl`, each line is an object with the fields of `PromptLine`, and
    prompts are taken as they are.

    Raises:
        InputError: the file cannot be read, is not UTF-8, has a line that is none (with file and
            line), or has no prompt.
    """
    path = Path(path)
    lines = [line.strip() for line in LINE_END.split(_read_text(path))]
    of_line = _from_json if path.suffix == ".jsonl" else _from_text
    prompts = [of_line(line, f"{path}:{i}") for i, line in enumerate(lines, start=1) if line]
    if not prompts:
        raise InputError(f"{path} has no prompt; write one a line")
    return prompts


def _from_text(line: str, where: str) -> PromptLine:
    return PromptLine(prompt=line)


def _from_json(line: str, where: str) -> PromptLine:
    try:
        return from_json(PromptLine, json.loads(line), path=where)
    except (ConfigError, ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is no prompt ({error}); write one JSON object a line, as "
            '{"prompt": "a red bird", "num_samples": 8, "seed": 3}'
        ) from None


def _read_text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cannot read prompts from {path}: {error.strerror}; give a text file with one prompt "
            "a line"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB; split it into several files"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        line = len(LINE_END.split(before))
        raise InputError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def without_surrogates(prompt: str) -> str:
    """The prompt with U+FFFD for every half of a surrogate pair, which UTF-8 cannot carry."""
    return SURROGATE.sub("\ufffd", prompt)


def printable(prompt: str, *, most: int = 80) -> str:
    """The prompt for a line of a terminal or a log: without control characters, not too long.

    A control character (escape sequences, line ends, marks that turn the direction of writing)
    becomes U+FFFD or, if it only separates, a space.
    """
    shown = "".join(_shown(character) for character in prompt[: most + 1])
    return shown if len(prompt) <= most else shown[: most - 1] + "…"


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    # The zero-width joiner holds an emoji together and moves nothing.
    is_control = unicodedata.category(character) in ("Cc", "Cf", "Cs") and character != "\u200d"
    return "\ufffd" if is_control else character

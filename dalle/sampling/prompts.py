"""Prompts: from a file, made fit for every tokenizer, and made fit to be shown."""

import re
import unicodedata
from pathlib import Path

from dalle.errors import InputError

MAX_FILE_BYTES = 1 << 26
LINE_END = re.compile(r"\r\n|\r|\n")
SURROGATE = re.compile(r"[\ud800-\udfff]")


def read_prompts(path: str | Path) -> list[str]:
    """Prompts from a UTF-8 file, one a line, whatever the locale is.

    Blank lines are left out, since files tend to end in some: whoever wants pictures without a
    condition gives the empty prompt as an argument. White space around a prompt is dropped.

    Raises:
        InputError: the file cannot be read, is not UTF-8 (with file and line), or has no prompt.
    """
    path = Path(path)
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
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        line = len(LINE_END.split(before))
        raise InputError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    prompts = [line.strip() for line in LINE_END.split(text)]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise InputError(f"{path} has no prompt; write one a line")
    return prompts


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

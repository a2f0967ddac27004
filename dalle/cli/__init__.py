"""The `dalle` command, which the scripts beside the package share.

Only what is chosen is imported: help and usage errors answer without torch.
"""

import importlib
import os
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from dalle import __version__
from dalle.errors import DalleError, OutOfMemoryError

__all__ = ["main"]

BUG = 1
INTERRUPTED = 130
MOVING = ("Cc", "Cf", "Cs")
"""Categories of characters that move a terminal's cursor or its writing, or break its encoding."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        The exit status: 0, that of the error (`dalle.errors`), 130 after Ctrl-C, 1 for a bug.
    """
    # Large pages for large tensors on the CPU, which torch's allocator reads before its first one:
    # 3 to 6 % of a step of training and of sampling (docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter is no reason to stop.
        getattr(stream, "reconfigure", lambda errors: None)(errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run(list(sys.argv[1:] if arguments is None else arguments))
    except DalleError as error:
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # what reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _is_out_of_memory(error):
            _complain(f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more'}")
            return OutOfMemoryError.exit_status
        traceback.print_exc()
        _complain(
            f"this is a bug in dalle {__version__}, not in what you gave it; please report it with "
            "the lines above"
        )
        return BUG
    return 0


def _run(arguments: list[str]) -> None:
    from dalle.cli.commands import chosen
    from dalle.cli.flags import parse

    command, rest = chosen(arguments)
    flags = parse(command, rest)
    run: Any = named(command.run)
    run(flags)


def named(place: str) -> Any:
    """The object that "module:name" says."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _complain(text: str) -> None:
    print(f"dalle: {plain(text)}", file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """The text without what could move a terminal's cursor or turn its writing round."""
    return "".join(
        # The zero-width joiner holds an emoji together and moves nothing.
        "\ufffd" if c not in "\n\t\u200d" and unicodedata.category(c) in MOVING else c
        for c in text
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {plain(str(message))}", file=sys.stderr, flush=True)


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    )

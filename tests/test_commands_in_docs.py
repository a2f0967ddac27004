"""Every `dalle` command that the documentation shows is one that the command line takes."""

import re
import shlex

import pytest

from dalle.cli.commands import chosen
from dalle.cli.flags import parse
from tests.test_floors import PACKAGE

ROOT = PACKAGE.parent
SHOWN = re.compile(
    r"^(?: {4})?(?:dalle|.*-m dalle|.*torchrun .*train_\w+\.py|python train_\w+\.py) .*$"
)


def commands_in(text: str) -> list[list[str]]:
    """The words after `dalle` of each line that is a command, in code and not in prose."""
    found, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and SHOWN.match(line):
            words = shlex.split(line, comments=True)
            at = next(i for i, word in enumerate(words) if word == "dalle" or word.endswith(".py"))
            name = words[at].removesuffix(".py").split("_") if words[at] != "dalle" else []
            stop = words.index(">") if ">" in words else len(words)
            found.append([*name, *(w for w in words[at + 1 : stop] if w != "...")])
    return found


def shown() -> list[list[str]]:
    """Those of the README and of docs/."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [command for page in pages for command in commands_in(page.read_text("utf-8"))]


def test_commands_are_found_in_code_only() -> None:
    text = (
        "dalle train vae --no-such-flag\n\n    dalle generate --model X \\\n        'a b' # why\n"
        "```sh\ndalle presets > list\ntorchrun --nproc_per_node 2 train_vae.py --out x ...\n```\n"
    )
    assert commands_in(text) == [
        ["generate", "--model", "X", "a b"],
        ["presets"],
        ["train", "vae", "--out", "x"],
    ]
    assert len(shown()) > 10


@pytest.mark.parametrize("words", shown(), ids=" ".join)
def test_the_command_line_takes_it(words: list[str]) -> None:
    command, rest = chosen(words)
    # --resume reads the run that it names.
    parse(command, rest if "--resume" not in rest else [])

"""The command: what it ends with, what it says, and what it does not load."""

import subprocess
import sys
from typing import NoReturn

import pytest
import torch

from dalle import cli, errors
from dalle.cli import main

KINDS: list[type[errors.DalleError]] = [k for k in vars(errors).values() if isinstance(k, type)]


def loads(arguments: list[str]) -> tuple[int, set[str], str]:
    """Exit status, heavy modules loaded, and all output of a command in a process of its own."""
    code = (
        "import sys\n"
        "from dalle.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'transformers', 'tokenizers'} & set(sys.modules)\n"
        "print('LOADED', *sorted(heavy))\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    loaded = done.stdout.rpartition("LOADED")[2].split()
    return done.returncode, set(loaded), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "train vae"),
        (["train", "--help"], 0, "train clip"),
        (["train", "dalle", "--help"], 0, "--text-slots"),
        (["plan", "dalle", "--help"], 0, "--tflops"),
        (["generate", "--help"], 0, "--complete-text"),
        (["caption", "--help"], 0, "--caption-top-p"),
        (["reconstruct", "evaluate", "--help"], 0, "--per-candidate"),
        (["reconstruct", "txt"], 2, "did you mean `dalle reconstruct text`?"),
        (["--version"], 0, "dalle "),
        (["presets"], 0, "3,000,000 steps of 512"),
        (["launch-config", "zero2"], 0, "zero_stage: 2"),
        ([], 2, "which command?"),
        (["gnerate"], 2, "did you mean `dalle generate`?"),
        (["train", "dale"], 2, "did you mean `dalle train dalle`?"),
        (["train", "vae", "--cods", "3"], 2, "--codes"),
        (["train", "vae", "--preset", "huge"], 2, "demo"),
        (["train", "vae", "--preset", "tiny", "--resume", "x"], 2, "leave --preset out"),
        (["generate", "a cube"], 2, "--model"),
        (["generate", "--model", "x", "--top-k", "many"], 2, "many"),
    ],
)
def test_help_and_usage_errors_answer_without_torch(
    arguments: list[str], status: int, said: str
) -> None:
    ended, heavy, output = loads(arguments)
    assert (ended, heavy) == (status, set())
    assert said in output


def ends_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit status of a command that runs into `error`."""

    def fail(arguments: list[str]) -> NoReturn:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    return main(["presets"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_of_ours_is_a_sentence_and_a_status(
    kind: type[errors.DalleError],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends_with(monkeypatch, kind("codes is 0; expected at least 1")) == kind.exit_status
    captured = capsys.readouterr()
    assert captured.err == "dalle: codes is 0; expected at least 1\n"
    assert captured.out == ""


def test_the_statuses_are_those_of_the_table() -> None:
    statuses = {kind.__name__: kind.exit_status for kind in KINDS}
    for line in str(errors.__doc__).splitlines():
        words = line.replace("├──", "").replace("└──", "").replace("│", "").split()
        if words and words[0] in statuses:
            assert int(words[1]) == statuses.pop(words[0])
    assert not statuses


def test_what_moves_a_terminal_is_not_written_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends_with(monkeypatch, errors.InputError("there is no \x1b[2J\r\u202efolder\nsecond line"))
    assert (
        capsys.readouterr().err == "dalle: there is no \ufffd[2J\ufffd\ufffdfolder\nsecond line\n"
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory\nx")])
def test_out_of_memory_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, error) == 6
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "dalle: interrupted\n"


def test_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(monkeypatch, ZeroDivisionError("division by zero")) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "ZeroDivisionError" in said
    assert "this is a bug in dalle" in said


@pytest.mark.parametrize("script", ["train_vae", "train_clip", "train_dalle", "generate"])
def test_the_scripts_are_the_commands(script: str) -> None:
    done = subprocess.run(
        [sys.executable, f"{script}.py", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: dalle {script.replace('_', ' ')} ")

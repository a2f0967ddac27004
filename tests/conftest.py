"""What holds for every test: annotations are checked, the network is off, nothing is skipped."""

import os
import typing

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

import tests.annotations  # noqa: F401 - the hook below finds it by its name

# Before anything imports the libraries that read them; child processes have them too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # without it deepspeed warns of what it guessed
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("suite")

_NO_GPU = "needs a CUDA device"


def _checkable_protocols() -> None:
    """Let beartype look at protocols that are not marked `runtime_checkable`."""
    original = typing.Protocol.__init_subclass__.__func__  # type: ignore[attr-defined]

    def init_subclass(cls: type, *args: object, **kwargs: object) -> None:
        original(cls, *args, **kwargs)
        if typing.Protocol in cls.__bases__:
            typing.runtime_checkable(cls)

    typing.Protocol.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment]


_checkable_protocols()

# Every signature in the package is checked at run time, shapes and all. It has to come before the
# first import of the package.
install_import_hook("dalle", "tests.annotations.checked")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests that need a GPU where there is none; say which tests stay together.

    Where several processes share the tests (-n), a file is one's, since its tests share what they
    make. Tests that start several processes of their own are all one's: there would be too many.
    """
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=_NO_GPU))
        alone = item.get_closest_marker("distributed")
        item.add_marker(pytest.mark.xdist_group("distributed" if alone else str(item.path)))


def _wrongly_skipped(config: pytest.Config) -> list[str]:
    """The tests that were skipped although they are not marked gpu, with their reasons."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    wrong = []
    for report in reports:
        # A module that skips itself at collection has no markers at all.
        if "gpu" not in getattr(report, "keywords", {}):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            wrong.append(f"{report.nodeid}: {reason}")
    return wrong


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that is skipped proves nothing: only those marked gpu may be."""
    if _wrongly_skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were skipped without leave."""
    for line in _wrongly_skipped(terminalreporter.config):
        terminalreporter.write_line(f"skipped but not marked gpu, which fails the run: {line}")

"""The names that the package offers, and what importing it costs."""

import subprocess
import sys

import pytest

import dalle


def test_importing_loads_no_torch() -> None:
    code = (
        "import sys, dalle, dalle.errors; dalle.__version__; dir(dalle); "
        "heavy = {'torch', 'numpy', 'PIL', 'transformers', 'tokenizers'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there() -> None:
    for name in dalle.__all__:
        assert getattr(dalle, name) is not None
        assert name in dir(dalle)
    for name, home in dalle._HOMES.items():
        assert getattr(dalle, name).__module__.startswith(home)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        _ = dalle.paint  # type: ignore[attr-defined]

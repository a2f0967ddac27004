"""How the annotations of the package are checked while tests run."""

import types
import typing
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """As beartype does, with two liberties.

    A float may be given as an int, as type checkers have it. And a Literal counts as the type of
    its values: which of these are right is for the code to say, in words for its users.
    """
    function.__annotations__ = {
        name: _without_literals(hint) for name, hint in function.__annotations__.items()
    }
    return _check(function)


def _without_literals(hint: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return typing.Union[tuple(type(value) for value in inner)]  # noqa: UP007
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_without_literals, inner))]  # noqa: UP007
    return hint

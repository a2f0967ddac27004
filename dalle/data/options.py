"""Options after the name of a data set, as in `birds.csv?image=path&caption=title`."""

from pathlib import Path
from urllib.parse import parse_qsl

from dalle.data.remote import is_remote
from dalle.errors import ConfigError

HUB = "hub:"
"""Before the names of data sets of the `datasets` package."""
OPTIONS = ("image", "caption", "split", "config", "template", "images", "stream")

Options = dict[str, tuple[str, ...]]
"""Name -> values, of which there may be several."""


def split_options(spec: str) -> tuple[str, Options]:
    """A data set's name and its options; a path that exists as it stands has none.

    Raises:
        ConfigError: an option is unknown or empty.
    """
    place, mark, query = spec.rpartition("?")
    if not mark or (not spec.startswith(HUB) and not is_remote(spec) and Path(spec).exists()):
        return spec, {}
    options: Options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS or not value:
            raise ConfigError(f"{spec}: {name!r}; expected {', '.join(OPTIONS)} with a value")
        options[name] = (*options.get(name, ()), value)
    return place, options


def only(options: Options, known: tuple[str, ...], place: str) -> Options:
    """All options, which must be some of the known ones.

    Raises:
        ConfigError: there is another.
    """
    other = [name for name in options if name not in known]
    if other:
        raise ConfigError(f"{place}: {other[0]!r} does not fit it; expected {', '.join(known)}")
    return options


def value_of(options: Options, name: str) -> str | None:
    """An option that is given once or not at all.

    Raises:
        ConfigError: it is given several times.
    """
    values = options.get(name, ())
    if len(values) > 1:
        raise ConfigError(f"{name} is given {len(values)} times; expected once")
    return values[0] if values else None

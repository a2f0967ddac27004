"""The archives that a name, a pattern with braces or a folder stands for."""

from pathlib import Path

from dalle.data.remote import is_remote
from dalle.errors import ConfigError, InputError

MAX_SHARDS = 1_000_000


def shards_of(place: str) -> list[str]:
    """The archives that a name stands for; none where it stands for something else.

    Raises:
        InputError: one of them is not there.
        ConfigError: its braces are no pattern.
    """
    if place.lower().endswith(".tar"):
        shards = [place] if "{" not in place or Path(place).exists() else expand_braces(place)
        absent = [s for s in shards if not is_remote(s) and not Path(s).expanduser().exists()]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise InputError(f"there is no archive {absent[0]!r}{more}")
        return [s if is_remote(s) else str(Path(s).expanduser()) for s in shards]
    if place and not is_remote(place) and Path(place).expanduser().is_dir():
        folder = Path(place).expanduser()
        return [str(file) for file in sorted(folder.glob("*.tar")) if not file.name.startswith(".")]
    return []


def expand_braces(text: str) -> list[str]:
    """Every name that a pattern stands for: `{008..010}` counts, `{a,b}` lists.

    Raises:
        ConfigError: it is no such pattern, or stands for too many names.
    """
    before, _, rest = text.partition("{")
    if not _:
        return [text]
    inside, closed, after = rest.partition("}")
    first, dots, last = inside.partition("..")
    if closed and dots and first.isdigit() and last.isdigit() and int(first) <= int(last):
        if int(last) - int(first) >= MAX_SHARDS:
            raise ConfigError(f"{text!r} stands for more than {MAX_SHARDS} names")
        choices = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    elif closed and "," in inside:
        choices = inside.split(",")
    else:
        raise ConfigError(f"{text!r}: expected {{000..012}} or {{a,b}} in braces")
    ends = expand_braces(after)
    if len(choices) * len(ends) > MAX_SHARDS:
        raise ConfigError(f"{text!r} stands for more than {MAX_SHARDS} names")
    return [f"{before}{choice}{end}" for choice in choices for end in ends]

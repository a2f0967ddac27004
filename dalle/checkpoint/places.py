"""The model folder that a path, a run, another project's checkpoint or a hub name means."""

import logging
from pathlib import Path

from dalle.checkpoint.foreign import converted_folder, is_foreign
from dalle.checkpoint.hub import download, looks_like_hub_name
from dalle.checkpoint.steps import is_run, standing_step
from dalle.errors import InputError

log = logging.getLogger(__name__)


def resolve(where: str | Path, *, text_tokenizer: Path | None = None) -> Path:
    """The model folder that a path or a hub name means.

    Another project's checkpoint is converted into one, once, in the user's cache.

    Args:
        where: as in `load_folder`.
        text_tokenizer: the file of the text tokenizer, where another project's checkpoint needs
            one that does not lie beside it.
    """
    path = local_path(where)
    if path.exists() and is_foreign(path):
        return converted_folder(path, text_tokenizer=text_tokenizer)
    if not path.is_dir():
        raise InputError(
            f"there is no model folder {path}; a model's name on the hub is owner/name, one of its "
            "files owner/name/file, and owner/name@revision names a revision"
        )
    if text_tokenizer is not None:
        raise InputError(
            f"{where} is a model folder, which holds its text tokenizer; {text_tokenizer} is for "
            "checkpoints of other projects: leave it out"
        )
    if not is_run(path):
        return path
    standing = standing_step(path)
    for skipped in standing.skipped:
        log.warning("%s is not whole, an older step is taken: %s", skipped.path, skipped.reason)
    return standing.path


def local_path(where: str | Path) -> Path:
    """The path itself; of what is on the hub, its copy here, fetched when there is none.

    Raises:
        InputError: it is an address elsewhere.
    """
    path = Path(where).expanduser()
    if path.exists() or not isinstance(where, str):
        return path
    if looks_like_hub_name(where):
        return download(where)
    if where.startswith(("https://", "http://")):
        raise InputError(
            f"{where} is no address of a file on the hub, and others are not fetched: nothing says "
            "what they ought to hold; download it yourself, and give its path"
        )
    return path

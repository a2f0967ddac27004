"""Model folders on the hub: the same files, nothing else."""

import re
from collections.abc import Sequence
from pathlib import Path

from dalle.checkpoint.manifest import MANIFEST
from dalle.errors import CheckpointError, InputError

PATTERNS = ("*.json", "*.safetensors", "*.txt")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def looks_like_hub_name(text: str) -> bool:
    """Whether `text` has the form owner/name."""
    return NAME.fullmatch(text) is not None


def download(name: str, *, patterns: Sequence[str] = PATTERNS) -> Path:
    """The local copy of a model on the hub, fetched when there is none.

    Args:
        name: owner/name.
        patterns: which files; of no pattern are files that hold code or pickles.

    Raises:
        InputError: there is none, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError:
        raise InputError(
            f"there is no folder {name}, and as a hub model it is not on this machine and the hub "
            "cannot be reached (offline?); give an existing folder, or go online"
        ) from None
    except Exception as error:  # whatever a server that is none, or lies, is met with
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"there is no folder {name}, and the hub gave no model of that name: {reason}"
        ) from None


def push(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Upload a model folder to the hub; what only training needs stays here.

    Args:
        folder: a model folder, or a run (its newest whole step is taken).
        name: owner/name.
        private: for a repository that does not exist yet.

    Returns:
        The address of the upload.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from dalle.checkpoint.links import refuse_links_outside
    from dalle.checkpoint.load import check_listed, choose_weights, read_config, resolve

    if not looks_like_hub_name(name):
        raise InputError(f"{name!r} is no name on the hub; expected owner/name")
    path = resolve(Path(folder))
    read_config(path)
    if not (path / MANIFEST).exists():
        raise CheckpointError(f"{path} has no {MANIFEST}; save the model again, then push it")
    check_listed(path, choose_weights(path, "auto"))
    refuse_links_outside(path)
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            folder_path=path, repo_id=name, ignore_patterns=["training/*", ".*"]
        )
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"the hub did not take {name}: {error}") from None
    return str(commit)

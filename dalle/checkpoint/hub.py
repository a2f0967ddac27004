"""Model folders on the hub: the same files, nothing else."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dalle.checkpoint.manifest import MANIFEST
from dalle.errors import CheckpointError, DalleError, InputError

PATTERNS = ("*.json", "*.safetensors", "*.txt")
WEIGHTS = (".bin", ".ckpt", ".gz", ".pkl", ".pt", ".pth", ".safetensors", ".tar")
"""How files end in which weights are published."""
BESIDE = ("*.json", "*.yaml", "*.yml", "*.txt", "*.model")
"""Small files that may say what is missing in them."""
SECONDS = 30
"""After which the hub is taken to be out of reach."""
_PART = r"[A-Za-z0-9][\w.-]*"
NAME = re.compile(rf"{_PART}/{_PART}")
_ADDRESS = re.compile(
    rf"(?:https://(?:huggingface\.co|hf\.co)/)?(?P<name>{_PART}/{_PART})"
    rf"(?:@(?P<at>[\w.-]+))?(?:/(?:resolve|blob|tree)/(?P<revision>[\w.-]+))?(?:/(?P<file>[^?#]+))?"
    r"(?:\?download=true)?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """What is meant on the hub."""

    name: str
    revision: str | None
    file: str | None


def place_of(text: str) -> Place | None:
    """The place that owner/name, owner/name@revision, owner/name/file or an address means."""
    match = _ADDRESS.fullmatch(text)
    if match is None or ".." in text or not (match["file"] or WEIGHTS[0]).endswith(WEIGHTS):
        return None
    return Place(match["name"], match["at"] or match["revision"], match["file"])


def looks_like_hub_name(text: str) -> bool:
    """Whether `text` means something on the hub."""
    return place_of(text) is not None


def download(text: str, *, patterns: Sequence[str] | None = None) -> Path:
    """The local copy of a model, or of a file of one, on the hub; fetched when there is none.

    Args:
        text: owner/name, with @revision and /file where they are needed, or the address of the hub.
        patterns: which files, where it is not for us to find out.

    Raises:
        InputError: there is none, it is gated, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    place = place_of(text)
    assert place is not None  # it was asked before
    with _explained(text):
        if place.file is not None:
            snapshot_download(place.name, revision=place.revision, allow_patterns=list(BESIDE))
            return Path(hf_hub_download(place.name, place.file, revision=place.revision))
        names = _files(place) if patterns is None else None
        if names is not None:
            if not {MANIFEST, "model.safetensors"} & set(names):
                at = f"@{place.revision}" if place.revision else ""
                return download(f"{place.name}{at}/{_only_weights(place.name, names)}")
            patterns = PATTERNS
        wanted = patterns or [*PATTERNS, *BESIDE, *(f"*{ending}" for ending in WEIGHTS)]
        return Path(
            snapshot_download(place.name, revision=place.revision, allow_patterns=list(wanted))
        )


def _files(place: Place) -> list[str] | None:
    """What a repository holds; None when the hub is not to be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError

    if HF_HUB_OFFLINE:
        return None
    try:
        info = HfApi().model_info(place.name, revision=place.revision, timeout=SECONDS)
    except HfHubHTTPError:
        raise
    except Exception:  # its HTTP client's own errors, which are of another library every few years
        return None
    return [sibling.rfilename for sibling in info.siblings or ()]


def _only_weights(name: str, files: list[str]) -> str:
    """The one file of weights: nothing of many gigabytes is fetched that was not asked for."""
    weights = [file for file in files if file.endswith(WEIGHTS)]
    if len(weights) == 1:
        return weights[0]
    if not weights:
        raise InputError(f"{name} on the hub holds no file of weights")
    raise InputError(
        f"{name} on the hub holds several files of weights ({', '.join(weights[:8])}); name one: "
        f"{name}/{weights[0]}"
    )


@contextmanager
def _explained(text: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise InputError(
            f"there is no folder {text}, and as a hub model it is not on this machine and the hub "
            "cannot be reached (offline?); give an existing folder, or go online"
        ) from None
    except GatedRepoError:
        raise InputError(
            f"{text} is gated: its owner lets in who asked on the hub's page; ask there, then "
            "`hf auth login`"
        ) from None
    except EntryNotFoundError:
        raise InputError(
            f"there is no file or folder {text}, and the hub has no such file (any more)"
        ) from None
    except DalleError:
        raise
    except Exception as error:  # whatever a server that is none, or lies, is met with
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"there is no folder {text}, and the hub gave no model of that name: {reason}"
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
    from dalle.checkpoint.load import check_listed, choose_weights, read_config
    from dalle.checkpoint.places import resolve

    if NAME.fullmatch(name) is None:
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

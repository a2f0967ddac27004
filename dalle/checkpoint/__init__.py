"""Model folders and runs on the disk: written whole, checked when read, never executed."""

from dalle.checkpoint.folder import (
    IMAGE_TOKENIZER,
    RERANKER,
    TEXT_TOKENIZER,
    save_model_folder,
    write_config,
    write_neighbour,
    write_weights,
)
from dalle.checkpoint.hub import push
from dalle.checkpoint.load import (
    DECODERS,
    IMAGE_TOKENIZERS,
    KINDS,
    RERANKERS,
    LoadedFolder,
    load_folder,
)
from dalle.checkpoint.manifest import MANIFEST, verify
from dalle.checkpoint.places import resolve
from dalle.checkpoint.steps import latest_whole
from dalle.checkpoint.weights import load_weights

__all__ = [
    "DECODERS",
    "IMAGE_TOKENIZER",
    "IMAGE_TOKENIZERS",
    "KINDS",
    "MANIFEST",
    "RERANKER",
    "RERANKERS",
    "TEXT_TOKENIZER",
    "LoadedFolder",
    "latest_whole",
    "load_folder",
    "load_weights",
    "push",
    "resolve",
    "save_model_folder",
    "verify",
    "write_config",
    "write_neighbour",
    "write_weights",
]

"""The text tokenizer of a DALLE-pytorch model, which its file does not hold.

Which one it was is told by the number of entries. Its own file is looked for beside the model's;
those of CLIP and of BERT's Chinese vocabulary are fetched from the hub where it is not there.

Source: lucidrains/DALLE-pytorch, train_dalle.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from dalle.errors import CheckpointError
from dalle.pretrained.beside import fetched, lacking
from dalle.pretrained.family import Source
from dalle.tokenizers.clip_bpe import VOCAB_SIZE as CLIP_VOCAB
from dalle.tokenizers.clip_bpe import ClipBpe
from dalle.tokenizers.json_tokenizer import JsonTokenizer
from dalle.tokenizers.yttm_captions import YttmCaptions

TextReader = ClipBpe | JsonTokenizer | YttmCaptions
CHINESE_VOCAB = 21128
ON_THE_HUB = {
    CLIP_VOCAB: ("openai/clip-vit-base-patch32", "merges.txt"),
    CHINESE_VOCAB: ("google-bert/bert-base-chinese", "tokenizer.json"),
}
"""Model and file for each number of entries."""


def find_tokenizer(source: Source, vocab: int) -> TextReader | None:
    """The tokenizer of so many entries: beside the model, or from the hub; None without either."""
    beside = next(_beside(source, vocab), None)
    if beside is not None or vocab not in ON_THE_HUB:
        return beside
    path = fetched(ON_THE_HUB[vocab])
    return None if path is None else _read(path.name, path.read_bytes(), vocab)


def what_is_missing(source: Source, vocab: int) -> tuple[str, ...]:
    """What must be given for texts to be read; empty where it lies beside the model."""
    if next(_beside(source, vocab), None) is not None:
        return ()
    if vocab in ON_THE_HUB:
        return (lacking(f"its text tokenizer of {vocab} entries", ON_THE_HUB[vocab]),)
    return (
        f"its text tokenizer of {vocab} entries, in a file of its own (--bpe_path): put it "
        "beside the model, as .json or .model, or name it with --text-tokenizer",
    )


def _beside(source: Source, vocab: int) -> Iterator[TextReader]:
    for name, content in sorted(source.beside.items()):
        tokenizer = _read(name, content, vocab)
        if tokenizer is not None:
            yield tokenizer


def _read(name: str, content: bytes, vocab: int) -> TextReader | None:
    """The tokenizer in a file, if there is one of so many entries."""
    kinds: dict[str, Callable[[str], TextReader]] = {
        ".txt": ClipBpe.from_merges,
        ".json": JsonTokenizer,
        ".model": YttmCaptions,
    }
    kind = kinds.get(Path(name).suffix)
    if kind is None or (kind == ClipBpe.from_merges and vocab != CLIP_VOCAB):
        return None
    try:
        tokenizer = kind(content.decode("utf-8"))
    except (CheckpointError, UnicodeDecodeError):
        return None
    return tokenizer if tokenizer.vocab_size == vocab else None

"""The text tokenizer of a DALLE-pytorch model: beside it, or from the hub."""

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from dalle.pretrained.dalle_pytorch.text import find_tokenizer, what_is_missing
from dalle.pretrained.family import Source
from dalle.tokenizers.clip_bpe import ClipBpe
from dalle.tokenizers.json_tokenizer import JsonTokenizer
from dalle.tokenizers.yttm_captions import YttmCaptions
from tests.pretrained.dalle_pytorch.test_folder import tokenizer_json
from tests.tokenizers.merges import stand_in_merges
from tests.tokenizers.test_yttm_captions import MODEL


def with_files(**files: str) -> Source:
    beside = {name.replace("_", "."): content.encode() for name, content in files.items()}
    return Source(path=Path("dalle.pt"), weights=(), beside=beside)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """What is asked of the hub, which has CLIP's merges and nothing else."""
    (tmp_path / "merges.txt").write_text(stand_in_merges(), encoding="utf-8")
    asked: list[tuple[str, str]] = []

    def download(model: str, file: str) -> str:
        asked.append((model, file))
        if file != "merges.txt":
            raise LocalEntryNotFoundError("the hub cannot be reached")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_a_file_beside_is_taken_by_its_number_of_entries(asked: list[tuple[str, str]]) -> None:
    source = with_files(
        a_json="{}", b_json=tokenizer_json(39), c_json=tokenizer_json(40), d_model=MODEL
    )
    for vocab, kind in ((39, JsonTokenizer), (40, JsonTokenizer), (10, YttmCaptions)):
        found = find_tokenizer(source, vocab)
        assert isinstance(found, kind) and found.vocab_size == vocab
        assert what_is_missing(source, vocab) == ()
    assert find_tokenizer(source, 41) is None
    assert "41 entries" in what_is_missing(source, 41)[0]
    clip = with_files(notes_txt="#version", bpe_txt=stand_in_merges())
    assert isinstance(find_tokenizer(clip, 49408), ClipBpe)
    assert find_tokenizer(clip, 7) is None
    assert asked == []


def test_known_ones_are_fetched_where_they_are_not(asked: list[tuple[str, str]]) -> None:
    assert isinstance(find_tokenizer(with_files(), 49408), ClipBpe)
    assert find_tokenizer(with_files(), 21128) is None
    assert asked == [
        ("openai/clip-vit-base-patch32", "merges.txt"),
        ("google-bert/bert-base-chinese", "tokenizer.json"),
    ]
    assert "put beside" in what_is_missing(with_files(), 21128)[0]

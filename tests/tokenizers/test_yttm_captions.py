"""YouTokenToMe models with the slots of this project's stream."""

from pathlib import Path

import pytest

from dalle.errors import CheckpointError
from dalle.tokenizers.kinds import load_text_tokenizer
from dalle.tokenizers.yttm_captions import YttmCaptions

MODEL = "4 2\n9601 4\n114 5\n101 6\n100 7\n5 6 8\n8 7 9\n1 0 2 3\n"
"""The mark and r, e, d; re and red."""


def test_slots_have_start_tokens_and_pads(tmp_path: Path) -> None:
    tokenizer = YttmCaptions(MODEL)
    assert tokenizer.vocab_size == 10
    assert tokenizer.encode("red de Re") == [4, 9, 4, 7, 6, 4, 1, 6]
    assert tokenizer.encode_stream("red", slots=4).ids.tolist() == [10, 4, 9, 13]
    assert tokenizer.empty_stream(2).tolist() == [10, 11]
    assert tokenizer.decode([4, 9, 4, 7, 6]) == "red de"

    tokenizer.save(tmp_path / "text_tokenizer.json")
    loaded = load_text_tokenizer(tmp_path / "text_tokenizer.json")
    assert isinstance(loaded, YttmCaptions)
    assert loaded.encode("red de Re") == tokenizer.encode("red de Re")
    damaged = '{"format": 1, "kind": "yttm_captions", "model": ["1 0"]}'
    (tmp_path / "text_tokenizer.json").write_text(damaged)
    with pytest.raises(CheckpointError, match=r"text_tokenizer\.json: the file ends too early"):
        load_text_tokenizer(tmp_path / "text_tokenizer.json")

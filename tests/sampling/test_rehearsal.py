"""A dry run of sampling: what a launch takes, and no picture."""

import pytest

from dalle.sampling.pipeline import Pipeline
from dalle.sampling.rehearsal import rehearse
from dalle.sampling.request import Request
from tests.fakes import FlatTokenizer, tiny_dalle, tiny_text_tokenizer


@pytest.mark.parametrize("wishes", [{"launch": 4}, {"guidance": 2.0}, {}])
def test_a_few_slots_tell_what_a_launch_takes(wishes: dict) -> None:
    text = tiny_text_tokenizer()
    model = tiny_dalle(text, rows=6, cols=5)
    image = FlatTokenizer(vocab_size=16, grid=(6, 5))
    pipeline = Pipeline(model, text_tokenizer=text, image_tokenizer=image)
    found = rehearse(pipeline, Request(num_samples=10, **wishes), 3)
    cache = model.new_cache(prompts=1, samples=1)
    assert found.per_picture >= cache.bytes_per_sample
    assert found.per_picture < 1.5 * cache.bytes_per_sample
    assert found.launch == (4 if "launch" in wishes else 30)
    assert found.pictures_a_second > 0 and found.largest > 64 and found.free > 0

"""Looking through a data set finds what was put into it, in one process and in several."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dalle.data.duplicates import near_hash, near_pairs
from dalle.data.inspect import Findings, Inspection
from dalle.data.sources import open_source
from dalle.protocols import Source
from dalle.tokenizers.text import TextTokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """100 noise pictures, and seven with something about them."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)

    def add(name: str, pixels: np.ndarray, caption: str = "a word") -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name, quality=90)
        (folder / name).with_suffix(".txt").write_text(caption)

    for number in range(100):
        add(f"{number:03}.png", random.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    large = np.asarray(Image.fromarray(random.integers(0, 256, (8, 9, 3), dtype=np.uint8)))
    large = large.repeat(20, 0).repeat(20, 1)
    add("original.png", large)
    add("copy.png", large)
    add("smaller.jpg", large[::2, ::2])
    add("other/original.png", random.integers(0, 256, (40, 10, 3), dtype=np.uint8))
    add("long.png", random.integers(0, 256, (9, 16, 3), dtype=np.uint8), "x" * 300)
    for name in ("torn.png", "empty.png"):
        (folder / name).with_suffix(".txt").write_text("damaged")
    (folder / "torn.png").write_bytes((folder / "original.png").read_bytes()[:400])
    (folder / "empty.png").write_bytes(b"")
    return open_source(folder)


def look(source: Source, *, processes: int = 1, most: int | None = None) -> Findings:
    tokenizer = TextTokenizer.train(["a word"] * 9, vocab_size=300)
    inspection = Inspection(
        source=source, tokenizer=tokenizer, room=255, processes=processes, most=most
    )
    counted: list[int] = []
    last = list(inspection.run(counted.append))[-1]
    assert sum(counted) == last
    return inspection.findings()


def test_what_was_put_in_is_found(source: Source) -> None:
    found = look(source)
    assert (found.looked_at, found.of) == (107, 107)
    assert set(found.bad) == {"torn.png", "empty.png"}
    assert "is no JPEG" in found.bad["empty.png"]
    assert sum(found.unreadable.values()) == found.num_bad == 2
    assert [set(pair) for pair in found.same] == [{"original.png", "copy.png"}]
    assert len(found.near) == 1
    assert "smaller.jpg" in found.near[0]
    assert found.too_long == 1
    assert found.tokens["most"] == 300
    assert (found.sizes["least"], found.sizes["most"]) == (9, 160)
    assert found.aspects["1.25 to 2"] == 101
    assert found.aspects["0.25 to 0.5"] == 1
    assert found.num_same_name == 2
    assert found.without_caption == 0


def test_several_processes_find_the_same(source: Source) -> None:
    assert look(source, processes=2) == look(source)


def test_a_part_is_a_random_part(source: Source) -> None:
    found = look(source, most=40)
    assert found.looked_at == 40
    assert found.of == 107
    whole = dataclasses.asdict(look(source))
    assert set(found.bad.items()) <= set(whole["bad"].items())


def test_near_pairs_are_those_of_comparing_all() -> None:
    random = np.random.default_rng(1)
    hashes = random.integers(1, 2**63, 400, dtype=np.uint64)
    colours = random.integers(0, 9, (400, 3), dtype=np.uint8)
    for place in range(0, 400, 4):
        for bit in random.integers(0, 64, place % 6):
            hashes[place] = hashes[place + 1] ^ (np.uint64(1) << np.uint64(bit))
    expected = [
        (i, j)
        for i in range(400)
        for j in range(i + 1, 400)
        if int(hashes[i] ^ hashes[j]).bit_count() <= 3
        and np.abs(colours[i].astype(int) - colours[j]).max() <= 6
    ]
    assert near_pairs(hashes, colours) == expected != []
    assert near_pairs(np.zeros(9, dtype=np.uint64), colours[:9]) == []


def test_the_near_hash_bears_scaling(source: Source) -> None:
    picture = Image.effect_mandelbrot((200, 150), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    other = picture.resize((90, 67))
    assert (near_hash(picture) ^ near_hash(other)).bit_count() <= 3

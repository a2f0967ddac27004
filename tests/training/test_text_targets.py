"""The losses that other projects' models answered are those that a task minimises."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dalle.errors import ConfigError
from dalle.pretrained import mindalle, rudalle
from dalle.pretrained.dalle_pytorch import dalle_pt
from dalle.tokenizers.class_numbers import ClassNumbers
from dalle.training.dalle_objective import DalleObjective
from dalle.training.dalle_task import DalleTask
from dalle.training.text_targets import family_targets
from tests import published
from tests.fakes import FlatTokenizer
from tests.pretrained.dalle_pytorch import originals


def loss_of(kind: str, model: Any, text: torch.Tensor, codes: torch.Tensor) -> dict[str, float]:
    """What the task minimises, and its parts."""
    tokens = ClassNumbers(model.text_vocab)  # of which only the number of entries matters
    pictures = FlatTokenizer(vocab_size=model.image_vocab, grid=model.layout.grid)
    task = DalleTask(
        model.config,
        kind=kind,
        text_tokenizer=tokens,
        image_tokenizer=pictures,
        objective=DalleObjective(),
    )
    batch = task.prepare({"text": text, "codes": codes.view(-1, *model.layout.grid)})
    loss = task.loss(model, batch, step=0, counts=batch.counts)
    held_out = task.validate(model, [batch], step=0)
    assert held_out["loss"] == pytest.approx(loss.total.item(), abs=1e-6)
    assert held_out["loss_image"] != held_out["loss_image_no_caption"]
    return {name: value.item() for name, value in loss.metrics.items()}


@pytest.mark.parametrize("name", ["a", "b", "c", "d"])
def test_dalle_pytorch_minimises_what_it_did(name: str) -> None:
    model = dalle_pt.convert(originals.source(originals.dalle_pt(name))).module
    answers = originals.answers(name)
    assert (answers["text"] == 0).any()
    text = originals.to_our_ids(answers["text"], model.config.text_vocab)
    loss = loss_of("dalle_pytorch", model, text, answers["image_codes"])
    assert loss["loss"] == pytest.approx(answers["loss"].item(), abs=1e-5)


def test_rudalle_v2_minimises_what_it_did() -> None:
    state, golden = published.filled_state("rudalle_v2"), published.answers("rudalle_v2")
    model = rudalle.from_state(state, path=originals.PATH, version="v2", heads=2)
    loss = loss_of("rudalle", model, *golden["input_ids"].split([6, 16], dim=1))
    for name in ("loss", "loss_text", "loss_image"):
        assert loss[name] == pytest.approx(golden[name].item(), abs=1e-5), name


def test_rudalle_v3_does_but_for_the_first_code_which_it_took_for_a_word() -> None:
    state, golden = published.filled_state("rudalle_v3"), published.answers("rudalle_v3")
    model = rudalle.from_state(state, path=originals.PATH, version="v3", heads=2)
    text, codes = golden["input_ids"].split([6, 16], dim=1)
    loss = loss_of("rudalle", model, text, codes)
    as_word = F.cross_entropy(golden["logits"][:, 5, :46], codes[:, 0]).item()
    assert (5 * loss["loss_text"] + as_word) / 6 == pytest.approx(
        golden["loss_text"].item(), abs=1e-5
    )
    first = F.cross_entropy(golden["logits"][:, 5, 46:], codes[:, 0]).item()
    assert (16 * loss["loss_image"] - first) / 15 == pytest.approx(
        golden["loss_image"].item(), abs=1e-5
    )


def test_mindalle_learns_pads_as_tokens() -> None:
    golden = published.answers("mindalle_transformer")
    state = published.filled_state("mindalle_transformer")
    model = mindalle.from_state(state, path=originals.PATH, heads=2)
    loss = loss_of("mindalle", model, golden["text"], golden["image_codes"])
    text = F.cross_entropy(golden["text_logits"].mT, golden["text"][:, 1:])
    image = F.cross_entropy(golden["image_logits"].mT, golden["image_codes"])
    assert loss["loss_text"] == pytest.approx(text.item(), abs=1e-5)
    assert loss["loss_image"] == pytest.approx(image.item(), abs=1e-5)


def test_what_reads_no_text_is_not_trained() -> None:
    with pytest.raises(ConfigError, match="'llamagen' draw here and are not trained"):
        family_targets("llamagen")

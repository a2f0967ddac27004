"""Trains one model step by step, whenever it is told to, in a process of its own.

    python benchmarks/equal_time_worker.py NAME RECIPE TOKENS FOLDER

NAME is `ours`, or another project whose checkout lies in FOLDER (see peer.py); RECIPE is `ours`
(the preset's AdamW and schedule) or `own` (the defaults of that project's training script). TOKENS
is what equal_time.py wrote. For each line `step SHARE` a batch is trained on and the CPU seconds
that took are written; SHARE is how much of the time is used up. For each line `judge` the held-out
loss is.
"""

import importlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer import REPOSITORIES, dalle_pytorch_model
from torch import Tensor, nn
from torch.nn import functional as F

JUDGED_AT_ONCE = 32


def main() -> None:
    """Build the model, say so, and do as each line says."""
    name, recipe, tokens, folder = sys.argv[1:]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = {key: torch.from_numpy(value) for key, value in np.load(tokens).items()}
    settings = json.loads(Path(tokens).with_suffix(".json").read_text(encoding="utf-8"))
    if name != "ours":
        sys.path.insert(0, str(Path(folder) / REPOSITORIES[name.partition(":")[0]]))
    contender = CONTENDERS[name.partition(":")[0]](name, Path(folder), settings)
    trainer = Trainer(contender, data, settings, recipe)
    print(f"ready {sum(p.numel() for p in contender.model.parameters())}", flush=True)
    for line in sys.stdin:
        word, _, share = line.strip().partition(" ")
        print(trainer.step(float(share)) if word == "step" else trainer.judge(), flush=True)


class Contender:
    """A model, the loss it trains on, and its nats per image token."""

    model: Any
    """Somebody's module."""
    own: Callable[[nn.Module], torch.optim.Optimizer]
    """The optimizer of its own training script, where it is not ours."""
    own_clip = 1.0

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        raise NotImplementedError

    def loss(self, text: Tensor, codes: Tensor) -> Tensor:
        """What its training script minimises."""
        raise NotImplementedError

    def image_nll(self, text: Tensor, codes: Tensor) -> Tensor:
        """Of held-out pictures, summed over all image tokens."""
        raise NotImplementedError


class Ours(Contender):
    """The model of the preset, trained as `DalleTask` does."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        from dalle.config import from_json
        from dalle.models.dalle import Dalle, DalleConfig

        self.model = Dalle(from_json(DalleConfig, settings["model"]))
        self.vocab = settings["model"]["text_vocab"]

    def loss(self, text: Tensor, codes: Tensor) -> Tensor:
        """A tenth of the captions dropped, an eighth of the loss the text's."""
        from dalle.training.image_tokens import summed_nll
        from dalle.training.text_targets import text_targets, without_slots_past_all

        pads = torch.arange(text.shape[1]) + self.vocab
        text = torch.where(torch.rand(len(text), 1) < 0.1, pads, text)
        targets = without_slots_past_all(text_targets(text, self.vocab))
        output = self.model(text, codes, text_logits=targets.shape[1])
        of_text = summed_nll(output.text, targets) / (targets >= 0).sum().clamp(min=1)
        return of_text / 8 + summed_nll(output.image, codes) / codes.numel() * 7 / 8

    def image_nll(self, text: Tensor, codes: Tensor) -> Tensor:
        """With its own caption."""
        logits = self.model(text, codes).image
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum")


class DallePytorch(Contender):
    """lucidrains/DALLE-pytorch: `full` with its script's defaults, or its `sparse` layers with
    rotary positions and token shift, its class's defaults."""

    own_clip = 0.5

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        theirs = dalle_pytorch_model(folder)
        size = settings["model"]
        sparse = ("axial_row", "axial_col", "axial_row", "axial_row")
        patterns = (*(sparse * size["depth"])[: size["depth"] - 1], "conv_like")
        is_sparse, halvings = name.endswith("sparse"), 3
        vae = theirs.DiscreteVAE(
            image_size=size["rows"] * 2**halvings,
            num_tokens=size["image_vocab"],
            codebook_dim=16,
            num_layers=halvings,
            hidden_dim=16,
        )
        self.model = theirs.DALLE(
            dim=size["width"],
            vae=vae,
            num_text_tokens=size["text_vocab"] + 1,
            text_seq_len=size["text_slots"] - 1,
            depth=size["depth"],
            heads=size["heads"],
            dim_head=size["width"] // size["heads"],
            attn_types=patterns if is_sparse else ("full",),
            rotary_emb=is_sparse,
            shift_tokens=is_sparse,
        )
        self.vocab = size["text_vocab"]
        self.own = lambda model: torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], lr=3e-4
        )

    def loss(self, text: Tensor, codes: Tensor) -> Tensor:
        """Its own."""
        return self.model(self._ids(text), codes, return_loss=True)

    def image_nll(self, text: Tensor, codes: Tensor) -> Tensor:
        """Of its logits over both vocabularies, of which the text's are masked out."""
        logits = self.model(self._ids(text), codes)[:, self.model.text_seq_len :]
        targets = codes.flatten() + self.model.num_text_tokens
        return F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")

    def _ids(self, text: Tensor) -> Tensor:
        """Without the start; 0 is its pad."""
        return torch.where(text[:, 1:] < self.vocab, text[:, 1:] + 1, 0)


class LlamaGen(Contender):
    """FoundationVision/LlamaGen; in place of T5's features each word has a fixed random one, to
    which one for its place is added. It learns no text."""

    def __init__(self, name: str, folder: Path, settings: dict[str, Any]) -> None:
        theirs = importlib.import_module("autoregressive.models.gpt")
        size = settings["model"]
        self.slots = size["text_slots"] - 1
        self.model = theirs.Transformer(
            theirs.ModelArgs(
                dim=size["width"],
                n_layer=size["depth"],
                n_head=size["heads"],
                vocab_size=size["image_vocab"],
                block_size=size["rows"] * size["cols"],
                cls_token_num=self.slots,
                caption_dim=size["width"],
                model_type="t2i",
            )
        )
        unknown = torch.randn(self.slots, size["width"]) / size["width"] ** 0.5
        self.model.cls_embedding.uncond_embedding = nn.Parameter(unknown, requires_grad=False)
        self.vocab = size["text_vocab"]
        self.words = torch.randn(self.vocab, size["width"])
        self.places = torch.randn(self.slots, size["width"])
        self.length = self.slots + size["rows"] * size["cols"] - 1
        self.own = lambda model: torch.optim.AdamW(
            model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
        )

    def loss(self, text: Tensor, codes: Tensor) -> Tensor:
        """Its own: dropout and dropped captions as its script has them."""
        return self._run(text, codes)[1]

    def image_nll(self, text: Tensor, codes: Tensor) -> Tensor:
        """In its training mode, as it judges no targets in the other, with nothing dropped."""
        rates = {layer: layer.p for layer in self.model.modules() if isinstance(layer, nn.Dropout)}
        dropped = self.model.cls_embedding.uncond_prob
        self.model.train()
        self.model.cls_embedding.uncond_prob = 0.0
        for layer in rates:
            layer.p = 0.0
        loss = self._run(text, codes)[1]
        self.model.cls_embedding.uncond_prob = dropped
        for layer, rate in rates.items():
            layer.p = rate
        return loss * codes.numel()

    def _run(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Words at the end of the text's slots, and what stands before them unseen, as there."""
        is_word = text[:, 1:] < self.vocab
        count = is_word.sum(1)
        at = torch.arange(self.slots) - (self.slots - count)[:, None]
        words = torch.gather(text[:, 1:], 1, at.clamp(min=0)).where(at >= 0, 0)
        features = (self.words[words] + self.places[at.clamp(min=0)]).where(at[..., None] >= 0, 0.0)
        seen = torch.ones(len(text), self.length, dtype=torch.bool)
        seen[:, : self.slots] = at >= 0
        mask = torch.ones(self.length, self.length, dtype=torch.bool).tril() & seen[:, None]
        mask = mask | torch.eye(self.length, dtype=torch.bool)
        return self.model(
            cond_idx=features,
            idx=codes[:, :-1],
            targets=codes,
            mask=mask[:, None],
            valid=torch.ones(len(text)),
        )


class Trainer:
    """One contender, its optimizer, and the batches, which are the same for all."""

    def __init__(
        self, contender: Contender, data: dict[str, Tensor], settings: dict[str, Any], recipe: str
    ) -> None:
        from dalle.training.optim import OptimConfig, build_optimizer

        optim = settings["optim"]
        self.contender, self.data, self.settings, self.recipe = contender, data, settings, recipe
        self.steps = 0
        self.order = torch.Generator().manual_seed(0)
        self.clip = optim["clip_norm"] if recipe == "ours" else contender.own_clip
        if recipe == "ours":
            config = OptimConfig(
                lr=optim["lr"], betas=tuple(optim["betas"]), weight_decay=optim["weight_decay"]
            )
            self.optimizer: torch.optim.Optimizer = build_optimizer(contender.model, config)
        else:
            self.optimizer = contender.own(contender.model)

    def step(self, share: float) -> float:
        """One update; the CPU seconds that it took, drawing the batch included."""
        began = time.process_time()
        count, views = self.data["codes"].shape[:2]
        size = (self.settings["batch"],)
        rows = torch.randint(count, size, generator=self.order)
        view = torch.randint(views, size, generator=self.order)
        model = self.contender.model.train()
        if self.recipe == "ours":
            optim = self.settings["optim"]
            rise = min(1.0, (self.steps + 1) / optim["warmup"])
            fall = optim["final"] + (1 - optim["final"]) * 0.5 * (1 + math.cos(math.pi * share))
            for group in self.optimizer.param_groups:
                group["lr"] = optim["lr"] * rise * fall
        loss = self.contender.loss(self.data["text"][rows], self.data["codes"][rows, view].long())
        loss.backward()
        parameters = [p for p in model.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return time.process_time() - began

    @torch.no_grad()
    def judge(self) -> float:
        """Nats per image token of the held-out pictures."""
        self.contender.model.eval()
        text, codes = self.data["held_out_text"], self.data["held_out_codes"][:, 0].long()
        total = 0.0
        for start in range(0, len(text), JUDGED_AT_ONCE):
            part = slice(start, start + JUDGED_AT_ONCE)
            total += self.contender.image_nll(text[part], codes[part]).item()
        return total / codes.numel()


CONTENDERS: dict[str, Callable[[str, Path, dict[str, Any]], Contender]] = {
    "ours": Ours,
    "dalle-pytorch": DallePytorch,
    "llamagen": LlamaGen,
}

if __name__ == "__main__":
    main()

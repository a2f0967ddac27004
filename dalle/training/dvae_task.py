"""Training the discrete VAE on pictures.

Source: arXiv 2102.12092, section 2.1 and appendix A.2.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dalle.data.transforms import center_crop, dvae_augment, to_float
from dalle.errors import ConfigError, DataError
from dalle.models.dvae import Dvae, DvaeConfig, DvaeOutput, psnr, reconstruction_nll
from dalle.nn.quantize import (
    code_counts,
    codebook_use,
    kl_to_uniform,
    mean_posterior,
    perplexity,
)
from dalle.pictures import grid
from dalle.protocols import Batch, EncodedSample, Loss, Sample
from dalle.training.across import my_rank, num_processes, summed
from dalle.training.collapse import name_collapse
from dalle.training.schedules import cosine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DvaeObjective:
    """The relaxed evidence lower bound and its schedules, as shares of the run.

    Published, over 3,000,000 updates: KL weight 0 to 6.6 over 0.17 %, temperature 1 to 1/16 over
    5 %. A short run needs other shares: see docs/training.md.
    """

    kl_weight: float = 6.6
    """beta, of the KL summed over cells, where the reconstruction is summed over sub-pixels."""
    kl_rise: float = 0.0017
    """Share of the run over which beta rises from 0, by a cosine."""
    kl_fall: float | None = None
    """Share of the run at which beta has fallen to 0 again, by a cosine after its rise. A KL that
    is there early and gone later keeps a small codebook from collapsing."""
    temperature: float = 1 / 16
    """Of the relaxation at the end; it starts at 1."""
    temperature_share: float = 0.05
    balance_weight: float = 0.0
    """Weight of the KL of the mean posterior to uniform, the remedy for a collapse: it asks that
    all codes are used over a micro-batch of all processes, and leaves each cell free to be sure.
    Not published."""
    augment: bool = True
    """The paper's crops and flip; without it the centre of the picture."""
    flip: bool = True
    """Whether augmented pictures are flipped at times; off where left and right matter."""

    def __post_init__(self) -> None:
        for name in ("kl_weight", "balance_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("kl_rise", "temperature_share", "temperature"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected above 0, at most 1")
        if self.kl_fall is not None and not self.kl_rise < self.kl_fall <= 1:
            raise ConfigError(
                f"kl_fall is {self.kl_fall}; expected a share of the run above kl_rise "
                f"({self.kl_rise}) and at most 1"
            )

    def kl_weight_at(self, progress: float) -> float:
        """beta at a share of the run."""
        if self.kl_fall is None or progress < self.kl_rise:
            return cosine(0.0, self.kl_weight, progress / self.kl_rise)
        return cosine(
            self.kl_weight, 0.0, (progress - self.kl_rise) / (self.kl_fall - self.kl_rise)
        )

    def temperature_at(self, progress: float) -> float:
        """The temperature of the relaxation at a share of the run."""
        return cosine(1.0, self.temperature, progress / self.temperature_share)


class DvaeTask:
    """A `Task`: pictures to relaxed codes and back.

    The loss is divided by the number of sub-pixels, so that at downsampling f the KL's weight on
    its mean over cells is beta / (3 f^2): beta / 192 as published.
    """

    kind = "dvae"

    def __init__(self, config: DvaeConfig, objective: DvaeObjective, *, total_steps: int) -> None:
        self.config = config
        self.objective = objective
        self.total_steps = total_steps

    def build(self) -> nn.Module:
        """A fresh discrete VAE."""
        return Dvae(self.config)

    def read(
        self, sample: Sample | EncodedSample, random: Random, *, train: bool
    ) -> dict[str, np.ndarray] | None:
        """The picture, cropped: uint8, height x width x 3."""
        if not isinstance(sample, Sample):
            raise DataError(f"{sample.key} holds codes; a discrete VAE is trained on pictures")
        size = {"height": self.config.image_height, "width": self.config.image_width}
        if train and self.objective.augment:
            return {"image": dvae_augment(sample.image, random, flip=self.objective.flip, **size)}
        return {"image": center_crop(sample.image, **size)}

    @torch.no_grad()
    def prepare(self, arrays: dict[str, Tensor]) -> Batch:
        """Pictures as floats in [0, 1]."""
        images = to_float(arrays["image"])
        return Batch(tensors={"images": images}, counts={"images": float(len(images))})

    def loss(
        self, model: nn.Module, batch: Batch, *, step: int, counts: Mapping[str, float]
    ) -> Loss:
        """Reconstruction loss + beta / (3 f^2) KL [+ balance], each a mean over the batch."""
        images = batch.tensors["images"]
        progress = step / self.total_steps
        temperature = self.objective.temperature_at(progress)
        kl_weight = self.objective.kl_weight_at(progress)
        output: DvaeOutput = model(images, temperature)
        share = len(images) / counts["images"]
        reconstruction = (
            reconstruction_nll(images, output.decoded, self.config.likelihood).mean() * share
        )
        kl = kl_to_uniform(output.logits).mean() * share
        total = reconstruction + self.kl_factor(kl_weight) * kl
        metrics = {"nll": reconstruction, "kl": kl}
        if self.objective.balance_weight:
            balance = _kl_of_mean(output.logits) * share
            total = total + self.objective.balance_weight * balance
            metrics["balance"] = balance
        metrics = {"loss": total, **metrics, **self._use_in_training(output, share=share)}
        constant = {"temperature": temperature, "kl_weight": kl_weight}
        scheduled = {name: images.new_tensor(value * share) for name, value in constant.items()}
        detached = {name: value.detach() for name, value in metrics.items()}
        return Loss(total=total, metrics={**detached, **scheduled})

    def _use_in_training(self, output: DvaeOutput, *, share: float) -> dict[str, Tensor]:
        """Usage and perplexity of the codes of all processes' micro-batches, without noise."""
        counts = code_counts(output.logits.detach().argmax(dim=1), self.config.num_codes)
        counts = summed(counts)
        usage = (counts > 0).float().mean()
        return {"usage": usage * share, "perplexity": perplexity(counts) * share}

    def kl_factor(self, kl_weight: float) -> float:
        """What beta weighs on the KL's mean over cells, beside a mean over sub-pixels."""
        return kl_weight / (3 * self.config.downsampling**2)

    @torch.no_grad()
    def validate(
        self, model: nn.Module, batches: Iterable[Batch], *, step: int
    ) -> dict[str, float]:
        """Through argmax codes: PSNR in dB, the reconstruction loss, and the codebook's use.

        `collapsed` is 1 where `name_collapse` finds something after the run's first tenth, which
        is also logged as a warning.
        """
        assert isinstance(model, Dvae)
        sums, pictures = {"psnr": 0.0, "nll": 0.0, "kl": 0.0}, 0
        counts = torch.zeros(self.config.num_codes, dtype=torch.long)
        for batch in batches:
            images = batch.tensors["images"]
            logits = model.encode_logits(images)
            codes = logits.argmax(dim=1)
            decoded = model.decode_codes(codes)
            nll = reconstruction_nll(images, decoded, self.config.likelihood)
            sums["psnr"] += psnr(images, model.pixels(decoded)).sum().item()
            sums["nll"] += nll.mean().item() * len(images)
            sums["kl"] += kl_to_uniform(logits).mean().item() * len(images)
            counts += code_counts(codes, self.config.num_codes).cpu()
            pictures += len(images)
        means = {name: value / max(1, pictures) for name, value in sums.items()}
        use = codebook_use(counts)
        collapse = None
        if step >= self.total_steps / 10 and pictures:
            collapse = name_collapse(
                use,
                kl=means["kl"],
                num_codes=self.config.num_codes,
                num_cells=int(counts.sum()),
            )
        if collapse is not None and my_rank() == 0:
            log.warning("step %d: %s", step, collapse)
        return {
            "loss": means["nll"],
            **means,
            "usage": use.usage,
            "codes_used": float(use.codes_used),
            "perplexity": use.perplexity,
            "collapsed": float(collapse is not None),
        }

    @torch.no_grad()
    def preview(self, model: nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Up to 16 pictures, each row above the row of its reconstructions."""
        assert isinstance(model, Dvae)
        images = batch.tensors["images"][:16]
        decoded = model.decode_codes(model.encode_logits(images).argmax(dim=1))
        rows = []
        for originals, reconstructed in zip(
            images.split(8), model.pixels(decoded).split(8), strict=True
        ):
            rows += [originals, reconstructed]
        path = folder / "reconstructions.png"
        grid(torch.cat(rows), columns=min(8, len(images))).save(path)
        return [path]

    def export(self, folder: Path) -> dict[str, Any]:
        """Nothing: a discrete VAE is complete in itself."""
        return {}


def _kl_of_mean(logits: Float[Tensor, "b codes rows cols"]) -> Float[Tensor, ""]:
    """That of the posterior averaged over all processes, which have equally many pictures."""
    mean = summed(mean_posterior(logits)) / num_processes()
    return (mean * mean.clamp(min=1e-30).log()).sum() + math.log(mean.numel())

"""Runs of the transformer: what a user sets, and the named ones."""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dalle.presets.decoder import ConditionSettings, DalleModel, SamplingSettings
from dalle.presets.settings import (
    DataSettings,
    DeviceName,
    LoopSettings,
    OptimSettings,
    PresetName,
    TextSettings,
    train_config,
)

if TYPE_CHECKING:
    from dalle.models.clip_gen import ClipGenConfig
    from dalle.models.dalle import DalleConfig
    from dalle.sampling.filters import Sampling
    from dalle.systems.clip_gen.task import ClipGenObjective
    from dalle.training.dalle_objective import DalleObjective
    from dalle.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleLearning:
    """What is minimised, and how captions and pictures are varied."""

    text_weight: float = 1 / 8
    """Share of the text's loss; the image's is the rest."""
    caption_dropout: float = 0.1
    """Share of the captions that are dropped in training, so that the model can be guided."""
    caption_order: float = 0.0
    """Share of the samples on which the model learns to write the caption of a picture, instead of
    drawing the picture of a caption. 0: as published."""
    caption_weight: float | None = None
    """Of those captions' loss: more learns captions sooner and pictures later. None: as the
    text's."""
    keep_empty: bool = False
    """Train on pictures without a caption as "no caption", instead of leaving them out."""
    augment: bool = True
    """Random crops; without it the centre of the picture."""
    views: int = 0
    """Turn every picture into codes once, before training, in so many crops, and keep them in the
    token cache. 0: at every step, in a new crop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleRun:
    """Train a DALL·E on captioned pictures, over the codes of a trained discrete VAE."""

    preset: PresetName = "small"
    """Where the defaults below come from."""
    resume: str | None = None
    """Go on with the run of this folder, with its settings. The same command as at first does so
    too."""
    vae: str | None = None
    """Folder or run of the discrete VAE; it goes into the model's folder."""
    start_from: str | None = None
    """Train this DALL·E on instead of a new one: a model folder, a run, or a checkpoint of another
    project. Sizes and tokenizers are its own."""
    lora_rank: int | None = None
    """With --start-from: train pairs of matrices of so many columns beside the layers (LoRA), and
    nothing else. What is saved are whole layers."""
    clip: str | None = None
    """Folder or run of a CLIP that is to rank pictures; it goes into the model's folder too."""
    out: str | None = None
    """Folder of the run."""
    dry_run: bool = False
    """Do the step that needs the most memory, on no data, say what it took and what would fit, and
    write nothing."""
    seed: int = 0
    device: DeviceName = "auto"
    allow_change: tuple[str, ...] = ()
    """Settings that may be others than when the run began."""
    data: DataSettings = field(default_factory=DataSettings)
    text: TextSettings
    model: DalleModel
    objective: DalleLearning = field(default_factory=DalleLearning)
    condition: ConditionSettings = field(default_factory=ConditionSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    optim: OptimSettings
    loop: LoopSettings

    def model_config(self, *, text_vocab: int, codes: int, grid: tuple[int, int]) -> "DalleConfig":
        """What the model is built from, for tokenizers with so many entries and such a grid."""
        from dalle.models.dalle import DalleConfig

        return DalleConfig(
            text_vocab=text_vocab,
            text_slots=self.text.text_slots,
            both_orders=self.objective.caption_order > 0.0,
            **self.model.sizes(codes=codes, grid=grid),
        )

    def clip_gen_config(
        self, *, vector_size: int, codes: int, grid: tuple[int, int]
    ) -> "ClipGenConfig":
        """What the model is built from where its condition is a CLIP's vector."""
        from dalle.models.clip_gen import ClipGenConfig

        return ClipGenConfig(
            vector_size=vector_size,
            vector_slots=self.condition.vector_slots,
            **self.model.sizes(codes=codes, grid=grid),
        )

    def clip_gen_objective(self) -> "ClipGenObjective":
        """What the task then minimises."""
        from dalle.systems.clip_gen.task import ClipGenObjective

        return ClipGenObjective(
            condition_dropout=self.condition.condition_dropout,
            embedding_weight=self.condition.embedding_weight,
            embedding_distance=self.condition.embedding_distance,
            augment=self.objective.augment,
        )

    def objective_config(self) -> "DalleObjective":
        """What the task minimises."""
        from dalle.training.dalle_objective import DalleObjective

        return DalleObjective(
            text_weight=self.objective.text_weight,
            bpe_dropout=self.text.bpe_dropout,
            caption_dropout=self.objective.caption_dropout,
            caption_order=self.objective.caption_order,
            caption_weight=self.objective.caption_weight,
            long_captions=self.text.long_captions,
            augment=self.objective.augment,
        )

    def sampling_config(self) -> "Sampling":
        """How the model samples unless told otherwise."""
        from dalle.sampling.filters import Sampling

        return Sampling(
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            top_p=self.sampling.top_p,
            guidance=self.sampling.guidance,
        )

    def train_config(self) -> "TrainConfig":
        """What the training loop is told."""
        common = train_config(self.loop, self.optim, seed=self.seed, device=self.device)
        return dataclasses.replace(common, lora_rank=self.lora_rank)

    def summary(self) -> str:
        """One line for a list."""
        model = self.model
        return (
            f"{model.depth} layers of width {model.width}, {self.text.text_slots} text slots, "
            f"{self.loop.steps:,} steps of {self.loop.batch_size}"
        )


DALLE_PRESETS: dict[PresetName, DalleRun] = {
    "demo": DalleRun(
        preset="demo",
        data=DataSettings(data="shapes"),
        text=TextSettings(text_slots=20, text_vocab=512, bpe_dropout=0.0),
        model=DalleModel(
            depth=4, width=128, heads=4, conv_kernel=3, init_gain=0.5, embedding_std=0.4
        ),
        objective=DalleLearning(augment=False, views=1),
        sampling=SamplingSettings(temperature=0.7, guidance=1.5),
        optim=OptimSettings(
            lr=3e-3, warmup=100, final=0.02, betas=(0.9, 0.97), weight_decay=0.05, clip_norm=1.0
        ),
        loop=LoopSettings(steps=4000, batch_size=32),
    ),
    "tiny": DalleRun(
        preset="tiny",
        data=DataSettings(data="shapes", shapes=64, held_out_share=0.25),
        text=TextSettings(text_slots=16, text_vocab=280),
        model=DalleModel(depth=2, width=16, heads=2, conv_kernel=3),
        optim=OptimSettings(lr=1e-3),
        loop=LoopSettings(
            steps=4, batch_size=4, validate_every=2, validate_samples=8, preview_every=4
        ),
    ),
    "emoji": DalleRun(
        preset="emoji",
        text=TextSettings(text_slots=40, text_vocab=4096),
        model=DalleModel(
            depth=6,
            width=256,
            heads=4,
            dropout=0.1,
            init_gain=0.5,
            embedding_std=0.4,
        ),
        objective=DalleLearning(views=4),
        sampling=SamplingSettings(temperature=0.9, guidance=1.5),
        optim=OptimSettings(
            lr=2e-3, warmup=100, final=0.02, betas=(0.9, 0.96), weight_decay=0.1, clip_norm=1.0
        ),
        loop=LoopSettings(steps=1500, batch_size=32, validate_every=200, save_every=400),
    ),
    "small": DalleRun(
        preset="small",
        text=TextSettings(text_slots=128),
        model=DalleModel(depth=12, width=512, heads=8),
        optim=OptimSettings(
            lr=6e-4, warmup=2000, final=0.03, betas=(0.9, 0.96), weight_decay=0.045, clip_norm=4.0
        ),
        loop=LoopSettings(steps=100_000, batch_size=128),
    ),
    "base": DalleRun(
        preset="base",
        text=TextSettings(text_slots=256),
        model=DalleModel(depth=24, width=1024, heads=16),
        optim=OptimSettings(
            lr=4.5e-4,
            warmup=5000,
            final=0.03,
            betas=(0.9, 0.96),
            weight_decay=0.045,
            clip_norm=4.0,
            ema_decay=0.99,
            ema_every=25,
        ),
        loop=LoopSettings(steps=300_000, batch_size=256),
    ),
    # arXiv 2102.12092, section 2.2 and appendix B; where the plateaus were is not published.
    "paper": DalleRun(
        preset="paper",
        text=TextSettings(text_slots=256),
        model=DalleModel(depth=64, width=3968, heads=62),
        objective=DalleLearning(caption_dropout=0.0),
        optim=OptimSettings(
            lr=4.5e-4,
            schedule="halvings",
            warmup=5000,
            betas=(0.9, 0.96),
            weight_decay=4.5e-2,
            clip_norm=4.0,
            ema_decay=0.99,
            ema_every=25,
        ),
        loop=LoopSettings(steps=430_000, batch_size=1024),
    ),
}

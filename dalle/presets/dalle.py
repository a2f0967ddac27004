"""Runs of the transformer: what a user sets, and the named ones."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

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
    from dalle.models.dalle import DalleConfig
    from dalle.sampling.filters import Sampling
    from dalle.training.dalle_task import DalleObjective
    from dalle.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleModel:
    """Sizes of the transformer; its grid and its codes are the discrete VAE's."""

    depth: int
    """Layers, each of attention and MLP."""
    width: int
    heads: int
    patterns: tuple[Literal["published", "row", "column", "conv", "full"], ...] = ("published",)
    """The attention of each layer, one name for each; or `published`."""
    conv_kernel: int = 11
    """Side of the conv pattern; 3 for grids below 16 x 16."""
    dropout: float = 0.0
    init_gain: float = 0.125
    """Of the first weights: the published 0.125 for long runs, about 0.5 for a few thousand
    steps."""
    embedding_std: float | None = None
    """Of the first embeddings: None as published, about 0.4 for a few thousand steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DalleLearning:
    """What is minimised, and how captions and pictures are varied."""

    text_weight: float = 1 / 8
    """Share of the text's loss; the image's is the rest."""
    caption_dropout: float = 0.1
    """Share of the captions that are dropped in training, so that the model can be guided."""
    keep_empty: bool = False
    """Train on pictures without a caption as "no caption", instead of leaving them out."""
    augment: bool = True
    """Random crops; without it the centre of the picture."""
    views: int = 0
    """Turn every picture into codes once, before training, in so many crops, and keep them in the
    token cache. 0: at every step, in a new crop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How previews are drawn, and later pictures where nothing else is asked for."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0
    preview_prompts: tuple[str, ...] = ()
    """What previews during training show; without them, captions of held-out pictures."""


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
    clip: str | None = None
    """Folder or run of a CLIP that is to rank pictures; it goes into the model's folder too."""
    out: str | None = None
    """Folder of the run."""
    seed: int = 0
    device: DeviceName = "auto"
    allow_change: tuple[str, ...] = ()
    """Settings that may be others than when the run began."""
    data: DataSettings = field(default_factory=DataSettings)
    text: TextSettings
    model: DalleModel
    objective: DalleLearning = field(default_factory=DalleLearning)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    optim: OptimSettings
    loop: LoopSettings

    def model_config(self, *, text_vocab: int, codes: int, grid: tuple[int, int]) -> "DalleConfig":
        """What the model is built from, for tokenizers with so many entries and such a grid."""
        from dalle.models.dalle import DalleConfig

        model = self.model
        names = tuple(name for name in model.patterns if name != "published")
        return DalleConfig(
            text_vocab=text_vocab,
            image_vocab=codes,
            text_slots=self.text.text_slots,
            rows=grid[0],
            cols=grid[1],
            depth=model.depth,
            width=model.width,
            heads=model.heads,
            patterns="published" if model.patterns == ("published",) else names,
            conv_kernel=model.conv_kernel,
            dropout=model.dropout,
            init_gain=model.init_gain,
            embedding_std=model.embedding_std,
        )

    def objective_config(self) -> "DalleObjective":
        """What the task minimises."""
        from dalle.training.dalle_task import DalleObjective

        return DalleObjective(
            text_weight=self.objective.text_weight,
            bpe_dropout=self.text.bpe_dropout,
            caption_dropout=self.objective.caption_dropout,
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
        return train_config(self.loop, self.optim, seed=self.seed, device=self.device)

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

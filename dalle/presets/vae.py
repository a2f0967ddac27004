"""Runs of the discrete VAE: what a user sets, and the named ones."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dalle.presets.settings import (
    DataSettings,
    DeviceName,
    LoopSettings,
    OptimSettings,
    PresetName,
    height_and_width,
    train_config,
)

if TYPE_CHECKING:
    from dalle.models.dvae import DvaeConfig
    from dalle.training.dvae_task import DvaeObjective
    from dalle.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeModel:
    """Sizes of the discrete VAE."""

    image_size: tuple[int, ...]
    """Side of the pictures in pixels, or height and width."""
    codes: int = 1024
    """Entries of the codebook."""
    hidden: int
    """Channels of the first group; each further one of the encoder has twice as many."""
    groups: int = 4
    blocks: int = 2
    """Residual blocks in each group."""
    downsampling: int = 8
    """Pixels on a side of a grid cell: a power of 2."""
    embed_dim: int = 128
    """Channels after the decoder's first layer."""
    likelihood: Literal["logit_laplace", "mse"] = "logit_laplace"


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeLearning:
    """What is minimised, as shares of the run, and how pictures are varied."""

    kl_weight: float = 6.6
    """beta, of the KL summed over cells, where the reconstruction is summed over sub-pixels."""
    kl_rise: float = 0.05
    """Share of the run over which beta rises from 0."""
    kl_fall: float | None = None
    """Share of the run at which beta has fallen to 0 again; None: it stays."""
    temperature: float = 1 / 16
    """Of the relaxation at the end; it starts at 1."""
    temperature_share: float = 0.5
    """Share of the run over which it falls."""
    balance_weight: float = 0.0
    """Asks that all codes are used over a batch: the remedy for a collapsed codebook."""
    augment: bool = True
    """Random crops; without it the centre of the picture."""
    flip: bool = True
    """Flip at times; off where left and right matter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeRun:
    """Train a discrete VAE: pictures to grids of codes, and back."""

    preset: PresetName = "small"
    """Where the defaults below come from."""
    resume: str | None = None
    """Go on with the run of this folder, with its settings. The same command as at first does so
    too."""
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
    model: VaeModel
    objective: VaeLearning = field(default_factory=VaeLearning)
    optim: OptimSettings
    loop: LoopSettings

    def model_config(self) -> "DvaeConfig":
        """What the model is built from."""
        from dalle.models.dvae import DvaeConfig

        height, width = height_and_width(self.model.image_size)
        return DvaeConfig(
            image_height=height,
            image_width=width,
            num_codes=self.model.codes,
            hidden=self.model.hidden,
            groups=self.model.groups,
            blocks=self.model.blocks,
            downsampling=self.model.downsampling,
            embed_dim=self.model.embed_dim,
            likelihood=self.model.likelihood,
        )

    def objective_config(self) -> "DvaeObjective":
        """What the task minimises."""
        from dalle.training.dvae_task import DvaeObjective

        return DvaeObjective(
            kl_weight=self.objective.kl_weight,
            kl_rise=self.objective.kl_rise,
            kl_fall=self.objective.kl_fall,
            temperature=self.objective.temperature,
            temperature_share=self.objective.temperature_share,
            balance_weight=self.objective.balance_weight,
            augment=self.objective.augment,
            flip=self.objective.flip,
        )

    def train_config(self) -> "TrainConfig":
        """What the training loop is told."""
        return train_config(self.loop, self.optim, seed=self.seed, device=self.device)

    def summary(self) -> str:
        """One line for a list."""
        height, width = height_and_width(self.model.image_size)
        rows, cols = height // self.model.downsampling, width // self.model.downsampling
        return (
            f"{height} x {width} pixels to {rows} x {cols} of {self.model.codes:,} codes, "
            f"{self.loop.steps:,} steps of {self.loop.batch_size}"
        )


VAE_PRESETS: dict[PresetName, VaeRun] = {
    "demo": VaeRun(
        preset="demo",
        data=DataSettings(data="shapes"),
        model=VaeModel(
            image_size=(32,),
            codes=256,
            hidden=32,
            groups=3,
            blocks=1,
            downsampling=4,
            embed_dim=64,
            likelihood="mse",
        ),
        objective=VaeLearning(
            kl_weight=0.144, kl_rise=0.001, kl_fall=0.5, temperature_share=0.8, augment=False
        ),
        optim=OptimSettings(
            lr=4e-3, warmup=100, final=0.01, betas=(0.9, 0.99), weight_decay=1e-4, clip_norm=1.0
        ),
        loop=LoopSettings(steps=3000, batch_size=32),
    ),
    "tiny": VaeRun(
        preset="tiny",
        data=DataSettings(data="shapes", shapes=64, held_out_share=0.25),
        model=VaeModel(
            image_size=(32,),
            codes=16,
            hidden=8,
            blocks=1,
            downsampling=8,
            embed_dim=8,
            likelihood="mse",
        ),
        optim=OptimSettings(lr=1e-3, ema_decay=0.9),
        loop=LoopSettings(
            steps=4, batch_size=4, validate_every=2, validate_samples=8, preview_every=4
        ),
    ),
    "emoji": VaeRun(
        preset="emoji",
        model=VaeModel(
            image_size=(64,),
            codes=512,
            downsampling=4,
            hidden=32,
            groups=3,
            blocks=1,
            embed_dim=64,
            likelihood="mse",
        ),
        objective=VaeLearning(
            kl_weight=0.08,
            kl_rise=0.01,
            kl_fall=0.5,
            temperature_share=0.8,
            balance_weight=0.01,
            flip=False,
        ),
        optim=OptimSettings(
            lr=3e-3, warmup=100, final=0.01, betas=(0.9, 0.99), weight_decay=1e-4, clip_norm=1.0
        ),
        loop=LoopSettings(steps=3000, batch_size=32, validate_every=250, save_every=500),
    ),
    "small": VaeRun(
        preset="small",
        model=VaeModel(image_size=(256,), codes=1024, hidden=64),
        optim=OptimSettings(lr=3e-4, warmup=500, final=0.02, weight_decay=1e-4, ema_decay=0.999),
        loop=LoopSettings(steps=100_000, batch_size=64),
    ),
    "base": VaeRun(
        preset="base",
        model=VaeModel(image_size=(256,), codes=8192, hidden=128),
        optim=OptimSettings(lr=3e-4, warmup=500, final=0.02, weight_decay=1e-4, ema_decay=0.999),
        loop=LoopSettings(steps=300_000, batch_size=128),
    ),
    # arXiv 2102.12092, appendix A.2.
    "paper": VaeRun(
        preset="paper",
        model=VaeModel(image_size=(256,), codes=8192, hidden=256),
        objective=VaeLearning(kl_rise=5_000 / 3_000_000, temperature_share=0.05),
        optim=OptimSettings(
            lr=1e-4, decay_share=0.4, final=1 / 80, weight_decay=1e-4, ema_decay=0.999
        ),
        loop=LoopSettings(steps=3_000_000, batch_size=512),
    ),
}

"""The Inception v3 of published FIDs: TensorFlow's of 2015, whose weights PyTorch projects share.

It is not torchvision's: pooling branches leave the border out of their means, the last block's
takes the largest value instead, and there are 1008 classes.

Source: Szegedy et al., arXiv 1512.00567; the use for FIDs: Heusel et al., arXiv 1706.08500.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dalle.errors import CheckpointError
from dalle.pretrained.read import read

FILE = "pt_inception-2015-12-05-6726825d.pth"
SIDE = 299
WIDTH, CLASSES = 2048, 1008
UNUSED = "num_batches_tracked"
"""How names end that some files have and some lack."""
Maps = Float[Tensor, "b _ _ _"]


class Conv(nn.Module):
    """Convolution, normalisation, ReLU; without a stride its output is as large as its input."""

    def __init__(
        self,
        ins: int,
        outs: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padded: bool = True,
    ) -> None:
        super().__init__()
        rows, cols = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (rows // 2, cols // 2) if padded and stride == 1 else 0
        self.conv = nn.Conv2d(ins, outs, (rows, cols), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outs, eps=0.001)

    def forward(self, x: Maps) -> Maps:
        """Maps of `outs` channels."""
        return F.relu(self.bn(self.conv(x)))


def mean_pool(x: Maps) -> Maps:
    """The mean over 3 x 3, at the border over what lies within."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def largest_pool(x: Maps) -> Maps:
    """The largest of 3 x 3."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class Branches(nn.Module):
    """Chains of convolutions beside one another, whose outputs are joined.

    Args:
        layers: by name.
        chains: of each chain the names of its layers, in order; a tuple of names stands for layers
            side by side that all read what comes before them. `branch_pool` reads pooled maps.
        largest: whether these are of the largest value in place of the mean.
        reducing: whether the input itself, pooled with stride 2, comes behind.
    """

    def __init__(
        self,
        layers: dict[str, Conv],
        chains: tuple[tuple[str | tuple[str, ...], ...], ...],
        *,
        largest: bool = False,
        reducing: bool = False,
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.chains, self.largest, self.reducing = chains, largest, reducing

    def forward(self, x: Maps) -> Maps:
        """The outputs of all chains, in their order."""
        outs, pool = [], largest_pool if self.largest else mean_pool
        for chain in self.chains:
            found = [pool(x) if chain == ("branch_pool",) else x]
            for step in chain:
                names = (step,) if isinstance(step, str) else step
                found = [self.get_submodule(name)(found[0]) for name in names]
            outs += found
        if self.reducing:
            outs.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(outs, dim=1)


def _block_35(ins: int, pool: int) -> Branches:
    return Branches(
        {
            "branch1x1": Conv(ins, 64),
            "branch5x5_1": Conv(ins, 48),
            "branch5x5_2": Conv(48, 64, 5),
            "branch3x3dbl_1": Conv(ins, 64),
            "branch3x3dbl_2": Conv(64, 96, 3),
            "branch3x3dbl_3": Conv(96, 96, 3),
            "branch_pool": Conv(ins, pool),
        },
        (
            ("branch1x1",),
            ("branch5x5_1", "branch5x5_2"),
            ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            ("branch_pool",),
        ),
    )


def _to_17(ins: int) -> Branches:
    return Branches(
        {
            "branch3x3": Conv(ins, 384, 3, stride=2),
            "branch3x3dbl_1": Conv(ins, 64),
            "branch3x3dbl_2": Conv(64, 96, 3),
            "branch3x3dbl_3": Conv(96, 96, 3, stride=2),
        },
        (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
        reducing=True,
    )


def _block_17(ins: int, inner: int) -> Branches:
    wide, tall = (1, 7), (7, 1)
    return Branches(
        {
            "branch1x1": Conv(ins, 192),
            "branch7x7_1": Conv(ins, inner),
            "branch7x7_2": Conv(inner, inner, wide),
            "branch7x7_3": Conv(inner, 192, tall),
            "branch7x7dbl_1": Conv(ins, inner),
            "branch7x7dbl_2": Conv(inner, inner, tall),
            "branch7x7dbl_3": Conv(inner, inner, wide),
            "branch7x7dbl_4": Conv(inner, inner, tall),
            "branch7x7dbl_5": Conv(inner, 192, wide),
            "branch_pool": Conv(ins, 192),
        },
        (
            ("branch1x1",),
            tuple(f"branch7x7_{i}" for i in range(1, 4)),
            tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
            ("branch_pool",),
        ),
    )


def _to_8(ins: int) -> Branches:
    return Branches(
        {
            "branch3x3_1": Conv(ins, 192),
            "branch3x3_2": Conv(192, 320, 3, stride=2),
            "branch7x7x3_1": Conv(ins, 192),
            "branch7x7x3_2": Conv(192, 192, (1, 7)),
            "branch7x7x3_3": Conv(192, 192, (7, 1)),
            "branch7x7x3_4": Conv(192, 192, 3, stride=2),
        },
        (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in range(1, 5))),
        reducing=True,
    )


def _block_8(ins: int, *, largest: bool = False) -> Branches:
    return Branches(
        {
            "branch1x1": Conv(ins, 320),
            "branch3x3_1": Conv(ins, 384),
            "branch3x3_2a": Conv(384, 384, (1, 3)),
            "branch3x3_2b": Conv(384, 384, (3, 1)),
            "branch3x3dbl_1": Conv(ins, 448),
            "branch3x3dbl_2": Conv(448, 384, 3),
            "branch3x3dbl_3a": Conv(384, 384, (1, 3)),
            "branch3x3dbl_3b": Conv(384, 384, (3, 1)),
            "branch_pool": Conv(ins, 192),
        },
        (
            ("branch1x1",),
            ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
            ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
            ("branch_pool",),
        ),
        largest=largest,
    )


class InceptionV3(nn.Module):
    """Pictures to 2048 features, and those to the logits of 1008 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c = _block_35(192, 32), _block_35(256, 64)
        self.Mixed_5d, self.Mixed_6a = _block_35(288, 64), _to_17(288)
        self.Mixed_6b, self.Mixed_6c = _block_17(768, 128), _block_17(768, 160)
        self.Mixed_6d, self.Mixed_6e = _block_17(768, 160), _block_17(768, 192)
        self.Mixed_7a, self.Mixed_7b = _to_8(768), _block_8(1280)
        self.Mixed_7c = _block_8(WIDTH, largest=True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 2048"]:
        """Features of pictures in [0, 1], of any size."""
        # Without antialiasing, corners not aligned: as the shared PyTorch code has it.
        x = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        x = 2 * x - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))

    def class_logits(self, features: Float[Tensor, "b 2048"]) -> Float[Tensor, "b 1008"]:
        """Without the biases, as the published Inception scores are computed."""
        return features @ self.fc.weight.T


def load_inception(path: Path) -> InceptionV3:
    """The network with the weights in a file, of which nothing is executed.

    Raises:
        CheckpointError: it holds other tensors; torchvision's weights are others.
        InputError: there is no such file.
    """
    found: dict[str, Tensor] = {}
    for file in read(path).weights:
        found |= {k: v for k, v in file.state.items() if not k.endswith(UNUSED)}
    with torch.device("meta"):  # no memory, nothing drawn
        model = InceptionV3()
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(UNUSED)}
    for name in sorted({*found} | {*wanted}):
        sizes = [tuple(s[name].shape) if name in s else "absent" for s in (found, wanted)]
        if sizes[0] != sizes[1]:
            raise CheckpointError(
                f"{path}: {name!r} is {sizes[0]}, in the Inception v3 of FIDs it is {sizes[1]}; "
                f"give {FILE}"
            )
    counts = {k: torch.tensor(0) for k in model.state_dict() if k.endswith(UNUSED)}
    copies = {name: tensor.float().clone() for name, tensor in found.items()}
    model.load_state_dict(counts | copies, assign=True)
    return model.eval().requires_grad_(False)

"""ResNet-18 for small images."""

import torch
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalization, added to their input: relu(F(x) + S(x)).

    The shortcut S is the identity where the shapes agree, else a 1 x 1 convolution with batch
    normalization.
    """

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of residual and shortcut, without its negative part."""
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """The 18-layer residual network of He et al. (2016) with the stem that is usual for 32 x 32
    images.

    The stem is one 3 x 3 convolution of stride 1 without pooling. Four stages of two blocks follow,
    with widths w, 2w, 4w and 8w; each stage but the first halves the image. The mean over the
    positions that are left gives the features, d = 8w of them. Parameters are initialized as
    PyTorch does by default.

    Args:
        classes: Number of classes K.
        width: Channels w of the first stage; 64 in the original.
        channels: Channels of the images.
        last_bias: Whether the last layer has a bias.
        seed: Seed of the initial weights; the global generator is left as it was.

    Attributes:
        stem: The first convolution.
        blocks: The rest of the feature mapping.
        last: The last layer, whose weight is W of shape (K, 8w).

    Raises:
        ValueError: A number is not positive.

    Examples:
        >>> from nclib.networks import ResNet18
        >>> sum(p.numel() for p in ResNet18(width=8).parameters())
        176392
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        width: int = 64,
        channels: int = 3,
        last_bias: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if min(classes, width, channels) < 1:
            raise ValueError(
                "classes, width and channels must be positive, but they are "
                f"{classes}, {width}, {channels}."
            )
        plan = [
            (w * width, stride)
            for w, stage in ((1, 1), (2, 2), (4, 2), (8, 2))
            for stride in (stage, 1)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            self.blocks = nn.Sequential()
            for out, stride in plan:
                self.blocks.append(Block(width, out, stride))
                width = out
            self.last = nn.Linear(width, classes, bias=last_bias)

    @property
    def points(self) -> dict[str, nn.Module]:
        """The stem and the blocks by name, for ``probe`` to measure."""
        return {"stem": self.stem} | {
            f"block {i}": block for i, block in enumerate(self.blocks, start=1)
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, K) of images (N, channels, height, width)."""
        return self.last(self.blocks(self.stem(x)).mean((2, 3)))

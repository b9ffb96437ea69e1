"""The spatial transformer: a module that drops into any network, and localization networks to put inside it."""

import torch
from torch import Tensor, nn

from stn_helpers.grid import family_grid
from stn_helpers.sampler import sample
from stn_helpers.theta import Family, family


class SpatialTransformer(nn.Module):
    """Localization network -> theta -> grid generator -> sampler, in one module.

    localization: any module that turns images (N, C, H, W) into features (N, F).
    family: affine, similarity, attention, rotation, projective, tps, or a `Family`.
    size: target (H, W), pixels; None keeps the input's. features: F; None reads it off localization's last Linear.
    The layer from features to theta is made here, with zero weights and the identity as bias, so that training starts at
    "change nothing". Its name is `to_theta`.
    Raises ValueError where F cannot be read off. Paper: section 3. Taught in notebook 05.
    """

    def __init__(
        self,
        localization: nn.Module,
        family: str | Family = "affine",
        size: tuple[int, int] | None = None,
        align_corners: bool = False,
        padding_mode: str = "border",
        features: int | None = None,
    ):
        super().__init__()
        self.localization = localization
        self.family = named_family(family)
        self.size, self.align_corners, self.padding_mode = size, align_corners, padding_mode
        self.check = True  # look for a theta that is not finite; `stacked` cannot, for its passes must not depend on numbers
        self.to_theta = nn.Linear(features or last_width(localization), self.family.count)
        nn.init.zeros_(self.to_theta.weight)
        with torch.no_grad():
            self.to_theta.bias.copy_(torch.tensor(self.family.identity))

    def params(self, images: Tensor) -> Tensor:
        """What the localization network says of each image: the family's raw numbers, (N, P), float32 or wider."""
        features = self.localization(images)
        # theta is near 1, where half precision steps by 0.4 % (0.06 px at 32 px): this last layer stays in float32.
        with torch.autocast(images.device.type, enabled=False):
            return self.to_theta(features.to(self.to_theta.weight.dtype))

    def grid(self, images: Tensor, params: Tensor) -> Tensor:
        """Where each target pixel looks, (N, h, w, 2)."""
        height, width = images.shape[-2:]
        # The check makes a GPU wait, so while training there the loop watches loss and weights instead.
        check = self.check and not (self.training and params.is_cuda)
        size = (height, width) if self.size is None else self.size
        return family_grid(self.family, params, size, self.align_corners, aspect=width / height, check=check)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W), floating point -> what was attended, (N, C, h, w)."""
        grid = self.grid(images, self.params(images))
        return sample(images, grid, padding_mode=self.padding_mode, align_corners=self.align_corners)


def named_family(name: str | Family) -> Family:
    """A `Family`, by name or as it is."""
    return name if isinstance(name, Family) else family(name)


def last_width(localization: nn.Module) -> int:
    """The width of a localization network's answer, read off its last Linear layer."""
    linear = [layer for layer in localization.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("localization has no Linear layer to read its width off; say features=F, the width of its answer")
    return linear[-1].out_features


class Normalize(nn.Module):
    """Images in [0, 1] to zero mean and unit spread, channel by channel. It comes after a warp, so that 0 stays black."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def seed_localization(channels: int = 3, size: int = 32) -> nn.Sequential:
    """The localization network of the project's seed: images (N, channels, size, size) -> features (N, 256).

    At 3 x 32 x 32 the shapes go 64 x 26 x 26, 64 x 13 x 13, 128 x 9 x 9, 128 x 4 x 4. Taught in notebook 05.
    """
    side = ((size - 6) // 2 - 4) // 2
    if side < 1:
        raise ValueError(f"size is {size}; this network needs images of at least 18 pixels a side")
    return nn.Sequential(
        nn.Conv2d(channels, 64, kernel_size=7),
        nn.MaxPool2d(2, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 128, kernel_size=5),
        nn.MaxPool2d(2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * side * side, 256),
        nn.ReLU(),
    )


class Blind(nn.Module):
    """A localization network that sees nothing. Theta is then its bias: one window, learned, for every image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 1)


class Noise(nn.Module):
    """A localization network that draws at random: N(0, 1) numbers (N, count) while training, zeros when tested."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, images: Tensor) -> Tensor:
        shape = (len(images), self.count)
        return torch.randn(shape, device=images.device) if self.training else images.new_zeros(shape)


def light_localization(channels: int = 3, width: int = 16, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A localization network that costs little: images of any size -> features (N, 32), from a 4 x 4 summary.

    activation: nn.GELU cannot die; where all ReLUs have died, theta is the same for every picture and stays so.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=5, stride=2, padding=2),
        activation(),
        nn.Conv2d(width, 2 * width, kernel_size=5, stride=2, padding=2),
        activation(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 32),
        activation(),
    )

"""The spatial transformer: a module that drops into any network, and a localization network to put inside it."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from stn_helpers.checks import check_choice, check_images, check_size, readable
from stn_helpers.families import Family, family_grid
from stn_helpers.families import family as named
from stn_helpers.sampler import PADDINGS, sample


class ToTheta(nn.Linear):
    """The layer from features (N, F) to a family's raw numbers (N, P): zero weights, and the identity as bias.

    It answers in float32 or wider, whatever type its weights have, and computes in float64, because a float32 product may be
    made in bfloat16 or TF32. Near 1 bfloat16 steps by 0.4 %, which is 0.06 pixels of 32.
    """

    def __init__(self, features: int, identity: tuple[float, ...]):
        super().__init__(features, len(identity))
        self.identity = identity
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            self.bias.copy_(torch.tensor(identity))

    def forward(self, features: Tensor) -> Tensor:
        exact = torch.float32 if features.device.type == "mps" else torch.float64  # MPS has no float64
        answer = F.linear(features.to(exact), self.weight.to(exact), self.bias.to(exact))
        if self.bias.dtype in (torch.float16, torch.bfloat16) and any(number % 1 for number in self.identity):
            identity = torch.tensor(self.identity, dtype=exact, device=answer.device)
            answer = answer + (identity - identity.to(self.bias.dtype))  # a spline's thirds: what the bias could not hold
        return answer.to(torch.promote_types(self.bias.dtype, torch.float32))


class SpatialTransformer(nn.Module):
    """Localization network -> theta -> grid generator -> sampler, in one module.

    localization: any module that turns images (N, C, H, W) into features (N, F) or (N, F, 1, 1).
    family: affine, similarity, attention, rotation, projective, tps, or a `Family`.
    size: target (H, W), pixels; None keeps the input's. features: F; None reads it off localization's last Linear.
    padding_mode: border, zeros or reflection, see `sample`.
    The layer from features to theta is made here, with zero weights and the identity as bias, so that training starts at
    "change nothing". Its name is `to_theta`.
    Raises ValueError where an argument does not fit, or F cannot be read off. Paper: section 3. Taught in notebook 05.
    """

    plate: Tensor | None

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
        check_choice("padding_mode", padding_mode, PADDINGS)
        self.localization = localization
        self.family = family if isinstance(family, Family) else named(family)
        self.size = None if size is None else check_size(size)
        self.align_corners, self.padding_mode = align_corners, padding_mode
        self.to_theta = ToTheta(last_width(localization) if features is None else features, self.family.identity)
        # What the family can prepare for the size that was seen last: a spline's weights, which cost as much as its grid.
        self.register_buffer("plate", None, persistent=False)
        self._plate_of: Any = None

    def extra_repr(self) -> str:
        size = "as it comes" if self.size is None else self.size
        return f"family={self.family.name}, size={size}, padding_mode={self.padding_mode}, align_corners={self.align_corners}"

    def _apply(self, *args: Any, **options: Any) -> "SpatialTransformer":
        """.to(), .half() and all of their kind: what was prepared is made anew behind them, at full precision."""
        self.plate = None
        return super()._apply(*args, **options)

    def params(self, images: Tensor) -> Tensor:
        """What the localization network says of each image: the family's raw numbers, (N, P), float32 or wider."""
        check_images(images)
        try:
            features = self.localization(images)
        except RuntimeError as error:
            types = {weight.dtype for weight in self.localization.parameters()}
            if not types or images.dtype in types:
                raise
            came = ", ".join(str(kind) for kind in types)
            raise ValueError(f"images are {images.dtype} and localization's weights {came}; bring both to one type") from error
        width = getattr(self.to_theta, "in_features", None)
        if not isinstance(features, Tensor) or features.ndim < 2 or width not in (None, features[0].numel()):
            came = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"localization answers {came}; expected features (N, {width}): say features=F, the width of its answer"
            )
        # A layer that somebody put around to_theta shall stay in its own type too.
        kind = next((weight.dtype for weight in self.to_theta.parameters() if weight.is_floating_point()), features.dtype)
        with nullcontext() if images.is_meta else torch.autocast(images.device.type, enabled=False):
            return self.to_theta(features.flatten(1).to(kind))

    def grid(self, images: Tensor, params: Tensor, check: bool = True) -> Tensor:
        """Where each target pixel looks, (N, h, w, 2). check: see `sampling_grid`."""
        height, width = images.shape[-2:]
        size = (int(height), int(width)) if self.size is None else self.size
        prepared = self._prepared(size, params)
        return family_grid(self.family, params, size, self.align_corners, width / height, check, prepared)

    def _prepared(self, size: tuple[int, int], params: Tensor) -> Tensor | None:
        """What the family prepares for this size, kept as long as size and device stay."""
        wanted = (self.family.name, self.family.count, size, self.align_corners, params.device)
        if self.plate is not None and self._plate_of == wanted:
            return self.plate
        with torch.inference_mode(False), torch.no_grad():  # it outlives this call, and may serve in training
            made = self.family.prepare(size, self.align_corners)
            made = None if made is None else made.to(params.device, params.dtype if params.device.type == "mps" else None)
        if made is not None and readable(made):  # nothing is kept of what an exporter or vmap makes up
            self.plate, self._plate_of = made, wanted
        return made

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W), floating point -> what was attended, (N, C, h, w), in the type of the images."""
        if isinstance(images, fx.Proxy):  # torch.fx takes this module for one step, as it does those of torch.nn
            return images.tracer.create_proxy("call_module", images.tracer.path_of_module(self), (images,), {})
        params = self.params(images)
        # The check makes a GPU wait, so while training there the loop watches loss and weights instead.
        grid = self.grid(images, params, check=not (self.training and params.is_cuda))
        seen = sample(images, grid, padding_mode=self.padding_mode, align_corners=self.align_corners, check=False)
        return seen.to(images.dtype)


def last_width(localization: nn.Module) -> int:
    """The width of a localization network's answer, read off its last Linear layer."""
    linear = [layer for layer in localization.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("localization has no Linear layer to read its width off; say features=F, the width of its answer")
    return linear[-1].out_features


def parameter_groups(
    model: nn.Module, lr: float, localization: float = 1.0, weight_decay: float = 0.0, localization_decay: float = 1.0
) -> list[dict[str, Any]]:
    """What an optimizer needs to train a network that holds SpatialTransformers: their own rate, and weight decay for weights only.

    localization: their rate, as a share of lr (a tenth is a careful start). localization_decay: their decay, as a share of
    weight_decay. Returns groups of {params, lr, weight_decay}, for any torch.optim optimizer; what is frozen is left out.
    Decay must not reach biases: pulling theta's identity bias to zero would zoom every picture into a point.
    """
    inside = {id(p) for m in model.modules() if isinstance(m, SpatialTransformer) for p in m.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in inside, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (localization if own else 1.0),
            "weight_decay": weight_decay * (localization_decay if own else 1.0) if decays else 0.0,
        }
        for (own, decays), parameters in groups.items()
    ]


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

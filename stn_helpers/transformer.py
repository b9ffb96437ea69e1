"""The spatial transformer: a module that drops into any network, and a localization network to put inside it."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from stn_helpers.checks import check_choice, check_features, check_images, check_size
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
    The layer from features to theta, `to_theta`, is made here; it says the identity, so that training starts at "change nothing".
    Raises ValueError where an argument does not fit, or F cannot be read off. Paper: section 3. Taught in notebook 05.
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
        check_choice("padding_mode", padding_mode, PADDINGS)
        self.localization = localization
        self.family = family if isinstance(family, Family) else named(family)
        self.size = None if size is None else check_size(size)
        self.align_corners, self.padding_mode = align_corners, padding_mode
        if features is None:
            features = next((m.out_features for m in reversed([*localization.modules()]) if isinstance(m, nn.Linear)), None)
        if not isinstance(features, int) or features < 1:
            raise ValueError(
                f"features is {features!r}; expected F, the width of localization's answer, or a Linear layer in it to tell"
            )
        self.to_theta = ToTheta(features, self.family.identity)

    def extra_repr(self) -> str:
        size = "as it comes" if self.size is None else self.size
        return f"family={self.family.name}, size={size}, padding_mode={self.padding_mode}, align_corners={self.align_corners}"

    def params(self, images: Tensor) -> Tensor:
        """What the localization network says of each image: the family's raw numbers, (N, P), float32 or wider."""
        check_images(images)
        try:
            features = self.localization(images)
        except RuntimeError as error:
            weights = {weight.dtype for weight in self.localization.parameters()}
            if not weights or images.dtype in weights:
                raise
            raise ValueError(f"images are {images.dtype} and localization's weights {weights}; bring both to one type") from error
        check_features(features, getattr(self.to_theta, "in_features", None))  # a layer around to_theta may not have it
        own = next((weight.dtype for weight in self.to_theta.parameters() if weight.is_floating_point()), features.dtype)
        with nullcontext() if images.is_meta else torch.autocast(images.device.type, enabled=False):
            return self.to_theta(features.flatten(1).to(own))

    def grid(self, images: Tensor, params: Tensor, check: bool = True) -> Tensor:
        """Where each target pixel looks, (N, h, w, 2). check: see `sampling_grid`."""
        height, width = images.shape[-2:]
        size = (int(height), int(width)) if self.size is None else self.size
        return family_grid(self.family, params, size, self.align_corners, width / height, check)

    def forward(self, images: Tensor) -> Tensor:
        """images (N, C, H, W), floating point -> what was attended, (N, C, h, w), in the type of the images."""
        if isinstance(images, fx.Proxy):  # torch.fx takes this module for one step, as it does those of torch.nn
            return images.tracer.create_proxy("call_module", images.tracer.path_of_module(self), (images,), {})
        params = self.params(images)
        # The check makes a GPU wait, so while training there the loop watches loss and weights instead.
        grid = self.grid(images, params, check=not (self.training and params.is_cuda))
        seen = sample(images, grid, padding_mode=self.padding_mode, align_corners=self.align_corners, check=False)
        return seen.to(images.dtype)


def parameter_groups(
    model: nn.Module, lr: float, localization: float = 1.0, weight_decay: float = 0.0, localization_decay: float = 1.0
) -> list[dict[str, Any]]:
    """What an optimizer needs to train a network that holds SpatialTransformers: their own rate, and weight decay for weights only.

    localization: their rate, as a share of lr (a tenth is a careful start). localization_decay: their decay, as a share of
    weight_decay. Returns groups of {params, lr, weight_decay}, for any torch.optim optimizer; what is frozen is left out.
    Decay must not reach biases: pulling theta's identity bias to zero would zoom every picture into a point.
    """
    inside = {id(p) for m in model.modules() if isinstance(m, SpatialTransformer) for p in m.parameters()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
        own, decays = id(parameter) in inside, parameter.ndim > 1
        rate, decay = lr * (localization if own else 1.0), weight_decay * (localization_decay if own else 1.0)
        group = {"params": [], "lr": rate, "weight_decay": decay if decays else 0.0}
        groups.setdefault((own, decays), group)["params"].append(parameter)
    return list(groups.values())


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

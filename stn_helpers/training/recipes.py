"""Recipes: how a network is optimised, and nothing of its data or of the network itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Rates are per step; localization is the share of lr that the localization network gets.

    clip: the gradient of all weights together is shortened to this length where it is longer; 0 leaves it.
    localization_decay: the share of weight_decay that the localization network's weights get.
    optimizer: sgd or adamw. distortion: a name from `distortions.DISTORTIONS`, new for every batch.
    The rate stays as it is, but for one_cycle, up and down again, or thirds: a tenth of it after each third of the steps.
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.01
    localization: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0
    one_cycle: bool = False
    flips: bool = False
    crop_pixels: int = 0
    cutout_pixels: int = 0
    conv_dropout: float = 0.5
    dropout: float = 0.5
    optimizer: str = "sgd"
    distortion: str = "upright"
    label_smoothing: float = 0.0
    thirds: bool = False
    clip: float = 0.0
    localization_decay: float = 1.0

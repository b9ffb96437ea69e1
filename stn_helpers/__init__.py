"""Spatial transformer networks: what the notebooks derive, ready to import, on torch alone.

An image walks through the files in this order: theta -> grid -> sampler, and families -> transformer -> diagnose
put a network around that path. The rooms data, training and show stand on this floor; none of them is imported here.
"""

from stn_helpers.diagnose import diagnose
from stn_helpers.families import Family, family
from stn_helpers.grid import sampling_grid
from stn_helpers.sampler import sample, warp
from stn_helpers.theta import (
    affine,
    compose,
    decompose,
    invert,
    map_points,
    projective,
    theta_from_pixels,
    theta_to_pixels,
)
from stn_helpers.transformer import SpatialTransformer, light_localization, parameter_groups

__version__ = "0.1.0"
__all__ = [
    "Family",
    "SpatialTransformer",
    "__version__",
    "affine",
    "compose",
    "decompose",
    "diagnose",
    "family",
    "invert",
    "light_localization",
    "map_points",
    "parameter_groups",
    "projective",
    "sample",
    "sampling_grid",
    "theta_from_pixels",
    "theta_to_pixels",
    "warp",
]

"""Spatial transformer networks: what the notebooks derive, ready to import, on torch alone.

An image walks through theta -> grid -> sampler. families says what the numbers of a localization network mean, transformer puts
the path into a network, and diagnose says what went wrong. The rooms data, training and show stand on this floor.
"""

from stn_helpers.diagnose import diagnose
from stn_helpers.families import Family, family
from stn_helpers.grid import sampling_grid
from stn_helpers.pixels import theta_from_pixels, theta_to_pixels
from stn_helpers.sampler import sample, warp
from stn_helpers.theta import affine, compose, decompose, invert, map_points, projective
from stn_helpers.transformer import SpatialTransformer, light_localization, parameter_groups

__version__ = "0.1.0"
__all__ = ["affine", "compose", "decompose", "invert", "map_points", "projective", "theta_from_pixels", "theta_to_pixels"]
__all__ += ["sampling_grid", "sample", "warp", "family", "Family", "SpatialTransformer", "light_localization"]
__all__ += ["parameter_groups", "diagnose", "__version__"]

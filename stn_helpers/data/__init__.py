"""Data: sets of labelled pictures as uint8 tensors, batches made on the device, distortions and the poses that undo them."""

from .batches import as_float
from .distortions import Distortion, distorted, distortion
from .poses import blur, corner_drift, overlap, undone
from .sets import Images, available, data_root, load, test_card

__all__ = ["Distortion", "Images", "as_float", "available", "blur", "corner_drift", "data_root", "distorted", "distortion"]
__all__ += ["load", "overlap", "test_card", "undone"]

"""Distortions: clean images turned, scaled, moved and cluttered, batch by batch, with the pose that undoes it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .data import Images
from .sampler import warp
from .theta import affine, invert

PATCH = 6  # pixels a side of a piece of clutter: the paper's 6 x 6


@dataclass(frozen=True)
class Distortion:
    """Each image at a random angle, size and place on a black canvas, among pieces of other images.

    degrees: images are turned by `middle` +- `degrees`, uniformly; positive is clockwise on screen.
    scale: sizes are uniform in (low, high), 1 is the image's own size.
    canvas: pixels a side, None for the image's own. The place is uniform where the image, before it is turned, fits in.
    clutter: how many 6 x 6 pieces of other images of the batch lie about; a batch of one has only itself.
    Paper: appendix A.4. Taught in notebook 04.
    """

    degrees: float = 0.0
    middle: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    canvas: int | None = None
    clutter: int = 0

    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """images uint8 (N, C, H, H) -> (distorted uint8 (N, C, canvas, canvas), pose (N, 2, 3)).

        The pose is the theta that looks straight at the image on the canvas: what a perfect localization network would say.
        """
        count, side, where = len(images), images.shape[-1], images.device
        canvas = self.canvas or side

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator, device=where)

        angle, size = uniform(self.middle - self.degrees, self.middle + self.degrees), uniform(*self.scale) * side / canvas
        shift = uniform(-1, 1, 2) * (1 - size).clamp(min=0)[:, None]
        pose = affine(angle, size, shift=tuple(shift.unbind(1)))
        placed = warp(images.float(), invert(pose), size=(canvas, canvas), padding_mode="zeros")
        placed = placed.round().to(torch.uint8)
        for _ in range(self.clutter):
            self._litter(placed, images, generator)
        return placed, pose

    @staticmethod
    def _litter(placed: Tensor, images: Tensor, generator: torch.Generator) -> None:
        """Lay a piece of another image, from its middle, anywhere on each canvas; the brighter one is on top."""
        count, _, side, _ = images.shape
        where, step = images.device, torch.arange(PATCH, device=images.device)
        margin = (side - PATCH) // 4  # the outermost pixels of a digit are black: no clutter there

        def corner(low: int, high: int) -> tuple[Tensor, Tensor]:
            place = torch.randint(low, high + 1, (2, count, 1), generator=generator, device=where) + step
            return place[0, :, :, None], place[1, :, None, :]

        other = torch.randint(max(1, count - 1), (count,), generator=generator, device=where) + 1
        sample = torch.arange(count, device=where)
        (rows, columns), (down, across) = corner(margin, side - PATCH - margin), corner(0, placed.shape[-1] - PATCH)
        piece = images[((sample + other) % count)[:, None, None], :, rows, columns]
        under = placed[sample[:, None, None], :, down, across]
        placed[sample[:, None, None], :, down, across] = torch.maximum(piece, under)


DISTORTIONS = {
    "upright": Distortion(),
    "turned": Distortion(degrees=60),
    "turned one way": Distortion(degrees=60, middle=60),
    "cluttered": Distortion(scale=(0.7, 1.2), canvas=48, clutter=4),
}


def distortion(name: str) -> Distortion:
    """A distortion by name. Raises ValueError for an unknown one."""
    if name not in DISTORTIONS:
        raise ValueError(f"distortion is {name!r}; expected one of {', '.join(DISTORTIONS)}")
    return DISTORTIONS[name]


def distorted(data: Images, name: str, seed: int = 1000, chunk: int = 500) -> tuple[Images, Tensor]:
    """A whole set, each image distorted once: (the set, its poses (N, 2, 3)). The same name and seed give the same set.

    "upright" gives the set as it is. Raises ValueError for an unknown name.
    """
    if name == "upright":
        return data, affine().to(data.images.device).expand(len(data), 2, 3)
    make, generator = distortion(name), torch.Generator(data.images.device).manual_seed(seed)
    parts = [make(images, generator) for images in data.images.split(chunk)]
    images, poses = (torch.cat(part) for part in zip(*parts, strict=True))
    return Images(f"{data.name}, {name}", images, data.labels, data.classes), poses

"""Distortions: clean images turned, scaled, moved, tilted, bent and cluttered, batch by batch, with the pose that undoes it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stn_helpers.checks import check_choice
from stn_helpers.data.sets import Images
from stn_helpers.families import control_points, family, family_grid
from stn_helpers.sampler import sample, warp
from stn_helpers.theta import CORNERS, affine, convex, invert, map_points, projective

PATCH = 6  # pixels a side of a piece of clutter: the paper's 6 x 6
PLATE = family("tps")  # the paper's 4 x 4 control points


@dataclass(frozen=True)
class Distortion:
    """Each image at a random angle, size and place on a black canvas, among pieces of other images.

    degrees: images are turned by `middle` +- `degrees`, uniformly; positive is clockwise on screen.
    scale: sizes are uniform in (low, high), 1 is the image's own size.
    canvas: pixels a side, None for the image's own. The place is uniform where the image, before it is turned, fits in.
    clutter: how many 6 x 6 pieces of other images of the batch lie about; a batch of one has only itself.
    corners: standard deviation, in pixels of the image, by which each of its corners is moved in x and in y, after all else.
    knots: standard deviation, in pixels of the canvas, by which each of 4 x 4 control points on it is moved in x and in y.
    apart: every channel is an image of its own, with an angle, size and place of its own; the poses come image by image.
    undone: each image is turned back by its pose, and the pose returned is the identity: what a perfect transformer would show.
    edge: outside a turned image its border goes on, in place of black.
    disc: only what lies in the canvas's inscribed circle is kept, so that no black corner tells how an image was turned.
    Paper: appendix A.4.
    """

    degrees: float = 0.0
    middle: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    canvas: int | None = None
    clutter: int = 0
    corners: float = 0.0
    disc: bool = False
    edge: bool = False
    knots: float = 0.0
    apart: bool = False
    undone: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """images uint8 (N, C, H, H) -> (distorted uint8 (N, C, canvas, canvas), pose (N, 2, 3)).

        The pose is the theta that looks straight at the image on the canvas: what a perfect localization network would say.
        Where corners are moved, it is (N, 3, 3). Where knots are moved, it is the spline that bent the image, (N, 32): where in
        the image each control point of the canvas looks. That one points the other way, because no spline undoes a spline.
        Raises ValueError for images that are not square.
        """
        if images.shape[-1] != images.shape[-2]:
            raise ValueError(f"images are {images.shape[-2]} x {images.shape[-1]}; a distortion expects square ones")
        if self.apart:
            placed, poses = replace(self, apart=False)(images.flatten(0, 1)[:, None], generator)
            return placed.reshape(*images.shape[:2], *placed.shape[2:]), poses
        count, side, where = len(images), images.shape[-1], images.device
        canvas = self.canvas or side

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator, device=where)

        angle, size = uniform(self.middle - self.degrees, self.middle + self.degrees), uniform(*self.scale) * side / canvas
        shift = uniform(-1, 1, 2) * (1 - size).clamp(min=0)[:, None]
        pose = affine(angle, size[:, None], shift=shift)
        if self.corners:
            pose = projective(self._moved(map_points(pose, torch.tensor(CORNERS)), 2 * self.corners / canvas, generator))
        if self.knots:
            away = 2 * self.knots / canvas * torch.randn(count, 16, 2, generator=generator, device=where)
            pose = map_points(invert(pose), control_points(4).to(where) + away).flatten(1)
            placed = sample(images.float(), family_grid(PLATE, pose, (canvas, canvas)), padding_mode="zeros")
        else:
            outside = "border" if self.edge else "zeros"
            placed = warp(images.float(), invert(pose), size=(canvas, canvas), padding_mode=outside)
        placed = placed.round().to(torch.uint8)
        if self.disc:
            across = (torch.arange(canvas, device=where) + 0.5) * 2 / canvas - 1
            placed *= across**2 + across[:, None] ** 2 <= 1
        for _ in range(self.clutter):
            self._litter(placed, images, generator)
        if self.undone:
            placed = warp(placed.float(), pose).round().to(torch.uint8)
            pose = affine().to(pose).expand(count, 2, 3)
        return placed, pose

    @staticmethod
    def _moved(corners: Tensor, spread: float, generator: torch.Generator) -> Tensor:
        """Corners (N, 4, 2), each moved by N(0, spread); drawn again where an image would fold over its own edge."""
        moved, folded = corners, torch.ones(len(corners), dtype=torch.bool, device=corners.device)
        while folded.any():  # which asks the device, and needs about two rounds
            drawn = corners + spread * torch.randn(corners.shape, generator=generator, device=corners.device)
            moved = torch.where(folded[:, None, None], drawn, moved)
            folded = ~convex(moved, 0.2)  # where a corner is nearly flat, one side of the picture would shrink into a point
        return moved

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
    "rotated": Distortion(degrees=90),
    "rotated disc": Distortion(degrees=90, disc=True),
    "rotated edge": Distortion(degrees=90, edge=True),
    # In "rotated disc" four points of the rim lie half a pixel from the black outside, and tell the angle up to a quarter turn.
    "rotated round": Distortion(degrees=90, edge=True, disc=True),
    "rts": Distortion(degrees=45, scale=(0.7, 1.2), canvas=48),
    "perspective": Distortion(scale=(0.75, 1.0), corners=5),
    "cluttered": Distortion(scale=(0.7, 1.2), canvas=48, clutter=4),
    # The paper's R and P are "rotated" and "perspective"; its RTS, E and TC, for digits of 28 pixels:
    "rts 42": Distortion(degrees=45, scale=(0.7, 1.2), canvas=42),
    "elastic": Distortion(scale=(0.75, 1.0), knots=1.5),
    "cluttered 60": Distortion(canvas=60, clutter=6),
    # The paper's addition: two digits, a channel each, each with a pose of its own.
    "rts 42 apart": Distortion(degrees=45, scale=(0.7, 1.2), canvas=42, apart=True),
    # The paper's co-localisation: a digit anywhere, alone or among 16 pieces of clutter.
    "scattered 84": Distortion(canvas=84),
    "cluttered 84": Distortion(canvas=84, clutter=16),
}
for _name in ("rotated", "rotated disc", "rotated edge", "rotated round", "rts", "perspective"):
    DISTORTIONS[f"{_name}, undone"] = replace(DISTORTIONS[_name], undone=True)


def distortion(name: str) -> Distortion:
    """A distortion by name. Raises ValueError for an unknown one."""
    check_choice("distortion", name, DISTORTIONS)
    return DISTORTIONS[name]


def distorted(data: Images, name: str, seed: int = 1000) -> tuple[Images, Tensor]:
    """A whole set, each image distorted once: (the set, its poses (N, 2, 3), (N, 3, 3) or (N, 32)), on the set's device.

    The same name and seed give the same set, on every device; "upright" gives the set as it is.
    Raises ValueError for an unknown name. Taught in notebook 04.
    """
    device = data.images.device
    if name == "upright":
        return data, affine().to(device).expand(len(data), 2, 3)
    make, generator = distortion(name), torch.Generator().manual_seed(seed)  # a GPU draws other numbers
    # Clutter comes from the same 500 images: another number here would be another test set.
    parts = [make(images, generator) for images in data.images.cpu().split(500)]
    images, poses = (torch.cat(part).to(device) for part in zip(*parts, strict=True))
    return Images(f"{data.name}, {name}", images, data.labels, data.classes), poses

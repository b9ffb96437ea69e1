"""Batches: shuffled, mirrored, moved and distorted on the device where the pictures lie."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from stn_helpers.data.sets import Images


def as_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32 in [0, 1], channels_last: the layout in which convolutions run several times faster.

    Raises ValueError for images of another type.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images are {images.dtype}; expected uint8, 0 to 255")
    return images.to(memory_format=torch.channels_last).float().div_(255)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half. (N, C, H, W), any type, on the generator's device."""
    mirrored = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def crop(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `pixels` in x and y, reflecting what comes in at the edge. (N, C, H, W), any type.

    Raises ValueError for a move as far as the image is large, or a negative one.
    """
    if pixels == 0:
        return images
    count, _, height, width = images.shape
    if not 0 < pixels < min(height, width):
        raise ValueError(f"a crop by {pixels} pixels does not fit images of {height} x {width}; expected 0 to less than a side")
    shifts = torch.randint(2 * pixels + 1, (2, count, 1), generator=generator, device=images.device) - pixels
    rows = _reflect(torch.arange(height, device=images.device) + shifts[0], height)
    columns = _reflect(torch.arange(width, device=images.device) + shifts[1], width)
    sample = torch.arange(count, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Hide a square of `pixels` a side, anywhere inside each image, under the batch's mean colour. (N, C, H, W), any type.

    After DeVries and Taylor (2017, arXiv 1708.04552). Raises ValueError for a square larger than the images, or a negative one.
    """
    if pixels == 0:
        return images
    count, _, height, width = images.shape
    if not 0 < pixels <= min(height, width):
        raise ValueError(f"a cutout of {pixels} pixels does not fit into images of {height} x {width}")
    hidden = []
    for size in (height, width):
        start = torch.randint(size - pixels + 1, (count, 1), generator=generator, device=images.device)
        index = torch.arange(size, device=images.device)
        hidden.append((index >= start) & (index < start + pixels))
    square = hidden[0][:, None, :, None] & hidden[1][:, None, None, :]
    mean = images.float().mean((0, 2, 3))[:, None, None]
    return torch.where(square, (mean if images.is_floating_point() else mean.round()).to(images.dtype), images)


def _reflect(index: Tensor, count: int) -> Tensor:
    """Indices outside 0 ... count - 1, mirrored back in at the edge."""
    return (count - 1) - ((count - 1) - index.abs()).abs()


def batches(
    data: Images,
    batch_size: int,
    generator: torch.Generator | None = None,
    flips: bool = False,
    crop_pixels: int = 0,
    cutout_pixels: int = 0,
    distort: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images float32 in [0, 1], labels), batch by batch, made on the device where the data lives.

    generator: shuffles and augments, dropping the last incomplete batch; None goes through in order, to the end.
    distort: a `Distortion`, new for every batch.
    Raises ValueError for a batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    count = len(data)
    if generator is None:
        for start in range(0, count, batch_size):
            yield as_float(data.images[start : start + batch_size]), data.labels[start : start + batch_size]
        return
    order = torch.randperm(count, generator=generator, device=data.images.device)
    for index in order[: count - count % batch_size].split(batch_size):
        images = data.images[index]
        images = flip(images, generator) if flips else images
        images = cutout(crop(images, crop_pixels, generator), cutout_pixels, generator)
        yield as_float(distort(images, generator)[0] if distort else images), data.labels[index]

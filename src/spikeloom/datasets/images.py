"""Labelled images, and how to hold some of them out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Arguments:
        images: tensor [samples, height, width]; uint8 (0 to 255), or floating point (0 to 1).
        labels: int64 tensor [samples], the index of the class in `classes`.
        classes: the names of the classes.

    >>> import spikeloom as sl
    >>> data = sl.datasets.digits(train=False)
    >>> data.images.shape, data.labels.shape, data.classes[3]
    (torch.Size([360, 8, 8]), torch.Size([360]), '3')
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor | slice) -> Images:
        """The images that an index tensor or a slice picks."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def intensities(self) -> torch.Tensor:
        """The images as float32 [samples, height, width] from 0 to 1: bytes are divided by 255."""
        return self.images.float() / 255 if self.images.dtype == torch.uint8 else self.images.float()

    def hold_out(self, fraction: float, seed: int = 0) -> tuple[Images, Images]:
        """Split off a part of each class, so that settings can be chosen without a look at the test set.

        Arguments:
            fraction: the part of each class to hold out, between 0 and 1.
            seed: which part; the same seed gives the same split.

        Returns:
            The kept images and the held-out ones, both in their old order.

        Raises:
            ValueError: if the fraction is not between 0 and 1.

        >>> import spikeloom as sl
        >>> kept, held_out = sl.datasets.digits().hold_out(0.1)
        >>> len(kept), len(held_out)
        (1295, 142)
        """
        if not 0 < fraction < 1:
            raise ValueError(f"hold_out got fraction={fraction}; expected a number between 0 and 1, for example 0.1.")
        generator = torch.Generator().manual_seed(seed)
        held = torch.zeros(len(self), dtype=torch.bool)
        for label in self.labels.unique():
            members = (self.labels == label).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator)
            held[members[order[: round(fraction * len(members))]]] = True
        return self[(~held).nonzero().squeeze(1)], self[held.nonzero().squeeze(1)]


def shifted(images: torch.Tensor, most: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Move each image by whole pixels, drawn evenly from -most to most each way; what comes in from outside is 0.

    Arguments:
        images: tensor [B, height, width] of any dtype.
        most: the largest shift in pixels, 0 or more.
        generator: source of randomness; torch's own if None.

    Returns:
        The moved images [B, height, width], of the same dtype.

    Raises:
        ValueError: if the images have other axes, or `most` is negative.

    >>> import torch, spikeloom as sl
    >>> moved = sl.datasets.shifted(torch.ones(3, 8, 8), 1)
    >>> moved.shape, bool((moved.sum((1, 2)) >= 49).all())
    (torch.Size([3, 8, 8]), True)
    """
    if images.dim() != 3 or most < 0:
        raise ValueError(
            f"shifted got images of shape {list(images.shape)} and most={most}; expected [B, height, width] and 0 or "
            "more pixels."
        )
    count, height, width = images.shape
    down, across = torch.randint(0, 2 * most + 1, (2, count, 1, 1), generator=generator)
    rows, columns = down + torch.arange(height)[:, None], across + torch.arange(width)
    return F.pad(images, (most, most, most, most))[torch.arange(count)[:, None, None], rows, columns]

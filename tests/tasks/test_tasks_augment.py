import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.augment import CropFlip, Shift


def numbered(n, channels, height, width):
    return torch.arange(1.0, n * channels * height * width + 1).reshape(n, channels, height, width)


def moved(image, down, right, background):
    """One image shifted by whole pixels, with loops: what the fast version must equal."""
    channels, height, width = image.shape
    out = torch.empty_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y, x = i - down, j - right
                inside = 0 <= y < height and 0 <= x < width
                out[c, i, j] = image[c, y, x] if inside else background[c % len(background)]
    return out


shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 10**6), data=st.data())
def test_shift_equals_the_loop_over_pixels(shape, seed, data):
    n, channels, height, width = shape
    pixels = data.draw(st.integers(1, min(height, width) - 1))
    images = numbered(*shape)
    background = tuple(-float(c + 1) for c in range(channels))
    corners = generator(seed, "test").integers(0, 2 * pixels + 1, size=(2, n))
    shift = Shift(pixels, (channels, height, width), background)
    for inputs in (images, images.flatten(1)):
        out = shift(inputs, generator(seed, "test"))
        assert out.shape == inputs.shape
        for i, image in enumerate(out.reshape(images.shape)):
            down, right = pixels - corners[0, i], pixels - corners[1, i]
            assert torch.equal(image, moved(images[i], down, right, background))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, padding=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_crop_flip_equals_the_loop_over_pixels(shape, padding, seed):
    n, channels = shape[:2]
    images = numbered(*shape)
    background = tuple(-float(c + 1) for c in range(channels))
    draw = generator(seed, "test")
    corners = draw.integers(0, 2 * padding + 1, size=(2, n))
    mirrored = draw.integers(0, 2, size=n)
    out = CropFlip(padding, background)(images, generator(seed, "test"))
    for i in range(n):
        expected = moved(images[i], padding - corners[0, i], padding - corners[1, i], background)
        assert torch.equal(out[i], expected.flip(-1) if mirrored[i] else expected)


@pytest.mark.parametrize("augment", [Shift(2, (1, 8, 8)), CropFlip(2)])
def test_every_move_is_equally_likely(augment):
    # A single white pixel in the middle marks where the image went: one of 25 places. A flip about an odd axis
    # does not change which are likely.
    images = torch.zeros(20_000, 1, 8, 8) if isinstance(augment, Shift) else torch.zeros(20_000, 1, 9, 9)
    middle = 4
    images[:, 0, middle, middle] = 1
    counts = augment(images, generator(3, "moves")).sum((0, 1))
    block = counts[middle - 2 : middle + 3, middle - 2 : middle + 3]
    assert block.sum() == 20_000
    chi2 = ((block - 800) ** 2 / 800).sum()
    assert chi2 < 51.2  # 24 degrees of freedom: exceeded once in 1,000 seeds


def test_half_of_the_images_are_mirrored():
    left = torch.zeros(10_000, 1, 4, 4)
    left[..., 0] = 1
    mirrored = CropFlip(0)(left, generator(0, "flip"))[:, 0, 0, -1].sum()
    assert abs(mirrored - 5000) < 200  # four standard deviations


@pytest.mark.parametrize("augment", [Shift(2, (3, 16, 16), (0.1, 0.2, 0.3)), CropFlip(2, (0.1, 0.2, 0.3))])
def test_pixels_are_copied_and_the_inputs_left_alone(augment):
    images = torch.rand(8, 3, 16, 16)
    before = images.clone()
    single = augment(images, generator(0, "x"))
    double = augment(images.double(), generator(0, "x"))
    assert torch.equal(images, before)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(double.float(), single)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment(strided, generator(0, "x")), single)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augment", [Shift(2, (3, 32, 32), (0.1, 0.2, 0.3)), CropFlip(4, (0.1, 0.2, 0.3))])
def test_a_gpu_gives_the_same_bits(augment):
    images = torch.rand(64, 3, 32, 32)
    assert torch.equal(augment(images.cuda(), generator(0, "x")).cpu(), augment(images, generator(0, "x")))


def test_errors_say_what_would_fit():
    with pytest.raises(InputError, match=r"shift=8 does not fit images of 8x9 pixels; give 0 \(no shift\) to 7"):
        Shift(8, (1, 8, 9))
    with pytest.raises(InputError, match="shift=-1"):
        Shift(-1, (1, 8, 8))
    with pytest.raises(InputError, match="padding=-1 is negative"):
        CropFlip(-1)


def test_numpy_integers_are_drawn_from_the_given_generator_only():
    augment = CropFlip(1)
    one, two = np.random.default_rng(0), np.random.default_rng(0)
    images = torch.rand(4, 1, 5, 5)
    assert torch.equal(augment(images, one), augment(images, two))
    assert not torch.equal(augment(images, one), augment(images, np.random.default_rng(0)))

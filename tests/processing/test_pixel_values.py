"""Frames prepared in torch against transformers' own image processor, size by size; see `test_processor.py` too."""

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from tests.media import numbered_frame
from viml_hf.processing.pixel_values import preprocess_frames


def gradient(height, width):
    """A picture in which every pixel differs from its neighbours by little, `(1, height, width, 3)`."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([255 * x / width, 255 * y / height, 127 * (x / width + y / height)], axis=-1)
    return picture.astype(np.uint8)[None]


def both(frames, image_processor):
    expected = torch.from_numpy(np.stack(image_processor(list(frames))["pixel_values"])).float()
    return preprocess_frames(frames, image_processor), expected


# Sizes at which the long side, in floating point, is a whole number or a hair below it.
@pytest.mark.parametrize(
    "shape", [(220, 220), (380, 380), (80, 720), (320, 720), (360, 320), (360, 640), (480, 640), (101, 57), (48, 300)]
)
def test_the_long_side_is_rounded_as_transformers_does(shape):
    image_processor = CLIPImageProcessorPil(do_center_crop=False)
    found, expected = both(gradient(*shape), image_processor)
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02


@pytest.mark.parametrize("size", [220, 284, 380])
def test_a_square_picture_fills_its_crop(size):
    found, expected = both(np.full((1, size, size, 3), 200, np.uint8), CLIPImageProcessorPil(do_normalize=False))
    assert found.shape == (1, 3, 224, 224)
    assert (found - expected).abs().max() < 0.005
    assert found.min() > 0.7  # no black edge


# The picture becomes 20 × 27; an even number of pixels is missing, since transformers' two backends put an odd one on
# different sides.
@pytest.mark.parametrize("crop", [(32, 33), (20, 33), (32, 27), (64, 20), (17, 41)])
def test_a_crop_larger_than_the_picture_is_padded_where_transformers_pads(crop):
    crop_size = {"height": crop[0], "width": crop[1]}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size=crop_size)
    found, expected = both(gradient(45, 61), image_processor)
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (48, 48)])
def test_frames_of_the_right_size_are_not_resampled(shape):
    """Sharp edges would show it."""
    frames = numbered_frame(0b10110010, (shape[1], shape[0]))[None]
    crop_size = {"height": 31, "width": 48}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size=crop_size)
    found, expected = both(frames, image_processor)
    assert torch.allclose(found, expected, atol=1e-6)
    assert len(found.unique()) == 6  # black and white in three channels


@pytest.mark.parametrize("resample", [0, 2, 3])
def test_filters_do_the_same_on_sharp_edges(resample):
    image_processor = ViTImageProcessorPil(size={"height": 24, "width": 40}, resample=resample)
    found, expected = both(numbered_frame(0b10110010, (90, 70))[None], image_processor)
    assert found.shape == expected.shape == (1, 3, 24, 40)
    assert (found - expected).abs().mean() < 0.02


def test_frames_do_not_depend_on_each_other():
    frames = np.random.default_rng(0).integers(0, 256, (4, 30, 50, 3), dtype=np.uint8)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    together = preprocess_frames(frames, image_processor)
    assert together.dtype == torch.float32
    for index in range(4):
        assert torch.equal(preprocess_frames(frames[index : index + 1], image_processor)[0], together[index])
    assert torch.equal(preprocess_frames(torch.from_numpy(frames), image_processor), together)

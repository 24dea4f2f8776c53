"""Decoded frames → the pixel values an image encoder was trained on, a whole segment at once.

The rules (size, crop, mean, …) are those of the encoder's image processor; for the plain ones the work is done in
torch, because image processors take frames one by one, at ten times the cost.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Image processors that do nothing but resize, crop, rescale and normalise, each by its stated fields.
PLAIN_PROCESSORS = ("CLIP", "Siglip", "ViT", "DeiT", "Beit", "Bit")
# The resampling filters of PIL, by number, under their torch names.
RESAMPLING = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}


def short_side(image_processor: Any) -> int:
    """Short side in pixels at which frames should leave the decoder for this image processor."""
    size = image_processor.size
    return _get(size, "shortest_edge") or min(_get(size, "height"), _get(size, "width"))


def preprocess_frames(frames: np.ndarray | Tensor, image_processor: Any) -> Tensor:
    """Frames `(frames, height, width, 3)` uint8 RGB as pixel values `(frames, 3, height, width)` float32.

    Example:
        >>> from transformers import CLIPImageProcessor
        >>> tuple(preprocess_frames(np.zeros((2, 240, 320, 3), np.uint8), CLIPImageProcessor()).shape)
        (2, 3, 224, 224)
    """
    plain = type(image_processor).__name__.startswith(PLAIN_PROCESSORS)
    if not plain or (image_processor.do_resize and int(image_processor.resample) not in RESAMPLING):
        prepared = image_processor(list(np.asarray(frames)), return_tensors="pt")
        return prepared["pixel_values"].float()
    pixels = torch.as_tensor(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if image_processor.do_resize:
        pixels = _resize(pixels, image_processor)
    if getattr(image_processor, "do_center_crop", False):
        crop = image_processor.crop_size
        pixels = _center_crop(pixels, _get(crop, "height"), _get(crop, "width"))
    pixels = pixels.float()
    if image_processor.do_rescale:
        pixels = pixels * image_processor.rescale_factor
    if image_processor.do_normalize:
        mean, std = (torch.tensor(v)[:, None, None] for v in (image_processor.image_mean, image_processor.image_std))
        pixels = (pixels - mean) / std
    return pixels.contiguous()


def _resize(pixels: Tensor, image_processor: Any) -> Tensor:
    """Resize uint8 `(frames, 3, height, width)` with antialiasing; frames of the right size pass untouched."""
    height, width = pixels.shape[-2:]
    edge = _get(image_processor.size, "shortest_edge")
    if edge:
        # The long side rounds down, as transformers' own resizing does.
        target = (edge, edge * width // height) if height <= width else (edge * height // width, edge)
        if min(height, width) == edge:
            return pixels
    else:
        target = (_get(image_processor.size, "height"), _get(image_processor.size, "width"))
    if target == (height, width):
        return pixels
    mode = RESAMPLING[int(image_processor.resample)]
    smooth: dict[str, Any] = {} if mode == "nearest-exact" else {"antialias": True, "align_corners": False}
    resized = F.interpolate(pixels.float(), target, mode=mode, **smooth)
    return resized.round().clamp(0, 255)


def _center_crop(pixels: Tensor, height: int, width: int) -> Tensor:
    """Crop the middle, after padding with black where the picture is smaller."""
    missing_height, missing_width = max(0, height - pixels.shape[-2]), max(0, width - pixels.shape[-1])
    if missing_height or missing_width:
        left, top = missing_width // 2, missing_height // 2
        pixels = F.pad(pixels, (left, missing_width - left, top, missing_height - top))
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def _get(size: Any, name: str) -> Any:
    """A field of a size, which transformers keeps as a dict or an object."""
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)

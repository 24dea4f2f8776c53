"""The streaming path against the plain one: every frame decoded to full size, chosen, resized by PIL, one by one."""

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from PIL import Image
from transformers import ByT5Tokenizer, CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.media import write_video
from viml_hf import MediaEncoder, ViMLDescriptorsFeatureExtractor, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.processing.video_decoding import iter_frames

FPS, SECONDS, SIZE = 24, 42, (192, 108)
# FFmpeg's usual conversion to RGB is a fast one, up to 2 grey levels off on average; this is the exact one.
EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND


def smooth_noise(generator: np.random.Generator) -> np.ndarray:
    """A picture of large, soft, coloured blots."""
    small = Image.fromarray(generator.integers(0, 256, (9, 16, 3), dtype=np.uint8))
    return np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Each segment has four pictures of its own that take turns: a plan that is off by one frame sees another one."""
    generator = np.random.default_rng(0)
    pictures = [[smooth_noise(generator) for _ in range(4)] for _ in range(5)]
    frames = (pictures[index // (10 * FPS)][index % 4] for index in range(SECONDS * FPS))
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, FPS)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**layers, image_size=48, patch_size=12, projection_dim=32))
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    processor = ViMLProcessor(image_processor, ViMLDescriptorsFeatureExtractor(), ByT5Tokenizer())
    return MediaEncoder(ViMLForMusicRetrieval.from_encoders(video=clip), processor)


def plain_frames(path, late: int = 0) -> list[Image.Image]:
    """Samples at 6 per second, `late` frames too late."""
    with av.open(str(path)) as container:
        arrays = [frame.to_ndarray(format="rgb24", interpolation=EXACT) for frame in container.decode(video=0)]
    frames = [Image.fromarray(array) for array in arrays]
    rate = FPS // 6
    return [frames[min(index + late, len(frames) - 1)] for index in range(0, len(frames), rate)]


def plain_features(path, encoder, late: int = 0) -> np.ndarray:
    pixels = encoder.processor.image_processor(plain_frames(path, late), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        embeds = encoder.model.video_encoder(pixels).image_embeds
    return np.stack([segment.mean(0).numpy() for segment in embeds.split([60, 60, 60, 60, 12])])


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine per segment, after the mean feature, which all share, is taken off."""
    one, other = one - other.mean(0), other - other.mean(0)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.square(one.astype(float) - other).mean(), 1e-9))


def test_features_are_those_of_the_plain_path(video, encoder):
    rows = encoder.encode_video(video).rows.astype(np.float32)
    assert likeness(rows, plain_features(video, encoder)).min() >= 0.99


def test_a_plan_off_by_one_frame_would_be_noticed(video, encoder):
    rows = encoder.encode_video(video).rows.astype(np.float32)
    assert likeness(rows, plain_features(video, encoder, late=1)).min() < 0.99


def test_pixels_are_those_of_the_plain_path(video):
    size = (round(SIZE[0] * 48 / SIZE[1]), 48)
    ours = list(iter_frames(video, short_side=48))
    plain = [np.asarray(image.resize(size, Image.Resampling.BICUBIC)) for image in plain_frames(video)]
    assert len(ours) == len(plain)
    assert min(psnr(one, other) for one, other in zip(ours, plain, strict=True)) >= 35


@pytest.mark.parametrize("name", ["chaplin.mp4", "nasa_13013.mp4", "big_buck_bunny_0_30.webm"])
def test_pixels_of_real_videos(shared_media, name):
    ours = next(iter_frames(shared_media / "videos" / name))
    with av.open(str(shared_media / "videos" / name)) as container:
        first = next(container.decode(video=0)).to_image()
    plain = np.asarray(first.resize((ours.shape[1], ours.shape[0]), Image.Resampling.BICUBIC))
    assert psnr(ours, plain) >= 35

import numpy as np
import pytest
import torch

from tests.media import write_audio, write_video
from viml_hf import MediaEncoder, Recommender, ViMLForMusicRetrieval, ViMLProcessor, build_index, find_music


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A saved model with its processor, and nothing else."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    heads = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
    ViMLForMusicRetrieval.from_encoders(**heads).save_pretrained(folder)
    ViMLProcessor.from_encoders().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(model_folder):
    model = ViMLForMusicRetrieval.from_pretrained(model_folder)
    return MediaEncoder(model, ViMLProcessor.from_pretrained(model_folder))


def noise(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Sound whose colour depends on the seed."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return (0.1 * np.convolve(white, np.ones(seed + 1) / (seed + 1), "same")).astype(np.float32)


def pictures(seconds: float, seed: int) -> list[np.ndarray]:
    """Moving blocks at 6 per second, of a colour that depends on the seed."""
    colour = np.random.default_rng(seed).integers(60, 255, 3)
    frames = []
    for index in range(round(seconds * 6)):
        frame = np.zeros((48, 64, 3), np.uint8)
        left = index * (seed + 1) % 48
        frame[8:40, left : left + 16] = colour
        frames.append(frame)
    return frames


@pytest.fixture(scope="session")
def music(tmp_path_factory):
    """Tracks of 4, 12, 30 and 52 s at three rates."""
    folder = tmp_path_factory.mktemp("music")
    files = [("a.wav", 4, 44_100), ("b.flac", 12, 22_050), ("c.wav", 30, 16_000), ("d.wav", 52, 16_000)]
    for seed, (name, seconds, rate) in enumerate(files):
        codec = "flac" if name.endswith("flac") else "pcm_s16le"
        write_audio(folder / name, noise(seconds, rate, seed), rate, codec)
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Videos of 5, 14 and 45 s; the last is a WebM."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, seconds) in enumerate([("a.mp4", 5), ("b.mp4", 14)]):
        write_video(folder / name, pictures(seconds, seed), fps=6)
    write_video(folder / "c.webm", pictures(45, 2), fps=6, codec="libvpx")
    return folder


@pytest.fixture(scope="session")
def recommender(encoder, music):
    return Recommender(encoder, build_index(find_music(music), encoder, model="tiny", root=music, progress=False))


@pytest.fixture(scope="session")
def tracks(recommender):
    """Per track of the index its rows `(windows, dim)`, which are rounded to float16."""
    rows, found = iter(recommender.index.embeddings), {}
    for track in recommender.index.tracks:
        found[track.name] = np.stack([next(rows) for _ in track.windows])
    return found

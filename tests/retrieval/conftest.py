import pytest
import torch

from tests.media import sine, write_audio, write_video
from viml_hf import MediaEncoder, Recommender, ViMLForMusicRetrieval, ViMLProcessor, build_index, find_music


def make_encoder(seed: int) -> MediaEncoder:
    torch.manual_seed(seed)
    heads = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return MediaEncoder(ViMLForMusicRetrieval.from_encoders(**heads), ViMLProcessor.from_encoders())


@pytest.fixture(scope="session")
def encoder():
    return make_encoder(0)


@pytest.fixture(scope="session")
def other_encoder():
    return make_encoder(1)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Three tracks (8 s, 25 s, 62 s) in two folders, a broken one, and a file that is not music."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "album").mkdir()
    write_audio(folder / "short.wav", sine(220, 8, 22050), 22050)
    write_audio(folder / "album" / "middle.wav", sine(440, 25, 22050), 22050)
    write_audio(folder / "album" / "long.wav", sine(880, 62, 22050), 22050)
    (folder / "broken.mp3").write_bytes(b"this is not music" * 100)
    (folder / "notes.txt").write_text("not a media file at all")
    return folder


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("query") / "query.mp4", 24 * 14)


@pytest.fixture(scope="session")
def index(encoder, library):
    return build_index(find_music(library), encoder, model="a-model", root=library, progress=False)


@pytest.fixture(scope="session")
def recommender(encoder, index):
    return Recommender(encoder, index)

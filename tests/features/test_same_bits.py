"""A file's features, to the last bit, whatever runs beside them: with matrices of the sizes of CLIP ViT-B/32."""

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.media import numbered_frame, sine, write_video
from viml_hf import MediaItem, ViMLForMusicRetrieval, ViMLProcessor, extract
from viml_hf.encoders.encoder_settings import EncoderSettings
from viml_hf.retrieval.model_loading import load_encoder_and_model

NAMES = ("short", "joined", "long")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of encoders of full width and two layers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders")
    wide = {"num_hidden_layers": 2}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**wide, patch_size=32, projection_dim=512)).save_pretrained(
        folder / "video"
    )
    CLIPImageProcessorPil().save_pretrained(folder / "video")
    CLIPTextModelWithProjection(CLIPTextConfig(**wide, vocab_size=400, eos_token_id=1)).save_pretrained(folder / "text")
    ByT5Tokenizer().save_pretrained(folder / "text")
    ASTModel(ASTConfig(**wide, max_length=256)).save_pretrained(folder / "audio")
    ASTFeatureExtractor(max_length=256).save_pretrained(folder / "audio")
    return {modality: str(folder / modality) for modality in ("video", "text", "audio")}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, seconds) in enumerate(zip(NAMES, (1.5, 11.0, 13.0), strict=True), start=1):
        pictures = [np.roll(numbered_frame(i % 200, (320, 240)), seed * i, axis=1) for i in range(round(6 * seconds))]
        write_video(
            folder / f"{name}.mp4", pictures, fps=6, audio=sine(110 * seed, seconds, 22050), sampling_rate=22050
        )
    return folder


def items(films, names=NAMES):
    paths = {name: str(films / f"{name}.mp4") for name in names}
    return [MediaItem(name, path, path, (f"text of {name}",)) for name, path in paths.items()]


def rows(store):
    return {
        (item.id, modality): store.rows(modality, getattr(item, modality)).numpy().tobytes()
        for item in store.items
        for modality in ("video", "audio", "text")
    }


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_company_order_workers_reload_and_streaming_change_no_bit(encoders, films, tmp_path, dtype):
    options = {**encoders, "dtypes": dtype, "progress": False}
    expected = rows(extract(items(films), tmp_path / "all", workers=1, **options))
    assert len(set(expected.values())) == len(expected)
    for name in NAMES[:2]:
        alone = rows(extract(items(films, [name]), tmp_path / name, workers=1, **options))
        assert alone == {key: expected[key] for key in alone}
    twice = [*items(films, NAMES[::-1]), *(MediaItem(f"{i.id} again", i.video, i.audio, i.texts) for i in items(films))]
    many = rows(extract(twice, tmp_path / "many", workers=2, **options))
    assert {(name.removesuffix(" again"), modality): found for (name, modality), found in many.items()} == expected
    assert all(many[name.removesuffix(" again"), modality] == found for (name, modality), found in many.items())
    model = ViMLForMusicRetrieval.from_encoders(
        **encoders, encoder_dtypes=EncoderSettings(**encoders, dtypes=dtype).load().dtypes
    )
    model.save_pretrained(tmp_path / "model")
    ViMLProcessor.from_encoders(**encoders).save_pretrained(tmp_path / "model")
    for threads in (1, 3):
        streamed = load_encoder_and_model(tmp_path / "model", threads=threads)
        path = films / "long.mp4"
        assert streamed.encode_video(path).rows.tobytes() == expected["long", "video"]
        assert streamed.encode_audio(path.read_bytes()).rows.tobytes() == expected["long", "audio"]
        assert streamed.encode_text("text of long").tobytes() == expected["long", "text"]

"""In which dtype encoders compute: what is asked for, what bears it, and how near its features are."""

import numpy as np
import pytest
import torch
from transformers import (
    ASTModel,
    ClapAudioModelWithProjection,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

import viml_hf.encoders.encoder_info
from tests.encoders import checkpoints
from tests.modeling.tiny import AST, CLAP_AUDIO, CLIP_TEXT, CLIP_VISION
from viml_hf import MediaEncoder, ViMLError, ViMLForMusicRetrieval
from viml_hf.encoders.encoder_info import computes_bfloat16, resolve_dtypes


@pytest.fixture(scope="module")
def encoders():
    return {
        "video": CLIPVisionModelWithProjection(CLIP_VISION),
        "text": CLIPTextModelWithProjection(CLIP_TEXT),
        "audio": ASTModel(AST),
    }


@pytest.mark.parametrize("machine", [False, True])
def test_auto_takes_bfloat16_where_encoder_and_machine_bear_it(encoders, monkeypatch, machine):
    monkeypatch.setattr(viml_hf.encoders.encoder_info, "computes_bfloat16", lambda device: machine)
    low = "bfloat16" if machine else "float32"
    assert resolve_dtypes("auto", encoders) == {"video": low, "text": "float32", "audio": low}
    assert resolve_dtypes({}, encoders) == {"video": low, "text": "float32", "audio": low}
    clap = {"audio": ClapAudioModelWithProjection(CLAP_AUDIO)}
    assert resolve_dtypes("auto", clap) == {"audio": "float32"}


def test_what_is_asked_for_is_taken(encoders):
    assert set(resolve_dtypes("bfloat16", encoders).values()) == {"bfloat16"}
    found = resolve_dtypes({"video": "float32", "text": "bfloat16", "audio": "float32"}, encoders)
    assert found == {"video": "float32", "text": "bfloat16", "audio": "float32"}


def test_the_descriptors_compute_in_float32():
    descriptors = ViMLForMusicRetrieval.from_encoders(hidden_size=16, projection_dim=16, num_attention_heads=2).encoders
    assert set(resolve_dtypes("bfloat16", descriptors).values()) == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", "bf16", "", "half"])
def test_another_dtype_is_refused(encoders, dtype):
    for wanted in (dtype, {"text": dtype}):
        with pytest.raises(ViMLError, match=f"dtype={dtype!r}: give auto, float32 or bfloat16"):
            resolve_dtypes(wanted, encoders)


@pytest.mark.parametrize(("flags", "expected"), [("avx512f avx512_bf16 amx", True), ("avx512f avx2", False)])
def test_a_cpu_says_what_it_computes_in(monkeypatch, tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(viml_hf.encoders.encoder_info, "Path", lambda _: tmp_path / "cpuinfo")
    assert computes_bfloat16("cpu") is expected
    (tmp_path / "cpuinfo").unlink()
    assert computes_bfloat16("cpu") is False


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_features_in_bfloat16_are_near(tmp_path, family):
    checkpoints.make(family, tmp_path)
    names = {"video": f"{family}:{tmp_path}", "text": "descriptors", "audio": "descriptors"}
    pictures = np.random.default_rng(0).integers(0, 256, (20, 24, 24, 3), dtype=np.uint8)
    found = {}
    for dtype in ("float32", "bfloat16"):
        encoder = MediaEncoder.from_names(**names, dtypes=dtype, threads=1)
        assert encoder.dtypes["video"] == encoder.info["video"].dtype == dtype
        found[dtype] = torch.from_numpy(encoder.encode_video(pictures).rows).float()
    assert torch.cosine_similarity(*found.values()).min() > 0.999
    assert not torch.equal(*found.values())


def test_a_checkpoint_in_half_precision_computes_in_what_is_asked_for(tmp_path):
    """Some lie on the Hub in float16, in which a CPU is slow and not exact."""
    checkpoints.make("clip", tmp_path).half().save_pretrained(tmp_path)
    encoder = MediaEncoder.from_names(f"clip:{tmp_path}", f"clip:{tmp_path}", "descriptors", dtypes="float32")
    assert set(encoder.dtypes.values()) == {"float32"}
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}

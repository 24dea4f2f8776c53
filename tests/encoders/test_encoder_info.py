"""What is known of encoders: widths, rates, windows, licences, and in which dtype they compute."""

import logging
from pathlib import Path

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
from tests.encoders.checkpoints import from_names
from tests.modeling.tiny import AST, CLAP_AUDIO, CLIP_TEXT, CLIP_VISION
from viml_hf import MediaEncoder, ViMLError, ViMLForMusicRetrieval
from viml_hf.encoders.encoder_info import EncoderInfo, bfloat16_share, computes_bfloat16, licence_of, resolve_dtypes


@pytest.fixture(scope="module")
def encoders():
    return {
        "video": CLIPVisionModelWithProjection(CLIP_VISION),
        "text": CLIPTextModelWithProjection(CLIP_TEXT),
        "audio": ASTModel(AST),
    }


@pytest.mark.parametrize(
    ("instructions", "share"), [(False, 0.1), (True, 0.1), (True, 0.79), (True, 0.81), (True, 1.5)]
)
def test_auto_takes_bfloat16_where_encoder_and_machine_bear_it_and_it_is_faster(
    encoders, monkeypatch, instructions, share
):
    monkeypatch.setattr(viml_hf.encoders.encoder_info, "computes_bfloat16", lambda device: instructions)
    monkeypatch.setattr(viml_hf.encoders.encoder_info, "bfloat16_share", lambda width: share)
    low = "bfloat16" if instructions and share < 0.8 else "float32"
    assert resolve_dtypes("auto", encoders) == {"video": low, "text": "float32", "audio": low}
    assert resolve_dtypes({}, encoders) == {"video": low, "text": "float32", "audio": low}
    clap = {"audio": ClapAudioModelWithProjection(CLAP_AUDIO)}
    assert resolve_dtypes("auto", clap) == {"audio": "float32"}


def test_a_layer_is_timed_once_per_width_and_a_gpu_is_not_timed(encoders, monkeypatch):
    """CLIP ViT-B/32 took 1.5 times as long in bfloat16 on a CPU that lists the instructions."""
    took = {torch.float32: 0.2, torch.bfloat16: 0.3}
    clock, asked = [0.0], []

    def linear(x, weight):
        asked.append(weight.shape)
        clock[0] += took[x.dtype]
        return x @ weight.T

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(viml_hf.encoders.encoder_info.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(viml_hf.encoders.encoder_info, "computes_bfloat16", lambda device: True)
    bfloat16_share.cache_clear()
    for _ in range(2):
        assert resolve_dtypes("auto", encoders) == dict.fromkeys(encoders, "float32")
    assert bfloat16_share(16) == pytest.approx(1.5)
    assert set(asked) == {(64, 16), (16, 64)}
    assert len(asked) == 2 * 2 * 6  # two layers of one width, in two dtypes, six times
    assert resolve_dtypes("auto", encoders, "cuda")["video"] == "bfloat16"
    assert len(asked) == 2 * 2 * 6
    bfloat16_share.cache_clear()


def test_the_time_of_a_layer_is_a_share():
    assert 0.05 < bfloat16_share.__wrapped__(64, tokens=10, rounds=1) < 50


def test_what_is_asked_for_is_taken_but_by_the_descriptors(encoders):
    assert set(resolve_dtypes("bfloat16", encoders).values()) == {"bfloat16"}
    asked = {"video": "float32", "text": "bfloat16", "audio": "float32"}
    assert resolve_dtypes(asked, encoders) == asked
    descriptors = ViMLForMusicRetrieval.from_encoders(hidden_size=16, projection_dim=16, num_attention_heads=2).encoders
    assert set(resolve_dtypes("bfloat16", descriptors).values()) == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", ""])
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


def card(folder: Path, head: str) -> str:
    (folder / "README.md").write_text(head)
    return str(folder)


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("---\nlicense: mit\n---\n# A model\n", "mit"),
        ("---\nlicense: other\nlicense_name: some-nc-licence\n---\n", "some-nc-licence"),
        ("---\nlicense: cc-by-nc-4.0\nlicense_name: our-own\n---\n", "cc-by-nc-4.0"),
        ("---\nlicense: [mit, cc-by-nc-4.0]\n---\n", "mit, cc-by-nc-4.0"),
        ("---\nlicense: : :\n - x\n---\n", None),
        ("---\nlicense: !!python/object:os.system x\n---\n", None),
        ("# A card without a head\n", None),
        ("", None),
    ],
)
def test_licences_are_read_off_the_card(tmp_path, head, licence):
    assert licence_of(card(tmp_path, head)) == licence


def test_without_a_card_known_licences_count(tmp_path, no_network):
    assert licence_of(str(tmp_path)) is None
    options = {"cache_dir": str(tmp_path), "local_files_only": True}
    assert licence_of("clip", **options) == "mit"
    assert licence_of("clip:org/none", **options) is None
    (tmp_path / "README.md").write_bytes(b"\xff\xfe\x00")
    assert licence_of(str(tmp_path)) is None
    assert not no_network


@pytest.mark.parametrize(
    ("licence", "non_commercial"),
    [
        *(("cc-by-nc-4.0", True), ("CC-BY-NC-SA-4.0", True), ("fair-noncommercial-research-license", True)),
        *(("mit, cc-by-nc-4.0", True), ("apache-2.0", False), ("cc-by-4.0", False), ("other", False), (None, False)),
        *(("cc_by_nc_4.0", True), ("CC BY-NC4.0", True), ("non commercial", True), ("Non_Commercial use", True)),
        *(("NonCommercial", True), ("apple-amlr", True), ("For Research Use", True), ("Academic", True)),
        *(("ncsa", False), ("cc-by-ncsa", False), ("Academic Free License v3.0", False), ("commercial", False)),
    ],
)
def test_non_commercial_licences_are_known_by_their_names(licence, non_commercial):
    info = EncoderInfo("a/b", "clip", 12, 6, 0.0, "float32", licence=licence)
    assert info.non_commercial is non_commercial


@pytest.mark.parametrize(("licence", "warnings"), [("cc-by-nc-4.0", 1), ("mit", 0)])
def test_a_non_commercial_licence_warns_once(tmp_path, caplog, licence, warnings):
    checkpoints.make("deepsim", tmp_path, licence=licence)
    with caplog.at_level(logging.WARNING, "viml_hf"):
        encoder = from_names(audio=f"deepsim:{tmp_path}")
    assert [record.name for record in caplog.records].count("viml_hf.encoders.encoder_info") == warnings
    assert encoder.info["audio"].licence == licence
    if warnings:
        assert f"audio encoder deepsim:{tmp_path} is under cc-by-nc-4.0" in caplog.text


@pytest.mark.parametrize(
    ("family", "part", "stated"),
    [
        ("clip", "video", ("clip_vision_model", 12, 6, 0.0)),
        ("clip", "text", ("clip_text_model", 12, None, None)),
        ("clap", "audio", ("clap_audio_model", 14, 8000, 10.0)),
        ("deepsim", "audio", ("deepsim", 16, 8000, 2.08)),
        ("ast", "audio", ("audio-spectrogram-transformer", 16, 16_000, 0.335)),
        ("mert", "audio", ("hubert", 16, 24_000, None)),
        ("bert", "text", ("bert", 16, None, None)),
    ],
)
def test_width_rate_and_window_are_stated(tmp_path, family, part, stated):
    checkpoints.make(family, tmp_path)
    encoder = from_names(**{part: str(tmp_path)})
    info = encoder.info[part]
    assert (info.model_type, info.width, info.rate, info.window) == stated
    assert (info.name, info.dtype, info.licence, info.revision) == (str(tmp_path), "float32", None, None)
    assert encoder.widths[part] == stated[1]

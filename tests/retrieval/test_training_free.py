"""Models that rank without training: a joint encoder by its name, wherever a model is named."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import pipeline

from tests.encoders import checkpoints
from tests.media import sine, write_audio, write_tones_and_clip
from viml_hf import (
    MediaEncoder,
    MusicIndex,
    Recommender,
    Store,
    ViMLError,
    ViMLForMusicRetrieval,
    extract,
    read_sources,
)
from viml_hf.cli.main import main
from viml_hf.encoders import encoder_info
from viml_hf.retrieval.model_loading import load_encoder_and_model

TEXT = "slow piano"


@pytest.fixture(scope="module", autouse=True)
def pe_av_without_timm():
    with checkpoints.pe_av_without_timm():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, pe_av_without_timm):
    folder = tmp_path_factory.mktemp("joint") / "pe-av"
    return folder, checkpoints.make("pe_av", folder, licence="apache-2.0")


@pytest.fixture(scope="module")
def name(checkpoint):
    return f"pe_av:{checkpoint[0]}"


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Five tracks and a video of one segment each, and a longer track."""
    music, clip = write_tones_and_clip(tmp_path_factory.mktemp("media"))
    write_audio(music / "long.wav", sine(330, 43, 8000), 8000)
    return music, clip


@pytest.fixture(scope="module")
def index(name, media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    assert main(["index", str(media[0]), "-o", str(folder), "--model", name, "--workers", "1", "--quiet"]) == 0
    return folder


def recommended(capsys, *words):
    assert main(["recommend", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["results"]


@torch.no_grad()
def own_embeddings(model, encoder, media):
    """What `PeAudioVideoModel.forward` itself gives for the tracks of one segment, the video and the text."""
    processor, (music, video) = encoder.processor, media
    (frames,) = [segment.data for segment in processor.video_segments(str(video))]
    tokens = processor(text=[TEXT])
    query = {
        "pixel_values_videos": processor.prepare_frames(frames)[None],
        "input_ids": tokens["input_ids"],
        "attention_mask": tokens["text_attention_mask"],
    }
    audio = {}
    for number in range(5):
        (sound,) = [segment.data for segment in processor.audio_segments(str(music / f"{number}.wav"))]
        inputs = processor.feature_extractor(sound, sampling_rate=8000, return_tensors="pt")
        output = model(**query, input_values=inputs["input_values"], padding_mask=inputs["padding_mask"])
        audio[f"{number}.wav"] = output.audio_embeds[0]
    return output.video_embeds[0], output.text_audio_embeds[0], audio


@torch.no_grad()
def test_embeddings_are_those_of_transformers(checkpoint, name, media):
    """To 1e-5 as the encoders give them; a base feature is that, rounded to float16."""
    encoder = MediaEncoder.from_joint(name, threads=1)
    given = {}
    for modality, tower in encoder.model.encoders.items():
        tower.register_forward_hook(lambda *call, m=modality: given.setdefault(m, []).append(call[-1].pooler_output))
    video, text, audio = own_embeddings(checkpoint[1], encoder, media)
    rows = {"video": encoder.encode_video(str(media[1])).rows, "text": encoder.encode_text(TEXT)}
    assert len(rows["video"]) == 1
    for modality, expected in (("video", video), ("text", text)):
        found = given[modality][-1][0]
        assert torch.allclose(found, expected, atol=1e-5)
        assert np.array_equal(rows[modality][0], found.to(torch.float16).numpy())
    for track, expected in audio.items():
        row = encoder.encode_audio(str(media[0] / track)).rows
        assert torch.allclose(given["audio"][-1][0], expected, atol=1e-5)
        assert np.array_equal(row[0], given["audio"][-1][0].to(torch.float16).numpy())


@pytest.mark.parametrize("query", ["video", "text", "video and text"])
def test_viml_recommend_ranks_by_cosines_computed_by_hand(checkpoint, name, media, index, capsys, query):
    video, text, audio = own_embeddings(checkpoint[1], MediaEncoder.from_joint(name, threads=1), media)
    weights = {"video": 1.0, "text": 0.5 if "video" in query else 1.0}
    given = [(weights[word], one) for word, one in (("video", video), ("text", text)) if word in query]
    parts = [weight * F.normalize(one, dim=0) for weight, one in given]
    scores = {track: sum(float(F.normalize(one, dim=0) @ part) for part in parts) for track, one in audio.items()}
    words = [media[1]] * ("video" in query) + ["--text", TEXT] * ("text" in query)
    found = [one for one in recommended(capsys, *words, "--index", index) if one["track"] in scores]
    assert [one["track"] for one in found] == sorted(scores, key=lambda track: -scores[track])
    length = float(sum(parts).norm())
    assert np.allclose([one["score"] * length for one in found], sorted(scores.values(), reverse=True), atol=2e-3)
    assert max(scores.values()) - min(scores.values()) > 0.02


def test_it_saves_loads_and_ranks_to_the_last_bit(name, media, index, tmp_path, capsys):
    query = [media[1], "--text", TEXT]
    by_name = recommended(capsys, *query, "--index", index)
    encoder = load_encoder_and_model(name)
    encoder.model.save_pretrained(tmp_path / "model")
    encoder.processor.save_pretrained(tmp_path / "model")
    assert recommended(capsys, *query, "--index", index, "--model", tmp_path / "model") == by_name
    again = tmp_path / "index"
    main(["index", str(media[0]), "-o", str(again), "--model", str(tmp_path / "model"), "--quiet", "--workers", "1"])
    capsys.readouterr()
    assert np.array_equal(MusicIndex.load(again).embeddings, MusicIndex.load(index).embeddings)
    assert recommended(capsys, *query, "--index", again) == by_name
    assert len(MusicIndex.load(index).usable) == 6


def test_python_names_it_as_the_command_does(name, media, index):
    video = str(media[1])
    expected = Recommender.from_pretrained(index=index).recommend(video, TEXT)
    assert Recommender.from_pretrained(name, index=index).recommend(video, TEXT) == expected
    recommend = pipeline("video-to-music", model=MediaEncoder.from_joint(name), music=str(index))
    found = recommend({"video": video, "text": TEXT})
    assert [(one["track"], one["score"]) for one in found] == [(one.track, one.score) for one in expected]


def test_viml_evaluate_and_publish_take_the_name(name, media, tmp_path, capsys):
    items = read_sources([str(media[0])]).items
    pairs = [type(item)(item.id, video=str(media[1]), audio=item.audio or item.video, texts=(TEXT,)) for item in items]
    store = extract(
        pairs, tmp_path / "store", **dict.fromkeys(("video", "text", "audio"), name), workers=1, progress=False
    )
    assert set(store.spec.spaces.values()) == {name}
    assert main(["evaluate", name, str(tmp_path / "store"), "--json", "--query", "video", "--query", "video+text"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["model"] == name
    assert set(summary["rows"]) == {"video", "video+text"}
    assert main(["publish", name, "me/model", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert "model.safetensors" in card
    assert str(media[0].parent) not in card
    assert isinstance(Store(tmp_path / "store").spec.spaces, dict)


def one_line(capsys, *words):
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    return error[0]


def test_modalities_that_a_space_lacks_are_refused_with_what_it_has(media, tmp_path, capsys):
    folders = {family: tmp_path / family for family in ("clip", "clap", "whisper")}
    for family, folder in folders.items():
        checkpoints.make(family, folder)
    begin = ["index", media[0], "-o", tmp_path / "index", "--quiet", "--workers", "1", "--model"]
    error = one_line(capsys, *begin, f"clip:{folders['clip']}")
    assert "its joint space has video and text, but a model that ranks music needs audio" in error
    assert "it has no joint space" in one_line(capsys, *begin, f"whisper:{folders['whisper']}")
    assert main([str(word) for word in (*begin, f"clap:{folders['clap']}")]) == 0
    capsys.readouterr()
    assert len(recommended(capsys, "--text", TEXT, "--index", tmp_path / "index")) == 6
    error = one_line(capsys, "recommend", media[1], "--text", TEXT, "--index", tmp_path / "index")
    assert "queries are made of text: leave the video out" in error


def test_two_spaces_are_not_called_one(checkpoint, name, tmp_path):
    other = tmp_path / "other"
    checkpoints.make("pe_av", other)
    heads = {"encoder": "identity", "fusion": "late"}
    with pytest.raises(ValueError, match=rf"share no joint space \(video {name}, .*audio pe_av:{other}\)"):
        ViMLForMusicRetrieval.from_encoders(name, name, f"pe_av:{other}", **heads)
    with pytest.raises(ValueError, match=r"text none"):
        ViMLForMusicRetrieval.from_encoders(name, "descriptors", name, **heads)
    assert ViMLForMusicRetrieval.from_encoders(name, "descriptors", name, **heads, query_modalities=["video"])
    with pytest.raises(ViMLError, match=r"clip: its joint space has video and text"):
        MediaEncoder.from_joint("clip")


@pytest.fixture
def chosen(monkeypatch):
    """What this machine measures: bfloat16 is faster, or not; `chosen(True)`."""
    monkeypatch.setattr(encoder_info, "computes_bfloat16", lambda device: True)
    return lambda faster: monkeypatch.setattr(encoder_info, "bfloat16_share", lambda width: 0.5 if faster else 1.0)


def test_an_index_says_in_which_dtype_it_was_made(name, media, tmp_path, capsys, chosen):
    """So another machine, or the next measurement, does not choose another one."""
    chosen(faster=True)
    folder = tmp_path / "index"
    assert main(["index", str(media[0]), "-o", str(folder), "--model", name, "--workers", "1", "--quiet"]) == 0
    capsys.readouterr()
    assert MusicIndex.load(folder).model == f"{name}?dtype=bfloat16"
    found = recommended(capsys, media[1], "--text", TEXT, "--index", folder)
    chosen(faster=False)
    assert MediaEncoder.from_joint(name).dtypes["audio"] == "float32"
    assert recommended(capsys, media[1], "--text", TEXT, "--index", folder) == found
    assert recommended(capsys, media[1], "--text", TEXT, "--index", folder, "--model", name) == found


def test_a_joint_model_has_one_dtype_but_for_its_texts(name, chosen, monkeypatch):
    chosen(faster=True)
    assert MediaEncoder.from_joint(name).dtypes == {"video": "bfloat16", "text": "float32", "audio": "bfloat16"}
    shares = iter([0.5, 1.0])
    monkeypatch.setattr(encoder_info, "bfloat16_share", lambda width: next(shares))
    assert set(MediaEncoder.from_joint(name).dtypes.values()) == {"float32"}
    with pytest.raises(ViMLError, match="its dtype has no effect"):
        MediaEncoder.from_joint(f"{name}?dtype=bfloat16", dtypes="float32")
    with pytest.raises(ValueError, match=r"only the name of a model without training has a dtype: give --dtype"):
        MediaEncoder.from_names(f"{name}?dtype=float32", "descriptors", "descriptors")
    with pytest.raises(ValueError, match="dtype='int8': give float32 or bfloat16"):
        MediaEncoder.from_joint(f"{name}?dtype=int8")

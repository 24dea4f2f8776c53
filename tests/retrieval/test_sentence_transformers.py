"""Any sentence-transformers model of several modalities as encoders, and as a model that ranks without training."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from tests.encoders import checkpoints, embedding_gemma2, three_senses
from tests.media import sine, write_tones_and_clip
from viml_hf import MediaEncoder, MusicIndex, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.cli.main import main
from viml_hf.hub.publishing import plan_publication
from viml_hf.hub.saved_weights import saved_parameters, weights_checksum
from viml_hf.retrieval.model_loading import fingerprint, load_encoder_and_model

TEXT = "slow piano"


@pytest.fixture(scope="module", autouse=True)
def known_module():
    with three_senses.known():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, known_module):
    folder = tmp_path_factory.mktemp("st") / "three-senses"
    return folder, three_senses.make(folder)


@pytest.fixture(scope="module")
def name(checkpoint):
    return f"st:{checkpoint[0]}"


@pytest.fixture(scope="module")
def encoder(name):
    return MediaEncoder.from_joint(name, threads=2)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Tracks and a video of one segment each."""
    return write_tones_and_clip(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def index(name, media, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    assert main(["index", str(media[0]), "-o", str(folder), "--model", name, "--workers", "1", "--quiet"]) == 0
    return folder


def own_embeddings(model, encoder, media):
    """What sentence-transformers itself gives for the video and the text as queries, and the tracks as documents."""
    music, video = media
    (frames,) = [segment.data for segment in encoder.processor.video_segments(str(video))]
    pictures = encoder.processor.prepare_frames(frames).to(torch.uint8)
    times = {"fps": 6, "total_num_frames": 36, "duration": 6.0, "frames_indices": list(range(36))}
    audio = {}
    for number in range(5):
        (sound,) = [segment.data for segment in encoder.processor.audio_segments(str(music / f"{number}.wav"))]
        rate = encoder.processor.feature_extractor.sampling_rate
        audio[f"{number}.wav"] = model.encode_document([{"array": sound, "sampling_rate": rate}])[0]
    return model.encode_query([{"array": pictures, "video_metadata": times}])[0], model.encode_query(TEXT), audio


def recommended(capsys, *words):
    assert main(["recommend", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["results"]


def check_embeddings(model, encoder, media):
    video, text, audio = own_embeddings(model, encoder, media)
    assert encoder.encode_video(str(media[1])).rows[0] == pytest.approx(video, rel=1e-3, abs=1e-4)
    assert encoder.encode_text(TEXT)[0] == pytest.approx(text, rel=1e-3, abs=1e-4)
    for track, expected in audio.items():
        assert encoder.encode_audio(str(media[0] / track)).rows[0] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def check_ranking(model, encoder, media, index, capsys, query):
    video, text, audio = own_embeddings(model, encoder, media)
    weights = {"video": 1.0, "text": 0.5 if "video" in query else 1.0}
    given = [(weights[word], one) for word, one in (("video", video), ("text", text)) if word in query]
    parts = [weight * one / np.linalg.norm(one) for weight, one in given]
    scores = {track: sum(float(one @ part) for part in parts) / np.linalg.norm(one) for track, one in audio.items()}
    words = [media[1]] * ("video" in query) + ["--text", TEXT] * ("text" in query)
    found = recommended(capsys, *words, "--index", index)
    assert [one["track"] for one in found] == sorted(scores, key=lambda track: -scores[track])
    length = float(np.linalg.norm(sum(parts)))
    assert np.allclose([one["score"] * length for one in found], sorted(scores.values(), reverse=True), atol=2e-3)
    assert max(scores.values()) - min(scores.values()) > 0.02


def test_embeddings_are_those_of_sentence_transformers_with_the_prompt_of_each_role(checkpoint, encoder, media):
    check_embeddings(checkpoint[1], encoder, media)
    plain = checkpoint[1].encode([TEXT], prompt="")[0]
    assert np.abs(encoder.encode_text(TEXT)[0] - plain).max() > 0.01


@pytest.mark.parametrize("query", ["video", "text", "video and text"])
def test_viml_recommend_ranks_by_cosines_computed_by_hand(checkpoint, encoder, media, index, capsys, query):
    check_ranking(checkpoint[1], encoder, media, index, capsys, query)


def test_embedding_gemma_2(media, tmp_path, capsys):
    """A tiny one, with a stand-in for its video processor, which needs torchvision."""
    with embedding_gemma2.without_torchvision():
        model = embedding_gemma2.make(tmp_path)
        name, folder = f"st:{tmp_path / 'st'}", tmp_path / "index"
        encoder = MediaEncoder.from_joint(name, threads=2)
        check_embeddings(model, encoder, media)
        assert main(["index", str(media[0]), "-o", str(folder), "--model", name, "--workers", "1", "--quiet"]) == 0
        capsys.readouterr()
        check_ranking(model, encoder, media, folder, capsys, "video and text")


def test_it_saves_loads_and_ranks_to_the_last_bit(encoder, media, index, tmp_path, capsys):
    query, folder = [media[1], "--text", TEXT], tmp_path / "model"
    by_name = recommended(capsys, *query, "--index", index)
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    assert recommended(capsys, *query, "--index", index, "--model", folder) == by_name
    again = tmp_path / "index"
    main(["index", str(media[0]), "-o", str(again), "--model", str(folder), "--quiet", "--workers", "1"])
    capsys.readouterr()
    assert np.array_equal(MusicIndex.load(again).embeddings, MusicIndex.load(index).embeddings)
    assert recommended(capsys, *query, "--index", again) == by_name
    assert fingerprint(load_encoder_and_model(folder)) == fingerprint(encoder)


def test_the_model_is_in_memory_and_in_a_checkpoint_once_and_ships_with_it(encoder, tmp_path):
    encoder.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    assert not any("encoder" in key for key in load_file(tmp_path / "model.safetensors"))
    files = set(plan_publication(tmp_path, "me/model", local_files_only=True).files)
    assert {"video_encoder/modules.json", "video_encoder/model.safetensors"} <= files
    assert not any(file.startswith(("text_encoder", "audio_encoder")) for file in files)
    model = ViMLForMusicRetrieval.from_pretrained(tmp_path)
    assert model.video_encoder.model is model.text_encoder.model is model.audio_encoder.model
    assert saved_parameters(tmp_path)["video encoder"] == sum(p.numel() for p in model.video_encoder.parameters())
    before, weights = weights_checksum(tmp_path, model.config.viml_config), tmp_path / "video_encoder/model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert weights_checksum(tmp_path, model.config.viml_config) != before


def test_a_prompt_in_the_name_takes_the_place_of_the_models_own(checkpoint, name):
    names = {"video": "descriptors", "text": f"{name}?prompt=find: ", "audio": "descriptors"}
    encoder = MediaEncoder.from_names(**names, threads=1)
    expected = checkpoint[1].encode([TEXT], prompt="find: ")[0]
    assert encoder.encode_text(TEXT)[0] == pytest.approx(expected, rel=1e-3, abs=1e-4)
    joint = MediaEncoder.from_joint(f"{name}?prompt=find: ", threads=1)
    assert np.array_equal(joint.encode_text(TEXT), encoder.encode_text(TEXT))
    with pytest.raises(ValueError, match="only texts have a prompt"):
        MediaEncoder.from_names("descriptors", "descriptors", f"{name}?prompt=find: ")


def test_texts_in_any_script_arrive_whole(checkpoint, encoder):
    text = "Größe 大きさ 🎹"
    assert encoder.encode_text(text)[0] == pytest.approx(checkpoint[1].encode_query(text), rel=1e-3, abs=1e-4)


def one_line(capsys, *words):
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    return error[0]


@pytest.fixture
def of_texts(tmp_path):
    """A sentence-transformers model as most are: of texts, pooled by their first token."""
    checkpoints.make("bert", tmp_path / "bert")
    bert = Transformer(str(tmp_path / "bert"))
    model = SentenceTransformer(modules=[bert, Pooling(16, pooling_mode="cls")], device="cpu")
    model.save_pretrained(str(tmp_path / "texts"), create_model_card=False)
    return tmp_path / "texts", model


def test_modalities_that_a_model_lacks_are_refused_with_what_it_has(of_texts, media, tmp_path, capsys):
    begin = ["index", media[0], "-o", tmp_path / "index", "--quiet", "--workers", "1", "--model"]
    error = one_line(capsys, *begin, f"st:{of_texts[0]}")
    assert "its joint space has text, but a model that ranks music needs audio with video or text in one" in error
    error = one_line(
        capsys, "extract", media[0], "-o", tmp_path / "store", "--audio-encoder", f"st:{of_texts[0]}", "--workers", "1"
    )
    assert "embeds no audio, but text: give another model for audio" in error


def test_models_of_texts_are_pooled_as_they_say(of_texts):
    folder, model = of_texts
    encoder = MediaEncoder.from_names("descriptors", f"st:{folder}", "descriptors", threads=1)
    assert encoder.encode_text(TEXT)[0] == pytest.approx(model.encode_query(TEXT), rel=1e-3, abs=1e-4)


def test_code_that_comes_with_a_model_is_never_run(checkpoint, tmp_path):
    folder = tmp_path / "model"
    checkpoint[1].save_pretrained(str(folder), create_model_card=False)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**modules[0], "type": "code.Module"}]))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(OSError, match="its model cannot be loaded"):
        MediaEncoder.from_joint(f"st:{folder}")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite_are_refused(checkpoint, tmp_path):
    folder = tmp_path / "model"
    checkpoint[1].save_pretrained(str(folder), create_model_card=False)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, folder / "model.safetensors")
    with pytest.raises(OSError, match="holds NaN"):
        MediaEncoder.from_joint(f"st:{folder}")


def test_without_the_library_its_name_is_said(name, monkeypatch, capsys, tmp_path, media):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    error = one_line(capsys, "index", media[0], "-o", tmp_path, "--model", name, "--quiet", "--workers", "1")
    assert "pip install viml-hf[sentence-transformers]" in error


def test_the_processor_alone_makes_what_the_model_takes(name, encoder):
    processor = ViMLProcessor.from_encoders(name, name, name)
    inputs = processor(text=[TEXT, None], audio={"array": sine(440, 4, 8000), "sampling_rate": 8000})
    with torch.no_grad():
        rows, mask = encoder.model.get_text_base_features(inputs["input_ids"], inputs["text_attention_mask"])
    assert np.array_equal(rows[0].numpy().astype(np.float16), encoder.encode_text(TEXT))
    assert mask.flatten().tolist() == [1, 0]
    assert inputs["input_features"].shape == (1, 1, 32000)

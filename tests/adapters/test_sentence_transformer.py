import importlib
import shutil
import sys

import numpy as np
import pytest
import torch

from tests.adapters.conftest import noise, pictures
from tests.media import write_audio
from viml_hf import ViMLError, ViMLForMusicRetrieval, ViMLProcessor, save_for_sentence_transformers
from viml_hf.retrieval.model_loading import fingerprint, load_encoder_and_model

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

from sentence_transformers import SentenceTransformer

from viml_hf.adapters.sentence_transformer import ViMLModule, load_sentence_transformer


@pytest.fixture(scope="module")
def model(model_folder):
    return load_sentence_transformer(model_folder, device="cpu")


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the saved model, to write into."""
    return shutil.copytree(model_folder, tmp_path / "copy")


def unit(rows):
    mean = rows.mean(0)
    return mean / np.linalg.norm(mean)


def test_it_says_what_it_takes(model):
    assert model.modalities == ["text", "video", "audio", ("text", "video")]
    assert model.get_embedding_dimension() == 16
    assert model.similarity_fn_name == "cosine"
    assert model.tokenizer is model[0].processor.tokenizer
    assert type(model.transformers_model) is ViMLForMusicRetrieval


@pytest.mark.parametrize("name", ["a.mp4", "b.mp4", "c.webm"])
def test_queries_are_those_of_the_recommender(model, recommender, videos, name):
    """Also of 45 s, and in a format that sentence-transformers takes for a text."""
    path = videos / name
    assert np.array_equal(model.encode_query(str(path)), recommender.embed_query(path))
    assert np.array_equal(model.encode_query({"video": str(path)}), recommender.embed_query(path))
    both = {"text": "slow piano", "video": str(path)}
    assert np.array_equal(model.encode_query(both), recommender.embed_query(path, "slow piano"))
    assert np.array_equal(model.encode_query("slow piano"), recommender.embed_query(text="slow piano"))
    assert np.array_equal(model.encode_query({"text": "slow piano"}), recommender.embed_query(text="slow piano"))


@pytest.mark.parametrize("name", ["a.wav", "b.flac", "c.wav"])
def test_music_of_up_to_30_seconds_is_its_row_of_the_index(model, music, tracks, name):
    assert len(tracks[name]) == 1
    assert np.array_equal(model.encode_document(str(music / name)).astype(np.float16), tracks[name][0])
    assert np.array_equal(model.encode_document({"audio": str(music / name)}).astype(np.float16), tracks[name][0])


def test_longer_music_is_the_mean_of_its_rows(model, music, tracks):
    assert len(tracks["d.wav"]) == 4
    assert np.allclose(model.encode_document(str(music / "d.wav")), unit(tracks["d.wav"]), atol=1e-3)


def test_frames_are_at_6_per_second_or_as_stated(model, recommender):
    frames = np.stack(pictures(8, 3))
    expected = recommender.embed_query(frames)
    assert np.array_equal(model.encode_query(frames), expected)
    assert np.array_equal(model.encode_query({"video": list(frames)}), expected)
    channels_first = torch.from_numpy(frames).permute(0, 3, 1, 2)
    assert np.array_equal(model.encode_query(channels_first), expected)
    assert np.array_equal(model.encode_query({"array": frames, "video_metadata": {"fps": 6}}), expected)
    thrice = {"array": frames.repeat(3, axis=0), "video_metadata": {"fps": 18}}
    assert np.array_equal(model.encode_query(thrice), expected)
    assert np.abs(model.encode_query(thrice["array"]) - expected).max() > 1e-3


def test_a_batch_gives_what_each_gives_alone_in_order(model, music, videos):
    files = [str(music / name) for name in ("b.flac", "d.wav", "a.wav", "c.wav")]
    alone = np.stack([model.encode_document(file) for file in files])
    for batch_size in (1, 3, 32):
        assert np.array_equal(model.encode_document(files, batch_size=batch_size), alone)
    queries = [{"video": str(videos / n), "text": t} for n, t in [("a.mp4", "a long text of words"), ("b.mp4", "x")]]
    alone = np.stack([model.encode_query(query) for query in queries])
    assert np.array_equal(model.encode_query(queries), alone)
    texts = ["one", "a much longer one than the others", "two two"]
    assert np.array_equal(model.encode(texts, batch_size=2), np.stack([model.encode(text) for text in texts]))


def test_similarity_ranks_as_the_recommender_does(model, recommender, videos, music):
    names = ["a.wav", "b.flac", "c.wav"]  # of one window each
    queries = model.encode_query([{"video": str(videos / "b.mp4"), "text": "fast drums"}])
    scores = model.similarity(queries, model.encode_document([str(music / name) for name in names]))[0]
    found = {one.track: one.score for one in recommender.recommend(videos / "b.mp4", "fast drums")}
    assert np.allclose(scores, [found[name] for name in names], atol=1e-3)


def test_options_of_encode_do_what_they_say(model, recommender, videos):
    video, plain = str(videos / "a.mp4"), recommender.embed_query(videos / "a.mp4", "happy")
    both = {"video": video, "text": "happy"}
    prompted = recommender.embed_query(videos / "a.mp4", "music: happy")
    assert np.array_equal(model.encode_query(both, prompt="music: "), prompted)
    assert np.array_equal(model.encode_query("happy", prompt="music: "), recommender.embed_query(text="music: happy"))
    assert np.array_equal(model.encode_query(video, prompt="music: "), recommender.embed_query(video))
    assert np.array_equal(model.encode_query({"video": video, "text": " "}, prompt="x"), recommender.embed_query(video))
    assert np.allclose(model.encode_query(both, normalize_embeddings=True), plain, atol=1e-7)
    assert np.array_equal(model.encode_query(both, truncate_dim=5), plain[:5])
    assert model.encode_query(both, convert_to_tensor=True).shape == (16,)
    cut = model.encode_query(both, truncate_dim=5, normalize_embeddings=True)
    assert np.allclose(cut, plain[:5] / np.linalg.norm(plain[:5]), atol=1e-6)


def test_a_saved_one_opens_again(model, model_folder, tmp_path, music, videos):
    """sentence-transformers wants the flag for each module that is not its own, installed or not."""
    folder = tmp_path / "saved"
    model.save_pretrained(str(folder))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(folder))
    again = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert type(again[0]) is ViMLModule
    for one in ({"video": str(videos / "a.mp4"), "text": "happy"}, str(music / "a.wav")):
        assert np.array_equal(again.encode(one), model.encode(one))
    # And for all others it is the model that it was.
    assert fingerprint(load_encoder_and_model(folder)) == fingerprint(load_encoder_and_model(model_folder))


@pytest.fixture
def stock(folder):
    """What opens by itself, as sentence-transformers opens any model: no flag, no module of ours."""
    save_for_sentence_transformers(folder)
    return SentenceTransformer(str(folder), device="cpu")


def test_a_folder_opens_by_itself(stock, recommender, tracks, music, videos):
    """Queries and music of up to 70 s, in batches of several lengths."""
    assert set(stock.modalities) == {"text", "video", "audio", ("text", "video")}
    names = [videos / "a.mp4", videos / "c.webm", videos / "b.mp4"]
    expected = np.stack([recommender.embed_query(video) for video in names])
    assert np.allclose(stock.encode_query([{"video": str(video)} for video in names]), expected, atol=1e-5)
    expected = np.stack([recommender.embed_query(video, "happy " * n) for n, video in enumerate(names, 1)])
    both = [{"video": str(video), "text": "happy " * n} for n, video in enumerate(names, 1)]
    queries = stock.encode_query(both)
    assert np.allclose(queries, expected, atol=1e-5)
    assert np.allclose(stock.encode_query("happy"), recommender.embed_query(text="happy"), atol=1e-5)
    files = [str(music / name) for name in tracks]
    documents = stock.encode_document(files)
    assert np.allclose(documents, [unit(rows) for rows in tracks.values()], atol=1e-3)
    assert np.allclose(stock.similarity(queries, documents), queries @ documents.T, atol=1e-5)


def test_a_path_of_an_unknown_kind_is_not_taken_for_a_text(stock, tmp_path):
    song = write_audio(tmp_path / "song.m4a", noise(3, 44_100, 1), 44_100, "aac")
    with pytest.raises(ValueError, match=r"song\.m4a' names a media file: give it, if it is there, as videos="):
        stock.encode_document(str(song))
    with pytest.raises(ValueError, match=r"zzz\.m4a"):
        stock.encode_document("my-music/zzz.m4a")


def test_stated_frame_rates_count(stock, recommender):
    frames = np.stack(pictures(8, 3))
    thrice = {"array": frames.repeat(3, axis=0), "video_metadata": {"fps": 18}}
    found = stock.encode_query([{"array": frames, "video_metadata": {"fps": 6}}, thrice])
    assert np.allclose(found, recommender.embed_query(frames), atol=1e-5)


def test_a_model_of_videos_alone_takes_no_text():
    torch.manual_seed(0)
    heads = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "query_modalities": ["video"]}
    module = ViMLModule(ViMLForMusicRetrieval.from_encoders(**heads), ViMLProcessor.from_encoders())
    model = SentenceTransformer(modules=[module], device="cpu")
    assert model.modalities == ["video", "audio"]
    with pytest.raises(ValueError, match="not supported"):
        model.encode("slow piano")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing.mp3", "no such file"),
        (np.zeros(100, np.float32), "without its rate"),
        ("", "empty"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(model, given, message):
    with pytest.raises(ViMLError, match=message):
        model.encode_query(given)


def test_a_videos_path_among_documents_is_ambiguous(model, encoder, videos, music, tmp_path):
    with pytest.raises(ViMLError, match="its pictures or its sound"):
        model.encode_document(str(videos / "a.mp4"))
    file = write_audio(tmp_path / "song.mp4", noise(3, 44_100, 1), 44_100, "aac")
    found = model.encode_document({"audio": str(file)})
    with torch.inference_mode():
        rows = torch.from_numpy(encoder.encode_audio(file).rows).float()[None]
        assert np.allclose(found, encoder.model.viml.get_audio_features(rows).pooler_output[0], atol=1e-6)


def test_options_that_have_no_effect_are_refused(model, folder):
    with pytest.raises(ViMLError, match="processing_kwargs"):
        model.encode("x", processing_kwargs={"text": {"max_length": 3}})
    model.save_pretrained(str(folder))
    with pytest.raises(ViMLError, match="model_kwargs"):
        SentenceTransformer(str(folder), trust_remote_code=True, model_kwargs={"dtype": "bfloat16"})
    with pytest.raises(ViMLError, match="onnx"):
        SentenceTransformer(str(folder), trust_remote_code=True, backend="onnx")


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    with pytest.raises(ViMLError, match="not a saved"):
        save_for_sentence_transformers(tmp_path)
    (folder / "processor_config.json").unlink()
    with pytest.raises(ViMLError, match="with its processor"):
        save_for_sentence_transformers(folder)
    assert not (folder / "modules.json").exists()


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(sys.modules, "viml_hf.adapters.sentence_transformer")
    with pytest.raises(ImportError, match=r"pip install viml-hf\[sentence-transformers\]"):
        importlib.import_module("viml_hf.adapters.sentence_transformer")

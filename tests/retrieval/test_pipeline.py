import gc
import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import pipeline

from viml_hf import Recommender, VideoToMusicPipeline, ViMLError, build_index, registration
from viml_hf.errors import MediaDecodeError

TASK = "video-to-music"


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    """The model with its processor, as `save_pretrained` leaves them."""
    folder = tmp_path_factory.mktemp("model")
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recommend(folder, index):
    return pipeline(TASK, model=str(folder), music=index, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_index_serves_its_model_in_another_dtype(folder, other_encoder, index, video, expected, dtype, tmp_path):
    found = pipeline(TASK, model=str(folder), music=index, device="cpu", dtype=dtype)(video)
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected[0]], abs=0.02)
    other_encoder.model.save_pretrained(tmp_path)
    other_encoder.processor.save_pretrained(tmp_path)
    with pytest.raises(ViMLError, match="made by another model"):
        pipeline(TASK, model=str(tmp_path), music=index, device="cpu", dtype=dtype)(video)


def test_feature_extraction_gives_the_embedding_of_a_text(folder, recommender):
    """It is the task that a model's card states."""
    embed = pipeline("feature-extraction", model=str(folder), device="cpu")
    alone, together = embed("slow piano"), embed(["slow piano", "upbeat pop with female vocals"])
    np.testing.assert_allclose(alone[0], recommender.embed_query(text="slow piano"), atol=1e-6)
    assert together[0] == alone
    assert np.shape(together) == (2, 1, len(alone[0]))


def as_dicts(found):
    return [{name: value for name, value in asdict(one).items() if name != "path"} for one in found]


@pytest.fixture(scope="module")
def expected(recommender, video):
    """Of a video, of a text, and of both."""
    queries = (video, None), (None, "slow piano"), (video, "slow piano")
    found = [as_dicts(recommender.recommend(*query)) for query in queries]
    assert len({json.dumps(ranking) for ranking in found}) == 3
    return found


def test_results_are_those_of_the_recommender_to_the_last_bit(recommend, video, expected):
    assert type(recommend) is VideoToMusicPipeline
    of_video, of_text, of_both = expected
    assert [found["rank"] for found in of_video] == [1, 2, 3]
    for same in (video, str(video), video.read_bytes(), {"video": video}, {"video": str(video), "text": " "}):
        assert recommend(same) == of_video
    for same in ("slow piano", {"text": "slow piano"}, {"video": None, "text": "slow piano"}):
        assert recommend(same) == of_text
    assert recommend({"video": video, "text": "slow piano"}) == of_both
    json.dumps(of_both)


def test_frames_are_a_video(recommend, recommender):
    frames = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    expected = as_dicts(recommender.recommend(frames))
    assert recommend(frames) == recommend(torch.from_numpy(frames)) == recommend({"video": frames}) == expected


def test_a_video_may_be_given_in_any_form(recommend, video, expected):
    frames = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
    found = recommend({"array": frames, "video_metadata": {"fps": 24}})
    assert found == recommend({"video": {"array": frames[::4], "video_metadata": {"fps": 6}}}) != recommend(frames)
    with video.open("rb") as file:
        forms = [file, {"video": file, "text": " "}, {"bytes": video.read_bytes(), "path": None}]
        assert [recommend(form) for form in forms] == [expected[0]] * 3


def test_music_is_no_query(recommend, library, index):
    """It would be decoded as a video without pictures."""
    with pytest.raises(MediaDecodeError, match=r"short\.wav: music, by its name; give .*\{\"video\": path\}"):
        recommend(str(library / "short.wav"))
    with pytest.raises(MediaDecodeError, match="no video stream"):
        recommend({"video": library / "short.wav"})
    with pytest.raises(ViMLError, match=r"A video of type dict with 'array', 'sampling_rate': give a video"):
        recommend({"array": np.zeros(8000), "sampling_rate": 8000})


def test_a_list_gives_a_list_whatever_the_batch_size(recommend, video, expected):
    queries = [video, "slow piano", {"video": video, "text": "slow piano"}]
    assert recommend(queries) == expected
    assert recommend(queries, batch_size=3, num_workers=2) == expected
    assert recommend([video]) == expected[:1]
    assert recommend([]) == []


def test_a_generator_is_read_query_by_query(recommend):
    alive, most = weakref.WeakSet(), []

    class Frames(np.ndarray):
        """An array that can be counted."""

        __hash__ = object.__hash__

    def make():
        frames = np.zeros((6, 8, 8, 3), np.uint8).view(Frames)
        alive.add(frames)
        gc.collect()
        most.append(len(alive))
        return frames

    results = recommend(make() for _ in range(5))
    next(results_iterator := iter(results))
    read_for_the_first = len(most)
    assert len(list(results_iterator)) == 4
    assert (read_for_the_first, most) == (1, [1] * 5)


def test_an_empty_generator_gives_nothing(recommend):
    assert list(recommend(query for query in ())) == []


def test_a_dataset_is_streamed_and_has_a_length(recommend, video, expected):
    class Queries(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, place):
            return [video, "slow piano"][place]

    results = recommend(Queries())
    assert len(results) == 2
    assert list(results) == expected[:2]


def test_top_k_limits_the_ranking_here_or_for_all_calls(recommend, encoder, index, video, expected):
    assert recommend(video, top_k=2) == expected[0][:2]
    first = VideoToMusicPipeline(encoder.model, encoder.processor, music=index, top_k=1, device="cpu")
    assert first(video) == expected[0][:1]
    assert first(video, top_k=100) == expected[0]
    assert first(video) == expected[0][:1]


def test_music_is_a_folder_files_or_an_index_at_call_or_before(folder, index, library, tmp_path, expected):
    index.save(tmp_path / "index")
    files = [str(library / "short.wav"), library / "album" / "middle.wav", library / "album" / "long.wav"]
    without = pipeline(TASK, model=str(folder), device="cpu")
    for music in (library, str(library), files, iter(files), tmp_path / "index", str(tmp_path / "index"), index):
        assert without("slow piano", music=music) == expected[1]
    assert pipeline(TASK, model=str(folder), music=library, device="cpu")("slow piano") == expected[1]
    (only,) = without("slow piano", music=library / "short.wav")
    assert only["track"] == "short.wav"
    with pytest.raises(ViMLError, match="No music to rank"):
        without("slow piano")


def test_tracks_are_named_from_the_folder_on(recommend, library, tmp_path):
    shutil.copytree(library / "album", tmp_path / "music" / "album")
    found = recommend("slow piano", music=tmp_path / "music")
    assert {track["track"] for track in found} == {"album/long.wav", "album/middle.wav"}


def test_music_at_call_replaces_the_other_for_that_call(recommend, library, expected):
    (only,) = recommend("slow piano", music=[library / "short.wav"])
    assert (only["rank"], only["track"]) == (1, "short.wav")
    assert recommend("slow piano") == expected[1]


def test_relative_paths_give_the_same_names(folder, library, monkeypatch, expected):
    monkeypatch.chdir(library)
    recommend = pipeline(TASK, model=str(folder), device="cpu")
    assert recommend("slow piano", music=".") == expected[1]
    files = ["short.wav", str(library / "album" / "middle.wav"), "album/long.wav"]
    assert recommend("slow piano", music=files) == expected[1]


def test_a_string_that_names_a_file_is_no_text(recommend, video, tmp_path, monkeypatch, expected):
    shutil.copy(video, tmp_path / "no suffix")
    monkeypatch.chdir(tmp_path)
    assert recommend("no suffix") == recommend(str(tmp_path / "no suffix")) == expected[0]
    (tmp_path / "slow piano").mkdir()
    assert recommend("slow piano") == expected[1]
    for missing in ("missing.mp4", str(tmp_path / "missing"), {"video": "missing"}):
        with pytest.raises(ViMLError, match=r"missing.*: no such file.*\"text\""):
            recommend(missing)
    assert len(recommend({"text": "missing.mp4"})) == 3


@pytest.mark.parametrize("query", ["https://example.org/a.mp4", {"video": "s3://bucket/a"}, "http://example.org/watch"])
def test_a_url_is_refused(recommend, query):
    with pytest.raises(ViMLError, match="nothing is downloaded"):
        recommend(query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "query is empty"),
        (None, "query is empty"),
        ({}, "query is empty"),
        (3, "of type int.*give a video"),
        ({"text": b"pop"}, "of type bytes.*give a video"),
        (("a", "b"), "of type tuple.*give a video"),
        ({"video": "a.mp4", "audio": "b.mp3"}, "with 'audio': give a video"),
        ([""], "query is empty"),
    ],
)
def test_bad_queries_are_refused(recommend, query, message):
    with pytest.raises(ViMLError, match=message):
        recommend(query)


def test_a_damaged_video_is_named(recommend, library):
    with pytest.raises(MediaDecodeError, match=r"broken\.mp3"):
        recommend(library / "broken.mp3")


def test_a_generator_goes_on_after_a_bad_query(recommend, expected):
    results = iter(recommend(query for query in ("", "slow piano")))
    with pytest.raises(ViMLError, match="empty"):
        next(results)
    assert next(results) == expected[1]


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "three"])
def test_a_bad_top_k_is_refused(recommend, video, top_k):
    with pytest.raises(ViMLError, match="top_k="):
        recommend(video, top_k=top_k)


def test_an_unknown_option_is_named(recommend, video, folder):
    with pytest.raises(ViMLError, match=r"topk: no such option.*music, top_k, where, like, avoid"):
        recommend(video, topk=3)
    with pytest.raises(ViMLError, match="topk: no such option"):
        pipeline(TASK, model=str(folder), topk=3, device="cpu")
    pipeline(TASK, model=str(folder), local_files_only=True, device="cpu")


def test_bad_music_is_refused(recommend, other_encoder, library, tmp_path):
    with pytest.raises(ViMLError, match="no such folder"):
        recommend("pop", music=tmp_path / "missing")
    with pytest.raises(ViMLError, match=r"music of type int.*give a folder"):
        recommend("pop", music=3)
    with pytest.raises(ViMLError, match=r"music of type list.*give a folder"):
        recommend("pop", music=[3])
    with pytest.raises(ViMLError, match="at least one"):
        recommend("pop", music=[])
    with pytest.raises(ViMLError, match="none of 1 files"):
        recommend("pop", music=[library / "broken.mp3"])
    foreign = build_index([library / "short.wav"], other_encoder, model="another", progress=False)
    with pytest.raises(ViMLError, match="another model"):
        recommend("pop", music=foreign)


def test_a_model_without_encoders_or_processor_is_refused(encoder, index, tmp_path):
    encoder.model.viml.save_pretrained(tmp_path / "heads")
    with pytest.raises(ViMLError, match=r"of type viml: .*which has the encoders"):
        pipeline(TASK, model=str(tmp_path / "heads"), processor=encoder.processor, music=index, device="cpu")
    with pytest.raises(ViMLError, match="processor=, a ViMLProcessor"):
        pipeline(TASK, model=encoder.model, music=index, device="cpu")


def test_a_saved_pipeline_recommends_the_same_and_holds_no_code(recommend, index, video, tmp_path, expected):
    recommend.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()
    assert pipeline(TASK, model=str(tmp_path), music=index, device="cpu")(video) == expected[0]
    loaded = Recommender.from_pretrained(tmp_path, index=index)
    assert as_dicts(loaded.recommend(video)) == expected[0]


def test_what_is_registered_loads_what_the_pipeline_loads():
    names = [f"_load_{part}" for part in ("processor", "tokenizer", "feature_extractor", "image_processor")]
    for name in [*names, "_load_video_processor"]:
        assert getattr(registration._LazyPipeline, name) is getattr(VideoToMusicPipeline, name)


def test_import_is_enough_to_know_the_task(folder, index, tmp_path, expected):
    """In a process of its own, by a path, with nothing else imported."""
    index.save(tmp_path)
    code = (
        "import sys, json, viml_hf; from transformers import pipeline; assert 'viml_hf.retrieval' not in sys.modules; "
        f"print(json.dumps(pipeline({TASK!r}, model=sys.argv[1], music=sys.argv[2], device='cpu')('slow piano')))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected[1]


def test_music_that_cannot_be_read_is_told_and_music_that_is_not_there_refused(folder, library, video, caplog):
    recommend = pipeline(TASK, model=str(folder), device="cpu")
    found = recommend(str(video), music=[str(library / "short.wav"), str(library / "broken.mp3")])
    assert [one["track"] for one in found] == ["short.wav"]
    assert "left out: broken.mp3" in caplog.text
    with pytest.raises(ViMLError, match=r"missing\.wav: no such file of music"):
        recommend(str(video), music=[str(library / "short.wav"), str(library / "missing.wav")])

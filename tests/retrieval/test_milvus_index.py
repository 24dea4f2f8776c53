"""An index inside Milvus against the same index searched by ourselves. The engine is Milvus Lite, in a file."""

import numpy as np
import pytest

from viml_hf import MusicIndex, Recommender, ViMLError
from viml_hf.retrieval import milvus_index
from viml_hf.retrieval.index import Track, Window
from viml_hf.retrieval.milvus_index import MilvusIndex, fill_milvus

pytest.importorskip("milvus_lite", reason="the extra milvus is not installed")

LICENCES = ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-NC 4.0", "CC0", None)
FILTERS = (
    None,
    "licence in ('CC0', 'CC-BY') and duration < 60",
    "licence != 'CC0'",
    "not (licence = 'CC0' or bpm >= 120)",
    "mood is null",
    "mood is not null and not mood in ('sad', 'it''s \"odd\"')",
    "vocals = true or `beats per bar` > 3",
    "not (mood = 'sad' and bpm < 100)",
)


def unit(generator, *shape):
    rows = generator.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def make_index(tracks=60, dim=16, seed=0):
    generator = np.random.default_rng(seed)
    made = []
    for number in range(tracks):
        count = int(generator.integers(0, 5))
        windows = tuple(Window(10.0 * at, 10.0 * at + 30) for at in range(count))
        moods = ("sad", "happy", 'it\'s "odd"', None)
        fields = {"bpm": 60 + 7 * (number % 20), "mood": moods[number % 4], "vocals": number % 3 == 0}
        fields = {name: value for name, value in fields.items() if value is not None}
        if number % 5 == 0:
            fields["beats per bar"] = 3.5 + number % 2
        facts = (None if count else "broken", LICENCES[number % 4], fields)
        end = windows[-1].end if windows else 0.0
        made.append(Track(f"album/{number}.mp3", f"/m/{number}.mp3", f"{number}", end, windows, *facts))
    rows = unit(generator, sum(len(track.windows) for track in made), dim)
    corrections = generator.normal(0, 0.1, (len(rows), 2)).astype(np.float32)
    return MusicIndex(rows, made, "a-model", "its-fingerprint", {"audio": "descriptors"}, corrections)


@pytest.fixture(scope="module")
def tracks():
    return make_index()


@pytest.fixture(scope="module")
def filled(tracks, tmp_path_factory):
    address = f"milvus:{tmp_path_factory.mktemp('engine') / 'tracks.db'}"
    assert fill_milvus(address, tracks, progress=False) == tracks.windows
    return MilvusIndex(address)


def by_name(index, found):
    return [(index.tracks[hit.track].name, hit.window, round(hit.score, 5), round(hit.similarity, 5)) for hit in found]


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_the_best_tracks_are_those_of_the_exact_search(tracks, filled, number):
    where = FILTERS[number]
    options = ({}, {"with_text": True}, {"hubness_correction": False})[number % 3]
    queries = unit(np.random.default_rng(1), 100, 16)
    expected = tracks.search(queries, 10, where, **options)
    found = filled.search(queries, 10, where, **options)
    assert any(expected)
    for one, other in zip(found, expected, strict=True):
        ours, theirs = by_name(filled, one[:2]), by_name(tracks, other[:2])
        assert np.allclose([hit.score for hit in one], [hit.score for hit in other], atol=2e-6)
        assert [name for name, *_ in ours] == [name for name, *_ in theirs]
        assert np.allclose([row[2:] for row in ours], [row[2:] for row in theirs], atol=2e-5)


def test_wishes_reach_the_engine(encoder, index, video, tmp_path):
    """Several vectors and negative ones are one sum, so the engine is asked once and ranks as the folder does."""
    address = f"milvus:{tmp_path / 'tracks.db'}"
    fill_milvus(address, index, progress=False)
    name = index.tracks[0].name
    wishes = {"like": [name], "avoid": "loud drums", "weights": {"avoid": 2.0}, "diversity": 0.3}
    found, expected = (
        Recommender(encoder, one).recommend(video, "calm", **wishes) for one in (MilvusIndex(address), index)
    )
    assert [one.track for one in found] == [one.track for one in expected]
    assert name not in {one.track for one in found}
    for one, other in zip(found, expected, strict=True):
        assert one.shares == pytest.approx(other.shares, abs=1e-5)
        assert {"video", "text", "like", "avoid"} <= {*one.shares}


def test_a_track_comes_back_as_it_was(tracks, filled):
    assert (filled.model, filled.fingerprint, filled.width) == (tracks.model, tracks.fingerprint, tracks.width)
    assert filled.num_tracks == tracks.num_tracks == len(filled.tracks) == len(list(filled.tracks))
    for key in list(filled.tracks)[:10]:
        assert vars(filled.tracks[key]) == vars(tracks.find(key))
    assert filled.find(7) is None
    assert tracks.find(7) is None
    with pytest.raises(KeyError):
        filled.tracks[7]


def test_filling_goes_on_and_follows_changes(tracks, tmp_path, monkeypatch):
    address = f"milvus:{tmp_path / 'tracks.db'}"
    monkeypatch.setattr(milvus_index, "ROWS_AT_A_TIME", 20)
    asked, calls = milvus_index._asked, []

    def interrupted(call, *arguments, **options):
        if getattr(call, "__name__", "") == "upsert" and len(calls) == 3:
            raise KeyboardInterrupt
        calls.extend([1] * (getattr(call, "__name__", "") == "upsert"))
        return asked(call, *arguments, **options)

    monkeypatch.setattr(milvus_index, "_asked", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill_milvus(address, tracks, progress=False)
    monkeypatch.setattr(milvus_index, "_asked", asked)
    with pytest.raises(ViMLError, match="not filled yet"):
        MilvusIndex(address)
    assert fill_milvus(address, tracks, progress=False) == tracks.windows - 40  # the first write was that of the facts
    assert fill_milvus(address, tracks, progress=False) == 0
    without = tracks.updated(removed=[position for position, track in enumerate(tracks.tracks) if track.windows][:5])
    assert fill_milvus(address, without, progress=False) == 0
    changed = MilvusIndex(address)
    assert changed.num_tracks == len(list(changed.tracks)) == tracks.num_tracks - 5
    added = make_index(5, seed=3)
    assert fill_milvus(address, added, progress=False) == added.windows
    assert {track.name for track in MilvusIndex(address).tracks.values()} == {track.name for track in added.usable}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("tempo > 3", "no column 'tempo'; there are track, path"),
        ("bpm = 'fast'", "of kind number"),
        ("mood = 3", "of kind text"),
        ("mood =", "the end where"),
    ],
)
def test_conditions_that_are_none(filled, where, said):
    with pytest.raises(ViMLError, match=said):
        filled.search(np.eye(1, 16, dtype=np.float32), where=where)


@pytest.mark.parametrize("queries", [np.ones((1, 3)), np.full((1, 16), np.nan), np.ones(16)], ids=str)
def test_queries_of_another_shape(filled, queries):
    with pytest.raises(ViMLError, match="queries of shape"):
        filled.search(queries)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("milvus:nowhere/tracks.db", "no such folder"),
        ("milvus://host:1", "not an address"),
        ("milvus:tracks", "not an address"),
        ("milvus://127.0.0.1:1/tracks", "Milvus: "),
    ],
)
def test_addresses_where_nothing_is(address, said):
    with pytest.raises(ViMLError, match=said) as error:
        MilvusIndex(address)
    assert "\n" not in str(error.value)


def test_an_empty_collection_and_another_models(tmp_path):
    address = f"milvus:{tmp_path / 'tracks.db'}"
    with pytest.raises(ViMLError, match=f"no index there; fill it with .*--engine {address}"):
        MilvusIndex(address)
    fill_milvus(address, make_index(3), progress=False)
    with pytest.raises(ViMLError, match="of another model"):
        fill_milvus(address, make_index(3, dim=8), progress=False)


def test_a_recommender_asks_the_engine(recommender, video, tmp_path):
    address = f"milvus:{tmp_path / 'tracks.db'}"
    fill_milvus(address, recommender.index, progress=False)
    engine = Recommender(recommender.encoder, MilvusIndex(address))
    ours, theirs = (one.recommend(video, "jazz", where="duration > 10") for one in (engine, recommender))
    assert [(one.track, one.start, one.path) for one in ours] == [(one.track, one.start, one.path) for one in theirs]
    assert np.allclose([one.score for one in ours], [one.score for one in theirs], atol=1e-6)

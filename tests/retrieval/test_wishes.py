"""Wishes: music to be like, what to avoid, variety, and the reasons of a ranking."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.retrieval.conftest import make_encoder
from viml_hf import (
    MediaEncoder,
    MusicIndex,
    Recommender,
    ViMLConfig,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    find_music,
)
from viml_hf.cli.main import main
from viml_hf.retrieval.index import Track, Window
from viml_hf.retrieval.model_loading import fingerprint
from viml_hf.retrieval.tracks import index_files
from viml_hf.retrieval.usual_scores import percentile, queries_like, usual_best_scores
from viml_hf.retrieval.wishes import most_various, narrowed, unwanted_tags
from viml_hf.tagging.tag_vocabulary import TagVocabulary

WIDTH = 16


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def big(encoder):
    """Forty tracks of random embeddings, some tagged, of which the last is nearly the first."""
    rows = unit(np.random.default_rng(0).standard_normal((40, WIDTH)))
    rows[39] = unit(rows[0] + 1e-3)
    tags = [["piano", "male vocals"], ["strings"], ["electric guitar", "drumset"], None]
    tracks = []
    for number in range(40):
        duration = 20.0 if number in (0, 39) else 21.0 + number / 8
        fields = {} if tags[number % 4] is None else {"tags": tags[number % 4], "tempo": 90.0 + number}
        tracks.append(
            Track(f"{number}.mp3", f"/music/{number}.mp3", "", duration, (Window(0.0, duration),), None, "CC0", fields)
        )
    return Recommender(encoder, MusicIndex(rows, tracks, "a-model", fingerprint(encoder)))


@pytest.fixture(scope="module")
def parts_recommender(index):
    """A model with a part for the video and one for the text, and a query bank."""
    torch.manual_seed(0)
    heads = {"hidden_size": 16, "projection_dim": 32, "num_attention_heads": 2, "fusion": "concatenation"}
    model = ViMLForMusicRetrieval.from_encoders(**heads)
    queries = torch.nn.functional.normalize(torch.randn(2, 30, 32), dim=-1)
    queries[1, :, 16:] = 0
    queries[1] = torch.nn.functional.normalize(queries[1], dim=-1)
    model.viml.set_query_bank(*queries)
    encoder = MediaEncoder(model, ViMLProcessor.from_encoders())
    rows = unit(np.random.default_rng(1).standard_normal((30, 32)))
    taken = model.viml.query_bank.corrections(torch.from_numpy(rows)).detach().numpy()
    tracks = [Track(f"{n}.mp3", f"{n}.mp3", "", 20.0, (Window(0.0, 20.0),)) for n in range(30)]
    return Recommender(encoder, MusicIndex(rows, tracks, "a-model", fingerprint(encoder), corrections=taken))


@pytest.mark.parametrize("text", [None, "slow piano"])
@pytest.mark.parametrize("kind", ["recommender", "parts_recommender"])
def test_shares_add_up_to_the_score(kind, text, video, request):
    recommender = request.getfixturevalue(kind)
    track = recommender.index.tracks[1].name
    wishes = [{}, {"like": [track]}, {"avoid": "loud drums", "weights": {"avoid": 2.0}}]
    for wish in wishes:
        found = recommender.recommend(video, text, **wish)
        assert found
        for one in found:
            names = ["video"] + ["text"] * bool(text) + [name for name in ("like", "avoid") if name in wish]
            assert [name for name in one.shares if name != "hubs"] == names
            assert sum(one.shares.values()) == pytest.approx(one.score, abs=1e-6)
            assert ("hubs" in one.shares) == (kind == "parts_recommender")


def test_the_parts_of_a_model_that_has_them_are_the_shares(parts_recommender, video):
    """Of its embedding; the video's share does not depend on the text."""
    query = parts_recommender.embed_query(video, "slow piano")
    rows = parts_recommender.index.embeddings.astype(np.float64)
    for one in parts_recommender.recommend(video, "slow piano", k=5):
        row = rows[int(Path(one.track).stem)]
        assert one.shares["video"] == pytest.approx(query[:16] @ row[:16], abs=1e-6)
        assert one.shares["text"] == pytest.approx(query[16:] @ row[16:], abs=1e-6)


def test_elsewhere_the_share_of_the_text_is_what_it_changes(big, video):
    without = big.embed_query(video)
    for one in big.recommend(video, "slow piano", k=5):
        row = big.index.embeddings[int(Path(one.track).stem)]
        assert one.shares["video"] == pytest.approx(without @ row.astype(np.float64), abs=1e-6)


def test_the_ranking_with_wishes_is_that_of_the_weighted_sum(big, video):
    """Computed naively; what is liked is left out."""
    rows = big.index.embeddings.astype(np.float64)
    liked = (rows[3] + rows[5]) / np.linalg.norm(rows[3] + rows[5])
    total = big.embed_query(video) + 2.0 * liked - 0.5 * big.embed_query(text="a choir of frogs")
    scores = rows @ total / np.linalg.norm(total)
    scores[[3, 5]] = -np.inf
    found = big.recommend(
        video, k=38, like=["3.mp3", "5.mp3"], avoid="a choir of frogs", weights={"like": 2.0}, where="duration > 0"
    )
    assert [one.track for one in found] == [f"{n}.mp3" for n in np.argsort(-scores, kind="stable")[:38]]
    assert [one.score for one in found] == pytest.approx(np.sort(scores)[::-1][:38], abs=1e-6)


def test_music_alone_is_a_query_and_a_file_ranks_as_its_track(recommender, library):
    path = library / "album" / "long.wav"
    by_file = recommender.recommend(like=[path])
    assert by_file[0].track == "album/long.wav"
    by_name = recommender.recommend(like=["album/long.wav"])
    assert [one.track for one in by_name] == [one.track for one in by_file[1:]]
    assert [one.score for one in by_name] == pytest.approx([one.score for one in by_file[1:]], abs=1e-3)


def test_the_weight_of_the_text_is_that_of_a_model_trained_with_it(parts_recommender, video):
    query = {"video": video, "text": "slow piano"}
    config = parts_recommender.encoder.model.config.viml_config
    found = parts_recommender.recommend(**query, weights={"text": 2.0})
    usual = parts_recommender.recommend(**query)
    own = config.text_weight
    config.text_weight = 2.0
    try:
        expected = parts_recommender.embed_query(**query)
    finally:
        config.text_weight = own
    rows = parts_recommender.index.embeddings.astype(np.float64)
    corrections = parts_recommender.index.corrections[:, 1]
    halves = np.array([1.0] * 16 + [(2.0 / own) ** 0.5] * 16)  # the music too has a text part of this weight
    scores = rows @ (expected * halves / np.linalg.norm(expected * halves)) - corrections
    assert [one.track for one in found] == [f"{n}.mp3" for n in np.argsort(-scores)[:10]]
    assert [one.track for one in found] != [one.track for one in usual]


@pytest.mark.parametrize("asked", [{"text": "calm", "avoid": "vocals"}, {"text": "calm, without vocals"}])
def test_unwanted_tags_leave_tracks_out(big, asked):
    found = {one.track for one in big.recommend(k=40, **asked)}
    assert found == {f"{number}.mp3" for number in range(40) if number % 4}


def test_a_text_that_denies_nothing_leaves_nothing_out(big):
    assert len(big.recommend(text="vocals", k=40)) == 40


def test_without_tags_what_is_to_be_avoided_is_only_lowered(recommender, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(recommender.recommend(text="calm", avoid="vocals")) == 3
    assert "no tags" in caplog.text
    caplog.clear()
    assert len(recommender.recommend(text="calm", avoid="a choir of frogs and the sea")) == 3


def test_columns_are_those_of_the_table(big, index, tmp_path):
    for one in (big.index, index):
        assert one.columns == one.table.column_names
        one.save(tmp_path / one.model / str(len(one.tracks)))
        assert MusicIndex.load(tmp_path / one.model / str(len(one.tracks))).columns == one.columns


def test_kinds_of_a_tag_are_unwanted_too():
    vocabulary = TagVocabulary.load()
    assert {"guitar", "electric guitar", "acoustic guitar"} <= set(unwanted_tags("guitars", None, vocabulary))
    assert unwanted_tags("electric guitar", None, vocabulary) == ["electric guitar"]
    assert unwanted_tags(None, "piano, no drums", vocabulary) == unwanted_tags("drums", None, vocabulary)


def test_reasons_name_the_tags_that_the_text_names(big):
    by_track = {one.track: one for one in big.recommend(text="sad piano with strings", k=40)}
    assert (by_track["0.mp3"].tags_found, by_track["0.mp3"].tags_missing) == (["piano"], ["sad", "strings"])
    assert (by_track["3.mp3"].tags_found, by_track["3.mp3"].tags_missing) == ([], [])
    assert by_track["0.mp3"].fields["tempo"] == 90.0


def test_excluded_tracks_and_low_scores_are_left_out(big, video):
    found = big.recommend(video, k=5)
    assert big.recommend(video, k=4, exclude=[found[0].track]) == [replace(one, rank=one.rank - 1) for one in found[1:]]
    assert big.recommend(video, k=5, min_score=found[2].score) == found[:3]
    assert big.recommend(video, min_score=2.0) == []


def naive_variety(scores, rows, durations, k, diversity):
    taken = []
    while len(taken) < min(k, len(scores)):
        worth = {}
        for place in range(len(scores)):
            similar = [float(rows[place] @ rows[one]) for one in taken]
            same = [
                s >= 0.95 and abs(durations[place] - durations[t]) <= 0.5 for s, t in zip(similar, taken, strict=True)
            ]
            if place not in taken and not any(same):
                worth[place] = (1 - diversity) * scores[place] - diversity * max(similar, default=0.0)
        if not worth:
            break
        taken.append(max(worth, key=worth.get))
    return taken


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.9])
def test_variety_is_the_naive_one(diversity):
    generator = np.random.default_rng(2)
    rows = unit(generator.standard_normal((60, 6)))
    rows[40:] = unit(rows[:20] + 0.03 * generator.standard_normal((20, 6)))
    scores, durations = np.sort(generator.random(60))[::-1], generator.choice([60.0, 60.3, 90.0], 60)
    found = most_various(scores, rows, durations, 25, diversity)
    assert found == naive_variety(scores, rows, durations, 25, diversity)


def test_diversity_spreads_and_gives_near_duplicates_once(big):
    plain, various = (big.recommend(like=["7.mp3"], k=8, diversity=d) for d in (0.0, 0.7))

    def closeness(found):
        rows = big.index.embeddings[[int(Path(one.track).stem) for one in found]].astype(np.float64)
        return (rows @ rows.T)[np.triu_indices(8, 1)].mean()

    assert closeness(various) < closeness(plain) - 0.1
    assert various[0] == plain[0]
    everything = {one.track for one in big.recommend(like=["7.mp3"], k=40, diversity=1e-6)}
    assert len(everything & {"0.mp3", "39.mp3"}) == 1
    assert len(everything) == 38


@pytest.mark.parametrize("parts", ["video", "text", "video and text"])
def test_percentiles_are_among_the_best_scores_of_the_bank_s_queries_of_the_same_kind(parts_recommender, video, parts):
    model, index = parts_recommender.encoder.model.viml, parts_recommender.index
    with_text = model.query_bank.with_text.numpy().astype(np.float64)
    queries = {
        "video": model.query_bank.without_text.numpy().astype(np.float64),
        "text": unit(np.where(np.arange(32) < 16, 0, with_text)),  # the parts' cosines are normalised again
        "video and text": with_text,
    }[parts]
    taken = index.corrections[:, int("text" in parts)]
    best = np.sort((queries @ index.embeddings.astype(np.float64).T - taken).max(1))
    found = usual_best_scores(index, queries_like(model, parts.split()), with_text="text" in parts)
    assert found == pytest.approx(best, abs=1e-6)
    asked = video if "video" in parts else None, "slow piano" if "text" in parts else None
    for one in parts_recommender.recommend(*asked):
        assert one.percentile == pytest.approx(100 * np.mean(best < one.score))


def test_percentiles_begin_at_nothing_and_end_at_all():
    assert percentile(-1.0, np.array([0.1, 0.2])) == 0.0
    assert percentile(2.0, np.array([0.1, 0.2])) == 100.0


def test_a_query_of_a_kind_that_the_bank_has_not_has_no_percentile(parts_recommender, recommender):
    assert {one.percentile for one in parts_recommender.recommend(like=["1.mp3"])} == {None}
    config = ViMLConfig(hidden_size=16, projection_dim=16, num_attention_heads=2)
    model = ViMLModel(config)  # fused by addition: its bank tells nothing of a text alone
    model.set_query_bank(*torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1))
    assert queries_like(model, ["text"]) is None
    assert queries_like(model, ["video", "text", "like"]) is model.query_bank.with_text


def test_without_a_bank_there_is_no_percentile(big, video):
    assert {one.percentile for one in big.recommend(video)} == {None}


@pytest.mark.parametrize(
    ("wishes", "hint"),
    [
        ({"like": ["no-such.mp3"]}, "'no-such.mp3' is neither a track of the index nor a file"),
        ({"like": "0.mp3"}, r"like='0.mp3': give a list"),
        ({"exclude": ["no-such.mp3"]}, "exclude: no track 'no-such.mp3'"),
        ({"weights": {"like": 1.0}}, "has no effect without like"),
        ({"weights": {"video": 1.0}}, "no such part of a query; there are like, avoid, text"),
        ({"weights": {"text": 1.0}}, "needs a video, a text, and a model that has a part for each"),
        ({"avoid": "drums", "weights": {"avoid": -1.0}}, "give a number above 0"),
        ({"diversity": 1.5}, "diversity=1.5: give a number from 0"),
        ({"min_score": float("nan")}, "min_score=nan"),
        ({"where": "genres = 'pop'"}, "no column 'genres'"),
    ],
)
def test_what_cannot_be_wished_is_refused(big, video, wishes, hint):
    with pytest.raises(ViMLError, match=hint):
        big.recommend(video, **wishes)


def test_music_that_is_none_is_named(recommender, library):
    with pytest.raises(ViMLError, match=r"broken\.mp3"):
        recommender.recommend(like=[library / "broken.mp3"])


def test_opposite_wishes_cancel_out(big):
    text = "slow piano"
    with pytest.raises(ViMLError, match="cancel each other out"):
        big.recommend(text=text, avoid=text, weights={"avoid": 1.0}, where="duration > 0")


@pytest.fixture
def folders(encoder, index, tmp_path):
    encoder.model.save_pretrained(tmp_path / "model")
    encoder.processor.save_pretrained(tmp_path / "model")
    index.save(tmp_path / "index")
    return ["--index", str(tmp_path / "index"), "--model", str(tmp_path / "model")]


def test_the_command_takes_wishes_and_tells_reasons(folders, video, library, capsys, recommender):
    options = ["--text", "calm", "--like", str(library / "short.wav"), "--weight", "like=2", "--exclude", "short.wav"]
    assert main(["recommend", str(video), *folders, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    wishes = {"like": [library / "short.wav"], "weights": {"like": 2.0}, "exclude": ["short.wav"]}
    expected = recommender.recommend(video, "calm", **wishes)
    assert [one["shares"] for one in found] == [one.shares for one in expected]
    assert main(["recommend", str(video), *folders, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2  # one for each track
    assert all(word in lines[0] for word in ("video +", "text ", "like +"))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--weight", "like"], "weight 'like': give PART=NUMBER"),
        (["--like", "missing.wav"], "neither a track of the index nor a file"),
        (["--exclude", "missing.wav"], "exclude: no track"),
        (["--min-score", "3"], "no track of the index is left"),
    ],
)
def test_the_command_refuses_in_a_line(folders, options, hint, capsys):
    assert main(["recommend", "--text", "calm", *folders, *options]) == (0 if "--min-score" in options else 2)
    assert hint in capsys.readouterr().err


def test_the_command_says_when_nothing_fits(tmp_path, capsys, library, video):
    own = make_encoder(0)
    near = torch.from_numpy(index_files(find_music(library), own, model="m", root=library, progress=False).embeddings)
    own.model.viml.set_query_bank(near[:3].float(), near[:3].float())  # what was asked in training was found
    own.model.save_pretrained(tmp_path / "model")
    own.processor.save_pretrained(tmp_path / "model")
    index = index_files(find_music(library), own, model="m", root=library, progress=False)
    index.save(tmp_path / "index")
    command = ["recommend", str(video), "--index", str(tmp_path / "index"), "--model", str(tmp_path / "model")]
    assert main([*command, "--no-hubness-correction"]) == 0
    assert "nothing in this library fits well: for 100 of 100 other queries" in capsys.readouterr().err


def test_a_condition_with_unwanted_tags_keeps_what_has_none():
    condition = narrowed(None, ["a"], ["piano"])
    assert [part.operator for part in condition.parts] == ["not", "or"]
    assert narrowed(None, [], []) is None

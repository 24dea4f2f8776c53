"""`viml index --tagger`: the columns `tags` and `vocals`."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.media import sine, write_audio
from tests.retrieval.conftest import make_encoder
from viml_hf import MediaItem, MusicIndex, ViMLError, build_index, find_music
from viml_hf.retrieval.kept_tags import KeptTags
from viml_hf.tagging.tagger import MusicTagger

TAGS = [("genre", "pop"), ("mood", "calm"), ("instrument", "female vocals")]


class LevelTagger(MusicTagger):
    """Hears pop in what is loud, calm in what is not, and a voice in what is very loud; it counts what it tags."""

    def __init__(self, tags=TAGS):
        super().__init__(tags, sampling_rate=8000, window=24_000)
        self.tagged = 0

    def tag(self, *args, **options):
        self.tagged += 1
        return super().tag(*args, **options)

    def confidences(self, waveforms):
        levels = [float(np.abs(waveform).max()) for waveform in waveforms]
        return torch.tensor([[x, 1 - x, max(0.0, x - 0.5)][: len(self.tags)] for x in levels])


@pytest.fixture(scope="module")
def model():
    return make_encoder(0)


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    for name, level in (("quiet", 0.1), ("loud", 0.75), ("louder", 0.95)):
        write_audio(folder / f"{name}.wav", sine(440, 4, 8000, level), 8000)
    (folder / "broken.mp3").write_bytes(b"this is not music" * 100)
    return folder


def indexed(music, model, tagger, name="level", **options) -> MusicIndex:
    tags = KeptTags(music.parent / "tags.jsonl", tagger, name)
    options = {"files": find_music(music), "features": music.parent / "features"} | options
    return build_index(options.pop("files"), model, model="m", root=music, tags=tags, progress=False, **options)


def test_tags_are_conditions_of_a_saved_index(music, model, tmp_path):
    indexed(music, model, LevelTagger()).save(tmp_path / "index")
    index = MusicIndex.load(tmp_path / "index")
    fields = {track.name: track.fields for track in index.tracks}
    assert fields["louder.wav"] == {"tags": ["pop", "female vocals"], "vocals": True}
    assert fields["quiet.wav"] == {"tags": ["calm"], "vocals": False}
    assert fields["broken.mp3"] == {}

    def found(where: str) -> set[str]:
        hits = index.search(index.embeddings[:1].astype(np.float32), where=where)[0]
        return {index.tracks[hit.track].name.partition(".")[0] for hit in hits}

    assert found("tags = 'pop'") == {"loud", "louder"}
    assert found("tags != 'pop'") == found("not tags in ('pop', 'jazz')") == {"quiet"}
    assert found("tags in ('calm', 'jazz') or vocals = true") == {"quiet", "louder"}
    assert found("tags = 'pop' and vocals = false") == {"loud"}
    assert found("tags = 'jazz'") == found("tags is null") == set()
    with pytest.raises(ViMLError, match="cannot be compared"):
        found("tags < 'pop'")
    with pytest.raises(ViMLError, match="cannot be compared"):
        found("tags = 3")


def test_a_rerun_tags_what_is_new_and_another_tagger_all(music, model, tmp_path):
    tagger = LevelTagger()
    first = indexed(music, model, tagger)
    assert tagger.tagged == 3
    assert [t.fields for t in indexed(music, model, None).tracks] == [t.fields for t in first.tracks]
    shutil.copy(music / "loud.wav", music / "copy.wav")
    write_audio(music / "new.wav", sine(300, 4, 8000, 0.2), 8000)
    indexed(music, model, tagger)
    assert tagger.tagged == 4
    records = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text().splitlines()]
    assert records[0]["tags"]["genre"] == {"pop": pytest.approx(0.75, abs=0.01)}
    indexed(music, model, tagger, name="another")
    assert tagger.tagged == 8
    assert {t.fields["tags"][0] for t in indexed(music, model, None).usable} == {"pop", "calm"}


def test_a_tagger_that_knows_no_voices_leaves_it_open(music, model):
    index = indexed(music, model, LevelTagger(TAGS[:2]))
    assert all("vocals" not in track.fields for track in index.tracks)


def test_what_a_manifest_states_wins(music, model):
    item = MediaItem("a", audio=str(music / "loud.wav"), fields={"tags": ["jazz"]})
    (track,) = indexed(music, model, LevelTagger(), files=[item]).tracks
    assert track.fields == {"tags": ["jazz"], "measured_tags": ["pop"], "vocals": False}


def test_a_file_that_cannot_be_tagged_is_told(music, model, capsys):
    class Failing(LevelTagger):
        def tag(self, audio, **options):
            if "quiet" in audio:
                raise ViMLError("quiet.wav: too quiet")
            return super().tag(audio, **options)

    index = indexed(music, model, Failing())
    assert "not tagged: quiet.wav: too quiet" in capsys.readouterr().err
    assert {track.name for track in index.usable if "tags" in track.fields} == {"loud.wav", "louder.wav"}

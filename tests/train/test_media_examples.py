"""The collator on raw media: only the clip is decoded, and it is the processor's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import tiny_processor
from viml_hf import ViMLDataCollator, ViMLError
from viml_hf.errors import MediaDecodeError
from viml_hf.processing.audio_decoding import load_audio
from viml_hf.processing.media import stream_seconds
from viml_hf.train import media_examples
from viml_hf.train.clips_and_dropout import clip_first, draw
from viml_hf.train.media_examples import media_rows

FPS = 2


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A video and music of 6 segments, of 4 and 7, and a short piece of music alone."""
    folder, found = tmp_path_factory.mktemp("media"), []
    for index, (pictures, sound) in enumerate([(60, 60), (41, 75), (None, 8)]):
        audio = write_audio(folder / f"{index}.wav", sine(200 + 50 * index, sound, 8000), 8000)
        video = pictures and str(write_video(folder / f"{index}.mp4", pictures * FPS, fps=FPS))
        found.append({"id": f"item {index}", "video": video, "audio": str(audio), "text": ["one", "two"][: index + 1]})
    return found


@pytest.fixture(scope="module")
def processor():
    return tiny_processor("clap")


def naive(processor, example, epoch, seed=0):
    """The whole files are decoded, and the clip is cut out."""
    video = [s.data for s in processor.video_segments(example["video"])] if example["video"] else []
    audio = [s.data for s in processor.audio_segments(example["audio"])]
    draws = None if epoch is None else draw(seed, epoch, example["id"])
    first = clip_first(min(len(video), len(audio)) - 3, draws)
    return [rows if len(rows) <= 3 else rows[first : first + 3] for rows in (video, audio)]


@pytest.mark.parametrize("epoch", [None, 0, 1, 2])
def test_a_batch_is_the_processor_s_of_the_clips(processor, examples, epoch):
    collator = ViMLDataCollator(processor=processor, text_dropout=0.0)
    collator.set_epoch(epoch)
    batch = collator(examples)
    clips = [naive(processor, example, epoch) for example in examples]
    sounds = processor.audio_inputs([audio for _, audio in clips])
    for name, expected in sounds.items():
        torch.testing.assert_close(batch[name], expected, atol=1e-4, rtol=1e-4)
    for row, (video, _) in enumerate(clips):
        assert batch["frame_attention_mask"][row].any(1).sum() == len(video)
        for segment, frames in enumerate(video):
            assert torch.equal(batch["pixel_values"][row, segment, : len(frames)], processor.prepare_frames(frames))
    assert batch["text_attention_mask"].any(1).tolist() == [True, True, True]
    assert list(batch)[-1] == "return_loss"


def test_texts_and_videos_are_dropped_by_their_masks(processor, examples):
    collator = ViMLDataCollator(processor=processor, text_dropout=1.0)
    collator.set_epoch(0)
    batch = collator(examples[:2])
    assert not batch["text_attention_mask"].any()
    assert batch["frame_attention_mask"].any()
    collator = ViMLDataCollator(processor=processor, text_dropout=0.0, video_dropout=1.0)
    collator.set_epoch(0)
    assert "pixel_values" not in collator(examples[:2])
    collator.set_epoch(None)
    assert "pixel_values" in collator(examples[:2])


def test_only_the_clip_is_decoded(processor, examples, monkeypatch):
    asked = []
    monkeypatch.setattr(processor, "audio_segments", lambda source, **excerpt: asked.append(excerpt) or iter(()))
    _, rows = media_rows(processor, {"audio": examples[1]["audio"]})
    assert len(rows["audio"]) == 8  # 75 s
    for part in (slice(2, 5), slice(5, 8), slice(0, 8), slice(3, 3)):
        rows["audio"][part].load()
    assert asked == [{"start": 20, "end": 50}, {"start": 50, "end": None}, {}]


def test_the_packets_of_a_file_are_read_once_until_it_changes(processor, tmp_path, monkeypatch):
    """In training its length is asked for in every epoch."""
    read = []
    monkeypatch.setattr(
        media_examples, "stream_seconds", lambda source, kind: read.append(source) or stream_seconds(source, kind)
    )
    path = tmp_path / "a.wav"
    for seconds, segments in ((25, 3), (45, 5)):
        write_audio(path, sine(300, seconds, 8000), 8000)
        for _ in range(2):
            _, rows = media_rows(processor, {"audio": str(path)})
            assert len(rows["audio"]) == segments
    assert read == [str(path)] * 2
    path.unlink()
    with pytest.raises(MediaDecodeError, match="cannot be read"):
        media_rows(processor, {"audio": str(path)})


def test_every_form_of_a_file_is_the_same(processor, examples):
    path = examples[0]["audio"]
    content, samples = Path(path).read_bytes(), load_audio(path, 8000)
    forms = [path, content, {"bytes": content, "path": None}, {"array": samples, "sampling_rate": 8000}]
    collator = ViMLDataCollator(processor=processor, text_dropout=0.0)
    collator.set_epoch(3)
    batches = [collator([{"id": "a", "audio": form, "text": None}])["input_features"] for form in forms]
    for batch in batches:
        torch.testing.assert_close(batch, batches[0], atol=1e-4, rtol=1e-4)


def test_without_an_id_the_file_or_its_content_names_an_example(processor, examples):
    path = examples[0]["audio"]
    content = Path(path).read_bytes()
    assert media_rows(processor, {"audio": path})[0] == path
    names = [media_rows(processor, {"audio": one})[0] for one in (content, content, np.zeros(8000), np.ones(8000))]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_a_damaged_file_is_named_in_one_line(processor, examples, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(Path(examples[0]["video"]).read_bytes()[:1000])
    collator = ViMLDataCollator(processor=processor)
    collator.set_epoch(0)
    with pytest.raises(ViMLError, match=r"^\S*broken\.mp4: [^\n]+$"):
        collator([examples[1], {**examples[0], "video": str(tmp_path / "broken.mp4")}])


def test_a_clip_is_of_what_a_file_has_not_of_what_its_header_says(processor, examples, tmp_path):
    path = write_audio(tmp_path / "cut.flac", sine(300, 60, 8000), 8000, "flac")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.7)])
    _, rows = media_rows(processor, {"audio": str(path)})
    assert len(rows["audio"]) == 4  # 42 s of 60
    collator = ViMLDataCollator(processor=processor, text_dropout=0.0)
    for epoch in range(6):
        collator.set_epoch(epoch)
        assert collator([{**examples[0], "audio": str(path)}])["audio_segment_mask"].tolist() == [[1, 1, 1]]


def test_what_cannot_be_used_is_refused(processor, store):
    collator = ViMLDataCollator(processor=processor)
    collator.set_epoch(0)
    with pytest.raises(ViMLError, match="without music"):
        collator([{"video": "a.mp4", "text": "slow"}])
    with pytest.raises(ViMLError, match="leave store and pad_to_multiple_of out"):
        ViMLDataCollator(store, processor=processor)

"""One video or sound in any form is one input; what is no input, or has no effect, is an error."""

import io
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import tiny_processor
from viml_hf import MediaDecodeError, MediaEncoder, ViMLError, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.processing.inputs import Frames, Waveform, read_sample, read_sounds, read_videos

RATE = 16_000
SECONDS = 13


@pytest.fixture(scope="module")
def processor():
    return ViMLProcessor.from_encoders()


@pytest.fixture(scope="module")
def model():
    return ViMLForMusicRetrieval.from_encoders(hidden_size=16, projection_dim=16, num_attention_heads=2).eval()


def moving_blocks(count):
    """Pictures that change all the time, in colour."""
    for index in range(count):
        picture = np.zeros((120, 160, 3), np.uint8)
        picture[20:80, index % 100 : index % 100 + 50] = (250 - index % 200, 60 + index % 150, 120)
        yield picture + np.arange(120, dtype=np.uint8)[:, None, None] // 4


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """13 s at 24 frames per second, with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_video(path, moving_blocks(24 * SECONDS), audio=sine(440, SECONDS, RATE), sampling_rate=RATE)


@pytest.fixture(scope="module")
def uneven_film(tmp_path_factory):
    """Frames that are on screen ever longer: their average rate tells no time."""
    times = np.cumsum([0, *np.linspace(1 / 24, 1 / 4, 79)])
    return write_video(tmp_path_factory.mktemp("film") / "uneven.mp4", moving_blocks(80), times=times)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """13 s of stereo in 16 bits."""
    sweep = np.sin(np.cumsum(np.linspace(200, 2000, SECONDS * RATE)) * 2 * np.pi / RATE) * 0.4
    stereo = np.stack([sweep, sine(330, SECONDS, RATE)]).astype(np.float32)
    return write_audio(tmp_path_factory.mktemp("song") / "song.wav", stereo, RATE)


class FakeVideoDecoder:
    """What torchcodec's `VideoDecoder` has, on PyAV; with `times=False` it knows its average rate only."""

    def __init__(self, path, times=True):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        self.frames = torch.from_numpy(np.stack([f.to_ndarray(format="rgb24") for f in frames])).permute(0, 3, 1, 2)
        self.times = torch.tensor([f.time for f in frames]) + 5.0  # a clock need not begin at 0
        self.lengths = torch.tensor([float(f.duration * f.time_base) for f in frames])
        seconds = float(self.times[-1] + self.lengths[-1] - self.times[0])
        self.metadata = SimpleNamespace(num_frames=len(frames), average_fps=len(frames) / seconds)
        self.asked, self.has_times = [], times

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        return self.frames[key]

    def get_frames_in_range(self, start, stop):
        self.asked.append(stop - start)
        piece = SimpleNamespace(data=self.frames[start:stop])
        if self.has_times:
            piece.pts_seconds, piece.duration_seconds = self.times[start:stop], self.lengths[start:stop]
        return piece


class FakeAudioDecoder:
    """What torchcodec's `AudioDecoder` has."""

    def __init__(self, waveform, rate):
        self.samples = SimpleNamespace(data=torch.from_numpy(waveform), sample_rate=rate)

    def get_all_samples(self):
        return self.samples


def real_decoder(name):
    """torchcodec's own, where it can be loaded."""
    try:
        return getattr(pytest.importorskip("torchcodec.decoders", exc_type=Exception), name)
    except OSError as error:
        pytest.skip(f"torchcodec cannot be loaded: {error}")


def samples_of(path):
    with av.open(str(path)) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(blocks, 1).reshape(-1, 2).T.astype(np.float32) / 32768


def video_features(model, processor, videos, **options):
    inputs = processor(videos=videos, **options)
    with torch.inference_mode():
        features, _ = model.get_video_base_features(inputs["pixel_values"], inputs["frame_attention_mask"])
    return features


def audio_features(model, processor, audio, **options):
    inputs = processor(audio=audio, **options)
    with torch.inference_mode():
        features, _ = model.get_audio_base_features(**inputs)
    return features


def assert_same(found, expected):
    assert found.shape == expected.shape
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() >= 0.999


FILES = {
    "path": lambda path: path,
    "string": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "BytesIO at its end": lambda path: (file := io.BytesIO(path.read_bytes()), file.seek(0, 2))[0],
    "undecoded column, bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
    "undecoded column, path": lambda path: {"bytes": None, "path": str(path)},
}


@pytest.mark.parametrize("form", FILES)
def test_a_file_is_the_same_in_every_form_to_the_last_bit(processor, film, song, form):
    expected = processor(videos=film, audio=song)
    for found in (
        processor(videos=FILES[form](film), audio=FILES[form](song)),
        processor(videos=[FILES[form](film)], audio=[FILES[form](song)]),
    ):
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def decoded(path):
    return FakeVideoDecoder(path).frames


VIDEOS = {
    "decoder": lambda path: {"videos": FakeVideoDecoder(path)},
    "decoders": lambda path: {"videos": [FakeVideoDecoder(path)]},
    "decoder of torchcodec": lambda path: {"videos": real_decoder("VideoDecoder")(str(path))},
    "decoder, channels last": lambda path: {
        "videos": real_decoder("VideoDecoder")(path.read_bytes(), dimension_order="NHWC", seek_mode="approximate")
    },
    "decoder that has a rate only": lambda path: {"videos": FakeVideoDecoder(path, times=False)},
    "frames": lambda path: {"videos": decoded(path), "fps": 24},
    "frames, channels last": lambda path: {"videos": decoded(path).permute(0, 2, 3, 1).numpy(), "fps": 24},
    "list of frames": lambda path: {"videos": list(decoded(path).permute(0, 2, 3, 1).numpy()), "fps": 24.0},
    "list of tensors": lambda path: {"videos": list(decoded(path)), "videos_kwargs": {"fps": 24}},
    "list of pictures": lambda path: {
        "videos": [Image.fromarray(one) for one in decoded(path).permute(0, 2, 3, 1).numpy()],
        "fps": 24,
    },
    "lists of pictures": lambda path: {
        "videos": [[Image.fromarray(one) for one in decoded(path).permute(0, 2, 3, 1).numpy()]],
        "fps": 24,
    },
    "batch in one array": lambda path: {"videos": decoded(path)[None], "fps": 24},
    "metadata of the only video": lambda path: {"videos": decoded(path), "video_metadata": {"fps": 24}},
    "metadata in a list": lambda path: {"videos": [decoded(path)], "video_metadata": [VideoMetadata(9, fps=24)]},
    "metadata as an object": lambda path: {
        "videos": decoded(path),
        "video_metadata": SimpleNamespace(average_fps=24),
    },
    "metadata of chosen frames": lambda path: {
        "videos": decoded(path)[::2],
        "video_metadata": VideoMetadata(24 * SECONDS, fps=24, frames_indices=list(range(0, 24 * SECONDS, 2))),
    },
    "dict": lambda path: {"videos": {"array": decoded(path), "video_metadata": {"fps": 24}}},
    "dict of a list": lambda path: {"videos": [{"frames": list(decoded(path)), "video_metadata": {"fps": 24}}]},
}


@pytest.mark.parametrize("form", VIDEOS)
def test_a_video_has_the_same_features_in_every_form(model, processor, film, form):
    assert_same(video_features(model, processor, **VIDEOS[form](film)), video_features(model, processor, film))


@pytest.mark.parametrize(
    "decoder", [FakeVideoDecoder, lambda path: real_decoder("VideoDecoder")(path)], ids=["fake", "torchcodec"]
)
def test_a_decoders_own_times_count(model, processor, uneven_film, decoder):
    expected = video_features(model, processor, uneven_film)
    assert_same(video_features(model, processor, decoder(str(uneven_film))), expected)
    by_rate = processor(videos=FakeVideoDecoder(uneven_film, times=False))["pixel_values"]
    times_count = processor(videos=decoder(str(uneven_film)))["pixel_values"]
    assert (by_rate[0, 0] - times_count[0, 0]).abs().mean() > 0.01  # so the test above can fail


def test_a_decoder_is_read_in_pieces_and_only_as_far_as_asked(processor, film):
    decoder = FakeVideoDecoder(film)
    segments = processor.video_segments(decoder)
    assert next(iter(segments)).data.shape == (60, 64, 85, 3)  # scaled as the decoding of files does
    assert max(decoder.asked) <= 16
    assert sum(decoder.asked) < len(decoder)


def test_a_decoder_that_fails_is_one_line(processor, film):
    decoder = FakeVideoDecoder(film)

    def broken(start, stop):
        raise RuntimeError("no more frames\n left to decode")

    decoder.get_frames_in_range = broken
    with pytest.raises(MediaDecodeError, match=r"no more frames left to decode.*give the path"):
        processor(videos=decoder)


def test_frames_of_several_rates_in_one_batch(model, processor, film):
    frames = decoded(film)
    found = video_features(
        model, processor, [film, frames, frames[::4]], video_metadata=[None, {"fps": 24}, {"fps": 6}]
    )
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])
    mixed = [{"array": frames[::4], "video_metadata": {"fps": 6}}, frames]
    assert_same(*video_features(model, processor, mixed, fps=24))


SOUNDS = {
    "decoder": lambda path: {"audio": FakeAudioDecoder(samples_of(path), RATE)},
    "decoders": lambda path: {"audio": [FakeAudioDecoder(samples_of(path), RATE)]},
    "decoder of torchcodec": lambda path: {"audio": real_decoder("AudioDecoder")(str(path))},
    "decoder at another rate": lambda path: {"audio": real_decoder("AudioDecoder")(str(path), sample_rate=44_100)},
    "stereo": lambda path: {"audio": samples_of(path), "sampling_rate": RATE},
    "mono": lambda path: {"audio": samples_of(path).mean(0), "sampling_rate": RATE},
    "tensor": lambda path: {"audio": torch.from_numpy(samples_of(path)), "audio_kwargs": {"sampling_rate": RATE}},
    "list": lambda path: {"audio": [samples_of(path)], "sampling_rate": float(RATE)},
    "batch in one array": lambda path: {"audio": samples_of(path)[None], "sampling_rate": RATE},
    "decoded column": lambda path: {"audio": {"array": samples_of(path).mean(0), "sampling_rate": RATE, "path": "x"}},
}


@pytest.mark.parametrize("form", SOUNDS)
def test_a_sound_has_the_same_features_in_every_form(model, processor, song, form):
    assert_same(audio_features(model, processor, **SOUNDS[form](song)), audio_features(model, processor, song))


def test_sounds_of_several_rates_in_one_batch(model, processor, song):
    wave = samples_of(song)
    forms = [
        song,
        {"array": wave[0], "sampling_rate": RATE},
        {"array": wave[0][::2], "sampling_rate": RATE // 2},
        wave[0],
    ]
    found = audio_features(model, processor, forms, sampling_rate=RATE)
    assert torch.equal(found[1], found[3])
    assert torch.nn.functional.cosine_similarity(found[1], found[2], dim=-1).min() > 0.9
    assert not torch.equal(found[1], found[2])


@pytest.mark.parametrize("sounds", [3, 4, 8, 9])
def test_a_batch_in_a_plain_array_is_not_taken_for_one_sound(processor, sounds):
    waves = np.stack([sine(100 * (index + 1), 1, 22050) for index in range(sounds)])
    for array in (waves, torch.from_numpy(waves)):
        with pytest.raises(
            ViMLError, match=rf"give list\(array\) for a batch of {sounds} sounds, or \[array\] for one"
        ):
            processor(audio=array, sampling_rate=22050)
    assert processor(audio=list(waves), sampling_rate=22050)["input_features"].shape[0] == sounds


def test_one_or_two_rows_are_one_sound_and_more_in_a_list(processor):
    waves = np.stack([sine(100 * (index + 1), 1, 22050) for index in range(6)])
    assert processor(audio=waves[:2], sampling_rate=22050)["input_features"].shape[0] == 1
    assert torch.equal(
        processor(audio=waves[:1], sampling_rate=22050)["input_features"],
        processor(audio=waves[0], sampling_rate=22050)["input_features"],
    )
    surround = processor(audio=[waves], sampling_rate=22050)["input_features"]
    assert torch.equal(surround, processor(audio=waves.mean(0), sampling_rate=22050)["input_features"])


def test_any_iterable_is_a_batch(processor, film):
    assert processor(videos=(path for path in (film, film)))["pixel_values"].shape[0] == 2
    assert processor(audio=(film, film.read_bytes()))["input_features"].shape[0] == 2


def test_outputs_may_be_arrays(processor, film):
    given = {"videos": film, "text": ["a", None], "audio": film}
    expected = processor(**given)
    for options in ({"return_tensors": "np"}, {"common_kwargs": {"return_tensors": "np"}}):
        found = processor(**given, **options)
        assert set(found) == set(expected)
        for name, array in found.items():
            assert isinstance(array, np.ndarray)
            assert np.array_equal(array, expected[name].numpy())
    assert all(isinstance(one, torch.Tensor) for one in processor(**given, return_tensors="pt").values())


FRAMES = np.zeros((6, 8, 8, 3), np.uint8)
WAVE = np.zeros(22050, np.float32)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"videos": FRAMES}, {"return_tensors": "tf"}, "return_tensors='tf': give 'pt' or 'np'"),
        ({"videos": FRAMES}, {"num_frames": 3}, "num_frames: no such option; .*accepted are .*fps"),
        ({"videos": FRAMES}, {"do_sample_frames": True}, "do_sample_frames: no such option"),
        ({"text": "a"}, {"max_lenght": 3}, "max_lenght: no such option; .*accepted are .*max_length"),
        ({"text": "a"}, {"images": FRAMES}, "images: no such option; inputs are videos="),
        ({"text": "a"}, {"return_offsets_mapping": True}, "return_offsets_mapping: no such option"),
        ({"text": "a"}, {"text_kwargs": {"fps": 3}}, "fps: no such option; accepted are .*padding"),
        ({"videos": FRAMES}, {"videos_kwargs": {"num_frames": 3}}, "num_frames: no such option"),
        ({"audio": WAVE}, {"audio_kwargs": {"max_length": 3}}, "max_length: no such option; .*sampling_rate"),
        ({"audio": WAVE}, {"audio_kwargs": {"padding": "max_length"}}, "padding='max_length'"),
        ({"text": "a"}, {"fps": 24}, "fps=24 has no effect without videos="),
        ({"videos": FRAMES}, {"sampling_rate": 8000}, "sampling_rate=8000 has no effect without audio="),
        ({"audio": WAVE}, {"max_length": 3}, "max_length=3 has no effect without text="),
        ({"audio": WAVE}, {"size": {"height": 8, "width": 8}}, "size=.* has no effect without videos="),
        ({"videos": b"file"}, {"fps": 24}, "fps=24 has no effect: what is given states its own"),
        ({"videos": b"file"}, {"video_metadata": {"fps": 24}}, "video_metadata of fps=24 has no effect"),
        ({"audio": b"file"}, {"sampling_rate": 8000}, "sampling_rate=8000 has no effect: what is given states"),
        (
            {"audio": {"array": WAVE, "sampling_rate": 8000}},
            {"sampling_rate": 16000},
            "sampling_rate=16000 has no effect",
        ),
        ({"videos": FRAMES}, {"video_metadata": [{"fps": 6}] * 2}, "video_metadata of 2 for 1 videos"),
        ({"videos": FRAMES}, {"video_metadata": {"fsp": 6}}, "with 'fsp': give a dict or an object with fps"),
        ({"videos": FRAMES}, {"video_metadata": {"fps": 0}}, "fps=0: give the frames per second, above 0"),
        (
            {"videos": FRAMES},
            {"video_metadata": {"fps": 6, "frames_indices": [0, 1]}},
            "frames_indices of 2 for 6 frames",
        ),
        ({"videos": FRAMES}, {"fps": "24"}, "fps='24'"),
        ({"videos": FRAMES}, {"fps": 1e-9}, "longer than 12 hours"),
        ({"audio": WAVE}, {"sampling_rate": float("nan")}, "sampling_rate=nan: give a rate in Hz"),
    ],
    ids=str,
)
def test_what_has_no_effect_or_is_unknown_is_refused(processor, inputs, options, message):
    with pytest.raises(ViMLError, match=message) as caught:
        processor(**inputs, **options)
    assert "\n" not in str(caught.value)


def test_a_setting_that_the_image_processor_lacks_is_refused():
    processor = tiny_processor()
    changed = processor(videos=FRAMES, do_normalize=False)["pixel_values"]
    assert not torch.equal(changed, processor(videos=FRAMES)["pixel_values"])
    del processor.image_processor.crop_size
    with pytest.raises(ViMLError, match="crop_size: no such option"):
        processor(videos=FRAMES, crop_size={"height": 8, "width": 8})


def test_what_other_libraries_always_say_is_taken(processor):
    """Options by modality wait for their input; padding to the longest is what is done anyway."""
    options = {
        "text_kwargs": {"padding": True, "truncation": "longest_first"},
        "images_kwargs": {},
        "audio_kwargs": {"padding": True},
        "videos_kwargs": {},
        "common_kwargs": {"return_tensors": "pt"},
    }
    assert torch.equal(
        processor(audio=WAVE, **options)["input_features"],
        processor(audio=WAVE, padding=True)["input_features"],
    )
    assert processor(text=["a", "bc"], fps=None, sampling_rate=None, **options)["input_ids"].shape == (2, 3)


class Unreadable(io.BytesIO):
    def read(self, *args):
        raise OSError("the line is dead")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("videos", 3, r"A video of type int: give a video file \(path, bytes"),
        ("videos", {"vidoe": "x"}, "A video of type dict with 'vidoe': give"),
        ("videos", [None], "A video of type NoneType"),
        ("videos", [["a.mp4", "b.mp4"]], "A video of type list: give"),
        ("videos", {"bytes": None, "path": None}, "with 'bytes', 'path': give"),
        ("videos", Image.new("RGB", (8, 8)), "A video of type Image: give .* list of pictures"),
        (
            "videos",
            [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))],
            "Frames of shapes .*: give pictures of one size",
        ),
        ("videos", [np.zeros((8, 8))], r"An array of shape \(8, 8\): give \(frames"),
        ("videos", io.StringIO("text"), 'is open as text: open it with mode "rb"'),
        ("videos", Unreadable(), "cannot be read .the line is dead"),
        ("videos", io.BytesIO(), "the file is empty"),
        ("videos", "https://example.org/a.mp4", "nothing is downloaded here"),
        ("audio", 3, r"Music of type int: give a music file \(path, bytes"),
        ("audio", [0.1, 0.2], "Music of type float: give .*a waveform"),
        ("audio", {"array": WAVE, "rate": 8000}, "Music of type dict with 'array', 'rate': give"),
        ("audio", {"array": WAVE, "sampling_rate": 0}, "sampling_rate=0: give a rate in Hz"),
        ("audio", [np.zeros((900, 2), np.float32)], "channels come first"),
        ("audio", (), "Nothing to process"),
        ("text", (), "Nothing to process"),
    ],
)
def test_what_is_no_input_is_named_in_one_line(processor, name, given, message):
    with pytest.raises(ViMLError, match=message) as caught:
        processor(**{name: given})
    assert "\n" not in str(caught.value)


def test_a_closed_file_is_named(processor, film):
    with film.open("rb") as file:
        pass
    with pytest.raises(ViMLError, match=r"closed file.*give a file open for reading bytes"):
        processor(videos=file)


def test_an_excerpt_is_of_a_file(model, processor, film):
    encoder = MediaEncoder(model, processor)
    assert encoder.encode_video(film.read_bytes(), start=10).rows.shape[0] == 1
    assert encoder.encode_video(FakeVideoDecoder(film)).rows.shape[0] == 2
    for call in (
        lambda: encoder.encode_video(FRAMES, start=1),
        lambda: encoder.encode_audio(WAVE, 22050, end=1),
    ):
        with pytest.raises(ViMLError, match="an excerpt is read of a file only"):
            call()


def test_inputs_are_read_once(film):
    """What was told apart is taken again as it is."""
    frames, sound = Frames(FRAMES, 24.0), Waveform(WAVE, 8000)
    assert read_videos([frames, film]) == [frames, str(film)]
    assert read_sounds([sound]) == [sound]
    assert [round(end, 3) for _, _, end in Frames(FRAMES[:3], 2.0, [4, 5, 8])] == [0.5, 2, 3.5]


def test_queries_are_told_apart(film, song, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no suffix").write_bytes(film.read_bytes())
    assert read_sample("no suffix").video == "no suffix"
    assert read_sample("a song like see://saw").text is not None
    assert read_sample(film).video == str(film)
    assert read_sample(song).audio == str(song)
    assert read_sample({"video": str(song)}).video == str(song)
    for video in (FakeVideoDecoder(film), list(FRAMES), FRAMES, {"array": FRAMES, "video_metadata": {"fps": 6}}):
        assert read_sample(video).video is not None
        assert read_sample({"video": video, "text": "pop"}).text == "pop"
    for sound in (FakeAudioDecoder(WAVE, 8000), {"array": WAVE, "sampling_rate": 8000}):
        assert read_sample(sound).audio is not None
    assert read_sample({"video": io.BytesIO(b"file")}).video == b"file"
    for missing in ("missing.mp4", tmp_path / "missing"):
        with pytest.raises(ViMLError, match=r"missing.*: no such file"):
            read_sample(missing)
    with pytest.raises(ViMLError, match="say what it is"):
        read_sample(io.BytesIO(b"file"))

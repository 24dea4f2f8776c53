"""Every family of base encoders, by its name, against what transformers' own classes compute on the same input."""

import wave

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from PIL import Image
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    ViTImageProcessorPil,
)

from tests.encoders import checkpoints
from tests.media import write_audio, write_video
from viml_hf import DeepSimFeatureExtractor, MediaEncoder
from viml_hf.modeling.encoder_families import MODALITIES
from viml_hf.retrieval.model_loading import load_encoder_and_model

# The encoders of video, text and music of one model each; together they are all families in all their modalities.
MODELS = {
    "clip": ("clip", "clip", "clap"),
    "siglip": ("siglip", "siglip", "deepsim"),
    "pe_av": ("pe_av", "pe_av", "pe_av"),
    "pe_av_class": ("pe_av_class", "xlm_roberta", "pe_av_class"),
    "mixed": ("clip", "clap", "wav2vec2"),
    "mert": ("descriptors", "bert", "mert"),
    "ast": ("descriptors", "descriptors", "ast"),
    "base": ("descriptors", "descriptors", "wav2vec2_base"),
    "whisper": ("descriptors", "descriptors", "whisper"),
}
TEXTS = ["slow piano", "a calm guitar and langsames klavier", "drums"]
EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
SILENCE = torch.zeros(1, 1, 1280)  # beside which PE-AV's own `forward` embeds a text or a video
CLOSE = {"atol": 2e-3, "rtol": 2e-3}  # features are rounded to float16


@pytest.fixture(scope="module", autouse=True)
def pe_av_without_timm():
    with checkpoints.pe_av_without_timm():
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pe_av_without_timm):
    """Folder and model of every family."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: (root / family, checkpoints.make(family, root / family)) for family in checkpoints.MAKERS}


@pytest.fixture(scope="module")
def load(saved):
    """Loads the encoders of one of `MODELS`, each once."""
    loaded: dict[str, MediaEncoder] = {}

    def name_of(family):
        return family if family == "descriptors" else checkpoints.name_of(family, saved[family][0])

    def load_one(model):
        if model not in loaded:
            names = dict(zip(MODALITIES, map(name_of, MODELS[model]), strict=True))
            loaded[model] = MediaEncoder.from_names(**names, dtypes="float32", threads=1)
        return loaded[model]

    return load_one


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """13 s of soft blots, 4:3: one whole segment and a short one."""
    generator = np.random.default_rng(0)
    blots = [Image.fromarray(generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)) for _ in range(13)]
    pictures = [np.asarray(blots[second].resize((32, 24), Image.Resampling.BICUBIC)) for second in range(13)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", [pictures[i // 6] for i in range(6 * 13)], fps=6)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Writes 21.5 s of noise at a given rate, and gives the samples of its segments, of 10 s and 11.5 s, too."""
    folder = tmp_path_factory.mktemp("music")

    def write(rate):
        generator = np.random.default_rng(0)
        loud = np.repeat(generator.uniform(0.05, 0.9, 43), rate // 2)
        smooth = np.convolve(generator.uniform(-1, 1, len(loud)), np.ones(5) / 5, "same")
        path = write_audio(folder / f"{rate}.wav", (loud * smooth).astype(np.float32), rate)
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        return path, [samples[: 10 * rate], samples[10 * rate :]]

    return write


def plain_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24", interpolation=EXACT) for frame in container.decode(video=0)]


def plain_picture_features(family, folder, model, frames):
    """The feature of a segment of frames."""
    if family.startswith("pe_av"):
        size = {"height": 24, "width": 24}
        processor = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        pixels = processor(frames, return_tensors="pt")["pixel_values"]
        if family == "pe_av":
            return model(pixel_values_videos=pixels[None], input_values=SILENCE).video_embeds[0]
        return model.video_model.video_encoder(pixels[None]).pooler_output[0]
    pixels = AutoImageProcessor.from_pretrained(folder)(frames, return_tensors="pt")["pixel_values"]
    return model.get_image_features(pixels).pooler_output.mean(0)


def plain_text_features(family, folder, model, text):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if family == "siglip":
        # As its card says: padded to the full length, and no mask.
        tokens = tokenizer([text], padding="max_length", max_length=40, return_tensors="pt")
        return model.get_text_features(input_ids=tokens["input_ids"]).pooler_output[0]
    tokens = tokenizer([text], return_tensors="pt")
    inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    if family == "clip":
        return model.get_text_features(**inputs).pooler_output[0]
    if family == "pe_av":
        return model(**inputs, input_values=SILENCE).text_audio_embeds[0]
    if family == "clap":
        return model.text_projection(model.text_model(**inputs).pooler_output)[0]
    return model(**inputs).last_hidden_state[0].mean(0)


def plain_windows(samples, size):
    count = int(np.ceil(len(samples) / size))
    return [samples[round(start) :][:size] for start in np.linspace(0, max(0, len(samples) - size), count)]


def plain_sound_features(family, folder, model, samples):
    if family == "deepsim":
        extractor = DeepSimFeatureExtractor.from_pretrained(folder)
        windows = plain_windows(samples, 32 * 512 + 256)
        return torch.stack([model(extractor(w)["input_features"]).pooler_output[0] for w in windows]).mean(0)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    options = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt"}
    if family == "clap":
        inputs = [extractor(w, truncation="rand_trunc", **options) for w in plain_windows(samples, 80_000)]
        embeds = [model.audio_projection(model.audio_model(i["input_features"]).pooler_output)[0] for i in inputs]
        return torch.stack(embeds).mean(0)
    if family == "ast":
        # 32 frames of 25 ms, 10 ms apart.
        windows = plain_windows(samples, 31 * 160 + 400)
        inputs = [extractor(w, **options)["input_values"] for w in windows]
        return torch.stack([model.audio_spectrogram_transformer(i).pooler_output[0] for i in inputs]).mean(0)
    inputs = extractor(samples, **options)
    if family == "whisper":
        # A state is made of two frames, 20 ms apart; those of the padding to 30 s do not count.
        states = model.model.encoder(inputs["input_features"]).last_hidden_state[0]
        assert len(states) == 750
        return states[: int(np.ceil(len(samples) / 640))].mean(0)
    if family == "pe_av":
        text = {name: torch.ones(1, 2, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        return model(**inputs, **text).audio_embeds[0]
    if family == "pe_av_class":
        return model.audio_model.audio_encoder(**inputs).pooler_output[0]
    return model(**inputs).last_hidden_state[0].mean(0)


def of_modality(index):
    return [(model, families[index]) for model, families in MODELS.items() if families[index] != "descriptors"]


@pytest.mark.parametrize(("model", "family"), of_modality(0))
@torch.no_grad()
def test_pictures(load, saved, film, model, family):
    frames = plain_frames(film)
    expected = [plain_picture_features(family, *saved[family], part) for part in (frames[:60], frames[60:])]
    found = torch.from_numpy(load(model).encode_video(film).rows).float()
    # What is left is the decoder's conversion to RGB, a grey level or two.
    difference = (found - torch.stack(expected)).norm(dim=-1) / torch.stack(expected).norm(dim=-1)
    assert difference.max() < 0.02
    assert (found[0] - found[1]).norm() > 0.1 * found[0].norm()


@pytest.mark.parametrize(("model", "family"), of_modality(1))
@torch.no_grad()
def test_texts(load, saved, model, family):
    expected = torch.stack([plain_text_features(family, *saved[family], text) for text in TEXTS])
    encoder = load(model)
    for index, text in enumerate(TEXTS):
        assert np.allclose(encoder.encode_text(text)[0], expected[index], **CLOSE)
    inputs = encoder.processor(text=[*TEXTS, None])
    rows, mask = encoder.model.get_text_base_features(inputs["input_ids"], inputs["text_attention_mask"])
    assert np.allclose(rows[:3, 0], expected, **CLOSE)
    assert mask[:, 0].tolist() == [1, 1, 1, 0]
    assert torch.cdist(expected, expected).add(torch.eye(3)).min() > 0.1
    assert np.allclose(encoder.null_text(), plain_text_features(family, *saved[family], ""), **CLOSE)


@pytest.mark.parametrize(("model", "family"), of_modality(2))
@torch.no_grad()
def test_sound(load, saved, music, model, family):
    encoder = load(model)
    path, segments = music(encoder.info["audio"].rate)
    expected = torch.stack([plain_sound_features(family, *saved[family], samples) for samples in segments])
    features = encoder.encode_audio(path)
    assert features.bounds == ((0.0, 10.0), (10.0, 21.5))
    assert np.allclose(features.rows, expected, **CLOSE)
    assert (expected[0] - expected[1]).norm() > 0.01 * expected.norm()


@pytest.mark.parametrize("model", ["clip", "ast"])
def test_no_random_number_is_drawn(load, music, model):
    """CLAP's extractor crops at random whatever is longer than its window."""
    encoder, found = load(model), set()
    path, _ = music(8000)
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (what transformers draws from)
        found.add(encoder.encode_audio(path).rows.tobytes())
    assert len(found) == 1


@torch.no_grad()
def test_clap_with_fusion_hears_whole_windows(tmp_path, music):
    model = checkpoints.clap(tmp_path, fusion=True)
    encoder = MediaEncoder.from_names("descriptors", "descriptors", f"clap:{tmp_path}", threads=1)
    path, segments = music(8000)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    for found, samples in zip(encoder.encode_audio(path).rows, segments, strict=True):
        expected = []
        for window in plain_windows(samples, 80_000):
            inputs = extractor(window, sampling_rate=8000, return_tensors="pt")["input_features"]
            pooled = model.audio_model(inputs, is_longer=torch.tensor([[False]])).pooler_output
            expected.append(model.audio_projection(pooled)[0])
        assert np.allclose(found, torch.stack(expected).mean(0), **CLOSE)


@pytest.mark.parametrize("model", ["mixed", "mert", "base", "pe_av", "whisper"])
@torch.no_grad()
def test_a_padded_batch_of_raw_sound_is_what_streams(load, music, model):
    """Whether its extractor returns a mask or not, and whether its network heeds one or normalises over time."""
    encoder = load(model)
    path, (first, second) = music(encoder.info["audio"].rate)
    inputs = encoder.processor.audio_inputs([[first, second], [second[: len(second) // 3]]])
    lengths = inputs["audio_frame_mask"].sum(-1)
    assert lengths[0, 0] < lengths[0, 1]
    assert 0 < lengths[1, 0] < lengths[0, 0]
    rows, mask = encoder.model.get_audio_base_features(**inputs)
    assert np.allclose(rows[0], encoder.encode_audio(path).rows, **CLOSE)
    alone = encoder.encode_audio(second[: len(second) // 3], encoder.info["audio"].rate)
    assert np.allclose(rows[1, :1], alone.rows, **CLOSE)
    assert mask.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("tokenizer", ["sentencepiece", "words"])
@torch.no_grad()
def test_siglip_of_both_versions(tmp_path, tokenizer):
    """Version 2 at a fixed size has the model type of version 1, another tokenizer, and no length of its own."""
    model = checkpoints.siglip(tmp_path, tokenizer)
    encoder = MediaEncoder.from_names("descriptors", f"siglip:{tmp_path}", "descriptors", threads=1)
    for text in (*TEXTS, "piano " * 30):
        tokens = AutoTokenizer.from_pretrained(tmp_path)(
            [text], padding="max_length", max_length=40, truncation=True, return_tensors="pt"
        )
        expected = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
        assert np.allclose(encoder.encode_text(text), expected, **CLOSE)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("bfloat16", [(), ("video", "audio")], ids=["float32", "bfloat16"])
def test_a_saved_model_gives_the_same_bits(load, film, music, tmp_path, model, bfloat16):
    encoder = load(model)
    if bfloat16:
        names = {modality: encoder.info[modality].name for modality in MODALITIES}
        dtypes = {modality: "bfloat16" if modality in bfloat16 else "float32" for modality in MODALITIES}
        encoder = MediaEncoder.from_names(**names, dtypes=dtypes, threads=1)
    encoder.model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    again = load_encoder_and_model(tmp_path, threads=1)
    assert again.dtypes == encoder.dtypes
    for modality, family in zip(MODALITIES, MODELS[model], strict=True):
        cast = modality in bfloat16 and family != "descriptors"
        assert again.dtypes[modality] == ("bfloat16" if cast else "float32")
    assert {p.dtype for p in again.model.viml.parameters()} == {torch.float32}
    path, _ = music(encoder.processor.feature_extractor.sampling_rate)
    assert np.array_equal(again.encode_video(film).rows, encoder.encode_video(film).rows)
    assert np.array_equal(again.encode_audio(path).rows, encoder.encode_audio(path).rows)
    assert np.array_equal(again.encode_text(TEXTS[1]), encoder.encode_text(TEXTS[1]))
    assert np.array_equal(again.null_text(), encoder.null_text())
    assert again.fingerprints() == encoder.fingerprints()


def test_loading_twice_gives_the_same_model(load, saved):
    """A checkpoint may lack weights that no feature depends on, such as BERT's pooler: they are not left to chance."""
    again = MediaEncoder.from_names("descriptors", f"auto:{saved['bert'][0]}", "descriptors", threads=1)
    assert again.fingerprints()["text"] == load("mert").fingerprints()["text"]
    assert not again.model.text_encoder.pooler.dense.weight.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_depend_on_nothing_but_the_file(saved, film, tmp_path, dtype):
    """Not on files before it, not on the number of threads, and a short last batch of frames is as a full one."""
    names = {"video": f"clip:{saved['clip'][0]}", "text": "descriptors", "audio": "descriptors"}
    options = {"dtypes": {"video": dtype, "audio": "float32", "text": "float32"}}
    alone = MediaEncoder.from_names(**names, **options, threads=1).encode_video(film).rows
    generator = np.random.default_rng(1)
    other = generator.integers(0, 256, (71, 24, 32, 3), dtype=np.uint8)
    for threads in (1, 2, 3):
        encoder = MediaEncoder.from_names(**names, **options, threads=threads)
        encoder.encode_video(other)
        assert np.array_equal(encoder.encode_video(film).rows, alone)
    # The frames of a tail one by one, and all together.
    tail = other[60:]
    single = torch.cat([encoder._embed_frames(tail[index : index + 1]) for index in range(11)])
    assert torch.equal(encoder._embed_frames(tail), single)
    assert encoder.info["video"].dtype == dtype

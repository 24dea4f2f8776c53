"""Taggers that others have trained: what labels mean, classifiers of transformers, MusiCNN and its checkpoint."""

import struct
import zipfile

import numpy as np
import pytest
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from tests.encoders import checkpoints
from tests.media import sine, write_audio
from viml_hf.errors import ViMLError
from viml_hf.modeling.configuration_musicnn import MusicnnConfig
from viml_hf.modeling.modeling_musicnn import MusicnnForMusicTagging
from viml_hf.processing.feature_extraction_musicnn import MusicnnFeatureExtractor
from viml_hf.tagging.label_meanings import LabelMeanings
from viml_hf.tagging.label_tagger import MusicnnTagger
from viml_hf.tagging.musicnn_checkpoint import DATA, INDEX, LABELS
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger_loading import load_tagger

RATE = 16000
VOCABULARY = TagVocabulary.load()


@pytest.mark.parametrize(
    ("label", "tag"),
    [
        *(("Hip hop music", "hip-hop"), ("Violin, fiddle", "violin"), ("Female singing", "female vocals")),
        *(("Scary music", "scary"), ("Drum kit", "drumset"), ("House", "dance"), ("male vocalists", "male vocals")),
        *(("Singing bowl", None), ("Male speech, man speaking", None), ("Computer keyboard", None)),
        *(("Bird vocalization, bird call, bird song", None), ("no vocals", None), ("Music", None)),
    ],
)
def test_a_label_means_a_tag_as_a_whole(label, tag):
    found = LabelMeanings.of([label, "piano"], VOCABULARY)
    names = [name for _, name in found.tags if name != "piano"]
    assert names == ([tag] if tag else [])


def test_coverage_tells_labels_and_tags():
    told = LabelMeanings.of(["Rapping", "Hip hop music", "Engine"], VOCABULARY).coverage
    assert told == "2 of 3 labels mean 1 of 89 tags; without a tag: Engine"


def ast_classifier(folder, labels, **config):
    torch.manual_seed(0)
    names = dict(enumerate(labels))
    shape = {"max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}
    checkpoints.save(
        ASTForAudioClassification(ASTConfig(**checkpoints.LAYERS, **shape, id2label=names, **config)), folder
    )
    ASTFeatureExtractor(num_mel_bins=16, max_length=32).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("config", "labels", "activation"),
    [
        ({}, ["Rapping", "Piano", "Engine", "Hip hop music"], "softmax"),
        ({"problem_type": "multi_label_classification"}, ["Rapping", "Piano", "Engine", "Hip hop music"], "sigmoid"),
        ({}, ["Rapping", "Piano", "Engine", "Hip hop music", *map(str, range(523))], "sigmoid"),
    ],
)
def test_any_audio_classifier_tags(tmp_path, config, labels, activation):
    tagger = load_tagger(ast_classifier(tmp_path, labels, **config))
    wave = sine(440, 0.3, RATE)
    with torch.no_grad():
        logits = tagger.model(**tagger.extractor(wave, sampling_rate=RATE, return_tensors="pt")).logits[0]
    expected = logits.softmax(-1) if activation == "softmax" else logits.sigmoid()
    found = tagger.tag(wave).confidences
    assert found["genre"] == pytest.approx({"hip-hop": expected[[0, 3]].max().item()}, abs=1e-6)
    assert found["instrument"] == pytest.approx({"piano": expected[1].item()}, abs=1e-6)


def test_labels_that_mean_nothing_are_one_line_and_status_2(tmp_path, viml):
    folder = ast_classifier(tmp_path / "speech", ["Speech", "Engine"])
    write_audio(tmp_path / "a.wav", sine(220, 3, RATE), RATE)
    status, out, err = viml("tag", tmp_path / "a.wav", "--tagger", folder)
    assert (status, out) == (2, [])
    assert "none of its 2 labels (Speech, Engine, …) means a tag of the vocabulary; give a tagger" in err[-1]


# MusiCNN


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block whose keys share what they can with the one before, and its trailer."""
    out, last = b"", b""
    for key, value in entries:
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack("<II", 0, 1) + b"\0" + bytes(4)


def tensorflow_checkpoint(variables: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    """Index and data as TensorFlow writes them."""
    data, records = b"", [(b"", b"\x08\x01")]
    for name, values in sorted(variables.items()):
        sizes = b"".join(b"\x12" + varint(len(part)) + part for part in (b"\x08" + varint(n) for n in values.shape))
        record = b"\x08\x01\x12" + varint(len(sizes)) + sizes + b"\x20" + varint(len(data))
        records.append((name.encode(), record + b"\x28" + varint(values.nbytes) + b"\x35" + bytes(4)))
        data += values.tobytes()
    table = block(records)
    index = block([(b"z", varint(0) + varint(len(table) - 5))])
    footer = varint(0) + varint(0) + varint(len(table)) + varint(len(index) - 5)
    return table + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"), data


def small_variables() -> dict[str, np.ndarray]:
    """MusiCNN's variables with few channels."""
    rng = np.random.default_rng(0)
    shapes = [(7, 38, 1, 4), (7, 67, 1, 4), (128, 1, 1, 3), (64, 1, 1, 3), (32, 1, 1, 3), (7, 17, 1, 2)]
    shapes += [(7, 2, 1, 2)] * 2
    norms = [1, 4, 4, 3, 3, 3, 2, 2, 2, 46, 5]
    found = {}
    for number, shape in enumerate(shapes):
        layer = f"conv2d_{number}" if number else "conv2d"
        found[f"{layer}/kernel"], found[f"{layer}/bias"] = rng.normal(0, 0.3, shape), rng.normal(0, 0.3, shape[-1])
    for number, size in enumerate(norms):
        layer = f"batch_normalization_{number}" if number else "batch_normalization"
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            found[f"{layer}/{part}"] = rng.uniform(0.5, 1.5, size)
    for layer, shape in (("dense", (46, 5)), ("dense_1", (5, 50))):
        found[f"{layer}/kernel"], found[f"{layer}/bias"] = rng.normal(0, 0.3, shape), rng.normal(0, 0.3, shape[-1])
    return {name: values.astype(np.float32) for name, values in found.items()}


def write_checkpoint(folder, variables):
    folder.mkdir(parents=True)
    for name, content in zip((INDEX, DATA), tensorflow_checkpoint(variables), strict=True):
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    root = tmp_path_factory.mktemp("musicnn")
    for name in LABELS:
        write_checkpoint(root / "musicnn" / name, small_variables())
    return root


def naive_logits(v: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """The published network, one window `(time, bands)`, by loops and the variables as TensorFlow has them."""

    def norm(x, number):
        layer = f"batch_normalization_{number}" if number else "batch_normalization"
        scale = v[f"{layer}/gamma"] / np.sqrt(v[f"{layer}/moving_variance"] + 1e-3)
        return (x - v[f"{layer}/moving_mean"]) * scale + v[f"{layer}/beta"]

    def convolve(picture, number):
        layer = f"conv2d_{number}" if number else "conv2d"
        kernel = v[f"{layer}/kernel"][:, :, 0]
        length, height, _ = kernel.shape
        padded = np.pad(picture, (((length - 1) // 2, length // 2), (0, 0)))
        views = np.lib.stride_tricks.sliding_window_view(padded, (length, height))
        out = np.einsum("tfij,ijc->tfc", views, kernel) + v[f"{layer}/bias"]
        return norm(np.maximum(out, 0), number + 1).max(1)

    picture = norm(features[..., None], 0)[..., 0]
    front = np.concatenate([convolve(picture, number) for number in range(5)], 1)
    first = convolve(front, 5)
    second = convolve(first, 6) + first
    third = convolve(second, 7) + second
    found = np.concatenate([front, first, second, third], 1)
    pooled = norm(np.stack([found.max(0), found.mean(0)], 1).reshape(-1), 9)
    hidden = norm(np.maximum(pooled @ v["dense/kernel"] + v["dense/bias"], 0), 10)
    return hidden @ v["dense_1/kernel"] + v["dense_1/bias"]


def test_musicnn_computes_what_its_variables_say(unpacked):
    tagger = load_tagger(f"musicnn:{unpacked}")
    features = np.random.default_rng(1).uniform(0, 3, (40, 96)).astype(np.float32)
    with torch.no_grad():
        logits = tagger.networks[0](torch.from_numpy(features)[None]).logits[0]
    np.testing.assert_allclose(logits, naive_logits(small_variables(), features), atol=1e-3, rtol=1e-3)


def test_the_published_network_has_its_size():
    assert (
        sum(weight.numel() for weight in MusicnnForMusicTagging(MusicnnConfig(num_labels=50)).parameters()) == 787_159
    )


@pytest.mark.parametrize("seconds", [2, 7.3, 12])
def test_musicnn_hears_a_track_as_one_spectrogram_cut_into_windows(unpacked, seconds):
    """Streamed by segments, the same as the spectrogram of the whole with centred frames and reflected ends."""
    tagger = load_tagger(f"musicnn:{unpacked}")
    wave = (0.1 * np.random.default_rng(0).normal(size=int(seconds * RATE))).astype(np.float32)
    padded = np.pad(wave, 256, mode="reflect")
    if len(padded) < tagger.window:
        padded = np.resize(padded, tagger.window)
    frames = tagger.extractor.log_mel(torch.from_numpy(padded)[None])[0]
    windows = torch.stack([frames[at : at + 187] for at in range(0, len(frames) - 186, 187)])
    with torch.no_grad():
        expected = torch.cat([network(windows).logits.sigmoid() for network in tagger.networks], -1).mean(0)
    torch.testing.assert_close(tagger.mean_confidences(wave).float(), expected, atol=1e-5, rtol=1e-5)
    tags, labels = tagger.tag(wave), tagger.label_confidences(wave)
    assert tags.confidences["genre"]["jazz"] == pytest.approx(labels["jazz"])
    assert tags.confidences["instrument"]["drumset"] == pytest.approx(labels["drums"])
    assert all(clip.end - clip.start <= 30 for clip in tagger.tag_clips(wave))


def test_a_wheel_is_read_as_its_folder_and_its_licence_warned_of(unpacked, tmp_path, caplog):
    wheel = tmp_path / "musicnn.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in unpacked.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(unpacked))
    wave = sine(440, 3, RATE)
    folder = load_tagger(f"musicnn:{unpacked}")
    assert load_tagger(f"musicnn:{wheel}").tag(wave) == folder.tag(wave)
    assert "CC BY-NC-SA" in caplog.text
    one = load_tagger(f"musicnn:{unpacked / 'musicnn' / 'MTT_musicnn'}")
    assert len(one.meanings.labels) == 50 < len(folder.meanings.labels)


def test_musicnn_is_saved_and_loaded_as_a_model_of_transformers(unpacked, tmp_path):
    tagger, wave = load_tagger(f"musicnn:{unpacked}"), sine(440, 3, RATE)
    network = tagger.networks[0]
    network.save_pretrained(tmp_path)
    tagger.extractor.save_pretrained(tmp_path)
    again = load_tagger(str(tmp_path))
    assert all(
        torch.equal(values, again.networks[0].state_dict()[name]) for name, values in network.state_dict().items()
    )
    expected = MusicnnTagger([network], MusicnnFeatureExtractor(), VOCABULARY).mean_confidences(wave)
    torch.testing.assert_close(again.mean_confidences(wave), expected, atol=1e-5, rtol=1e-5)


def test_what_is_no_musicnn_is_refused(unpacked, tmp_path):
    with pytest.raises(ViMLError, match="no MTT_musicnn and no MSD_musicnn there; give the wheel"):
        load_tagger(f"musicnn:{tmp_path}")
    (tmp_path / "bad.whl").write_bytes(b"no wheel")
    with pytest.raises(ViMLError, match="no whole wheel"):
        load_tagger(f"musicnn:{tmp_path / 'bad.whl'}")
    source = unpacked / "musicnn" / "MTT_musicnn"
    index, data = (source / INDEX).read_bytes(), (source / DATA).read_bytes()
    variables = small_variables()
    variables["dense/bias"][0] = np.nan
    lacking = {name: values for name, values in small_variables().items() if name != "dense_1/bias"}
    compressed = bytearray(index)
    compressed[index.index(b"\0\0\0\0\x01\0\0\0") + 8] = 1
    for number, (files, message) in enumerate(
        [
            ((index[:-1], data), "the index does not end as one"),
            ((index, data[:-4]), "the data file is too short"),
            ((bytes(compressed), data), "its index is compressed"),
            (tensorflow_checkpoint(variables), "dense.bias is not finite"),
            (tensorflow_checkpoint(lacking), r"not MusiCNN's \('dense_1/bias'\)"),
        ]
    ):
        folder = tmp_path / str(number) / "MTT_musicnn"
        folder.mkdir(parents=True)
        (folder / INDEX).write_bytes(files[0])
        (folder / DATA).write_bytes(files[1])
        with pytest.raises(ViMLError, match=message):
            load_tagger(f"musicnn:{folder.parent}")

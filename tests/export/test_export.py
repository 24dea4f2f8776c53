"""Exported graphs give what the model gives, on sizes and masks that were not traced; wrong ones are refused."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch

from tests.encoders.checkpoints import make
from tests.modeling.tiny import HEADS, tiny_model, tiny_processor
from viml_hf import MediaEncoder, ViMLConfig, ViMLError, ViMLForMusicRetrieval, ViMLModel, ViMLProcessor
from viml_hf.export import exporting, formats
from viml_hf.export.checks import FEATURE_TOLERANCE, _turned, check
from viml_hf.export.exporting import export_model, graph_notes
from viml_hf.export.formats import SUFFIXES, pickled_members, read_onnx, read_torch, trace, write_onnx, write_torch
from viml_hf.export.graphs import heads_graphs, whole_graphs

WIDTHS = {"video_dim": 6, "text_dim": 5, "audio_dim": 4}
SMALL = {**WIDTHS, **HEADS, "num_hidden_layers": 1, "num_fusion_layers": 1, "max_position_embeddings": 20}
FAMILIES = {
    "linear, fusion mlp": {"encoder": "linear", "fusion": "mlp", "loss": "triplet"},
    "cls, sinusoidal, video alone, projected": {
        **{"pooling": "cls", "position_embedding": "sinusoidal", "query_modalities": ["video"], "projection_dim": 8},
    },
    "mlp, addition, zero null text": {"encoder": "mlp", "fusion": "addition", "null_text": "zero"},
    "mlp, concatenation": {"encoder": "mlp", "fusion": "concatenation"},
    "no positions, fusion linear": {"position_embedding": "none", "fusion": "linear"},
    "mlp, two layers, fusion transformer": {"encoder": "mlp", "num_hidden_layers": 2, "num_fusion_layers": 2},
    "cls, text alone": {"pooling": "cls", "query_modalities": ["text"], "hidden_act": "gelu"},
}
# Transformer towers take most of the time of an export: one side of them, and the fusion, is what the quick tests have.
QUICK = [("linear, fusion mlp", "torch")]
ALL = [(family, format) for family in FAMILIES for format in ("onnx", "torch")]


def heads(**options):
    """Heads whose parts all matter: batch norms and null text as after training."""
    torch.manual_seed(0)
    model = ViMLModel(ViMLConfig(**{**SMALL, **options})).eval()
    model.set_null_text(torch.randn(model.config.text_dim))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def runners(folder, format):
    """A function per side from tensors by name to the embedding, by the files alone."""
    described = json.loads((folder / "export.json").read_text())["graphs"]
    read = read_onnx if format == "onnx" else read_torch
    sides = {}
    for side, graph in described.items():
        (name, checksum), *_ = graph["files"].items()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
        run = read(folder / name)
        sides[side] = lambda inputs, run=run: run({key: value.numpy() for key, value in inputs.items()})[0]
    return sides


def need_onnx(format="onnx"):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs onnxruntime")
        pytest.importorskip("onnxscript", reason="ONNX needs onnxscript")


@pytest.fixture(scope="module")
def model():
    return heads(encoder="linear")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    need_onnx()
    folder = tmp_path_factory.mktemp("onnx") / "export"
    export_model(model, folder, format="onnx")
    return folder


def rows(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def assert_like_eager(model, sides, *, video=7, texts=2, batch=4):
    """Queries and music with holes in their masks, and rows without anything."""
    inputs = {}
    for name, time in (("video", video), ("text", texts)):
        if name in model.config.query_modalities:
            mask = torch.ones(batch, time, dtype=torch.long)
            mask[0] = 0
            mask[1, 1:] = 0
            mask[-1, 0] = time == 1
            inputs[f"{name}_features"] = rows(batch, time, model.config.base_feature_dim(name))
            inputs[f"{name}_attention_mask"] = mask
    expected = model.get_query_features(**inputs).pooler_output
    np.testing.assert_allclose(sides["query"](inputs), expected, rtol=0, atol=1e-5)
    features, mask = rows(3, video, 4, seed=1), torch.ones(3, video, dtype=torch.long)
    mask[2] = 0
    expected = model.get_audio_features(features, mask).pooler_output
    found = sides["audio"]({"audio_features": features, "audio_attention_mask": mask})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert not found[2].any()
    assert abs(np.linalg.norm(found[0]) - 1) < 1e-5


@pytest.mark.parametrize(
    ("family", "format"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in ALL]
)
def test_every_kind_of_heads_gives_the_models_embeddings(family, format, tmp_path):
    need_onnx(format)
    model = heads(**FAMILIES[family])
    written = export_model(model, tmp_path / "export", format=format)
    inputs = [len(written["graphs"][side]["inputs"]) for side in ("query", "audio")]
    assert inputs == [2 * len(model.config.query_modalities), 2]
    sides = runners(tmp_path / "export", format)
    for video, batch in ((1, 2), (9, 6)):
        assert_like_eager(model, sides, video=video, texts=1, batch=batch)


@pytest.mark.slow
def test_transformer_heads_as_onnx_take_as_many_rows_as_they_have_positions(tmp_path):
    need_onnx()
    model = heads()
    written = export_model(model, tmp_path / "export")
    assert written["graphs"]["query"]["free_sizes"]["segments"] == {"least": 1, "most": 20}
    assert_like_eager(model, runners(tmp_path / "export", "onnx"), video=20, texts=3, batch=2)


@pytest.mark.parametrize("sizes", [(1, 1, 2), (20, 3, 2), (2, 20, 11)])
def test_an_onnx_graph_takes_any_batch_and_time(model, exported, sizes):
    video, texts, batch = sizes
    assert_like_eager(model, runners(exported, "onnx"), video=video, texts=texts, batch=batch)


def test_one_graph_takes_a_video_alone_and_a_text_alone(model, exported):
    query = runners(exported, "onnx")["query"]
    video, text = rows(2, 3, 6), rows(2, 1, 5, seed=1)
    ones = {"video_attention_mask": torch.ones(2, 3).long(), "text_attention_mask": torch.ones(2, 1).long()}
    both = {"video_features": video, "text_features": text, **ones}
    with torch.no_grad():
        by_video = model.get_query_features(video_features=video).pooler_output
        by_text = model.get_query_features(text_features=text).pooler_output
    found = query({**both, "text_attention_mask": torch.zeros(2, 1).long()})
    np.testing.assert_allclose(found, by_video, rtol=0, atol=1e-5)
    found = query({**both, "video_attention_mask": torch.zeros(2, 3).long()})
    np.testing.assert_allclose(found, by_text, rtol=0, atol=1e-5)
    assert np.abs(query(both) - found).max() > 1e-3


def test_what_a_mask_hides_may_be_anything(exported):
    query = runners(exported, "onnx")["query"]
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]])
    inputs = {"video_features": rows(2, 3, 6), "video_attention_mask": mask}
    inputs |= {"text_features": rows(2, 1, 5), "text_attention_mask": torch.tensor([[1], [0]])}
    hidden = inputs["video_features"].masked_fill(mask[..., None] == 0, float("nan"))
    np.testing.assert_array_equal(query(inputs), query({**inputs, "video_features": hidden}))


def test_the_description_names_inputs_sizes_and_the_measured_difference(exported):
    described = json.loads((exported / "export.json").read_text())
    query = described["graphs"]["query"]
    assert [given["name"] for given in query["inputs"]] == [
        *("video_features", "video_attention_mask", "text_features", "text_attention_mask")
    ]
    assert query["inputs"][0]["shape"] == ["batch", "segments", 6]
    assert query["free_sizes"]["batch"] == {"least": 1, "most": None}
    assert heads_graphs(heads())[0].limits["segments"] == (1, 20)
    assert 0 < query["checked"]["largest_difference"] < described["tolerance"] == 1e-5
    assert described["opset"] == 18
    session = pytest.importorskip("onnxruntime").InferenceSession(exported / "query.onnx")
    assert [[given.name, given.shape] for given in session.get_inputs()] == [
        [given["name"], given["shape"]] for given in query["inputs"]
    ]
    assert [[given.name, given.shape] for given in session.get_outputs()] == [["embeds", ["batch", 16]]]


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_same_model_gives_the_same_bytes_without_paths_and_pickle(format, tmp_path):
    need_onnx(format)
    model = heads(encoder="linear", query_modalities=["text"], learned_temperature=True)
    export_model(model, tmp_path / "export", format=format)
    assert_like_eager(model, runners(tmp_path / "export", format), texts=3)
    audio = heads_graphs(model)[1]
    again = tmp_path / f"audio{SUFFIXES[format]}"
    exporting.WRITERS[format](audio, trace(audio), again)
    assert again.read_bytes() == (tmp_path / "export" / again.name).read_bytes()
    for path in (tmp_path / "export").iterdir():
        assert b"modeling_viml" not in path.read_bytes()
        assert path.suffix != ".pt2" or pickled_members(path) == []


def test_weights_that_one_onnx_file_cannot_hold_lie_beside_it(tmp_path, monkeypatch):
    need_onnx()
    monkeypatch.setattr(formats, "ONE_FILE_BYTES", 0)
    model = heads(encoder="linear", query_modalities=["text"], intermediate_size=512, audio_dim=40)
    (tmp_path / "unfinished").mkdir()
    _, audio = heads_graphs(model)
    write_onnx(audio, trace(audio), tmp_path / "unfinished" / "audio.onnx")
    path = (tmp_path / "unfinished").rename(tmp_path / "export") / "audio.onnx"
    checked = check(audio, read_onnx(path), path.name)
    assert set(graph_notes(audio, path, checked)["files"]) == {"audio.onnx", "audio.onnx.data"}


def test_a_pickle_in_an_archive_is_found(tmp_path):
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "with_example.pt2")
    assert pickled_members(tmp_path / "with_example.pt2") == ["with_example/data/sample_inputs/model.pt"]


def test_a_wrong_graph_is_refused_and_nothing_is_left(monkeypatch, tmp_path):
    model = heads(encoder="mlp", query_modalities=["video"])

    def write_other_weights(graph, program, path):
        name = f"viml.{'audio' if graph.name == 'audio' else 'video'}_tower.projection.bias"
        program.state_dict[name] = torch.nn.Parameter(program.state_dict[name] + 0.01)  # the model's own stays
        write_torch(graph, program, path)

    monkeypatch.setitem(exporting.WRITERS, "torch", write_other_weights)
    with pytest.raises(ViMLError, match=r"query.pt2: its embeddings differ from the model's by \S+, and 1e-05"):
        export_model(model, tmp_path / "export", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_run_is_refused_in_one_line(monkeypatch, tmp_path):
    def read_broken(path):
        def run(inputs):
            raise RuntimeError("no kernel\nfor this") from OSError("first cause")

        return run

    monkeypatch.setitem(exporting.READERS, "torch", read_broken)
    with pytest.raises(ViMLError, match=r"The query side cannot be exported as torch \(first cause\): try the other"):
        export_model(heads(encoder="linear", query_modalities=["text"]), tmp_path / "export", format="torch")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_ignores_the_null_text_is_refused(model):
    graph = heads_graphs(model)[0]

    def run_with_text(inputs):
        tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
        tensors["text_attention_mask"] = torch.ones_like(tensors["text_attention_mask"])
        tensors["text_features"] = tensors["text_features"].nan_to_num()
        with torch.no_grad():
            return [graph.module(tensors)[0].numpy()]

    with pytest.raises(ViMLError, match="differ from the model's"):
        check(graph, run_with_text, "query.onnx")


def test_base_features_may_be_rounded_apart_by_one_step_and_no_more():
    expected = np.array([[1.0, 0.5, -0.25, 1e-6]], np.float32)
    step = np.array([[2**-10, 0, 0, 0]], np.float32)
    assert _turned(expected, expected, "rows") == 0
    assert _turned(expected + step, expected, "rows") == 1
    assert _turned(expected + np.float32(FEATURE_TOLERANCE / 2), expected, "rows") == 0
    with pytest.raises(ViMLError, match=r"rows hold 1\.00195 where the model's hold 1"):
        _turned(expected + 2 * step, expected, "rows")


def test_a_whole_model_takes_tokens_and_gives_its_base_features_too(tmp_path):
    need_onnx()
    model = tiny_model(encoder="mlp", num_hidden_layers=1, query_modalities=["text"])
    query, _ = whole_graphs(MediaEncoder(model, tiny_processor()))
    assert query.limits["length"] == (1, 64)
    write_onnx(query, trace(query), tmp_path / "query.onnx")
    run = read_onnx(tmp_path / "query.onnx")
    assert check(query, run, "query.onnx")["base_features_rounded_apart"] < 0.01

    inputs = tiny_processor()(text=["slow piano", None, "fast drums and guitar"])
    embeds, features = run({name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        expected = model.get_query_features(**inputs).pooler_output
        base_features, _ = model.get_text_base_features(**inputs)
        null = model.viml.get_query_features(text_features=model.viml.null_text_features[None, None]).pooler_output
    np.testing.assert_allclose(embeds, expected, rtol=0, atol=3e-5)
    np.testing.assert_allclose(embeds[1:2], null, rtol=0, atol=1e-5)
    np.testing.assert_allclose(features, base_features, rtol=2**-10, atol=1e-6)
    np.testing.assert_array_equal(features.astype(np.float16), features)


@pytest.mark.slow
def test_descriptors_go_into_a_torch_archive(tmp_path):
    encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(**HEADS), ViMLProcessor.from_encoders())
    written = export_model(encoder, tmp_path / "export", format="torch", part="whole")
    assert written["graphs"]["audio"]["checked"]["largest_difference_end_to_end"] < 1e-5
    run = read_torch(tmp_path / "export" / "audio.pt2")
    second = np.random.default_rng(0).normal(size=22050).astype(np.float32) / 10
    inputs = encoder.processor(audio=[second, second[: 22050 // 2]], sampling_rate=22050)
    padded = {name: np.asarray(values) for name, values in inputs.items()}
    for name in ("input_features", "audio_frame_mask"):  # a second is less than the least
        rest = [(0, 0), (0, 0), (0, 100)] + [(0, 0)] * (padded[name].ndim - 3)
        padded[name] = np.pad(padded[name], rest)
    with torch.no_grad():
        expected = encoder.model.get_audio_features(**inputs).pooler_output
    np.testing.assert_allclose(run(padded)[0], expected, rtol=0, atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("video", "text", "audio"),
    [("clip", "clip", "ast"), ("siglip", "xlm_roberta", "clap"), ("clip", "descriptors", "deepsim")],
)
@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_whole_models_with_encoders_of_each_kind(video, text, audio, format, tmp_path):
    names = {"video": video, "text": text, "audio": audio}
    for modality, family in names.items():
        if family != "descriptors":
            names[modality] = str(tmp_path / modality / family)
            make(family, tmp_path / modality / family)
    model = ViMLForMusicRetrieval.from_encoders(**names, **HEADS)
    encoder = MediaEncoder(model, ViMLProcessor.from_encoders(**names))
    written = export_model(encoder, tmp_path / "export", format=format, part="whole")
    assert (tmp_path / "export" / "processor").is_dir()
    for graph in written["graphs"].values():
        assert graph["checked"]["largest_difference"] < 1e-5
        assert graph["checked"]["base_features_rounded_apart"] < 0.1


def test_an_encoder_of_any_length_is_refused_with_the_way_out(tmp_path):
    make("wav2vec2_base", tmp_path / "encoder")
    model = ViMLForMusicRetrieval.from_encoders(audio=str(tmp_path / "encoder"), **HEADS)
    encoder = MediaEncoder(model, ViMLProcessor.from_encoders(audio=str(tmp_path / "encoder")))
    with pytest.raises(ViMLError, match=r"audio encoder \(wav2vec2\) .* --part heads"):
        export_model(encoder, tmp_path / "export", format="torch", part="whole")
    assert not (tmp_path / "export").exists()


def test_video_descriptors_are_refused_as_onnx_before_anything_is_traced(tmp_path):
    need_onnx()
    encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(**HEADS), ViMLProcessor.from_encoders())
    with pytest.raises(ViMLError, match="--part heads, or give --format torch"):
        export_model(encoder, tmp_path / "export", format="onnx", part="whole")


def test_the_command_writes_heads_of_a_saved_model(tmp_path, viml):
    model = heads(encoder="linear", query_modalities=["text"])
    model.save_pretrained(tmp_path / "model")
    status, out, errors = viml("export", tmp_path / "model", "-o", tmp_path / "a" / "b", "--format", "torch")
    assert (status, errors) == (0, [])
    assert "query.pt2: text_features [batch, texts, 5]" in "\n".join(out)
    assert_like_eager(model, runners(tmp_path / "a" / "b", "torch"))


def test_mistakes_are_told_in_one_line(tmp_path, viml, monkeypatch):
    def refused(*arguments):
        status, _, (line,) = viml(*arguments)
        assert status == 2
        return line

    model, output = tmp_path / "model", tmp_path / "out"
    heads(encoder="linear").save_pretrained(model)
    assert "no-such: no such model folder" in refused("export", tmp_path / "no-such", "-o", output)
    assert "not empty; name a new folder" in refused("export", model, "-o", model)
    assert "it is a file" in refused("export", model, "-o", model / "config.json")
    assert "give --part heads" in refused("export", model, "-o", output, "--part", "whole", "--format", "torch")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "give --format torch" in refused("export", model, "-o", output)
    (model / "model.safetensors").write_bytes(b"damaged")
    assert "model: " in refused("export", model, "-o", output, "--format", "torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

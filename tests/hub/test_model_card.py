import json
import re
import shlex
from dataclasses import replace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from tests.hub.cards import result, snippets_of
from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import HEADS, tiny_model, tiny_processor
from viml_hf import (
    ViMLConfig,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    save_for_sentence_transformers,
    save_with_code,
)
from viml_hf.cli.main import main
from viml_hf.hub.card_facts import OwnerFacts, facts_of_model, gather_facts
from viml_hf.hub.evaluation_results import save_evaluation
from viml_hf.hub.model_card import GENERATED, is_own_card, render_card

REPO = "me/my-model"
TRAINING = {
    "settings": {"epochs": 20, "text_dropout": 0.0, "video_dropout": 0.0, "clip_segments": 3, "pool_size": None},
    "store": {"video": "descriptors", "text": "descriptors", "audio": "descriptors"},
    "recipe": "viml",
    "texts": "data2text-rules",
    "training_items": 1280,
    "evaluation_items": 120,
    "metrics": {"loss": 4.0, "R@1": 1.0, "R@10": 24.5, "MR": 9.0},
}
SOURCES = {
    "video": {"name": "clip:openai/clip-vit-base-patch32", "revision": "abc", "licence": "mit"},
    "text": {"name": "clip:openai/clip-vit-base-patch32", "revision": "abc", "licence": "mit"},
    "audio": {"name": "auto:m-a-p/MERT-v1-95M", "licence": "cc-by-nc-4.0"},
}
# What cards of whole models speak of where all is known, in order.
SECTIONS = ["Use", "Results", "Training", "Architecture", "Encoders", "Intended use", "Limits", "Licence", "Citation"]


def encoders(**sources):
    """A tiny CLIP and AST whose sources are as given, by default those of a model with a non-commercial encoder."""
    model = tiny_model()
    model.config.encoder_sources = {**SOURCES, **sources}
    return model


def card_of(model, **kwargs):
    return render_card(facts_of_model(model, REPO, **kwargs))


def sections(card):
    """Title to text."""
    found = re.split(r"^## (.*)\n", card, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained and evaluated model, by what its folder says."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = ViMLForMusicRetrieval.from_encoders(**HEADS)
    model.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(TRAINING))
    comparison = {"a": "video", "b": "video+text", "mean_log_rank_of_b_minus_a": -0.097, "low": -0.125, "high": -0.068}
    compared = result(texts="tags", comparisons=[{**comparison, "significant": True}])
    save_evaluation(folder, model.config.viml_config, compared)
    save_evaluation(folder, model.config.viml_config, result(whole_tracks=True), {"id": "me/bench", "task": "clips"})
    return folder


@pytest.fixture(scope="module")
def named_media(tmp_path_factory):
    """What the snippets name: a video and a folder of music."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "clip.mp4", 24 * 3)
    (folder / "my-music").mkdir()
    for name, frequency in (("a.mp3", 440), ("b.mp3", 220)):
        write_audio(folder / "my-music" / name, sine(frequency, 3, 22050), 22050, codec="libmp3lame")
    return folder


def test_a_card_of_what_is_known_has_every_section(folder):
    card = render_card(gather_facts(folder, REPO, owner=OwnerFacts(data="Made up.", datasets=("me/data",))))
    found = sections(card)
    assert list(found) == SECTIONS
    assert card.count("\n# ") == 1
    assert (
        found["Results"].count("| video+text | 12.85 (10.80–15.10) | 37.44 (34.40–40.60) | 51.23 (48.30–54.20) |") == 2
    )
    for said in (
        "On `store`: 918 queries from the split test, compared by their middle 30 s; 2 pools of 459 tracks, one per",
        "Left out: 3 without audio. 2 queries have no text: the model's null text stands in for it. Texts `tags` of",
        "-0.10, 95 % interval -0.12 to -0.07 (paired over queries): video+text is better.",
        "On [me/bench](https://huggingface.co/datasets/me/bench): 918 queries from the split test, compared by whole",
        "| chance | 0.22 | 1.09 | 2.18 | 230.0 |",
    ):
        assert said in found["Results"]
    assert found["Training"].strip().splitlines() == [
        "* Data: Made up.",
        "* Datasets: [me/data](https://huggingface.co/datasets/me/data).",
        "* Items: 1,280.",
        "* Texts: `data2text-rules`, written by `viml describe`.",
        "* Recipe: `viml`.",
        "* Seen of a track: up to 3 rows of base features, 30 s.",
        "* Settings: epochs 20, text_dropout 0.0, video_dropout 0.0.",
        "* Loss: InfoNCE, temperature 0.03.",
        "* At its end, on 120 held-out items in pools of 120, asked with the texts that it was trained on: R@1 1.00, "
        "R@10 24.50, MR 9.0.",
    ]
    for said in ("1,280 items", "Texts were never dropped", "Videos were never dropped", "does not see what a picture"):
        assert said in found["Limits"]
    assert "No result" not in found["Limits"]
    assert "arxiv.org/abs/2306.09327" in card
    assert "booktitle = {CVPR}" in found["Citation"]


def test_parameter_counts_are_those_of_the_model(folder):
    table = sections(render_card(gather_facts(folder, REPO)))["Architecture"]
    counts = dict(re.findall(r"^\| ([a-z ]+) \| ([\d,]+) \|$", table, re.MULTILINE))
    model = ViMLForMusicRetrieval.from_pretrained(folder)
    assert counts["all"] == f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    assert counts["fusion"] == f"{sum(parameter.numel() for parameter in model.viml.fusion.parameters()):,}"


def test_the_head_is_what_the_hub_reads(folder):
    card = render_card(gather_facts(folder, REPO, owner=OwnerFacts(language=("en", "fr"), datasets=("me/data",))))
    data = ModelCard(card).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("transformers", "apache-2.0", "feature-extraction")
    assert (data.language, data.datasets) == (["en", "fr"], ["me/data"])
    assert {"video-to-music", "music-retrieval", "text-to-music-retrieval", "viml"} <= set(data.tags)
    assert data.model_name == "my-model"
    r10 = [one for one in data.eval_results if one.metric_type == "recall_at_10"]
    assert [(one.dataset_type, one.metric_value) for one in r10] == [("store", 51.231)]  # that of me/bench is a file
    assert "query video+text with the texts tags, 918 queries" in r10[0].metric_name
    assert "95 % interval 48.3 to 54.2" in r10[0].metric_name
    assert {one.metric_value for one in data.eval_results if one.metric_type == "median_rank"} == {10.0}
    raw = yaml.safe_load(card.split("---")[1])
    assert set(raw) <= {"library_name", "license", "language", "pipeline_tag", "datasets", "tags", "model-index"}
    for one in raw["model-index"][0]["results"]:
        assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", one["dataset"]["type"])


def test_encoders_are_base_models_with_their_licences_plainly_said():
    card = card_of(encoders())
    data, found = ModelCard(card).data, sections(card)
    assert data.base_model == ["openai/clip-vit-base-patch32", "m-a-p/MERT-v1-95M"]
    assert "base_model_relation" not in data
    assert (data.license, data.license_name) == ("other", "cc-by-nc-4.0")
    assert data.license_link == "https://huggingface.co/m-a-p/MERT-v1-95M"
    row = "| video | [openai/clip-vit-base-patch32](https://huggingface.co/openai/clip-vit-base-patch32) | "
    assert row + "`clip_vision_model` | `abc` | mit | 12 |" in found["Encoders"]
    assert "**The audio encoder is under cc-by-nc-4.0" in found["Encoders"]
    assert "not for commercial use, by the licence of its audio encoder" in found["Intended use"]
    assert "bound by the licences of its encoders" in found["Licence"]
    assert "under apache-2.0" not in card


def test_the_licence_follows_from_the_encoders_unless_the_owner_states_one():
    free = {"name": "auto:x/y", "licence": "bsd-3-clause"}
    assert ModelCard(card_of(encoders(audio=free))).data.license == "apache-2.0"
    data = ModelCard(card_of(encoders(audio={**free, "licence": "My Own Licence"}))).data
    assert (data.license, data.license_name) == ("other", "my-own-licence")
    data = ModelCard(card_of(encoders(), owner=OwnerFacts(licence="cc-by-nc-sa-4.0"))).data
    assert (data.license, data.license_name) == ("cc-by-nc-sa-4.0", None)
    unknown = card_of(encoders(audio={"name": "my-audio"}))
    assert ModelCard(unknown).data.license is None
    assert "The licence of the audio encoder is not known" in sections(unknown)["Licence"]
    assert "Licence" not in sections(card_of(ViMLModel(ViMLConfig(**HEADS))))
    # The one that forbids most decides, whatever the order.
    both = card_of(encoders(video={"name": "auto:a/b", "licence": "agpl-3.0"}))
    assert ModelCard(both).data.license_name == "cc-by-nc-4.0"


def test_what_is_not_known_is_left_out():
    found = sections(card := card_of(ViMLForMusicRetrieval.from_encoders(**HEADS)))
    assert [title for title in SECTIONS if title not in found] == ["Results", "Training"]
    assert "No result of `viml evaluate` is kept" in found["Limits"]
    assert set(ModelCard(card).data.to_dict()) == {"library_name", "license", "pipeline_tag", "tags"}
    heads = card_of(ViMLModel(ViMLConfig(**HEADS)))
    assert "| modality | width |" in heads
    assert "license" not in ModelCard(heads).data.to_dict()


def test_heads_alone_say_whose_features_they_take(tmp_path):
    ViMLModel(ViMLConfig(**HEADS)).save_pretrained(tmp_path)
    clip = "clip:openai/clip-vit-base-patch32"
    names = {"video": clip, "text": clip, "audio": "features:vggish"}
    (tmp_path / "training.json").write_text(json.dumps({**TRAINING, "store": names}))
    card = render_card(gather_facts(tmp_path, REPO))
    data = ModelCard(card).data
    assert (data.base_model, data["base_model_relation"]) == (["openai/clip-vit-base-patch32"], "adapter")
    assert "| audio | `features:vggish` |" in card
    assert "not in this repo" in card
    assert "* Seen of a track: up to 3 rows of base features." in card  # rows of other features may be longer than 10 s


@pytest.mark.parametrize(
    ("query", "asked", "missing"),
    [(["video"], "for a video,", "It takes no text"), (["text"], "for a text,", "It takes no video")],
)
def test_a_card_speaks_of_the_queries_that_the_model_takes(query, asked, missing):
    card = card_of(ViMLForMusicRetrieval.from_encoders(**HEADS, query_modalities=query))
    assert f"ranks a library of music {asked}" in card
    assert missing in card
    assert ("video-to-music" in ModelCard(card).data.tags) == (query == ["video"])


def test_a_card_says_that_nothing_was_trained_or_what_training_began_with():
    config = {"video_dim": 8, "text_dim": 8, "audio_dim": 8, "fusion": "late", "text_weight": 0.25}
    card = card_of(ViMLModel(ViMLConfig(**config, encoder="identity")))
    assert "**nothing was trained here**" in card
    assert "No heads: an embedding is the mean of a file's segments" in card
    assert "plus 0.25 times that to the text" in card
    assert "It was not fitted to anybody's choice" in card
    card = card_of(ViMLModel(ViMLConfig(**config, encoder="residual")))
    assert "begin as the mean of a file's segments" in card
    assert "nothing was trained" not in card


def every_card(folder):
    whole, trained = ViMLForMusicRetrieval.from_encoders(**HEADS), gather_facts(folder, REPO)
    yield from (render_card(trained), card_of(whole), card_of(whole.viml), card_of(encoders(), with_code=True))
    yield card_of(encoders(audio={"name": "my-audio"}))
    yield card_of(ViMLModel(ViMLConfig(**HEADS, query_modalities=["text"], loss="triplet")), with_code=True)


def test_every_card_says_right_after_its_head_who_wrote_it(folder):
    before, after = GENERATED.split("{}")
    for card in every_card(folder):
        first, _, title, *_ = ModelCard(card).text.lstrip().splitlines()
        assert re.fullmatch(f"{re.escape(before)}[0-9a-f]{{16}}{re.escape(after)}", first)
        assert title == "# my-model"
        assert str(ModelCard(card)) == card  # transformers loads cards and saves them again
        assert not is_own_card(card)
        assert not is_own_card(card.replace("\n", "\r\n"))
        for changed in (card + "\nMy words.\n", card.replace("library_name", "my_library"), card.replace(first, "")):
            assert is_own_card(changed)


def test_a_card_tells_of_its_package_its_code_and_whether_its_encoders_are_frozen():
    model = encoders()
    for with_code in (False, True):
        model.config.freeze_encoders = with_code
        found = sections(card_of(model, with_code=with_code))
        assert "the package `viml_hf`, which pip knows as `viml-hf`." in found["Use"]
        assert ("pin the commit that you have looked at with `revision=`" in found["Use"]) == with_code
        assert f"Inside, and {'kept frozen' if with_code else 'open to training'}." in found["Encoders"]


def test_words_on_the_data_make_no_sections(folder):
    words = "Made up.\n\n## A section\n* More."
    facts = gather_facts(folder, REPO)
    for said in (replace(facts, owner=OwnerFacts(data=words)), replace(facts, training={**TRAINING, "data": words})):
        assert "* Data: Made up. ## A section * More." in render_card(said).splitlines()


def test_no_card_asks_for_information_or_names_a_path_of_this_machine(folder):
    for card in every_card(folder):
        assert not re.search(r"needed|unknown|\bnone\b|null\b(?! text)|todo|n/a", card.lower())
        assert str(folder) not in card
        assert "/home" not in card
        assert "\n\n\n" not in card
        assert not re.search(r"\.\.|[ \t]$", card, re.MULTILINE)


def run_snippets(card, folder, media, monkeypatch, tmp_path, capsys):
    """Runs all code of a card, the model's folder in the place of its repo; what each of them printed."""
    (tmp_path / "clip.mp4").symlink_to(media / "clip.mp4")
    (tmp_path / "my-music").symlink_to(media / "my-music")
    monkeypatch.chdir(tmp_path)
    card = card.replace(REPO, str(folder))
    for line in "".join(snippets_of(card, "bash")).splitlines():
        command, *words = shlex.split(line)
        assert command == "viml"
        assert main([*words, "--workers=1"] if words[0] == "index" else words) == 0
    capsys.readouterr()
    printed = []
    for code in snippets_of(card):
        if "sentence_transformers" in code:
            pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
        if "trust_remote_code" not in code:  # these are run where the package is not installed
            exec(compile(code, "README.md", "exec"), {})
            printed.append(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize("query", [["video", "text"], ["video"], ["text"]])
def test_the_snippets_of_a_whole_model_run(query, named_media, monkeypatch, tmp_path, capsys):
    model = ViMLForMusicRetrieval.from_encoders(**HEADS, query_modalities=query)
    model.save_pretrained(tmp_path / "model")
    ViMLProcessor.from_encoders().save_pretrained(tmp_path / "model")
    save_for_sentence_transformers(tmp_path / "model")
    card = render_card(gather_facts(tmp_path / "model", REPO))
    ranked, again, *similarities = run_snippets(card, tmp_path / "model", named_media, monkeypatch, tmp_path, capsys)
    assert ranked == again
    ranks, names = zip(*(line.split()[:2] for line in ranked.splitlines()), strict=True)
    assert (ranks, set(names)) == (("1", "2"), {"a.mp3", "b.mp3"})
    found, same = ([float(one) for one in re.findall(r"-?\d\.\d+", printed)] for printed in similarities)
    assert len(found) == 2
    assert same == pytest.approx(found, abs=2e-4)


def test_the_snippets_of_a_model_with_trained_encoders_run_beside_its_code(named_media, monkeypatch, tmp_path, capsys):
    save_with_code(encoders(), tmp_path / "model", tiny_processor())
    save_for_sentence_transformers(tmp_path / "model")
    card = render_card(gather_facts(tmp_path / "model", REPO))
    assert len(run_snippets(card, tmp_path / "model", named_media, monkeypatch, tmp_path, capsys)) == 4
    trusted = [code for code in snippets_of(card) if "trust_remote_code=True" in code]
    assert len(trusted) == 2
    assert not any("viml_hf" in code for code in trusted)


@pytest.mark.parametrize("query", [["video", "text"], ["video"], ["text"]])
def test_the_snippets_of_heads_alone_run(query, named_media, monkeypatch, tmp_path, capsys):
    save_with_code(ViMLModel(ViMLConfig(**HEADS, query_modalities=query, video_dim=7)), tmp_path / "model")
    card = render_card(gather_facts(tmp_path / "model", REPO))
    (order,) = run_snippets(card, tmp_path / "model", named_media, monkeypatch, tmp_path, capsys)
    assert sorted(re.findall(r"\d", order)) == list("01234")
    assert len(snippets_of(card)) == 2

"""How encoders load by their names: revisions, without a network, damaged folders, no code from the Hub."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.utils.hub
from safetensors.torch import load_file
from transformers import HubertModel, Siglip2Config, Siglip2Model

import viml_hf.encoders.encoder_info
from tests.encoders import checkpoints
from tests.encoders.checkpoints import MODALITIES, from_names
from viml_hf import ViMLForMusicRetrieval, ViMLProcessor

SHAS = {"v1": "1" * 40, "main": "2" * 40}


def fake_repo(cache: Path, name: str, snapshots: dict[str, Path]) -> None:
    """A repo in a cache of the Hub, as downloading would leave it: `snapshots` are its files by branch or tag."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    for reference, folder in snapshots.items():
        (repo / "refs" / reference).write_text(SHAS[reference])
        shutil.copytree(folder, repo / "snapshots" / SHAS[reference])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with two revisions of each repo, of different weights; no blobs, since nothing may be downloaded."""
    root = tmp_path_factory.mktemp("hub")
    for family in ("clip", "clap", "mert", "deepsim"):
        old, new = root / f"{family}-old", root / f"{family}-new"
        model = checkpoints.make(family, old, licence="cc-by-nc-4.0")
        checkpoints.make(family, new, licence="mit")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-0.5)
        if family == "mert":  # published as a pickle alone
            for folder in (old, new):
                torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
                (folder / "model.safetensors").unlink()
        else:
            model.save_pretrained(old)
        fake_repo(root / "cache", f"org/{family}", {"v1": old, "main": new})
    return root / "cache"


@pytest.mark.parametrize("revision", ["v1", SHAS["v1"], None])
def test_a_pinned_revision_is_loaded_and_stated(cache, no_network, revision):
    pinned = f"@{revision}" if revision else ""
    names = {"video": f"clip:org/clip{pinned}", "text": f"org/clap{pinned}", "audio": f"deepsim:org/deepsim{pinned}"}
    encoder = from_names(**names, cache_dir=str(cache), local_files_only=True)
    reference = "v1" if revision in ("v1", SHAS["v1"]) else "main"
    repos = zip(MODALITIES, ("clip", "clap", "deepsim"), strict=True)
    snapshot = f"snapshots/{SHAS[reference]}"
    folders = {part: f"auto:{cache / f'models--org--{family}' / snapshot}" for part, family in repos}
    expected = from_names(**folders)
    assert encoder.fingerprints() == expected.fingerprints()
    assert [info.revision for info in encoder.info.values()] == [SHAS[reference]] * 3
    assert [info.revision for info in expected.info.values()] == [None] * 3
    assert {info.licence for info in encoder.info.values()} == {"cc-by-nc-4.0" if reference == "v1" else "mit"}
    assert encoder.encode_text("slow piano").any()
    assert not no_network


def test_revisions_differ(cache):
    """Else the test above would see nothing."""
    options = {"cache_dir": str(cache), "local_files_only": True}
    rows = [from_names(text=f"clip:org/clip@{ref}", **options).encode_text("slow piano") for ref in SHAS]
    assert not np.allclose(*rows, atol=0.01)


@pytest.mark.parametrize("family", ["clip", "mert", "deepsim"])
def test_every_part_is_loaded_from_local_files_only(cache, no_network, monkeypatch, family):
    """Even where the network is there: a pickle of weights would else be sent for conversion in the background."""
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def watch(owner, function):
        original = getattr(owner, function)

        def watched(*arguments, **options):
            filename = arguments[1] if len(arguments) > 1 else options.get("filename", options.get("filenames"))
            asked.extend((str(name), options.get("local_files_only")) for name in np.atleast_1d(filename))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, function, watched)

    watch(transformers.utils.hub, "cached_files")
    watch(viml_hf.encoders.encoder_info, "hf_hub_download")
    roles = ("video", "text") if family == "clip" else ("audio",)
    name = f"{'auto' if family == 'mert' else family}:org/{family}"
    from_names(**dict.fromkeys(roles, name), cache_dir=str(cache), local_files_only=True)
    assert {local for _, local in asked} == {True}
    files = {name for name, _ in asked}
    needed = {"config.json", "README.md", "pytorch_model.bin" if family == "mert" else "model.safetensors"}
    needed |= {"preprocessor_config.json"} | ({"tokenizer_config.json"} if "text" in roles else set())
    assert needed <= files
    assert not no_network


@pytest.mark.parametrize("part", MODALITIES)
def test_what_is_not_in_the_cache_is_one_clear_line(tmp_path, no_network, part):
    options = {"cache_dir": str(tmp_path), "local_files_only": True}
    with pytest.raises(
        OSError, match=r"^clip:org/none@v9: its config cannot be loaded \(.*\): .*hf download org/none"
    ) as e:
        from_names(**{part: "clip:org/none@v9"}, **options)
    assert "\n" not in str(e.value)
    assert str(e.value).endswith("--revision v9`.")
    assert not no_network


def test_a_revision_that_is_not_there_is_refused(cache, no_network):
    with pytest.raises(OSError, match=r"^clip:org/clip@v2: its config cannot be loaded"):
        from_names(video="clip:org/clip@v2", cache_dir=str(cache), local_files_only=True)


@pytest.mark.parametrize(
    ("file", "part", "family", "named"),
    [
        ("config.json", "text", "clip", "config"),
        ("model.safetensors", "text", "clip", "weights"),
        ("tokenizer.json", "text", "clip", "tokenizer"),
        ("preprocessor_config.json", "video", "clip", "image processor"),
        ("preprocessor_config.json", "audio", "deepsim", "feature extractor"),
    ],
)
@pytest.mark.parametrize("broken", [False, True], ids=["missing", "broken"])
def test_a_folder_that_lacks_a_part_is_one_clear_line(tmp_path, file, part, family, named, broken):
    checkpoints.make(family, tmp_path)
    (tmp_path / file).unlink()
    if broken:
        (tmp_path / file).write_bytes(b"{ not what it should be")
    with pytest.raises(OSError, match=f"^{family}:.*: its {named} cannot be loaded .*give a folder") as caught:
        from_names(**{part: f"{family}:{tmp_path}"})
    assert "\n" not in str(caught.value)


class TestCodeOfACheckpoint:
    """It is never run; running it would leave a file."""

    def test_a_model_that_needs_it_is_refused(self, tmp_path):
        checkpoints.make("wav2vec2", tmp_path)
        checkpoints.needs_code(tmp_path, "new_model", "New")
        for load in (ViMLForMusicRetrieval.from_encoders, ViMLProcessor.from_encoders):
            with pytest.raises(ValueError, match="'new_model' model that brings code of its own, which is never") as e:
                load(audio=f"auto:{tmp_path}")
            assert "\n" not in str(e.value)
        assert not (tmp_path / "ran").exists()

    def test_known_models_are_loaded_without_it(self, tmp_path):
        checkpoints.make("wav2vec2", tmp_path)
        checkpoints.needs_code(tmp_path, "wav2vec2", "New")
        from_names(audio=str(tmp_path))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("setting", ["feature_extractor_cqt", "deepnorm"])
    def test_a_network_that_is_only_almost_known_is_refused(self, tmp_path, setting):
        assert type(checkpoints.make("mert", tmp_path)) is HubertModel
        from_names(audio=str(tmp_path))
        checkpoints.edit_json(tmp_path / "config.json", **{setting: True})
        with pytest.raises(ValueError, match="'mert_model' model that brings code"):
            from_names(audio=str(tmp_path))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("part", "file", "auto"),
        [
            ("text", "tokenizer_config.json", {"AutoTokenizer": ["code.NewTokenizer", None]}),
            ("video", "preprocessor_config.json", {"AutoImageProcessor": "code.NewProcessor"}),
            ("audio", "preprocessor_config.json", {"AutoFeatureExtractor": "code.NewExtractor"}),
        ],
    )
    def test_neither_is_that_of_preprocessors(self, tmp_path, part, file, auto):
        checkpoints.make("clap" if part == "audio" else "clip", tmp_path)
        kind = {"text": "tokenizer_class", "video": "image_processor_type", "audio": "feature_extractor_type"}[part]
        checkpoints.edit_json(tmp_path / file, auto_map=auto, **{kind: "NewThing"})
        (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
        # Some are loaded all the same, by the class that transformers has for the model.
        with contextlib.suppress(OSError):
            from_names(**{part: str(tmp_path)})
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("part", MODALITIES)
    @pytest.mark.parametrize("name", ["clip:FOLDER", "descriptors"])
    def test_asking_for_it_is_refused(self, tmp_path, part, name):
        checkpoints.make("clip", tmp_path)
        name = name.replace("FOLDER", str(tmp_path))
        with pytest.raises(ValueError, match="trust_remote_code=True: code that comes with an encoder is never run"):
            from_names(**{part: name}, trust_remote_code=True)
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            ViMLProcessor.from_encoders(**{part: name}, trust_remote_code=True)
        if part != "audio":
            from_names(**{part: name}, trust_remote_code=False)


@pytest.mark.parametrize("name", ["siglip", "auto"])
def test_siglip_2_of_any_size_is_refused(tmp_path, name):
    sizes = {**checkpoints.LAYERS, "num_patches": 4, "patch_size": 8}
    text = {**checkpoints.LAYERS, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    model = Siglip2Model(Siglip2Config(vision_config=sizes, text_config=text))
    model.save_pretrained(tmp_path / "both")
    model.vision_model.save_pretrained(tmp_path / "tower")
    for folder in ("both", "tower"):
        with pytest.raises(ValueError, match=r"is SigLIP 2 for pictures of any size \(NaFlex\).*patch16-224"):
            from_names(video=f"{name}:{tmp_path / folder}")

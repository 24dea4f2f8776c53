"""`publish` and `viml publish`, to a local Hub."""

import json
import os

import numpy as np
import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, create_commit
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Trainer, TrainingArguments

from tests.hub.server import CUT, DROP, READ_TOKEN, TOKEN
from tests.modeling.tiny import HEADS
from viml_hf import (
    DeepSimConfig,
    DeepSimFeatureExtractor,
    DeepSimModel,
    MusicIndex,
    OwnerFacts,
    Recommender,
    ViMLConfig,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    plan_publication,
    publish,
    save_with_code,
)

ID = "tester/model"
# The requests of an upload, in their order.
STEPS = {
    "create": ("POST", "/api/repos/create"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "storage": ("PUT", "/"),
    "commit": ("POST", "/commit/"),
}


def publish_as(folder, **options):
    names = ("private", "accept_licences", "message")
    chosen = {name: options.pop(name) for name in names if name in options}
    return publish(plan_publication(folder, ID, **options), **chosen)


def put(path, content):
    create_commit(ID, [CommitOperationAdd(path, content)], commit_message="By somebody")


def test_what_is_published(connected_hub, folder):
    commit = publish_as(folder, owner=OwnerFacts(datasets=("tester/benchmark",)), message="Mine")
    repo = connected_hub.repos[ID]
    assert (commit.oid, repo.commits[-1].message) == (repo.commits[-1].sha, "Mine")
    assert len(repo.commits) == 2  # the first is the Hub's own
    assert not repo.private
    names = set(repo.files)
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "training.json"} <= names
    assert {"evaluation.json", ".eval_results/tester-benchmark-default-video-text.yaml", "modules.json"} <= names
    assert not any("checkpoint" in name or name.endswith((".bin", ".pt")) for name in names)
    assert repo.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    everything = b"".join(repo.files.values())
    for secret in (str(folder), "/home/somebody", TOKEN, os.path.expanduser("~/")):
        assert secret.encode() not in everything
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert "51.23 (48.30–54.20)" in card.text
    assert "more information needed" not in card.text.lower()


def test_what_is_renewed_and_what_stays(connected_hub, folder, tmp_path):
    """Shards, code, results and the processor of an earlier model go; the owner's files stay."""
    ViMLForMusicRetrieval.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    publish_as(folder, with_code=True)
    files = connected_hub.repos[ID].files
    assert len([name for name in files if name.startswith("model-")]) > 2
    assert "code/modeling_viml.py" in files
    put("model-overview.png", b"a picture")
    torch.manual_seed(1)
    heads = ViMLModel(ViMLConfig(**HEADS, video_dim=7)).eval()
    heads.save_pretrained(tmp_path / "heads")
    publish_as(tmp_path / "heads")
    files = set(connected_hub.repos[ID].files) - {".gitattributes"}
    assert files == {"README.md", "config.json", "model.safetensors", "model-overview.png"}
    features, again = torch.randn(2, 3, 7), ViMLModel.from_pretrained(ID)
    outputs = [model.get_query_features(features).pooler_output for model in (heads, again)]
    assert torch.equal(*outputs)


def test_code_that_was_saved_is_not_pointed_to_where_it_is_not_published(connected_hub, folder):
    save_with_code(ViMLForMusicRetrieval.from_pretrained(folder), folder, ViMLProcessor.from_pretrained(folder))
    publish_as(folder)
    files = connected_hub.repos[ID].files
    assert not [name for name in files if name.startswith("code/")]
    assert not [name for name, content in files.items() if name.endswith(".json") and b"code/" in content]


def test_no_path_of_an_encoder_is_published(connected_hub, tmp_path):
    secret = tmp_path / "secret-place"
    DeepSimModel(DeepSimConfig()).save_pretrained(secret / "my-deepsim")
    DeepSimFeatureExtractor().save_pretrained(secret / "my-deepsim")
    names = {"audio": f"deepsim:{secret / 'my-deepsim'}"}
    model, processor = ViMLForMusicRetrieval.from_encoders(**names, **HEADS), ViMLProcessor.from_encoders(**names)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    publish_as(tmp_path / "model")
    model.push_to_hub("tester/pushed")
    processor.push_to_hub("tester/pushed")
    for repo in connected_hub.repos.values():
        assert not [name for name, content in repo.files.items() if b"secret-place" in content]
        assert b"my-deepsim" in repo.files["config.json"]


def test_what_else_lies_in_the_folder_stays_there(connected_hub, viml, folder):
    others = ["credentials.json", ".secret.json", "notes.txt", "optimizer.safetensors", "model-2.safetensors"]
    for name in others:
        (folder / name).write_text("{}")
    status, out, _ = viml("publish", folder, ID)
    assert status == 0
    assert not set(others) & set(connected_hub.repos[ID].files)
    assert all(name in next(line for line in out if line.startswith("left out")) for name in others)


def test_words_of_somebodys_own_in_a_card_are_kept(connected_hub, folder, caplog):
    publish_as(folder)
    changed = connected_hub.repos[ID].files["README.md"] + b"\n## My words\n"
    put("README.md", changed)
    publish_as(folder, with_code=True)
    assert connected_hub.repos[ID].files["README.md"] == changed
    assert "check that it is still true" in caplog.text
    (folder / "README.md").write_text("---\nlicense: mit\n---\nOther words of mine.\n")
    publish_as(folder)
    assert connected_hub.repos[ID].files["README.md"].endswith(b"Other words of mine.\n")


def test_the_card_of_a_plain_trainer_gives_way(connected_hub, folder, tmp_path):
    model = ViMLForMusicRetrieval.from_pretrained(folder)
    arguments = TrainingArguments(str(tmp_path / "plain"), push_to_hub=True, hub_model_id=ID, report_to="none")
    Trainer(model, arguments).push_to_hub()
    assert "training_args.bin" in connected_hub.repos[ID].files
    publish_as(folder)
    files = connected_hub.repos[ID].files
    assert "51.23" in files["README.md"].decode()
    assert "training_args.bin" not in files


def test_private_is_not_promised_of_a_repo_that_is_public(connected_hub, folder):
    publish_as(folder, private=True)
    assert connected_hub.repos[ID].private
    publish_as(folder, private=True)
    connected_hub.repos[ID].private = False
    with pytest.raises(ViMLError, match="it is there and public"):
        publish_as(folder, private=True)


@pytest.mark.parametrize(("step", "status"), [("create", 403), ("batch", DROP), ("storage", 403), ("commit", 500)])
def test_a_failed_upload_leaves_nothing(connected_hub, folder, step, status):
    connected_hub.fail(*STEPS[step], status)
    with pytest.raises(ViMLError) as error:
        publish_as(folder)
    line = str(error.value)
    assert "\n" not in line
    assert "nothing was published" in line
    assert TOKEN not in line
    assert connected_hub.repos == {}
    connected_hub.mend()
    publish_as(folder)
    assert "model.safetensors" in connected_hub.repos[ID].files


@pytest.mark.parametrize("step", ["storage", "commit"])
def test_a_failed_second_upload_leaves_the_first(connected_hub, folder, step):
    publish_as(folder)
    before = list(connected_hub.repos[ID].commits)
    ViMLForMusicRetrieval.from_encoders(**HEADS).save_pretrained(folder)
    (folder / "evaluation.json").unlink()
    connected_hub.fail(*STEPS[step], 403)
    with pytest.raises(ViMLError, match="nothing was published"):
        publish_as(folder)
    assert connected_hub.repos[ID].commits == before


def test_a_lost_answer_is_not_called_a_failure(connected_hub, folder):
    """The commit was made, and only its answer broke off."""
    publish_as(folder)
    connected_hub.fail(*STEPS["commit"], CUT)
    (folder / "evaluation.json").unlink()
    with pytest.raises(ViMLError, match="the answer was lost, but there is a new commit") as error:
        publish_as(folder)
    assert "nothing was published" not in str(error.value)
    assert len(connected_hub.repos[ID].commits) == 3


@pytest.mark.parametrize("how", ["lost answer", "create_repo", "create_commit"])
def test_a_repo_that_was_made_before_an_interruption_is_removed(connected_hub, folder, monkeypatch, how):
    expected = KeyboardInterrupt
    if how == "lost answer":
        connected_hub.fail(*STEPS["create"], CUT)
        expected = ViMLError
    else:
        create = HfApi.create_repo

        def interrupted(self, *args, **kwargs):
            if how == "create_repo":
                create(self, *args, **kwargs)
            raise KeyboardInterrupt

        monkeypatch.setattr(HfApi, how, interrupted)
    with pytest.raises(expected):
        publish_as(folder)
    assert connected_hub.repos == {}


def test_a_repo_that_cannot_be_removed_again_is_named(connected_hub, folder):
    connected_hub.fail(*STEPS["commit"], 400)
    connected_hub.fail("DELETE", "/api/repos/delete", 403)
    with pytest.raises(ViMLError, match=r"not known \(403 .*; if it is empty, remove it with `hf repos delete"):
        publish_as(folder)


def test_without_the_right_token(connected_hub, folder, monkeypatch):
    for token, said in ((None, "HF_TOKEN"), ("hf_wrong", "401"), (READ_TOKEN, "HF_TOKEN to a token that may write")):
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(ViMLError, match=said) as error:
            publish_as(folder)
        assert "\n" not in str(error.value)
        assert token is None or token not in str(error.value)
    assert connected_hub.repos == {}


def test_no_error_tells_the_token_and_offline_is_said(connected_hub, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(f"refused: Bearer {TOKEN}")

    monkeypatch.setattr(HfApi, "create_commit", fail)
    with pytest.raises(ViMLError, match="refused: Bearer …"):
        publish_as(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ViMLError, match=r"nothing was published: .*HF_HUB_OFFLINE"):
        publish_as(folder)


def test_licences_that_forbid_commercial_use_are_to_be_accepted(connected_hub, viml, non_commercial):
    status, out, err = viml("publish", non_commercial, ID)
    assert status == 2
    assert "  audio: weights-of-mine (cc-by-nc-4.0, not for commercial use)" in out
    assert "audio (weights-of-mine: cc-by-nc-4.0); if you may publish them, say so with --accept-licences" in err[-1]
    assert connected_hub.repos == {}
    assert viml("publish", non_commercial, ID, "--accept-licences")[0] == 0
    assert "cc-by-nc-4.0" in connected_hub.repos[ID].files["README.md"].decode()


@pytest.mark.parametrize(("answer", "published"), [("y", True), ("", False)])
def test_somebody_at_a_terminal_is_asked(connected_hub, viml, non_commercial, monkeypatch, answer, published):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert viml("publish", non_commercial, ID)[0] == (0 if published else 2)
    assert (ID in connected_hub.repos) is published


def test_dry_run_shows_all_and_asks_nobody(connected_hub, viml, folder):
    status, out, err = viml("publish", folder, ID, "--with-code", "--private", "--dry-run", "--dataset", "tester/data")
    assert (status, err) == (0, [])
    assert out[0] == f"{ID} (private), in one commit:"
    shown = {line.split()[0] for line in out if line.endswith(" bytes")}
    assert {"README.md", "config.json", "code/modeling_viml.py", "model.safetensors"} <= shown
    assert "left out: checkpoints/, training_args.bin" in out
    assert "  video: descriptors (apache-2.0)" in out
    assert "# model" in out
    assert "- tester/data" in out
    assert connected_hub.repos == {}
    assert not [request for request in connected_hub.requests if request.method != "GET"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no processor", "a model without its processor"),
        ("damaged", "its weights cannot be read"),
        ("other config", "does not load"),
    ],
)
def test_what_does_not_load_is_not_published(connected_hub, viml, folder, how, message):
    (folder / "evaluation.json").unlink()
    if how == "no processor":
        (folder / "processor_config.json").unlink()
    elif how == "damaged":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-50])
    else:
        config = json.loads((folder / "config.json").read_text())
        config["viml_config"]["hidden_size"] = config["viml_config"]["projection_dim"] = 32
        (folder / "config.json").write_text(json.dumps(config))
    status, _, err = viml("publish", folder, ID)
    assert (status, len(err)) == (2, 1)
    assert message in err[0]
    assert connected_hub.repos == {}


def test_an_index_of_a_published_model_loads_the_model_by_its_id(connected_hub, viml, folder, media, tmp_path):
    video, music, _ = media
    publish_as(folder)
    for name, model in (("here", folder), ("there", ID)):
        assert viml("index", music, "-o", tmp_path / name, "--model", model, "--quiet", "--workers=1")[0] == 0
    here, there = (MusicIndex.load(tmp_path / name) for name in ("here", "there"))
    assert np.array_equal(here.embeddings, there.embeddings)
    found = Recommender.from_pretrained(index=tmp_path / "there").recommend(video, "slow piano")
    assert [one.rank for one in found] == [1]


def test_a_model_that_only_an_index_names_is_not_downloaded(connected_hub, viml, folder, media, tmp_path):
    _, music, _ = media
    publish_as(folder)
    assert viml("index", music, "-o", tmp_path / "index", "--model", folder, "--quiet", "--workers=1")[0] == 0
    index = MusicIndex.load(tmp_path / "index")
    index = MusicIndex(index.embeddings, index.tracks, ID, index.fingerprint)
    with pytest.raises(ViMLError, match="the index names this model: to download it, name it too"):
        Recommender.from_pretrained(index=index)
    assert len(Recommender.from_pretrained(ID, index=index).recommend(text="slow piano")) == 1
    assert len(Recommender.from_pretrained(index=index).recommend(text="slow piano")) == 1  # from the cache now


@pytest.mark.parametrize("how", ["missing", "nan", "pickle"])
def test_a_repo_that_was_tampered_with_is_refused(connected_hub, viml, folder, media, how):
    publish_as(folder)
    path = folder / "model.safetensors"
    weights, name = load_file(path), "viml.audio_tower.projection.weight"
    if how == "missing":
        del weights[name]
    else:
        weights[name][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    changes = [CommitOperationAdd("model.safetensors", path)]
    if how == "pickle":
        changes = [CommitOperationDelete("model.safetensors"), CommitOperationAdd("pytorch_model.bin", path)]
    create_commit(ID, changes, commit_message="Tampered with")
    with pytest.raises((ValueError, OSError)) as error:
        AutoModel.from_pretrained(ID)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(ID)
    status, _, err = viml("index", media[1], "-o", folder / "index", "--model", ID, "--quiet")
    assert (status, len(err)) == (2, 1)


def test_our_own_commands_run_no_code_that_a_repo_names(connected_hub, viml, folder, media):
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"] |= {"auto_map": {"AutoImageProcessor": "evil.Evil"}, "image_processor_type": "Evil"}
    publish_as(folder)
    put("processor_config.json", json.dumps(settings).encode())
    put("evil.py", b"raise SystemExit('code of the repo was run')")
    status, _, err = viml("index", media[1], "-o", folder / "index", "--model", ID, "--quiet")
    assert status == 2
    assert "code of the repo" not in "".join(err)


def test_repos_that_are_not_there_and_names_that_are_none_are_named(connected_hub, viml, folder, media, tmp_path):
    status, _, err = viml("publish", folder, "model")
    assert status == 2
    assert "OWNER/NAME" in err[-1]
    status, _, err = viml("index", media[1], "-o", tmp_path / "index", "--model", "tester/nothing", "--quiet")
    assert status == 2
    assert "tester/nothing: no such repo on the Hub, or a private one" in err[-1]

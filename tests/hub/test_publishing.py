"""Publishing to a local Hub, and loading from it in processes that know nothing else."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    create_commit,
    upload_file,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments, pipeline
from transformers.utils import PushToHubMixin

from tests.hub.cards import result
from tests.hub.server import CUT, DROP, READ_TOKEN, TOKEN
from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import tiny_model, tiny_processor
from tests.stores import write_store
from viml_hf import (
    DeepSimConfig,
    DeepSimFeatureExtractor,
    DeepSimModel,
    MediaEncoder,
    Recommender,
    TrainingSettings,
    ViMLConfig,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLModel,
    ViMLProcessor,
    ViMLTrainer,
    build_index,
    make_trainer,
    save_with_code,
)
from viml_hf.cli.main import main
from viml_hf.hub.card_facts import OwnerFacts
from viml_hf.hub.card_snippets import snippets_of
from viml_hf.hub.evaluation_results import save_evaluation
from viml_hf.hub.publishing import plan_publication, publish

ID = "tester/model"
SMALL = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}

RANK = """
import json, sys
import torch
{imports}
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments, pipeline
from transformers.utils import PushToHubMixin

id, embeds, video, *music = sys.argv[1:]
trust = {trust}
model = AutoModel.from_pretrained(id, **trust)
processor = AutoProcessor.from_pretrained(id, **trust)
with torch.no_grad():
    output = model(**processor(videos=[video], text=["slow piano"], audio=music))
expected = torch.load(embeds)
recommend = pipeline("video-to-music", model=id, music=music, device="cpu", **trust)
print(json.dumps([
    torch.equal(output.query_embeds, expected["query"]) and torch.equal(output.audio_embeds, expected["audio"]),
    [type(part).__module__.split(".")[0] for part in (model, processor, recommend)],
    recommend({{"video": video, "text": "slow piano"}}, top_k=1),
]))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with its processor, what training leaves beside them, and one result."""
    folder = tmp_path_factory.mktemp("saved") / "my model"
    torch.manual_seed(0)
    model = ViMLForMusicRetrieval.from_encoders(**SMALL)
    model.save_pretrained(folder)
    ViMLProcessor.from_encoders().save_pretrained(folder)
    store = {"video": "clip:/home/somebody/clip", "text": "descriptors", "audio": "descriptors"}
    training = {"store": store, "training_items": 320, "evaluation_items": 80, "settings": {"epochs": 3}}
    (folder / "training.json").write_text(json.dumps(training))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.pt").write_bytes(b"not for others")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    dataset = {"id": "tester/benchmark", "task": "default"}
    save_evaluation(folder, model.config.viml_config, result(store=str(folder / "STORE")), dataset)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "saved")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    music = [write_audio(folder / f"{pitch}.wav", sine(pitch, 5, 22050), 22050) for pitch in (220, 440)]
    return [str(write_video(folder / "query.mp4", 48)), *map(str, music)]


def publish_as(folder, **options):
    names = ("private", "accept_licences", "message")
    chosen = {name: options.pop(name) for name in names if name in options}
    return publish(plan_publication(folder, ID, **options), **chosen)


@pytest.mark.parametrize("with_code", [False, True])
def test_published_then_loaded_by_id_in_a_clean_process(
    hub, run_clean, folder, media, tmp_path, monkeypatch, with_code
):
    words = ["publish", str(folder), ID, *["--with-code"] * with_code]
    code = "import sys; from viml_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = hub.environment(tmp_path)
    printed = run_clean(code, *words, env=environment)
    assert re.search(r"config\.json +[\d,]+ bytes", printed)
    assert len(hub.repos[ID].commits) == 2  # the first is the Hub's own
    assert ("code/modeling_viml.py" in hub.repos[ID].files) is with_code

    video, *music = media
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        output = model(**processor(videos=[video], text=["slow piano"], audio=music))
    torch.save({"query": output.query_embeds, "audio": output.audio_embeds}, tmp_path / "embeds.pt")
    ranking = pipeline("video-to-music", model=str(folder), music=music, device="cpu")(
        {"video": video, "text": "slow piano"}, top_k=1
    )
    variants = [("viml_hf", {"trust_remote_code": False} if with_code else {}, False)]
    if with_code:
        variants += [("transformers_modules", {"trust_remote_code": True}, True)]
    for module, trust, without_package in variants:
        snippet = RANK.format(imports="" if without_package else "import viml_hf", trust=trust)
        home = tmp_path / f"{module}{len(trust)}"
        for offline in (False, True):  # the second time from the cache
            environment = hub.environment(home, offline=offline)
            asked = len(hub.requests)
            found = run_clean(
                snippet, ID, tmp_path / "embeds.pt", *media, env=environment, without_package=without_package
            )
            assert json.loads(found) == [True, [module] * 3, ranking]
            assert (len(hub.requests) > asked) is not offline
    assert any(request.token for request in hub.requests)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in [*written, *hub.repos[ID].files.values()])


def test_what_is_published(connected_hub, folder):
    commit = publish_as(folder, owner=OwnerFacts(datasets=("tester/benchmark",)))
    repo = connected_hub.repos[ID]
    assert commit.oid == repo.commits[-1].sha
    assert not repo.private
    names = set(repo.files)
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "training.json"} <= names
    assert {"evaluation.json", ".eval_results/tester-benchmark-default-video-text.yaml"} <= names
    assert not any("checkpoint" in name or name.endswith((".bin", ".pt")) for name in names)
    assert repo.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    everything = b"".join(repo.files.values())
    for secret in (str(folder), "/home/somebody", TOKEN, os.path.expanduser("~/")):
        assert secret.encode() not in everything
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert "51.23 (48.30–54.20)" in card.text
    assert "more information needed" not in card.text.lower()


def test_again_renews_and_removes_what_is_no_longer_part_of_it(connected_hub, folder):
    publish_as(folder, with_code=True)
    upload_file(path_or_fileobj=b"of the owner", path_in_repo="NOTES.md", repo_id=ID)
    (folder / "evaluation.json").unlink()
    publish_as(folder)
    names = set(connected_hub.repos[ID].files)
    assert not [name for name in names if name.startswith(("code/", ".eval_results/"))]
    assert {"NOTES.md", "model.safetensors"} <= names
    assert "auto_map" not in json.loads(connected_hub.repos[ID].files["config.json"])
    assert len(connected_hub.repos[ID].commits) == 4


def test_a_card_of_ones_own_and_a_private_repo(connected_hub, folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMy own words.\n")
    publish_as(folder, private=True)
    repo = connected_hub.repos[ID]
    assert repo.private
    assert repo.files["README.md"].decode().endswith("My own words.\n")


def test_heads_alone(connected_hub, tmp_path):
    torch.manual_seed(0)
    model = ViMLModel(ViMLConfig(**SMALL, video_dim=7)).eval()
    model.save_pretrained(tmp_path / "heads")
    publish(plan_publication(tmp_path / "heads", ID))
    again = ViMLModel.from_pretrained(ID)
    features = torch.randn(2, 3, 7)
    assert torch.equal(
        again.get_query_features(features).pooler_output, model.get_query_features(features).pooler_output
    )


def test_a_recommender_by_id(connected_hub, folder, media):
    video, *music = media
    publish_as(folder)
    here, there = (
        MediaEncoder(ViMLForMusicRetrieval.from_pretrained(name), ViMLProcessor.from_pretrained(name))
        for name in (folder, ID)
    )
    paths = [folder.__class__(path) for path in music]
    index = build_index(paths, here, model=ID, progress=False)
    assert np.array_equal(build_index(paths, there, model=ID, progress=False).embeddings, index.embeddings)
    found = Recommender.from_pretrained(index=index).recommend(video, "slow piano")
    assert [vars(one) for one in found] == [
        vars(one) for one in Recommender(here, index).recommend(video, "slow piano")
    ]


# Every step of an upload, in its order.
STEPS = [
    ("POST", "/api/repos/create"),
    ("POST", "/preupload/"),
    ("POST", "/info/lfs/objects/batch"),
    ("PUT", "/"),
    ("POST", "/commit/"),
]


@pytest.mark.parametrize("status", [500, 403, DROP])
@pytest.mark.parametrize("step", range(len(STEPS)))
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


@pytest.mark.parametrize("step", range(1, len(STEPS)))
def test_a_failed_second_upload_leaves_the_first(connected_hub, folder, step):
    publish_as(folder)
    before = list(connected_hub.repos[ID].commits)
    ViMLForMusicRetrieval.from_encoders(**SMALL).save_pretrained(folder)
    (folder / "evaluation.json").unlink()
    connected_hub.fail(*STEPS[step], 403)
    with pytest.raises(ViMLError, match="nothing was published"):
        publish_as(folder)
    assert connected_hub.repos[ID].commits == before


def test_a_repo_that_cannot_be_removed_again_is_named(connected_hub, folder):
    connected_hub.fail("POST", "/commit/", 400)
    connected_hub.fail("DELETE", "/api/repos/delete", 403)
    with pytest.raises(ViMLError, match=r"the empty repo may have been left \(403 .*: remove it with `hf repos"):
        publish_as(folder)


def test_stopping_it_leaves_nothing(connected_hub, folder, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_commit", stop)
    with pytest.raises(KeyboardInterrupt):
        publish_as(folder)
    assert connected_hub.repos == {}


def test_without_the_right_token(connected_hub, folder, monkeypatch):
    for token, said in ((None, "HF_TOKEN"), ("hf_wrong", "401"), (READ_TOKEN, "HF_TOKEN to a token that may write")):
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(ViMLError, match=said) as error:
            publish_as(folder)
        assert "\n" not in str(error.value)
        assert token is None or token not in str(error.value)
    assert connected_hub.repos == {}


@pytest.fixture
def non_commercial(tmp_path):
    """A model with an audio encoder that is not for commercial use."""
    model = ViMLForMusicRetrieval.from_encoders(audio=DeepSimModel(DeepSimConfig()), **SMALL)
    model.config.encoder_sources["audio"] = {"name": "weights-of-mine", "licence": "cc-by-nc-4.0"}
    model.save_pretrained(tmp_path / "non-commercial")
    ViMLProcessor.from_encoders().save_pretrained(tmp_path / "non-commercial")
    return tmp_path / "non-commercial"


def test_licences_that_forbid_commercial_use_are_to_be_accepted(connected_hub, viml, non_commercial):
    status, out, err = viml("publish", non_commercial, ID)
    assert status == 2
    assert "  audio: weights-of-mine (cc-by-nc-4.0, not for commercial use)" in out
    assert "audio (weights-of-mine: cc-by-nc-4.0); if you may publish them, say so with --accept-licences" in err[-1]
    assert connected_hub.repos == {}
    assert viml("publish", non_commercial, ID, "--accept-licences")[0] == 0
    assert "cc-by-nc-4.0" in connected_hub.repos[ID].files["README.md"].decode()


@pytest.mark.parametrize(("answer", "published"), [("y", True), ("", False), ("no", False)])
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


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/…", "me/--x"])
def test_names_that_are_none(viml, folder, name):
    status, _, err = viml("publish", folder, name)
    assert status == 2
    assert "OWNER/NAME" in err[-1]


def test_a_whole_model_without_its_processor_is_not_published(connected_hub, folder):
    (folder / "processor_config.json").unlink()
    with pytest.raises(ViMLError, match="a model without its processor"):
        publish_as(folder)
    assert connected_hub.repos == {}


def test_a_damaged_model_is_not_published(connected_hub, viml, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    (folder / "evaluation.json").unlink()
    status, _, err = viml("publish", folder, ID)
    assert status == 2
    assert len(err) == 1
    assert connected_hub.repos == {}


def test_a_model_without_weights_of_its_config_is_not_published(connected_hub, folder):
    config = json.loads((folder / "config.json").read_text())
    config["viml_config"]["hidden_size"] = config["viml_config"]["projection_dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evaluation.json").unlink()
    with pytest.raises(ViMLError, match="does not load"):
        publish_as(folder)


def test_push_to_hub_of_model_and_processor(connected_hub):
    torch.manual_seed(0)
    model, processor = ViMLForMusicRetrieval.from_encoders(**SMALL), ViMLProcessor.from_encoders()
    processor.push_to_hub(ID)
    assert "README.md" not in connected_hub.repos[ID].files
    model.push_to_hub(ID, tags=["mine"], commit_message="First")
    assert connected_hub.repos[ID].commits[-1].message == "First"
    card = ModelCard.load(ID)
    assert "mine" in card.data.tags
    assert "More Information Needed" not in card.text
    inputs = processor(text=["slow piano"])
    again = AutoModel.from_pretrained(ID)
    with torch.no_grad():
        assert torch.equal(again(**inputs).query_embeds, model(**inputs).query_embeds)
    assert AutoProcessor.from_pretrained(ID)(text=["slow piano"])["input_ids"].equal(inputs["input_ids"])
    assert "modules.json" in connected_hub.repos[ID].files


def test_push_to_hub_leaves_a_card_that_somebody_wrote(connected_hub):
    model = ViMLModel(ViMLConfig(**SMALL))
    model.push_to_hub(ID)
    upload_file(path_or_fileobj=b"My own words.", path_in_repo="README.md", repo_id=ID)
    model.push_to_hub(ID)
    assert connected_hub.repos[ID].files["README.md"] == b"My own words."


def test_push_to_hub_that_fails_leaves_nothing(connected_hub):
    connected_hub.fail("POST", "/commit/", DROP)
    with pytest.raises(ViMLError, match="nothing was published"):
        ViMLModel(ViMLConfig(**SMALL)).push_to_hub(ID)
    assert connected_hub.repos == {}


@pytest.mark.parametrize("how", ["missing", "shape", "nan", "pickle"])
def test_a_repo_that_was_tampered_with_is_refused(connected_hub, folder, capsys, media, how):
    publish_as(folder)
    path = folder / "model.safetensors"
    weights, name = load_file(path), "viml.audio_tower.projection.weight"
    if how == "missing":
        del weights[name]
    elif how == "shape":
        weights[name] = weights[name][:3].clone()
    elif how == "nan":
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
    capsys.readouterr()
    assert main(["index", media[1], "-o", str(folder / "index"), "--model", ID, "--quiet"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint"])
def test_a_trainer_that_pushes(connected_hub, tmp_path, strategy):
    trainer = pushing_trainer(tmp_path, hub_strategy=strategy, hub_token=TOKEN, save_strategy="epoch")
    trainer.train()
    assert connected_hub.repos == {}
    trainer.push_to_hub(dataset="tester/data", license="mit", tags="mine")
    card = ModelCard.load(ID)
    assert (card.data.license, card.data.datasets) == ("mit", ["tester/data"])
    assert "mine" in card.data.tags
    for said in ("Items: 8", "epochs 1", "batch_size 4", "on 4 held-out items, asked with", "`descriptors`"):
        assert said in card.text, said
    assert "more information needed" not in card.text.lower()
    model = trainer.model.cpu()
    weights = ViMLModel.from_pretrained(ID).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    for commit in connected_hub.repos[ID].commits:
        assert not set(commit.files) - {".gitattributes", "README.md", "config.json", "model.safetensors"}
        assert not any(TOKEN.encode() in content for content in commit.files.values())


def test_a_trainers_push_that_fails_leaves_nothing(connected_hub, tmp_path):
    trainer = pushing_trainer(tmp_path)
    connected_hub.fail("POST", "/commit/", 403)
    with pytest.raises(ViMLError, match="nothing was published"):
        trainer.push_to_hub()
    assert connected_hub.repos == {}


def test_a_trainer_pushes_a_tagger_as_transformers_does(connected_hub, tmp_path):
    arguments = TrainingArguments(str(tmp_path), push_to_hub=True, hub_model_id=ID, report_to="none")
    ViMLTrainer(DeepSimModel(DeepSimConfig()), arguments).push_to_hub()
    files = connected_hub.repos[ID].files
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    assert "training_args.bin" not in files


def pushing_trainer(folder, **arguments):
    store = write_store(folder / "store", count=12)
    model = ViMLModel(ViMLConfig(**SMALL, **{f"{name}_dim": width for name, width in store.spec.widths.items()}))
    usable, settings = store.usable(), TrainingSettings(epochs=1, batch_size=4)
    pushing = {"push_to_hub": True, "hub_model_id": ID, "eval_strategy": "epoch", **arguments}
    return make_trainer(
        model, store, usable[4:], settings, folder / "out", eval_items=usable[:4], progress=False, **pushing
    )


def test_a_trainers_folder_gets_a_new_card_when_it_is_published(connected_hub, tmp_path):
    trainer = pushing_trainer(tmp_path)
    trainer.push_to_hub()
    publication = plan_publication(tmp_path / "out", "tester/other", owner=OwnerFacts(licence="mit"))
    assert not publication.has_own_card
    assert "tester/other" in publication.card
    assert ID not in publication.card
    assert "license: mit" in publication.card


RUN_SNIPPETS = """
import os, shlex, sys
from tests_snippets import python, bash

os.chdir(sys.argv[1])
for line in bash:
    from viml_hf.cli.main import main
    assert main(shlex.split(line)[1:]) == 0, line
for code in python:
    exec(compile(code, "README.md", "exec"), {})
print("all run:", len(python), len(bash))
"""


@pytest.mark.parametrize("without_package", [False, True])
def test_the_snippets_of_a_published_card_run_in_a_clean_process(hub, run_clean, media, tmp_path, without_package):
    folder, environment = tmp_path / "model", hub.environment(tmp_path)
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    code = "import sys; from viml_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    run_clean(code, "publish", folder, ID, "--with-code", env=environment)
    (tmp_path / "my-music").mkdir()
    for name, path in zip(("clip.mp4", "my-music/a.mp3", "my-music/b.mp3"), media, strict=True):
        shutil.copy(path, tmp_path / name)
    card = hub.repos[ID].files["README.md"].decode()
    python = [snippet for snippet in snippets_of(card) if ("trust_remote_code" in snippet) is without_package]
    bash = [] if without_package else "".join(snippets_of(card, "bash")).splitlines()
    (tmp_path / "tests_snippets.py").write_text(f"python = {python!r}\nbash = {bash!r}\n")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [environment.get("PYTHONPATH")])])
    printed = run_clean(RUN_SNIPPETS, tmp_path, env=environment, without_package=without_package)
    assert printed.splitlines()[-1] == ("all run: 2 0" if without_package else "all run: 4 2")


def test_private_is_not_promised_of_a_repo_that_is_public(connected_hub, folder):
    publish_as(folder)
    with pytest.raises(ViMLError, match="it is there and public"):
        publish_as(folder, private=True)
    assert len(connected_hub.repos[ID].commits) == 2


def test_pushing_asks_for_the_licences_too(connected_hub, non_commercial):
    model = ViMLForMusicRetrieval.from_pretrained(non_commercial)
    with pytest.raises(ViMLError, match="accept_licences=True"):
        model.push_to_hub(ID)
    assert connected_hub.repos == {}
    model.push_to_hub(ID, accept_licences=True)
    assert "model.safetensors" in connected_hub.repos[ID].files


def test_no_path_of_an_encoder_is_published(connected_hub, tmp_path):
    secret = tmp_path / "secret-place"
    DeepSimModel(DeepSimConfig()).save_pretrained(secret / "my-deepsim")
    DeepSimFeatureExtractor().save_pretrained(secret / "my-deepsim")
    names = {"audio": f"deepsim:{secret / 'my-deepsim'}"}
    model, processor = ViMLForMusicRetrieval.from_encoders(**names, **SMALL), ViMLProcessor.from_encoders(**names)
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


def test_a_lost_answer_is_not_called_a_failure(connected_hub, folder):
    """The commit was made, and only its answer broke off."""
    publish_as(folder)
    connected_hub.fail("POST", "/commit/", CUT)
    (folder / "evaluation.json").unlink()
    with pytest.raises(ViMLError, match="the answer was lost, but there is a new commit") as error:
        publish_as(folder)
    assert "nothing was published" not in str(error.value)
    assert len(connected_hub.repos[ID].commits) == 3


@pytest.mark.parametrize("how", ["a lost answer", "an interrupt"])
def test_a_repo_of_which_it_is_not_known_that_it_was_made_is_removed(connected_hub, folder, monkeypatch, how):
    if how == "a lost answer":
        connected_hub.fail("POST", "/api/repos/create", CUT)
        expected = ViMLError
    else:
        create = HfApi.create_repo
        expected = KeyboardInterrupt

        def interrupted(self, *args, **kwargs):
            create(self, *args, **kwargs)
            raise KeyboardInterrupt

        monkeypatch.setattr(HfApi, "create_repo", interrupted)
    with pytest.raises(expected):
        publish_as(folder)
    assert connected_hub.repos == {}


def test_no_error_tells_the_token(connected_hub, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(f"refused: Bearer {TOKEN}")

    monkeypatch.setattr(HfApi, "create_commit", fail)
    with pytest.raises(ViMLError, match="refused: Bearer …"):
        publish_as(folder)


def test_what_is_renewed_and_what_stays(connected_hub, folder, tmp_path):
    """Shards, results and a processor of an earlier model go; the owner's files stay."""
    ViMLForMusicRetrieval.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    publish_as(folder, with_code=True)
    assert len([name for name in connected_hub.repos[ID].files if name.startswith("model-")]) > 2
    upload_file(path_or_fileobj=b"a picture", path_in_repo="model-overview.png", repo_id=ID)
    torch.manual_seed(1)
    ViMLModel(ViMLConfig(**SMALL)).save_pretrained(tmp_path / "heads")
    publish_as(tmp_path / "heads")
    files = set(connected_hub.repos[ID].files) - {".gitattributes"}
    assert files == {"README.md", "config.json", "model.safetensors", "model-overview.png"}


def test_pushing_another_model_takes_the_results_of_the_first_away(connected_hub, folder):
    publish_as(folder)
    assert "51.23" in connected_hub.repos[ID].files["README.md"].decode()
    torch.manual_seed(1)
    ViMLForMusicRetrieval.from_encoders(**SMALL).push_to_hub(ID)
    files = connected_hub.repos[ID].files
    assert not [name for name in files if name in ("evaluation.json", "training.json") or name.startswith(".eval")]
    assert "51.23" not in files["README.md"].decode()
    assert "processor_config.json" in files


def test_publishing_leaves_a_card_that_somebody_wrote_on_the_hub(connected_hub, folder):
    publish_as(folder)
    upload_file(path_or_fileobj=b"My own words.", path_in_repo="README.md", repo_id=ID)
    publish_as(folder, with_code=True)
    assert connected_hub.repos[ID].files["README.md"] == b"My own words."
    (folder / "README.md").write_text("Other words of mine.")
    publish_as(folder)
    assert connected_hub.repos[ID].files["README.md"] == b"Other words of mine."


def test_a_card_of_transformers_gives_way(connected_hub):
    model = ViMLModel(ViMLConfig(**SMALL))
    PushToHubMixin.push_to_hub(model, ID)
    assert b"More Information Needed" in connected_hub.repos[ID].files["README.md"]
    model.push_to_hub(ID)
    assert b"More Information Needed" not in connected_hub.repos[ID].files["README.md"]


def test_code_that_was_saved_is_not_pointed_to_where_it_is_not_published(connected_hub, folder):
    save_with_code(ViMLForMusicRetrieval.from_pretrained(folder), folder, ViMLProcessor.from_pretrained(folder))
    publish_as(folder)
    files = connected_hub.repos[ID].files
    assert not [name for name in files if name.startswith("code/")]
    assert not [name for name, content in files.items() if name.endswith(".json") and b"code/" in content]


def test_a_branch_is_made_for_a_push(connected_hub):
    model = ViMLModel(ViMLConfig(**SMALL))
    model.push_to_hub(ID, revision="v2")
    assert "model.safetensors" in connected_hub.repos[ID].at("v2").files
    assert "model.safetensors" not in connected_hub.repos[ID].files


def test_saving_can_push(connected_hub, tmp_path):
    torch.manual_seed(0)
    model = ViMLForMusicRetrieval.from_encoders(**SMALL)
    model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id=ID)
    ViMLProcessor.from_encoders().save_pretrained(tmp_path / "model", push_to_hub=True, repo_id=ID)
    files = connected_hub.repos[ID].files
    assert files["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()
    assert "processor_config.json" in files
    assert "More Information Needed" not in files["README.md"].decode()


def test_our_own_commands_run_no_code_that_a_repo_names(connected_hub, viml, folder, media):
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"] |= {"auto_map": {"AutoImageProcessor": "evil.Evil"}, "image_processor_type": "Evil"}
    publish_as(folder)
    evil = b"raise SystemExit('code of the repo was run')"
    changes = {"processor_config.json": json.dumps(settings).encode(), "evil.py": evil}
    create_commit(ID, [CommitOperationAdd(*one) for one in changes.items()], commit_message="Tampered with")
    status, _, err = viml("index", media[1], "-o", folder / "index", "--model", ID, "--quiet")
    assert status == 2
    assert "code of the repo" not in "".join(err)


def test_offline_is_said(connected_hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ViMLError, match="HF_HUB_OFFLINE is set"):
        publish_as(folder)


def test_heads_are_not_pushed_into_a_whole_model(connected_hub, folder):
    publish_as(folder)
    before = dict(connected_hub.repos[ID].files)
    heads = ViMLModel.from_pretrained(ID)
    with pytest.raises(ViMLError, match="it holds a viml_music_retrieval, and to push a viml would leave half of each"):
        heads.push_to_hub(ID)
    assert connected_hub.repos[ID].files == before
    heads.push_to_hub("tester/heads")
    assert "model.safetensors" in connected_hub.repos["tester/heads"].files


def test_words_added_to_a_card_are_kept(connected_hub, folder, caplog):
    publish_as(folder)
    changed = connected_hub.repos[ID].files["README.md"] + b"\n## My words\n"
    upload_file(path_or_fileobj=changed, path_in_repo="README.md", repo_id=ID)
    publish_as(folder)
    assert connected_hub.repos[ID].files["README.md"] == changed
    assert "look whether it is still true" in caplog.text


def test_the_card_of_a_plain_trainer_gives_way(connected_hub, folder, tmp_path):
    model = ViMLForMusicRetrieval.from_pretrained(folder)
    arguments = TrainingArguments(str(tmp_path / "plain"), push_to_hub=True, hub_model_id=ID, report_to="none")
    Trainer(model, arguments).push_to_hub()
    assert "training_args.bin" in connected_hub.repos[ID].files
    publish_as(folder)
    files = connected_hub.repos[ID].files
    assert "51.23" in files["README.md"].decode()
    assert "training_args.bin" not in files


def test_a_repo_that_is_not_there_is_named(connected_hub, viml, media, tmp_path):
    status, _, err = viml("index", media[1], "-o", tmp_path / "index", "--model", "tester/nothing", "--quiet")
    assert status == 2
    assert "tester/nothing: no such repo on the Hub, or a private one" in err[-1]

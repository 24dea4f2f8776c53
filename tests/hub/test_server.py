"""The Hub of the tests answers as huggingface.co does where publishing depends on it."""

import os
import sys
from pathlib import Path

import httpx2
import pytest
import torch
import transformers
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    ModelCard,
    ModelCardData,
    constants,
    create_branch,
    create_commit,
    create_repo,
    delete_repo,
    file_exists,
    hf_api,
    hf_hub_download,
    list_repo_files,
    model_info,
    repo_exists,
    snapshot_download,
    upload_file,
    whoami,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModel

from tests.hub.server import CUT, DROP, READ_TOKEN, TOKEN, concerns_the_hub
from tests.modeling.tiny import HEADS
from viml_hf import ViMLConfig, ViMLModel

ID = "tester/model"


def state_of_the_libraries():
    environment = {name: os.environ[name] for name in os.environ if concerns_the_hub(name)}
    return dict(vars(constants)), dict(vars(hf_api.api)), transformers.utils.hub._hf_api, environment, sys.path[:]


@pytest.fixture(scope="module", autouse=True)
def _nothing_of_the_hub_stays():
    before = state_of_the_libraries()
    yield
    assert state_of_the_libraries() == before


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViMLModel(ViMLConfig(**HEADS))


def same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def put(text="hello", path="notes.txt", **options):
    return upload_file(path_or_fileobj=text.encode(), path_in_repo=path, repo_id=ID, **options)


def test_weights_go_to_storage_and_no_token_goes_with_them(connected_hub, model, monkeypatch):
    model.push_to_hub(ID)
    commit = connected_hub.repos[ID].at("main")
    assert commit.large == {"model.safetensors"}
    assert list(connected_hub.objects.values()) == [commit.files["model.safetensors"]]
    assert same_weights(AutoModel.from_pretrained(ID), model)
    stored = [request for request in connected_hub.requests if request.path.startswith("/storage/")]
    assert [(request.method, request.token) for request in stored] == [("PUT", False), ("GET", False)]
    storage, headers = f"{connected_hub.storage_url}/storage/", {"Authorization": f"Bearer {TOKEN}"}
    assert httpx2.put(storage + "0" * 64, content=b"other").status_code == 400
    assert httpx2.get(storage + next(iter(connected_hub.objects)), headers=headers).status_code == 400
    connected_hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(AutoModel.from_pretrained(ID), model)
    assert not connected_hub.requests


def test_every_commit_has_its_own_sha_and_branches_stay_apart(connected_hub):
    create_repo(ID)
    first = put("one").oid
    create_branch(ID, branch="try")
    second = put("two", revision="try").oid
    assert put("two", revision="try").oid == second  # no change, no commit
    assert len({commit.sha for commit in connected_hub.repos[ID].commits}) == 3
    names = ("main", "try", first, second)
    read = {name: Path(hf_hub_download(ID, "notes.txt", revision=name)).read_text() for name in names}
    assert read == {"main": "one", "try": "two", first: "one", second: "two"}
    with pytest.raises(HfHubHTTPError, match="409"):
        create_branch(ID, branch="try")


@pytest.mark.parametrize(("step", "status"), [("/objects/batch", DROP), ("/verify", 500), ("/commit/", 403)])
def test_a_fault_in_any_step_leaves_no_file(connected_hub, model, step, status):
    connected_hub.fail("POST", step, status)
    with pytest.raises(Exception, match=r"500|403|disconnected|Error while uploading"):
        model.push_to_hub(ID)
    assert list(connected_hub.repos[ID].files) == [".gitattributes"]
    connected_hub.mend()
    model.push_to_hub(ID)
    assert "model.safetensors" in connected_hub.repos[ID].files


def test_what_fails_once_is_tried_again_and_a_cut_download_goes_on(connected_hub, model):
    for method, step in [("POST", "/preupload/"), ("POST", "/objects/batch"), ("PUT", "/storage/")]:
        connected_hub.fail(method, step, times=1)
    model.push_to_hub(ID)
    connected_hub.fail("GET", "/storage/", CUT, times=1)
    assert same_weights(AutoModel.from_pretrained(ID), model)
    methods = [request.method for request in connected_hub.requests if "/storage/" in request.path]
    assert methods == ["PUT", "PUT", "GET", "GET"]


def test_a_commit_is_all_or_nothing(connected_hub):
    create_repo(ID)
    operations = [CommitOperationAdd("a.txt", b"a"), CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError):
        create_commit(ID, operations, commit_message="both")
    assert len(connected_hub.repos[ID].commits) == 1


@pytest.mark.parametrize(("token", "status"), [("hf_wrong", 401), (READ_TOKEN, 403), (False, 401)])
def test_only_the_right_token_writes(connected_hub, token, status):
    create_repo(ID)
    for step in (
        lambda: create_repo("tester/other", token=token),
        lambda: put(token=token),
        lambda: create_branch(ID, branch="b", token=token),
        lambda: delete_repo(ID, token=token),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            step()
        assert caught.value.response.status_code == status
    assert list(connected_hub.repos) == [ID]
    assert len(connected_hub.repos[ID].commits) == 1


def test_the_token_of_the_environment_is_read_when_used(connected_hub, monkeypatch):
    assert whoami()["name"] == "tester"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        whoami()
    with pytest.raises(HfHubHTTPError, match="403"):
        create_repo("someone/else", token=TOKEN)


def test_a_private_repo_needs_the_token(connected_hub, model):
    model.push_to_hub(ID, private=True)
    assert connected_hub.repos[ID].private
    assert model_info(ID, token=READ_TOKEN).private
    for read in (model_info, list_repo_files, snapshot_download):
        with pytest.raises(RepositoryNotFoundError):
            read(ID, token=False)


def test_cards_lists_downloads_and_deletion(connected_hub, model, tmp_path):
    model.push_to_hub(ID)
    card = ModelCard("---\nlicense: apache-2.0\npipeline_tag: video-to-music\n---\n# A model\n")
    card.push_to_hub(ID)
    put("deep", "a/b/c.txt")
    assert ModelCard.load(ID).data == ModelCardData(license="apache-2.0", pipeline_tag="video-to-music")
    info = model_info(ID)
    assert (info.sha, info.pipeline_tag) == (connected_hub.repos[ID].at("main").sha, "video-to-music")
    files = connected_hub.repos[ID].files
    assert set(list_repo_files(ID)) == set(files) == {sibling.rfilename for sibling in info.siblings}
    folder = Path(snapshot_download(ID, local_dir=tmp_path / "copy"))
    assert {name: (folder / name).read_bytes() for name in files} == files
    delete_repo(ID)
    assert not repo_exists(ID)


def test_what_is_missing_is_named(connected_hub):
    create_repo(ID)
    with pytest.raises(HfHubHTTPError, match="409"):
        create_repo(ID)
    assert not file_exists(ID, "none.txt")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(ID, "none.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(ID, ".gitattributes", revision="none")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("tester/none", "none.txt")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        put("---\na: [\n---\n", "README.md")


def test_a_clean_process_has_the_hub_s_environment_and_may_not_fail_or_print_a_token(hub, run_clean, tmp_path):
    env = hub.environment(tmp_path)
    code = "from huggingface_hub import constants, get_token; print(constants.ENDPOINT, get_token()[:3])"
    assert run_clean(code, env=env).split() == [hub.url, "hf_"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_clean("1 / 0", env=env)
    with pytest.raises(AssertionError):
        run_clean("import os; print(os.environ['HF_TOKEN'])", env=env)

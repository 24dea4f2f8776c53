"""The Hub of the tests answers as huggingface.co does where publishing depends on it."""

import os
import sys

import httpx2
import pytest
import torch
import transformers
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    constants,
    create_branch,
    create_commit,
    create_repo,
    delete_repo,
    hf_api,
    hf_hub_download,
    list_repo_files,
    model_info,
    snapshot_download,
    upload_file,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModel

from tests.hub.server import CUT, READ_TOKEN, TOKEN, concerns_the_hub
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


def test_what_fails_once_is_tried_again_and_a_cut_download_goes_on(connected_hub, model):
    for method, step in [("POST", "/preupload/"), ("POST", "/objects/batch"), ("PUT", "/storage/")]:
        connected_hub.fail(method, step, times=1)
    model.push_to_hub(ID)
    connected_hub.fail("GET", "/storage/", CUT, times=1)
    assert same_weights(AutoModel.from_pretrained(ID), model)
    methods = [request.method for request in connected_hub.requests if "/storage/" in request.path]
    assert methods == ["PUT", "PUT", "GET", "GET"]


def test_a_commit_is_all_or_nothing_and_what_is_missing_is_named(connected_hub):
    create_repo(ID)
    operations = [CommitOperationAdd("a.txt", b"a"), CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError):
        create_commit(ID, operations, commit_message="both")
    assert len(connected_hub.repos[ID].commits) == 1
    with pytest.raises(HfHubHTTPError, match="409"):
        create_repo(ID)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(ID, ".gitattributes", revision="none")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        put("---\na: [\n---\n", "README.md")


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


def test_a_private_repo_needs_the_token(connected_hub, model):
    model.push_to_hub(ID, private=True)
    assert connected_hub.repos[ID].private
    assert model_info(ID, token=READ_TOKEN).private
    for read in (model_info, list_repo_files, snapshot_download):
        with pytest.raises(RepositoryNotFoundError):
            read(ID, token=False)


def test_a_clean_process_has_the_hub_s_environment_and_may_not_fail_or_print_a_token(hub, run_clean, tmp_path):
    env = hub.environment(tmp_path)
    code = "from huggingface_hub import constants, get_token; print(constants.ENDPOINT, get_token()[:3])"
    assert run_clean(code, env=env).split() == [hub.url, "hf_"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_clean("1 / 0", env=env)
    with pytest.raises(AssertionError):
        run_clean("import os; print(os.environ['HF_TOKEN'])", env=env)

"""What was published or saved with its code loads in a process that knows nothing else, and computes the same bits.

Each process takes 10 s or more, so one test looks at all that one process can tell; the others are slow.
"""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from tests.hub.cards import snippets_of
from tests.hub.server import TOKEN
from tests.modeling.tiny import HEADS, tiny_model, tiny_processor
from viml_hf import (
    DeepSimConfig,
    DeepSimFeatureExtractor,
    DeepSimModel,
    ViMLConfig,
    ViMLForMusicRetrieval,
    ViMLModel,
    plan_publication,
    publish,
    save_with_code,
)

ID = "tester/model"
# Begins where `viml_hf` cannot be imported, if the process is one `without_package`.
LOAD = """
import json, sys
import torch
from transformers import AutoModel, AutoProcessor, pipeline

id, embeds, trusts, video, *music = sys.argv[1:]
expected, found = torch.load(embeds), []
for trust in trusts.split(","):
    if trust != "True" and "viml_hf" not in sys.modules:
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "Missing"]
        import viml_hf
    options = {"trust_remote_code": {"True": True, "False": False, "None": None}[trust]}
    model = AutoModel.from_pretrained(id, **options)
    processor = AutoProcessor.from_pretrained(id, **options)
    with torch.inference_mode():
        output = model(**processor(videos=[video], text=["slow piano"], audio=music))
    recommend = pipeline("video-to-music", model=id, music=music, device="cpu", **options)
    same = [output[name].equal(expected[name]) for name in ("query_embeds", "audio_embeds")]
    modules = [type(part).__module__.split(".")[0] for part in (model, processor, recommend)]
    found.append([same, modules, recommend({"video": video, "text": "slow piano"})])
print(json.dumps(found))
"""
OURS, THEIRS = ["viml_hf"] * 3, ["transformers_modules"] * 3


@pytest.fixture
def expected(folder, media, tmp_path):
    """The file of the embeddings that a process should compute, and the ranking that it should give."""
    video, *music = media
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with torch.inference_mode():
        output = model(**processor(videos=[video], text=["slow piano"], audio=music))
    torch.save({name: output[name] for name in ("query_embeds", "audio_embeds")}, tmp_path / "embeds.pt")
    recommend = pipeline("video-to-music", model=str(folder), music=music, device="cpu")
    return tmp_path / "embeds.pt", recommend({"video": video, "text": "slow piano"})


def test_a_published_model_loads_by_its_id_without_the_package_and_with_it(
    connected_hub, run_clean, folder, media, expected, tmp_path
):
    publish(plan_publication(folder, ID, with_code=True))
    embeds, ranking = expected
    environment = connected_hub.environment(tmp_path / "clean")
    printed = run_clean(LOAD, ID, embeds, "True,False", *media, env=environment, without_package=True)
    same = [True, True]
    assert json.loads(printed) == [[same, THEIRS, ranking], [same, OURS, ranking]]
    assert [found["rank"] for found in ranking] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("with_code", [False, True])
def test_published_loaded_and_loaded_again_from_the_cache(hub, run_clean, folder, media, expected, tmp_path, with_code):
    code = "import sys; from viml_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = hub.environment(tmp_path)
    run_clean(code, "publish", folder, ID, *["--with-code"] * with_code, env=environment)
    embeds, ranking = expected
    variants = [("None", OURS), ("True", OURS)] if with_code else [("None", OURS)]
    for offline in (False, True):  # the second time from the cache
        asked = len(hub.requests)
        trusts = ",".join(trust for trust, _ in variants)
        environment = hub.environment(tmp_path, offline=offline)
        printed = run_clean(LOAD, ID, embeds, trusts, *media, env=environment)
        assert json.loads(printed) == [[[True, True], modules, ranking] for _, modules in variants]
        if with_code:
            printed = run_clean(LOAD, ID, embeds, "True", *media, env=environment, without_package=True)
            assert json.loads(printed) == [[[True, True], THEIRS, ranking]]
        assert (len(hub.requests) > asked) is not offline
    assert any(request.token for request in hub.requests)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in [*written, *hub.repos[ID].files.values()])


FEATURES = """
import sys
import torch
from transformers import AutoModel

folder, inputs, method, embeds = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert "transformers_modules" in type(model).__module__
print(torch.equal(getattr(model, method)(**torch.load(inputs)).pooler_output, torch.load(embeds)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["heads", "deepsim"])
def test_other_models_with_their_code_give_the_same_features(run_clean, tmp_path, kind):
    torch.manual_seed(0)
    if kind == "heads":
        model, method = ViMLModel(ViMLConfig(**HEADS, video_dim=7)).eval(), "get_query_features"
        inputs = {"video_features": torch.randn(2, 3, 7)}
    else:
        audio, method = DeepSimModel(DeepSimConfig()), "get_audio_features"
        model = ViMLForMusicRetrieval.from_encoders(audio=audio, **HEADS).eval()
        features = DeepSimFeatureExtractor()(np.zeros(66150, np.float32), sampling_rate=22050, return_tensors="pt")
        inputs = {"input_features": features["input_features"][None, None], "audio_window_mask": torch.ones(1, 1, 1)}
    save_with_code(model, tmp_path / "model")
    with torch.no_grad():
        torch.save(getattr(model, method)(**inputs).pooler_output, tmp_path / "embeds.pt")
    torch.save(inputs, tmp_path / "inputs.pt")
    words = tmp_path / "model", tmp_path / "inputs.pt", method, tmp_path / "embeds.pt"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    assert run_clean(FEATURES, *words, env=environment, without_package=True).strip() == "True"


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


@pytest.mark.slow
@pytest.mark.parametrize("without_package", [False, True])
def test_the_snippets_of_a_published_card_run(connected_hub, run_clean, media, tmp_path, without_package):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    publish(plan_publication(tmp_path / "model", ID, with_code=True))
    (tmp_path / "my-music").mkdir()
    for name, path in zip(("clip.mp4", "my-music/a.mp3", "my-music/b.mp3"), media, strict=True):
        shutil.copy(path, tmp_path / name)
    card = connected_hub.repos[ID].files["README.md"].decode()
    python = [snippet for snippet in snippets_of(card) if ("trust_remote_code" in snippet) is without_package]
    bash = [] if without_package else "".join(snippets_of(card, "bash")).splitlines()
    (tmp_path / "tests_snippets.py").write_text(f"python = {python!r}\nbash = {bash!r}\n")
    environment = connected_hub.environment(tmp_path / "clean")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [environment.get("PYTHONPATH")])])
    printed = run_clean(RUN_SNIPPETS, tmp_path, env=environment, without_package=without_package)
    assert printed.splitlines()[-1] == ("all run: 2 0" if without_package else "all run: 4 2")

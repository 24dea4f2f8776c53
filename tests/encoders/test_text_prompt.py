"""The prompt of a text encoder: in its name, and from there in stores, models and all that reads texts."""

import numpy as np
import pytest
import torch

from tests.encoders import checkpoints
from tests.encoders.checkpoints import from_names
from tests.modeling.tiny import HEADS
from viml_hf import MediaEncoder, MediaItem, Store, ViMLForMusicRetrieval, ViMLProcessor, extract
from viml_hf.retrieval.model_loading import load_encoder_and_model

PROMPT = "calm "


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    checkpoints.make("bert", folder)
    return str(folder)


def test_a_prompt_stands_before_every_text_but_the_empty_one(bert):
    plain, prompted = from_names(text=bert), from_names(text=f"{bert}?prompt={PROMPT}")
    assert np.array_equal(prompted.encode_text("slow piano"), plain.encode_text("calm slow piano"))
    assert not np.array_equal(prompted.encode_text("slow piano"), plain.encode_text("slow piano"))
    assert np.array_equal(prompted.null_text(), plain.null_text())
    assert np.array_equal(prompted.encode_text(""), plain.encode_text(""))
    inputs = prompted.processor(text=["slow", None, ""])
    assert inputs["text_attention_mask"].any(1).tolist() == [True, False, False]
    assert inputs["input_ids"][1].tolist() == inputs["input_ids"][2].tolist()


def test_fingerprints_tell_prompts_apart(bert):
    names = (bert, f"{bert}?prompt={PROMPT}", f"{bert}?prompt=fast ")
    assert len({from_names(text=name).fingerprints()["text"] for name in names}) == 3


def test_a_prompt_is_kept_in_model_and_processor(bert, tmp_path):
    name = f"{bert}?prompt={PROMPT}"
    model = ViMLForMusicRetrieval.from_encoders(text=name, **HEADS)
    processor = ViMLProcessor.from_encoders(text=name)
    assert model.config.encoder_sources["text"] == {"name": bert.rpartition("/")[2], "prompt": PROMPT}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_encoder_and_model(tmp_path, threads=1)
    assert again.processor.text_prompt == PROMPT
    assert again.model.config.encoder_sources["text"]["prompt"] == PROMPT
    assert np.array_equal(again.encode_text("slow piano"), from_names(text=name).encode_text("slow piano"))
    query, expected = (
        again.processor(text=["slow piano"]),
        ViMLProcessor.from_encoders(text=bert)(text="calm slow piano"),
    )
    assert torch.equal(query["input_ids"], expected["input_ids"])


def test_a_prompt_is_kept_in_a_store(bert, tmp_path):
    item = MediaItem("one", texts=("slow piano",), audio=None)
    name = f"{bert}?prompt={PROMPT}"
    store = extract([item], tmp_path, text=name, workers=1, progress=False)
    assert store.spec.encoders["text"] == name
    settings = {"text": Store(tmp_path).spec.encoders["text"], "video": "descriptors", "audio": "descriptors"}
    again = MediaEncoder.from_names(**settings, dtypes="float32")
    assert again.fingerprints()["text"] == store.spec.fingerprints["text"]


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_only_texts_have_a_prompt(modality):
    with pytest.raises(ValueError, match=rf"only texts have a prompt: leave \?prompt=x out of the {modality} encoder"):
        from_names(**{modality: "descriptors?prompt=x"})

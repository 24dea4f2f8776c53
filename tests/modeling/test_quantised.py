"""Checkpoints loaded in 8 and 4 bits by bitsandbytes and torchao."""

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import (
    AutoModel,
    BitsAndBytesConfig,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    TorchAoConfig,
)

from viml_hf import ViMLConfig, ViMLForMusicRetrieval, ViMLModel

LAYERS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = CLIPVisionConfig(**LAYERS, image_size=16, patch_size=8, projection_dim=64)
TEXT = CLIPTextConfig(**LAYERS, vocab_size=400, max_position_embeddings=64, projection_dim=64, eos_token_id=1)


def make(whole):
    """Heads of the default size, alone or over tiny CLIP towers, and inputs of four items."""
    torch.manual_seed(0)
    if not whole:
        features = {"video": (4, 3, 512), "text": (4, 1, 512), "audio": (4, 3, 256)}
        return ViMLModel(ViMLConfig()).eval(), {f"{name}_features": torch.randn(s) for name, s in features.items()}
    model = ViMLForMusicRetrieval.from_encoders(
        CLIPVisionModelWithProjection(VISION), CLIPTextModelWithProjection(TEXT), tokenizer=ByT5Tokenizer()
    )
    return model, {
        "pixel_values": torch.randn(4, 2, 2, 3, 16, 16),
        "input_ids": torch.randint(5, 300, (4, 6)),
        "input_features": torch.rand(4, 2, 431, 96),
    }


def quantised(library, bits):
    pytest.importorskip(library)
    if library == "bitsandbytes":
        return BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


@pytest.mark.parametrize("whole", [False, True], ids=["heads", "whole"])
@pytest.mark.parametrize(("library", "bits"), [("bitsandbytes", 4), ("bitsandbytes", 8), ("torchao", 8)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_embeddings_stay_the_same(library, bits, whole, dtype, tmp_path):
    model, inputs = make(whole)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**inputs)
        loaded = AutoModel.from_pretrained(tmp_path, quantization_config=quantised(library, bits), dtype=dtype)
        output = loaded(**inputs)
    fc1 = (loaded.viml if whole else loaded).audio_tower.layers[0].fc1.weight
    assert type(fc1.data) is not torch.Tensor or not fc1.is_floating_point()
    for name in ("query_embeds", "audio_embeds"):
        assert cosine_similarity(output[name], expected[name]).min() > 0.97
        assert len(output[name].unique(dim=0)) == 4


@pytest.mark.parametrize("bits", [4, 8])
def test_a_step_of_qlora(bits, tmp_path):
    peft = pytest.importorskip("peft")
    model, inputs = make(whole=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=quantised("bitsandbytes", bits))
    loaded = peft.prepare_model_for_kbit_training(loaded)
    adapted = peft.get_peft_model(loaded, peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"])).train()
    lora = {name: value for name, value in adapted.named_parameters() if value.requires_grad}
    assert any(".video_encoder." in name for name in lora)
    before = {name: value.detach().clone() for name, value in lora.items()}
    optimizer = torch.optim.AdamW(lora.values(), lr=1e-2)
    for _ in range(2):  # one of the two matrices begins with zeros: the other one's first gradient is zero
        adapted(**inputs, return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not [name for name, value in lora.items() if torch.equal(value, before[name])]

"""What transformers' own common tests need to know of ViMLModel: see `tests/modeling/test_transformers_common.py`."""

import torch

CONFIG_KWARGS = {
    "video_dim": 12,
    "audio_dim": 14,
    "text_dim": 10,
    "hidden_size": 32,
    "projection_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_fusion_layers": 2,
    "max_position_embeddings": 16,
}
# The output's hidden states are those of the fusion: one vector, `num_fusion_layers` layers.
SEQ_LENGTH = 1
NUM_HIDDEN_LAYERS = 2
COMMON_PROPERTIES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "projection_dim"]


def make_inputs(config, batch_size):
    generator = torch.Generator().manual_seed(0)
    inputs = {"return_loss": True}
    for modality, width, length in (("video", 12, 7), ("text", 10, 1), ("audio", 14, 9)):
        mask = torch.ones(batch_size, length, dtype=torch.long)
        mask[1::2, -2:] = 0  # one row in two is padded; for the text, whose length is 1, it has none
        inputs[f"{modality}_features"] = torch.randn(batch_size, length, width, generator=generator)
        inputs[f"{modality}_attention_mask"] = mask
    return inputs

"""DeepSim against plain loops over TensorFlow's "same" rule, and what every model of transformers must do."""

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import AutoConfig, AutoModel

from viml_hf.modeling.configuration_deepsim import DeepSimConfig
from viml_hf.modeling.loss_deepsim import condition_relations, deepsim_loss
from viml_hf.modeling.modeling_deepsim import (
    DeepSimConv,
    DeepSimForMusicTagging,
    DeepSimMix,
    DeepSimModel,
    max_pool_same,
)

TINY = {"hidden_size": 16, "num_mel_bins": 13, "stem_channels": 3, "num_blocks": 2}


@pytest.fixture(autouse=True)
def registered():
    AutoConfig.register("deepsim", DeepSimConfig, exist_ok=True)
    AutoModel.register(DeepSimConfig, DeepSimModel, exist_ok=True)


def tiny_model(**changes):
    """A small model whose normalisations do something, as after training."""
    torch.manual_seed(0)
    model = DeepSimModel(DeepSimConfig(**{**TINY, **changes})).eval()
    for name, tensor in model.state_dict().items():
        if "normalization" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            tensor.uniform_(-0.5, 0.5)
    return model


def some_features(rows=3, time=21, bands=13):
    return torch.randn(rows, time, bands, generator=torch.Generator().manual_seed(1))


def same_windows(maps, kernel, stride):
    """For every output of TensorFlow's "same" rule: its place, the pixels under it, and their part of the kernel."""
    outputs = [math.ceil(size / stride) for size in maps.shape[1:]]
    before = [
        max((out - 1) * stride + kernel - size, 0) // 2 for out, size in zip(outputs, maps.shape[1:], strict=True)
    ]
    for i, j in np.ndindex(*outputs):
        top, left = i * stride - before[0], j * stride - before[1]
        rows = [r for r in range(top, top + kernel) if 0 <= r < maps.shape[1]]
        columns = [c for c in range(left, left + kernel) if 0 <= c < maps.shape[2]]
        under = (slice(rows[0] - top, rows[-1] - top + 1), slice(columns[0] - left, columns[-1] - left + 1))
        yield (i, j), maps[:, rows][:, :, columns], under


def naive(maps, kernel, stride, reduce, channels):
    out = np.zeros((channels, *(math.ceil(size / stride) for size in maps.shape[1:])))
    for place, pixels, under in same_windows(maps, kernel, stride):
        out[:, *place] = reduce(pixels, under)
    return out


def naive_max_pool(maps, kernel, stride):
    return naive(maps, kernel, stride, lambda pixels, under: pixels.max((1, 2)), len(maps))


def naive_mean_pool(maps, kernel):
    return naive(maps, kernel, 1, lambda pixels, under: pixels.mean((1, 2)), len(maps))


def naive_conv(maps, convolution, stride=1):
    weight, bias = convolution.weight.detach().double().numpy(), convolution.bias.detach().double().numpy()

    def at(pixels, under):
        return np.einsum("oikl,ikl->o", weight[:, :, *under], pixels) + bias

    return naive(maps, weight.shape[-1], stride, at, len(weight))


def naive_norm(maps, norm):
    scale, shift, mean, variance = (
        tensor.detach().double().numpy()[:, None, None]
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    return (maps - mean) / np.sqrt(variance + 1e-3) * scale + shift


def naive_layer(maps, layer, stride=1):
    return np.maximum(naive_norm(naive_conv(maps, layer.convolution, stride), layer.normalization), 0)


def naive_downsample(maps, module):
    long = naive_layer(naive_layer(maps, module.long[0]), module.long[1])
    branches = [naive_layer(maps, module.short, 2), naive_layer(long, module.long[2], 2), naive_max_pool(maps, 3, 2)]
    return np.concatenate(branches)


def naive_mix(maps, module):
    wide = naive_layer(naive_layer(maps, module.wide[0]), module.wide[1])
    deep = naive_layer(naive_layer(naive_layer(maps, module.deep[0]), module.deep[1]), module.deep[2])
    pooled = naive_layer(naive_mean_pool(maps, 3), module.pooled)
    return np.concatenate([naive_layer(maps, module.point), wide, deep, pooled])


def naive_forward(features, model):
    """`(time, bands)` → the positions of the last map and the embedding."""
    maps = naive_norm(features[None].astype(np.float64), model.input_normalization)
    maps = naive_max_pool(naive_layer(maps, model.stem), 2, 2)
    for downsample, mix in model.blocks:
        maps = naive_mix(naive_downsample(maps, downsample), mix)
    maps = np.maximum(naive_conv(maps, model.projection), 0)
    return maps.reshape(len(maps), -1).T, maps.mean((1, 2))


SIZES = [(1, 1), (2, 3), (4, 4), (5, 5), (6, 9), (8, 7)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_a_convolution_pads_as_tensorflow_does(size, kernel, stride):
    torch.manual_seed(0)
    layer = DeepSimConv(DeepSimConfig(), 2, 3, kernel, stride).eval()
    layer.normalization = nn.Identity()
    maps = torch.randn(1, 2, *size)
    expected = np.maximum(naive_conv(maps[0].double().numpy(), layer.convolution, stride), 0)
    np.testing.assert_allclose(layer(maps)[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1), (3, 3)])
def test_a_max_pool_pads_as_tensorflow_does_and_padding_never_wins(size, kernel, stride):
    maps = torch.rand(1, 2, *size) - 2  # all below zero
    expected = naive_max_pool(maps[0].numpy(), kernel, stride)
    np.testing.assert_array_equal(max_pool_same(maps, kernel, stride)[0].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("size", SIZES)
def test_a_mean_pool_leaves_the_padding_out_of_the_mean(size):
    config = DeepSimConfig(**TINY)
    seen = []
    mix = DeepSimMix(config, 5).eval()
    mix.pooled.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    maps = torch.rand(1, 5, *size) + 1
    mix(maps)
    np.testing.assert_allclose(seen[0][0].numpy(), naive_mean_pool(maps[0].numpy(), 3), atol=1e-5)


@pytest.mark.parametrize("time", [1, 8, 21])
def test_the_whole_model_is_the_published_one_written_as_loops(time):
    model, features = tiny_model(), some_features(2, time)
    output = model(features)
    for row in range(2):
        states, pooled = naive_forward(features[row].numpy(), model)
        assert pooled.max() > 0.1
        np.testing.assert_allclose(output.last_hidden_state[row].detach().numpy(), states, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(output.pooler_output[row].detach().numpy(), pooled, rtol=1e-4, atol=1e-4)


def test_the_published_size_has_the_published_number_of_parameters():
    model = DeepSimModel(DeepSimConfig()).eval()
    assert model.num_parameters() == 2_810_882
    assert [block[0].out_channels for block in model.blocks] == [208, 400, 400, 400, 400, 400]
    output = model(torch.zeros(1, 129, 128))
    assert output.last_hidden_state.shape == (1, 2, 256)
    assert output.pooler_output.shape == (1, 256)
    # The first weights neither blow noise up nor swallow it, six blocks deep.
    spread = model(torch.randn(2, 129, 128, generator=torch.Generator().manual_seed(0))).pooler_output.std()
    assert 0.05 < spread < 20


def test_a_row_does_not_know_the_others():
    model, features = tiny_model(), some_features(4)
    together = model(features).pooler_output
    for row in range(4):
        torch.testing.assert_close(model(features[row : row + 1]).pooler_output[0], together[row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(features[order]).pooler_output, together[order], atol=1e-5, rtol=1e-5)


def test_gradients_reach_all_parameters_and_the_input_in_training():
    model, features = tiny_model().train(), some_features(8, 40).requires_grad_()
    model(features).pooler_output.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    # The bias before a normalisation by the batch changes nothing: its gradient is zero but for rounding.
    still = [
        n for n, weight in model.named_parameters() if not weight.grad.any() and not n.endswith("convolution.bias")
    ]
    assert still == []
    assert features.grad.abs().sum() > 0


def test_running_statistics_take_a_hundredth_of_a_batch_as_kerass_do():
    model = DeepSimModel(DeepSimConfig(**TINY)).train()
    features = some_features() + 5
    model(features)
    assert model.input_normalization.running_mean.item() == pytest.approx(features.mean().item() / 100, rel=1e-4)
    assert all(m.eps == 1e-3 and m.momentum == 0.01 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("loader", [DeepSimModel, AutoModel])
def test_a_saved_model_reloads_bit_for_bit_with_its_running_statistics(loader, tmp_path):
    model, features = tiny_model(), some_features()
    model.save_pretrained(tmp_path)
    again = loader.from_pretrained(tmp_path)
    assert type(again) is DeepSimModel
    assert not again.training
    assert again.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert torch.equal(again(features).pooler_output, model(features).pooler_output)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_it_exports_with_any_batch_and_time():
    model = tiny_model()
    shapes = {"input_features": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", min=20, max=400)}}
    exported = torch.export.export(model, (some_features(2, 30),), dynamic_shapes=shapes)
    for rows, time in ((1, 21), (5, 47)):
        features = some_features(rows, time)
        found = exported.module()(features).pooler_output
        torch.testing.assert_close(found, model(features).pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(21, 13), (2, 13, 21), (2, 1, 21, 13)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"give \(batch, time, 13\)"):
        tiny_model()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "value"), [("hidden_size", 0), ("hidden_size", 40), ("num_blocks", 0), ("num_mel_bins", -1)]
)
def test_impossible_sizes_are_refused(name, value):
    with pytest.raises(StrictDataclassClassValidationError, match=f"{name}={value}: give"):
        DeepSimConfig(**{name: value})


LABELLED = {"id2label": {0: "pop", 1: "rock", 2: "sad"}, "label_categories": ["genre", "genre", "mood"]}
LABELS = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0.0]])


def tiny_tagger(**changes):
    torch.manual_seed(0)
    return DeepSimForMusicTagging(DeepSimConfig(**{**TINY, **LABELLED, **changes})).eval()


def test_the_head_reads_the_embedding_at_length_one():
    model, features = tiny_tagger(), some_features()
    output = model(features)
    pooled = model.deepsim(features).pooler_output
    torch.testing.assert_close(output.embeddings, pooled / pooled.norm(dim=1, keepdim=True))
    torch.testing.assert_close(output.logits, output.embeddings @ model.classifier.weight.T + model.classifier.bias)
    assert output.loss is None
    assert model.classifier.weight.std() > 0.3


def test_the_loss_is_that_of_the_tags_and_the_weighted_one_of_the_embedding():
    model, features = tiny_tagger(triplet_weight=3.0), some_features(rows=4)
    tempo, tracks = torch.tensor([90.0, 92.0, 150.0, 149.0]), torch.tensor([0, 1, 2, 2])
    output = model(features, labels=LABELS, tempo=tempo, track_ids=tracks)
    probability = output.logits.sigmoid()
    tag_loss = -(LABELS * probability.log() + (1 - LABELS) * (1 - probability).log()).mean()
    relations = condition_relations(LABELS, LABELLED["label_categories"], tempo, tracks)
    assert list(relations) == ["genre", "mood", "tempo"]
    embedding_loss = deepsim_loss(output.embeddings, relations, tracks)
    assert embedding_loss > 0
    torch.testing.assert_close(output.loss, tag_loss + 3 * embedding_loss)
    plain = tiny_tagger(label_categories=None)(features, labels=LABELS, tempo=tempo, track_ids=tracks)
    torch.testing.assert_close(plain.loss, tag_loss)


def test_a_taggers_gradients_reach_all_parameters():
    model = tiny_tagger().train()
    model(some_features(rows=4), labels=LABELS, track_ids=torch.arange(4)).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_saved_tagger_reloads_and_its_network_serves_as_the_encoder(tmp_path):
    model, features = tiny_tagger(), some_features()
    model.save_pretrained(tmp_path)
    reloaded = DeepSimForMusicTagging.from_pretrained(tmp_path)
    assert torch.equal(reloaded(features).logits, model(features).logits)
    assert reloaded.config.label_categories == LABELLED["label_categories"]
    assert reloaded.config.id2label == LABELLED["id2label"]
    encoder = DeepSimModel.from_pretrained(tmp_path)
    assert torch.equal(encoder(features).pooler_output, model.deepsim(features).pooler_output)


def test_categories_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="2 for 3 labels"):
        DeepSimConfig(**{**LABELLED, "label_categories": ["genre", "mood"]})
    with pytest.raises(StrictDataclassClassValidationError, match="'tempo': one of genre, mood, instrument"):
        DeepSimConfig(**{**LABELLED, "label_categories": ["genre", "mood", "tempo"]})

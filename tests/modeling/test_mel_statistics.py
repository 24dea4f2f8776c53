import numpy as np
import torch

from viml_hf.modeling.configuration_mel_statistics import MelStatisticsConfig
from viml_hf.modeling.modeling_mel_statistics import MelStatisticsForMusicTagging, mel_statistics


def some_features():
    return torch.randn(3, 20, 5, generator=torch.Generator().manual_seed(0))


def tiny_model():
    torch.manual_seed(0)
    labels = {"id2label": {0: "pop", 1: "sad"}, "label_categories": ["genre", "mood"]}
    return MelStatisticsForMusicTagging(MelStatisticsConfig(num_mel_bins=5, hidden_size=8, **labels)).eval()


def test_the_statistics_are_those_of_each_band():
    features = some_features()
    found = mel_statistics(features).unflatten(1, (6, 5)).numpy()
    for row, column in np.ndindex(3, 5):
        band = features[row, :, column].numpy()
        change = np.diff(band)
        expected = [
            band.mean(),
            band.std(ddof=1),
            np.quantile(band, 0.1),
            np.quantile(band, 0.95),
            np.abs(change).mean(),
            change.max(),
        ]
        np.testing.assert_allclose(found[row, :, column], expected, rtol=1e-5, atol=1e-6)


def test_a_row_does_not_know_the_others():
    model, features = tiny_model(), some_features()
    torch.testing.assert_close(model(features).logits[1:2], model(features[1:2]).logits, rtol=0, atol=1e-5)


def test_it_reloads_with_its_running_statistics(tmp_path):
    model, features = tiny_model().train(), some_features()
    model(features, labels=torch.tensor([[1, 0], [0, 1], [1, 1]])).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    model.eval().save_pretrained(tmp_path)
    reloaded = MelStatisticsForMusicTagging.from_pretrained(tmp_path)
    assert torch.equal(reloaded(features).logits, model(features).logits)
    assert reloaded.config.label_categories == ["genre", "mood"]

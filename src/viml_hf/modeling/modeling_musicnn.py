"""MusiCNN (Pons & Serra, "musicnn: pre-trained convolutional neural networks for music audio tagging", 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .checked_loading import CheckedLoadingMixin
from .configuration_musicnn import MusicnnConfig
from .modeling_deepsim import DeepSimTaggingOutput

MID_LENGTH = 7  # frames that the convolutions over timbre and the middle ones see


class ConvReluNorm(nn.Module):
    """Convolution over time and bands, "same" in time as TensorFlow pads → ReLU → batch normalisation.

    The maximum over the bands that are left follows: `(batch, in, time, bands)` → `(batch, out, time)`.
    """

    def __init__(self, in_channels: int, channels: int, length: int, height: int, eps: float):
        super().__init__()
        self.padding = (0, 0, (length - 1) // 2, length // 2)
        self.conv = nn.Conv2d(in_channels, channels, (length, height))
        self.norm = nn.BatchNorm2d(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.norm(F.relu(self.conv(F.pad(x, self.padding)))).amax(-1)


class MusicnnForMusicTagging(CheckedLoadingMixin, PreTrainedModel):
    """Convolutions over timbre and over rhythm → three in the middle → maximum and mean over time → dense → tags."""

    config: MusicnnConfig
    main_input_name = "input_features"
    input_modalities = "audio"
    accepts_loss_kwargs = False

    def __init__(self, config: MusicnnConfig):
        super().__init__(config)
        eps, mid = config.batch_norm_eps, config.mid_channels
        self.input_norm = nn.BatchNorm2d(1, eps=eps)
        shapes = [(config.timbral_channels, MID_LENGTH, height) for height in config.timbral_heights]
        shapes += [(config.temporal_channels, length, 1) for length in config.temporal_lengths]
        self.front = nn.ModuleList([ConvReluNorm(1, *shape, eps) for shape in shapes])
        width = sum(channels for channels, _, _ in shapes)
        self.middle = nn.ModuleList([ConvReluNorm(i, mid, MID_LENGTH, 1, eps) for i in (width, mid, mid)])
        width += 3 * mid
        self.pooled_norm = nn.BatchNorm1d(2 * width, eps=eps)
        self.dense = nn.Linear(2 * width, config.hidden_size)
        self.dense_norm = nn.BatchNorm1d(config.hidden_size, eps=eps)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or ()))
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_features: Tensor, labels: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | DeepSimTaggingOutput:
        """Tag windows of music, `(batch, time, num_mel_bins)` of [`MusicnnFeatureExtractor`].

        Given `labels` `(batch, num_labels)`, 1 where a tag holds, the loss is the mean binary cross-entropy. The
        embeddings `(batch, hidden_size)` are the layer before the tags.
        """
        x = self.input_norm(input_features[:, None])
        found = [torch.cat([layer(x) for layer in self.front], 1)]
        for index, layer in enumerate(self.middle):
            after = layer(found[-1][..., None])
            found.append(after + found[-1] if index else after)
        x = torch.cat(found, 1)
        pooled = torch.stack([x.amax(-1), x.mean(-1)], -1).flatten(1)  # maximum and mean of one channel side by side
        hidden = self.dense_norm(F.relu(self.dense(self.pooled_norm(pooled))))
        logits = self.classifier(hidden)
        loss = None if labels is None else F.binary_cross_entropy_with_logits(logits.float(), labels.float())
        return DeepSimTaggingOutput(loss=loss, logits=logits, embeddings=hidden)

"""DeepSim: a convolutional network over mel spectrograms whose embeddings measure music similarity.

Lee, Bryan, Salamon, Jin, Nam, "Disentangled Multidimensional Metric Learning for Music Similarity", ICASSP 2020.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .checked_loading import CheckedLoadingMixin
from .configuration_deepsim import DeepSimConfig
from .loss_deepsim import condition_relations, deepsim_loss


def pad_same(maps: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad `(batch, channels, height, width)` as TensorFlow's "same" does, for ceil(size / stride) rows and columns.

    torch pads both sides alike; TensorFlow's odd row or column goes to the end, and how much is missing depends on
    the size: with kernel 3 and stride 2 an even size gets 0 before and 1 after, an odd one 1 and 1.

    Example:
        >>> tuple(pad_same(torch.zeros(1, 1, 8, 9), kernel=3, stride=2).shape)
        (1, 1, 9, 11)
    """
    margins = []
    for size in (maps.shape[-1], maps.shape[-2]):
        outputs = (size - 1) // stride + 1  # rounded up; written as a convolution counts, for torch.export
        total = (outputs - 1) * stride + kernel - size
        margins += [total // 2, total - total // 2]
    return F.pad(maps, margins, value=value)


def max_pool_same(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Max-pool `(batch, channels, height, width)` with "same" padding that never wins."""
    return F.max_pool2d(pad_same(maps, kernel, stride, float("-inf")), kernel, stride)


class DeepSimConv(nn.Module):
    """Convolution with bias and "same" padding → batch normalisation → ReLU."""

    def __init__(self, config: DeepSimConfig, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel, stride)
        self.normalization = nn.BatchNorm2d(out_channels, config.batch_norm_eps, config.batch_norm_momentum)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(batch, in_channels, height, width)` to `(batch, out_channels, …)`, sizes divided by the stride."""
        if self.kernel > 1:
            maps = pad_same(maps, self.kernel, self.stride)
        return F.relu(self.normalization(self.convolution(maps)))


class DeepSimDownsample(nn.Module):
    """Three branches of stride 2 side by side: a 1×1 convolution, two of 3×3 behind a 1×1, and a max-pool."""

    def __init__(self, config: DeepSimConfig, in_channels: int):
        super().__init__()
        width = config.hidden_size
        self.short = DeepSimConv(config, in_channels, width * 3 // 16, kernel=1, stride=2)
        self.long = nn.Sequential(
            DeepSimConv(config, in_channels, width // 4, kernel=1),
            DeepSimConv(config, width // 4, width * 3 // 8, kernel=3),
            DeepSimConv(config, width * 3 // 8, width * 3 // 8, kernel=3, stride=2),
        )
        self.out_channels = width * 9 // 16 + in_channels

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(batch, in_channels, height, width)` to `(batch, out_channels, height / 2, width / 2)`, rounded up."""
        return torch.cat([self.short(maps), self.long(maps), max_pool_same(maps, 3, 2)], dim=1)


class DeepSimMix(nn.Module):
    """Four branches of stride 1 side by side, of 1, 5, 5 and 3 steps' view; together `hidden_size` channels."""

    def __init__(self, config: DeepSimConfig, in_channels: int):
        super().__init__()
        width = config.hidden_size
        self.point = DeepSimConv(config, in_channels, width // 4, kernel=1)
        self.wide = nn.Sequential(
            DeepSimConv(config, in_channels, width * 3 // 16, kernel=1),
            DeepSimConv(config, width * 3 // 16, width // 4, kernel=5),
        )
        self.deep = nn.Sequential(
            DeepSimConv(config, in_channels, width // 4, kernel=1),
            DeepSimConv(config, width // 4, width * 3 // 8, kernel=3),
            DeepSimConv(config, width * 3 // 8, width * 3 // 8, kernel=3),
        )
        self.pooled = DeepSimConv(config, in_channels, width // 8, kernel=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(batch, in_channels, height, width)` to `(batch, hidden_size, height, width)`."""
        # TensorFlow's mean at the border is over the pixels that exist.
        mean = F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)
        return torch.cat([self.point(maps), self.wide(maps), self.deep(maps), self.pooled(mean)], dim=1)


class DeepSimPreTrainedModel(CheckedLoadingMixin, PreTrainedModel):
    """What the models of this file share: config, names, and the initialisation of their weights."""

    config: DeepSimConfig
    base_model_prefix = "deepsim"
    main_input_name = "input_features"
    input_modalities = "audio"
    _input_embed_layer = "stem"
    _no_split_modules = ["DeepSimDownsample", "DeepSimMix"]  # noqa: RUF012 (transformers' own way)
    # There is no attention here: whichever the other parts of a model use is right.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            # Every convolution ends in a ReLU: He's scale keeps the variance. How the published model began is open.
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            # The head: embeddings have length 1 and differ by little, small weights would pass on nothing of it.
            init.normal_(module.weight, std=0.5)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class DeepSimModel(DeepSimPreTrainedModel):
    """The embedding network of DeepSim: about 3 s of music → one vector of 256 numbers.

    Batch normalisation of the input → 5×5 convolution, 64 → max-pool 2×2 → six blocks, each a [`DeepSimDownsample`]
    and a [`DeepSimMix`] → 1×1 convolution, 256 → ReLU → global average. It has 2,810,882 parameters: 2,796,608 in
    the kernels and 4,928 biases of the convolutions, 2 × 4,672 scales and shifts behind all of them except the last,
    which has no batch normalisation, and 2 at the input: one scale and one shift for the whole spectrogram, its only
    channel. Running statistics are not counted.

    Example:
        >>> import torch
        >>> from viml_hf.modeling.configuration_deepsim import DeepSimConfig
        >>> from viml_hf.modeling.modeling_deepsim import DeepSimModel
        >>> model = DeepSimModel(DeepSimConfig()).eval()
        >>> model.num_parameters()
        2810882
        >>> tuple(model(torch.zeros(1, 129, 128)).pooler_output.shape)
        (1, 256)
    """

    def __init__(self, config: DeepSimConfig):
        super().__init__(config)
        self.input_normalization = nn.BatchNorm2d(1, config.batch_norm_eps, config.batch_norm_momentum)
        self.stem = DeepSimConv(config, 1, config.stem_channels, kernel=5)
        blocks: list[nn.Module] = []
        channels = config.stem_channels
        for _ in range(config.num_blocks):
            downsample = DeepSimDownsample(config, channels)
            blocks.append(nn.Sequential(downsample, DeepSimMix(config, downsample.out_channels)))
            channels = config.hidden_size
        self.blocks = nn.Sequential(*blocks)
        self.projection = nn.Conv2d(config.hidden_size, config.hidden_size, kernel_size=1)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_features: Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Embed windows of music.

        Args:
            input_features: `(batch, time, num_mel_bins)` of [`DeepSimFeatureExtractor`], 129 frames a window; any
                other number from 1 works too, and the average is then over a longer or shorter time.
            kwargs: `return_dict`.

        Returns:
            `last_hidden_state` `(batch, positions, hidden_size)`, the last map row by row (time by time), and
            `pooler_output` `(batch, hidden_size)`, its average: the embedding, not normalised and not negative.

        Raises:
            ValueError: The features have another shape.
        """
        if input_features.ndim != 3 or input_features.shape[-1] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features of shape {tuple(input_features.shape)}: give (batch, time, {self.config.num_mel_bins})"
                ", as DeepSimFeatureExtractor makes them."
            )
        maps = self.input_normalization(input_features[:, None])
        maps = max_pool_same(self.stem(maps), 2, 2)
        maps = F.relu(self.projection(self.blocks(maps)))
        states = maps.flatten(2).transpose(1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states.mean(1))


@dataclass
class DeepSimTaggingOutput(ModelOutput):
    """Output of [`DeepSimForMusicTagging`]."""

    loss: Tensor | None = None  # scalar, given `labels`
    logits: Tensor | None = None  # (batch, num_labels); a tag's confidence is their sigmoid
    embeddings: Tensor | None = None  # (batch, hidden_size), L2-normalised


class DeepSimForMusicTagging(DeepSimPreTrainedModel):
    """DeepSim with a tag head: L2-normalised embedding → dense → sigmoid; 22,873 parameters for 89 tags.

    Example:
        >>> import torch
        >>> from viml_hf.modeling.configuration_deepsim import DeepSimConfig
        >>> from viml_hf.modeling.modeling_deepsim import DeepSimForMusicTagging
        >>> model = DeepSimForMusicTagging(DeepSimConfig(num_labels=89)).eval()
        >>> sum(parameter.numel() for parameter in model.classifier.parameters())
        22873
        >>> tuple(model(torch.zeros(2, 129, 128)).logits.shape)
        (2, 89)
    """

    accepts_loss_kwargs = False

    def __init__(self, config: DeepSimConfig):
        super().__init__(config)
        self.deepsim = DeepSimModel(config)
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or ()))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        labels: Tensor | None = None,
        tempo: Tensor | None = None,
        track_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | DeepSimTaggingOutput:
        """Tag windows of music.

        The loss is the binary cross-entropy, averaged over windows and tags, plus `triplet_weight` times the loss of
        the embedding (`loss_deepsim.py`), for which a batch needs excerpts that are alike; without `label_categories`
        in the config the first part is all.

        Args:
            input_features: `(batch, time, num_mel_bins)` of [`DeepSimFeatureExtractor`].
            labels: `(batch, num_labels)`, 1 where a tag holds and 0 where not.
            tempo: `(batch,)` beats per minute, NaN or 0 where unknown; trains the fourth mask.
            track_ids: `(batch,)`, equal for excerpts of one track; for the track regularisation.
            kwargs: `return_dict`.

        Returns:
            `loss` (given `labels`), `logits` `(batch, num_labels)` and `embeddings` `(batch, hidden_size)`.

        Raises:
            ValueError: The features have another shape.
        """
        embeddings = F.normalize(self.deepsim(input_features).pooler_output, dim=-1)
        logits = self.classifier(embeddings)
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
            if self.config.label_categories is not None:
                relations = condition_relations(labels, self.config.label_categories, tempo, track_ids)
                weights = {"margin": self.config.triplet_margin, "track_weight": self.config.track_weight}
                loss = loss + self.config.triplet_weight * deepsim_loss(embeddings, relations, track_ids, **weights)
        return DeepSimTaggingOutput(loss=loss, logits=logits, embeddings=embeddings)

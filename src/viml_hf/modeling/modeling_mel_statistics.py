"""A tagger that learns in seconds: statistics of mel bands over time, and one hidden layer.

It is for demonstrations and tests on a few hundred tracks, where DeepSim would need more of both tracks and time.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .checked_loading import CheckedLoadingMixin
from .configuration_mel_statistics import MelStatisticsConfig
from .modeling_deepsim import DeepSimTaggingOutput

NUM_STATISTICS = 6


def mel_statistics(features: Tensor) -> Tensor:
    """What a window `(batch, time, num_mel_bins)` of at least two frames sounds like: `(batch, 6 · num_mel_bins)`.

    Band by band: mean, standard deviation, low and high quantile (10 and 95 %), mean absolute change from frame to
    frame, and the greatest rise, which tells drums.

    Example:
        >>> [round(value, 2) for value in mel_statistics(torch.tensor([[[0.0], [2.0], [1.0]]]))[0].tolist()]
        [1.0, 1.0, 0.2, 1.9, 1.5, 2.0]
    """
    change = features.diff(dim=1)
    quantiles = features.quantile(torch.tensor([0.10, 0.95]).to(features), dim=1)
    statistics = [features.mean(1), features.std(1), *quantiles, change.abs().mean(1), change.amax(1)]
    return torch.cat(statistics, dim=-1)


class MelStatisticsForMusicTagging(CheckedLoadingMixin, PreTrainedModel):
    """Mel statistics → batch normalisation → hidden layer → dense → sigmoid.

    Example:
        >>> import torch
        >>> model = MelStatisticsForMusicTagging(MelStatisticsConfig(num_labels=89)).eval()
        >>> tuple(model(torch.zeros(2, 65, 64)).logits.shape)
        (2, 89)
    """

    config: MelStatisticsConfig
    main_input_name = "input_features"
    input_modalities = "audio"
    accepts_loss_kwargs = False

    def __init__(self, config: MelStatisticsConfig):
        super().__init__(config)
        width = NUM_STATISTICS * config.num_mel_bins
        # Each band by its own scale: high ones are far quieter than low ones.
        self.normalization = nn.BatchNorm1d(width)
        self.hidden = nn.Linear(width, config.hidden_size)
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
        """Tag windows of music, `(batch, time, num_mel_bins)` of [`DeepSimFeatureExtractor`].

        Given `labels` `(batch, num_labels)`, 1 where a tag holds, the loss is the mean binary cross-entropy; tempo and
        track_ids are not used, as there are no triplets. The embeddings are the L2-normalised hidden layer.
        """
        dropout, training = self.config.dropout, self.training
        statistics = F.dropout(self.normalization(mel_statistics(input_features)), dropout, training)
        hidden = F.relu(self.hidden(statistics))
        logits = self.classifier(F.dropout(hidden, dropout, training))
        loss = None if labels is None else F.binary_cross_entropy_with_logits(logits.float(), labels.float())
        return DeepSimTaggingOutput(loss=loss, logits=logits, embeddings=F.normalize(hidden, dim=-1))

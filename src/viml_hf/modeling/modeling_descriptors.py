"""The descriptors: hand-crafted base features of pictures, music and text, as encoders without trained weights.

They make the whole pipeline run without a network. Every group of numbers is brought to a spread of about one by a
constant stated beside it, measured on the generated corpus, so that the towers can read them as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from .configuration_descriptors import ViMLAudioDescriptorsConfig, ViMLTextDescriptorsConfig, ViMLVideoDescriptorsConfig

DESCRIPTORS_VERSION = 1  # raised whenever the numbers change: see `check_version`


class ViMLDescriptors(PreTrainedModel):
    """What the three descriptors share: no weights, only the version of their numbers."""

    base_model_prefix = "descriptors"
    _no_split_modules = []  # noqa: RUF012 (transformers' own way)
    # There is no attention here: whichever the other parts of a model use is right.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.version = nn.Buffer(torch.tensor(DESCRIPTORS_VERSION))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.constant_(self.version, DESCRIPTORS_VERSION)

    def check_version(self) -> None:
        """Refuse a checkpoint whose numbers were measured in another way, with a `ValueError`."""
        if int(self.version) != DESCRIPTORS_VERSION:
            raise ValueError(
                f"The checkpoint holds descriptors of version {int(self.version)}, but this package has version "
                f"{DESCRIPTORS_VERSION}: install the package that made it, or train on features extracted anew."
            )

    def output(self, features: Tensor) -> BaseModelOutputWithPooling:
        """Wrap `(segments, projection_dim)`, after a look at its width."""
        if features.shape[-1] != self.config.projection_dim:
            raise ValueError(
                f"projection_dim={self.config.projection_dim}, but these descriptors have {features.shape[-1]} numbers:"
                " leave projection_dim at its default."
            )
        return BaseModelOutputWithPooling(last_hidden_state=features[:, None], pooler_output=features)


def masked_moments(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the valid steps of `(segments, time, dim)`, zero where none is valid."""
    weights = mask.to(values.dtype)[..., None]
    count = weights.sum(1).clamp(min=1)
    mean = (values * weights).sum(1) / count
    variance = ((values - mean[:, None]).square() * weights).sum(1) / count
    return mean, variance.sqrt()


class ViMLVideoDescriptors(ViMLDescriptors):
    """Colour, edges, motion and cut rate of each 10 s segment.

    Example:
        >>> import torch
        >>> from viml_hf import ViMLVideoDescriptors, ViMLVideoDescriptorsConfig
        >>> encoder = ViMLVideoDescriptors(ViMLVideoDescriptorsConfig())
        >>> frames = torch.zeros(1, 60, 3, 64, 64)
        >>> tuple(encoder(frames, torch.ones(1, 60)).pooler_output.shape)
        (1, 160)
    """

    config: ViMLVideoDescriptorsConfig
    main_input_name = "pixel_values"

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, frame_attention_mask: Tensor) -> BaseModelOutputWithPooling:
        """Describe segments: `pooler_output` is `(segments, projection_dim)`.

        Args:
            pixel_values: `(segments, frames, 3, height, width)` RGB in [0, 1].
            frame_attention_mask: `(segments, frames)`, 1 where the frame exists, without gaps.
        """
        frames = pixel_values.float()
        shots = frame_attention_mask.bool()
        still = torch.cat([self.colour(frames), self.layout(frames), self.edges(frames)], dim=-1)
        mean, deviation = masked_moments(still, shots)
        pairs = shots[:, 1:] & shots[:, :-1]
        return self.output(torch.cat([mean, 4 * deviation, self.motion(frames, pairs)], dim=-1))

    def colour(self, frames: Tensor) -> Tensor:
        """Histograms of hue (12 bins, weighted by chroma) and brightness (8 bins), saturation: `(n, f, 22)`."""
        maximum, minimum = frames.amax(2), frames.amin(2)  # (segments, frames, height, width)
        chroma = maximum - minimum
        red, green, blue = frames.unbind(2)
        second = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)  # hue in (-pi, pi]
        hue_bin = ((second / (2 * torch.pi) + 0.5) * 12).long().clamp(0, 11)
        hue = F.one_hot(hue_bin, 12).to(frames.dtype) * chroma[..., None]
        hue = hue.mean((2, 3))  # how much of each colour the picture holds
        value = F.one_hot((maximum * 8).long().clamp(0, 7), 8).to(frames.dtype).mean((2, 3))
        saturation = chroma.mean((2, 3))[..., None]
        contrast = maximum.flatten(2).std(-1)[..., None]
        return torch.cat([9 * hue.sqrt(), 4.5 * value.sqrt(), 5.5 * saturation, 13 * contrast], dim=-1)

    def layout(self, frames: Tensor) -> Tensor:
        """Mean colour of a 4 × 3 grid of the picture: `(n, f, 36)`, each in [-2.5, 2.5]."""
        grid = F.adaptive_avg_pool2d(frames.flatten(0, 1), (3, 4)).view(*frames.shape[:2], -1)
        return 5 * grid - 2.5

    def edges(self, frames: Tensor) -> Tensor:
        """Energy of the brightness gradient in 8 directions, fine and coarse: `(n, f, 16)`."""
        grey = frames.mean(2)
        found = []
        for scale in (1, 4):
            picture = F.avg_pool2d(grey, scale) if scale > 1 else grey
            down = picture[..., 1:, :-1] - picture[..., :-1, :-1]
            right = picture[..., :-1, 1:] - picture[..., :-1, :-1]
            strength = torch.hypot(down, right)
            direction = ((torch.atan2(down, right) / (2 * torch.pi) + 0.5) * 8).long().clamp(0, 7)
            energy = F.one_hot(direction, 8).to(frames.dtype) * strength[..., None]
            found.append(energy.mean((2, 3)))
        return 28 * torch.cat(found, dim=-1).sqrt()

    def motion(self, frames: Tensor, pairs: Tensor) -> Tensor:
        """Motion between neighbouring frames, its rhythm, and the cut rate: `(n, 12)`."""
        small = F.avg_pool2d(frames.flatten(0, 1), 4).view(*frames.shape[:2], -1)
        change = (small[:, 1:] - small[:, :-1]).abs().mean(-1) * pairs  # (segments, frames - 1)
        cuts = (change > 0.12) & pairs
        count = pairs.sum(1).clamp(min=1)
        calm = pairs & ~cuts
        calm_motion = (change * calm).sum(1) / calm.sum(1).clamp(min=1)
        cut_rate = cuts.sum(1) / count * self.config.frames_per_second
        mean, deviation = change.sum(1) / count, masked_moments(change[..., None], pairs)[1][:, 0]
        level = (change - mean[:, None]) * pairs
        energy = level.square().sum(1).clamp(min=1e-6)
        rhythm = [
            (level[:, lag:] * level[:, :-lag]).sum(1) / energy if lag < level.shape[1] else torch.zeros_like(energy)
            for lag in (1, 2, 3, 4, 5, 6, 8, 12)
        ]
        speed = torch.stack([18 * calm_motion.sqrt(), 40 * mean, 70 * deviation, 2.3 * cut_rate], dim=-1)
        return torch.cat([speed, 14 * torch.stack(rhythm, dim=-1)], dim=-1)


class ViMLAudioDescriptors(ViMLDescriptors):
    """Timbre, harmony, tempo and onset strength of each 10 s segment, from its semitone spectrogram.

    Example:
        >>> import torch
        >>> from viml_hf import ViMLAudioDescriptors, ViMLAudioDescriptorsConfig
        >>> encoder = ViMLAudioDescriptors(ViMLAudioDescriptorsConfig())
        >>> tuple(encoder(torch.zeros(1, 431, 96), torch.ones(1, 431)).pooler_output.shape)
        (1, 168)
    """

    config: ViMLAudioDescriptorsConfig
    main_input_name = "input_features"

    @torch.no_grad()
    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Describe segments: `pooler_output` is `(segments, projection_dim)`.

        Args:
            input_features: `(segments, time, num_bands)` of [`ViMLDescriptorsFeatureExtractor`]: log energies >= 0.
            attention_mask: `(segments, time)`, 1 where the frame exists, without gaps; by default everywhere.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], device=input_features.device)
        # Two frames at least: a rhythm is read from pairs of them.
        missing = max(0, 2 - input_features.shape[1])
        bands = F.pad(input_features.float(), (0, 0, 0, missing))
        valid = F.pad(attention_mask.bool(), (0, missing))
        pairs = valid[:, 1:] & valid[:, :-1]
        groups = F.avg_pool1d(bands, 2)  # tones: (segments, time, num_bands / 2)
        mean, deviation = masked_moments(groups, valid)
        timbre = torch.cat([1.7 * (mean - mean.mean(-1, keepdim=True)), 3 * deviation], dim=-1)
        onsets = (bands[:, 1:] - bands[:, :-1]).clamp(min=0) * pairs[..., None]
        features = [timbre, self.harmony(bands, valid), self.rhythm(onsets, pairs), 2 * mean.mean(-1, keepdim=True)]
        return self.output(torch.cat(features, dim=-1))

    def harmony(self, bands: Tensor, valid: Tensor) -> Tensor:
        """Key-independent harmony: how alike the chroma is to itself shifted, and major against minor: `(n, 9)`."""
        octaves = bands.unflatten(-1, (-1, 12))
        chroma = (octaves.square() * valid[..., None, None]).sum((1, 2))  # (segments, 12)
        chroma = chroma - chroma.mean(-1, keepdim=True)
        chroma = F.normalize(chroma, dim=-1)
        shifts = torch.stack([(chroma * chroma.roll(lag, -1)).sum(-1) for lag in range(1, 7)], dim=-1)
        best = []
        for profile in (MAJOR_PROFILE, MINOR_PROFILE):
            key = F.normalize(chroma.new_tensor(profile) - sum(profile) / 12, dim=-1)
            keys = torch.stack([key.roll(tonic) for tonic in range(12)])
            best.append((chroma @ keys.T).amax(-1))
        major, minor = best
        return torch.cat([4 * shifts, 6 * torch.stack([major, minor, major - minor], dim=-1)], dim=-1)

    def rhythm(self, onsets: Tensor, pairs: Tensor) -> Tensor:
        """Onset strength by register, and the autocorrelation of the onsets at 40 to 220 beats a minute: `(n, 62)`."""
        registers = F.avg_pool1d(onsets, self.config.num_bands // 6)[..., :6]  # (segments, time, 6)
        mean, deviation = masked_moments(registers, pairs)
        strength = onsets.mean(-1) * pairs
        level = (strength - masked_moments(strength[..., None], pairs)[0]) * pairs
        energy = level.square().sum(1).clamp(min=1e-6)
        frames_per_minute = 60 * self.config.sampling_rate / self.config.hop_length
        beats = [40 * (220 / 40) ** (step / 49) for step in range(50)]
        tempo = []
        for lag in (round(frames_per_minute / beat) for beat in beats):
            inside = lag < level.shape[1]
            product = (level[:, lag:] * level[:, : level.shape[1] - lag]).sum(1) if inside else 0 * energy
            tempo.append(product / energy)
        return torch.cat([18 * mean, 8 * deviation, 4 * torch.stack(tempo, dim=-1)], dim=-1)


# How well each of the twelve tones fits a major and a minor key (Krumhansl & Kessler 1982).
MAJOR_PROFILE = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR_PROFILE = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


class ViMLTextDescriptors(ViMLDescriptors):
    """Hashed n-grams of a text's bytes, upper case folded, as a signed count sketch with a mean square of one.

    It reads the token ids of `ByT5Tokenizer`, which needs no file: byte + 3. An empty text is the zero vector.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from viml_hf import ViMLTextDescriptors, ViMLTextDescriptorsConfig
        >>> encoder = ViMLTextDescriptors(ViMLTextDescriptorsConfig())
        >>> tokens = ByT5Tokenizer()(["slow piano", "Slow piano", "fast drums"], padding=True, return_tensors="pt")
        >>> rows = encoder(**tokens).pooler_output
        >>> [round((rows[0] @ row).item() / 512, 2) for row in rows]
        [1.0, 1.0, 0.0]
    """

    config: ViMLTextDescriptorsConfig
    main_input_name = "input_ids"

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Describe texts: `pooler_output` is `(texts, projection_dim)`, each row with a mean square of one, or zero.

        Args:
            input_ids: `(texts, length)` byte ids.
            attention_mask: `(texts, length)`, 1 where the token exists.
        """
        valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        letters = torch.where(valid & (input_ids >= 3), input_ids - 3, 0)
        letters = torch.where((letters >= 65) & (letters <= 90), letters + 32, letters)
        is_word = (letters >= 128) | ((letters >= 97) & (letters <= 122)) | ((letters >= 48) & (letters <= 57))
        # Everything else is a border between words, and every text has one at both ends.
        letters = F.pad(torch.where(is_word, letters, 0), (1, 1))
        sketch = torch.zeros(letters.shape[0], self.config.projection_dim, device=letters.device)
        for size in self.config.ngram_sizes or ():
            if letters.shape[1] >= size:
                self.add_ngrams(sketch, letters.unfold(1, size, 1))
        return self.output(F.normalize(sketch, dim=-1) * self.config.projection_dim**0.5)

    def add_ngrams(self, sketch: Tensor, ngrams: Tensor) -> None:
        """Add `(texts, count, size)` n-grams to the sketch, each into one bucket with one sign."""
        size = ngrams.shape[-1]
        code = torch.full_like(ngrams[..., 0], size)
        for letter in ngrams.unbind(-1):
            code = (code * 1_000_003 + letter * 8191 + 12_345) % 2_147_483_647
        code = (code * 48_271) % 2_147_483_647
        # An n-gram across a border says nothing about words; one that begins or ends at it does.
        counts = (ngrams[..., 1:-1] != 0).all(-1) & (ngrams != 0).any(-1)
        sign = ((code >> 16) & 1) * 2.0 - 1.0
        sketch.scatter_add_(1, code % self.config.projection_dim, sign * counts)

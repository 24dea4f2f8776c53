"""Tiny random checkpoints of base encoders, as they lie on the Hub: config, weights, preprocessor, tokenizer, card."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    AutoConfig,
    BertConfig,
    BertModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    HubertConfig,
    HubertModel,
    PeAudioFeatureExtractor,
    PeAudioVideoConfig,
    PeAudioVideoModel,
    PeVideoEncoderConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.configuration_utils import SubConfigSpec

from viml_hf import DeepSimConfig, DeepSimFeatureExtractor, DeepSimModel, MediaEncoder
from viml_hf.modeling.encoder_families import FAMILIES, MODALITIES

LAYERS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ["slow", "piano", "fast", "drums", "and", "a", "calm", "guitar", "langsames", "klavier"]
SENTENCES = [f"{first} {second} {third}" for first in WORDS for second in WORDS for third in WORDS[:3]]
EVEN_WEIGHTS = 0.3  # standard deviation: large enough that inputs make a difference


def save(model: PreTrainedModel, folder: Path, **options: Any) -> PreTrainedModel:
    """Spread the model's weights, so that different inputs give different features, and save it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "parametrizations" not in name:
                parameter.normal_(0, EVEN_WEIGHTS, generator=generator)
    model.eval().save_pretrained(folder, **options)
    return model


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def word_tokenizer(folder: Path, **options: Any) -> None:
    """A tokenizer of words, with beginning, end and padding, that fits CLIP, CLAP and BERT alike."""
    vocab = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 24,
    }
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**names, **options}).save_pretrained(folder)


def clip(folder: Path) -> PreTrainedModel:
    """CLIP: 24 px pictures, width 12."""
    torch.manual_seed(0)
    text = {**LAYERS, "vocab_size": 20, "max_position_embeddings": 24, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**LAYERS, "image_size": 24, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
    word_tokenizer(folder)
    return save(model, folder)


def siglip(folder: Path, tokenizer: str = "sentencepiece") -> PreTrainedModel:
    """SigLIP: 24 px pictures, texts padded to 40 tokens, width 16, and a tokenizer of version 1 or 2."""
    torch.manual_seed(0)
    text = {**LAYERS, "vocab_size": 60, "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**LAYERS, "image_size": 24, "patch_size": 8}))
    SiglipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder)
    if tokenizer == "sentencepiece":
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES), model_prefix=str(folder / "spiece"), vocab_size=28, minloglevel=2
        )
        SiglipTokenizer(str(folder / "spiece.model"), model_max_length=40).save_pretrained(folder)
        (folder / "spiece.vocab").unlink()
    else:
        # Version 2 at a fixed resolution: the same model type, and Gemma's tokenizer.
        word_tokenizer(folder, model_max_length=int(1e30))
        edit_json(folder / "tokenizer_config.json", processor_class="SiglipProcessor")
    # Both are published so: no attention mask.
    edit_json(folder / "tokenizer_config.json", model_input_names=["input_ids"])
    return save(model, folder)


def clap(folder: Path, fusion: bool = False) -> PreTrainedModel:
    """CLAP at 8 kHz with a window of 10 s, width 14."""
    torch.manual_seed(0)
    audio = {
        **{"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]},
        **{"num_hidden_layers": 2, "spec_size": 64, "num_mel_bins": 16, "window_size": 4, "enable_fusion": fusion},
    }
    text = {**LAYERS, "vocab_size": 20, "max_position_embeddings": 30, "pad_token_id": 0}
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=14))
    truncation = "fusion" if fusion else "rand_trunc"
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, frequency_max=4000, truncation=truncation
    ).save_pretrained(folder)
    word_tokenizer(folder)
    return save(model, folder)


@contextmanager
def pe_av_without_timm() -> Iterator[None]:
    """PE-AV's picture tower is one of timm, which needs torchvision; any classifier of transformers does its part."""
    before = PeVideoEncoderConfig.sub_configs_defaults
    PeVideoEncoderConfig.sub_configs_defaults = {"vision_config": SubConfigSpec(AutoConfig, model_type="vit")}
    yield
    PeVideoEncoderConfig.sub_configs_defaults = before


def pe_av(folder: Path) -> PreTrainedModel:
    """PE-AV: 24 px pictures, a segment's frames at once; sound at 8 kHz; both of width 16."""
    torch.manual_seed(0)
    tower = {**LAYERS, "head_dim": 8}
    vision = ViTConfig(**LAYERS, image_size=24, patch_size=8, num_labels=6)
    codec = {
        **{"model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [8, 16], "codebook_dim": 6},
        **{"hidden_size": 16, "decoder_hidden_size": 16, "sampling_rate": 8000},
    }
    text = {**LAYERS, "model_type": "modernbert", "vocab_size": 20, "num_hidden_layers": 1}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    both = {
        **tower,
        "video_config": {**tower, "model_type": "pe_video_encoder", "vision_config": vision},
        "audio_config": {**tower, "model_type": "pe_audio_encoder", "dac_config": codec},
    }
    model = PeAudioVideoModel(PeAudioVideoConfig(text_config=text, audio_video_config=both))
    PeAudioFeatureExtractor(sampling_rate=8000, hop_length=128).save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps(
            {
                **{"video_processor_type": "PeVideoVideoProcessor", "size": {"height": 24, "width": 24}},
                **{"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True},
                **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, "do_sample_frames": True},
            }
        )
    )
    word_tokenizer(folder)
    return save(model, folder)


pe_av_class = pe_av  # another part of the same checkpoint


def deepsim(folder: Path) -> PreTrainedModel:
    """DeepSim at 8 kHz with a window of 2.1 s, width 16."""
    torch.manual_seed(0)
    DeepSimFeatureExtractor(
        feature_size=16, sampling_rate=8000, n_fft=256, hop_length=512, window_frames=33
    ).save_pretrained(folder)
    return save(DeepSimModel(DeepSimConfig(hidden_size=16, num_mel_bins=16, stem_channels=4, num_blocks=2)), folder)


def ast(folder: Path) -> PreTrainedModel:
    """AST with a head that tags, with a window of 0.3 s, width 16."""
    torch.manual_seed(0)
    config = ASTConfig(**LAYERS, max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
    ASTFeatureExtractor(num_mel_bins=16, max_length=32).save_pretrained(folder)
    return save(ASTForAudioClassification(config), folder)


def raw_sound_config(**options: Any) -> dict[str, Any]:
    """The settings of a small network over samples, which gives about 8000 / 320 states per second."""
    layers = {"conv_dim": [8, 8, 8], "conv_kernel": [10, 8, 8], "conv_stride": [8, 5, 8]}
    return {**LAYERS, **layers, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, **options}


def wav2vec2(folder: Path) -> PreTrainedModel:
    """wav2vec 2.0 of the kind whose extractor returns a mask (layer norm), at 8 kHz, width 16."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(**raw_sound_config(feat_extract_norm="layer", do_stable_layer_norm=True))
    Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True).save_pretrained(folder)
    return save(Wav2Vec2Model(config), folder)


def wav2vec2_base(folder: Path) -> PreTrainedModel:
    """wav2vec 2.0 of the kind without a mask (group norm over time), at 8 kHz, width 16."""
    torch.manual_seed(0)
    Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=False).save_pretrained(folder)
    return save(Wav2Vec2Model(Wav2Vec2Config(**raw_sound_config())), folder)


def whisper(folder: Path) -> PreTrainedModel:
    """Whisper as it is published, with its decoder: windows of 30 s at 16 kHz, 25 states per second, width 16."""
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(
        **tokens,
        **{
            f"{part}_{name}": value
            for part in ("encoder", "decoder")
            for name, value in (("layers", 2), ("ffn_dim", 32))
        },
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=16,
        vocab_size=20,
        num_mel_bins=16,
        max_source_positions=750,
        begin_suppress_tokens=None,
        suppress_tokens=None,
    )
    WhisperFeatureExtractor(feature_size=16, hop_length=320).save_pretrained(folder)
    return save(WhisperForConditionalGeneration(config), folder)


def mert(folder: Path) -> PreTrainedModel:
    """MERT: HuBERT's network under a name and with code of its own, which must not run, at 24 kHz."""
    torch.manual_seed(0)
    model = save(HubertModel(HubertConfig(**raw_sound_config(conv_stride=[10, 8, 12]))), folder)
    Wav2Vec2FeatureExtractor(sampling_rate=24_000, return_attention_mask=True, do_normalize=True).save_pretrained(
        folder
    )
    needs_code(folder, "mert_model", "MERT", feature_extractor_cqt=False, deepnorm=False, attention_relax=-1.0)
    return model


def needs_code(folder: Path, model_type: str, name: str, **settings: Any) -> None:
    """Turn a checkpoint into one that brings code; running it would leave a file `ran` in the folder."""
    modules = {"AutoConfig": f"code.{name}Config", "AutoModel": f"code.{name}Model"}
    changes = {"model_type": model_type, "auto_map": modules, "architectures": [f"{name}Model"], **settings}
    edit_json(folder / "config.json", **changes)
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")


def bert(folder: Path) -> PreTrainedModel:
    """BERT without the pooler, as models for sentences often are saved; width 16."""
    torch.manual_seed(0)
    word_tokenizer(folder)
    return save(BertModel(BertConfig(**LAYERS, vocab_size=20), add_pooling_layer=False), folder)


def xlm_roberta(folder: Path) -> PreTrainedModel:
    """A multilingual model; width 16."""
    torch.manual_seed(0)
    word_tokenizer(folder)
    config = XLMRobertaConfig(**LAYERS, vocab_size=20, max_position_embeddings=32, pad_token_id=0)
    return save(XLMRobertaModel(config), folder)


MAKERS: dict[str, Callable[[Path], PreTrainedModel]] = {"pe_av_class": pe_av_class} | {
    maker.__name__: maker
    for maker in (clip, siglip, clap, pe_av, deepsim, ast, wav2vec2, wav2vec2_base, whisper, mert, bert, xlm_roberta)
}


def make(family: str, folder: Path, licence: str | None = None) -> PreTrainedModel:
    """Write the checkpoint of a family, with a card where a licence is named, and return its model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = MAKERS[family](folder)
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# {family}\n")
    return model


def name_of(family: str, folder: Path) -> str:
    """The encoder name of a family's checkpoint in a folder."""
    return f"{family if family in FAMILIES else 'auto'}:{folder}"


def from_names(**options: Any) -> MediaEncoder:
    """Encoders in float32, the descriptors where no name is given."""
    names = {part: options.pop(part, "descriptors") for part in MODALITIES}
    return MediaEncoder.from_names(**names, threads=1, **{"dtypes": "float32", **options})

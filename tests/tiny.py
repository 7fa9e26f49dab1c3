"""Small models and processors, built from configurations in code: random weights, no network."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Networks this small can be a hundred times slower with several threads on a busy processor.
torch.set_num_threads(1)

SIDE = 32
LABELS = ["stop", "yield", "停"]


def _labels(names: list[str] = LABELS) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def vit(**config: Any) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    images = {"image_size": SIDE, "patch_size": 8, "hidden_dropout_prob": 0.1}
    return ViTForImageClassification(ViTConfig(**{**sizes, **images, **_labels(), **config})).eval()


def dinov2(**config: Any) -> Any:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2}
    images = {"image_size": SIDE, "patch_size": 8, "drop_path_rate": 0.1}
    return Dinov2ForImageClassification(Dinov2Config(**{**sizes, **images, **_labels(), **config})).eval()


def swin(**config: Any) -> Any:
    from transformers import SwinConfig, SwinForImageClassification

    sizes = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
    images = {"image_size": SIDE, "patch_size": 4}
    return SwinForImageClassification(SwinConfig(**{**sizes, **images, **_labels(), **config})).eval()


def resnet(**config: Any) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"}
    return calibrated(ResNetForImageClassification(ResNetConfig(**{**sizes, **_labels(), **config})))


def convnext(**config: Any) -> Any:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    sizes = {"hidden_sizes": [16, 32], "depths": [1, 2], "num_stages": 2, "layer_scale_init_value": 0.5}
    return ConvNextForImageClassification(ConvNextConfig(**{**sizes, **_labels(), **config})).eval()


def timm(architecture: str = "test_efficientnet", **config: Any) -> Any:
    """Return a timm network in transformers' TimmWrapper, with features of a normal scale."""
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    side = config.pop("side", SIDE)
    pixels = {"input_size": [3, side, side], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    settings = {"architecture": architecture, "pretrained_cfg": {**pixels, "interpolation": "bicubic"}}
    model = TimmWrapperForImageClassification(TimmWrapperConfig(**{**settings, **_labels(), **config}))
    return calibrated(model, side)


def bert(**config: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**{**_text_sizes(), **_labels(), **config})).eval()


def roberta(**config: Any) -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return RobertaForSequenceClassification(
        RobertaConfig(**{**_text_sizes(), **special, **_labels(), **config})
    ).eval()


def gpt2(**config: Any) -> Any:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 60}
    special = {"eos_token_id": 3, "bos_token_id": 3}
    return GPT2ForSequenceClassification(GPT2Config(**{**sizes, **special, **config})).eval()


def _text_sizes() -> dict[str, int]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    return {**sizes, "vocab_size": 60, "max_position_embeddings": 40}


def patchtst(**config: Any) -> Any:
    """PatchTST with a regression head: 2 channels, 16 steps in, one number out."""
    from transformers import PatchTSTConfig, PatchTSTForRegression

    window = {
        "num_input_channels": 2,
        "context_length": 16,
        "patch_length": 4,
        "patch_stride": 4,
        "num_targets": 1,
    }
    sizes = {"d_model": 16, "num_attention_heads": 2, "ffn_dim": 32, "num_hidden_layers": 3, "scaling": None}
    model = PatchTSTForRegression(PatchTSTConfig(**{**window, **sizes, "loss": "mse", **config}))
    return calibrated(model)


# Name -> builder: the model families in the tests of freezing, saving and adapters.
FAMILIES: dict[str, Callable[..., Any]] = {
    "vit": vit,
    "dinov2": dinov2,
    "swin": swin,
    "resnet": resnet,
    "convnext": convnext,
    "efficientnet (timm)": lambda **config: timm("test_efficientnet", **config),
    "vit (timm)": lambda **config: timm("test_vit", **config),
    "bert": bert,
    "roberta": roberta,
    "patchtst": patchtst,
}


def inputs(model: Any, rows: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return a batch for the model: pixels, tokens or a series; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    kind = model.config.model_type
    if hasattr(model.config, "vocab_size"):
        tokens = torch.randint(5, 60, (rows, 12), generator=generator)
        mask = torch.ones_like(tokens)
        mask[0, 8:] = 0
        return {"input_ids": tokens, "attention_mask": mask}
    if kind.startswith("patchts"):
        return {"past_values": torch.randn(rows, 16, 2, generator=generator)}
    pretrained = getattr(model.config, "pretrained_cfg", {})
    side = pretrained.get("input_size", (3, SIDE, SIDE))[-1]
    return {"pixel_values": torch.randn(rows, 3, side, side, generator=generator)}


def outputs(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return logits or regression outputs, computed in eval mode; the mode is restored."""
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(**batch)
    model.train(training)
    return found.logits if "logits" in found else found.regression_outputs


def loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a loss that works for every family."""
    found = model(**batch)
    values = found.logits if "logits" in found else found.regression_outputs
    return ((values - torch.arange(values.shape[-1]) - 1.0) ** 2).mean()


def calibrated(model: Any, side: int = SIDE) -> Any:
    """Set the statistics of batch norms, so that a random network has features of a normal scale.

    Without this a random timm network has features near 1e-22 in eval mode, and no test of equality can fail.
    """
    model.train()
    norms = [
        module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.momentum = None  # a plain average
    with torch.no_grad():
        for seed in range(2):
            model(**inputs(model, rows=8, seed=100 + seed))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def drawing(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Any:
    """Draw six coloured ellipses on white."""
    from PIL import Image, ImageDraw

    rng = random.Random(seed)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        color = tuple(rng.randrange(256) for _ in range(3))
        draw.ellipse([x - 9, y - 9, x + 9, y + 9], fill=color)
    return image


def image_processor(side: int = SIDE) -> Any:
    """A ViT processor for square pictures of this side."""
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


WORDS = [
    "red",
    "green",
    "blue",
    "stop",
    "go",
    "left",
    "right",
    "slow",
    "fast",
    "the",
    "a",
    "sign",
    "light",
    "road",
]


def tokenizer() -> Any:
    """A lower-casing BERT tokenizer over a few words and all letters."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *WORDS, *letters]))
    return BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=32)


def word_tokenizer() -> Any:
    """Words only, an end token, and no padding token: what GPT-2 brings."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "\n", "x", "<end>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")


def saved(model: Any, folder: str | Path, processor: Any = None) -> str:
    """Save a model (and its processor) as a Hugging Face folder, and return its path."""
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)

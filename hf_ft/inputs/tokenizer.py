"""Load the tokenizer of a sequence classifier, and adapt it to the model: inputs, padding, length."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError

if TYPE_CHECKING:
    from hf_ft.recipe.schema import ModelSection

# The largest length in tokens where the recipe sets none. Many models accept more, but the cost of attention
# grows with the square of the length.
USUAL_LENGTH = 512


def load_tokenizer(section: ModelSection, model: Any, max_length: int | None = None) -> tuple[Any, list[str]]:
    """Load the tokenizer of a model, and make the settings of the two agree.

    The model's configuration gets the padding token, which a decoder such as GPT-2 needs to find the end of a
    text. The tokenizer's `model_max_length` is set to the length at which texts are truncated, and is saved
    with the tokenizer, so that every later use of it truncates at the same length.

    Args:
        section: the recipe's section `model`.
        model: the loaded model; its configuration is changed.
        max_length: largest number of tokens of a row; None: the limit of the model, at most 512.

    Returns:
        The tokenizer, and the decisions, one line each.

    Raises:
        ModelError: the tokenizer does not belong to the model, or the model cannot read that many tokens.
    """
    from hf_ft.model.load import load_processor

    tokenizer = load_processor("AutoTokenizer", section, model)
    # A model whose forward has no token_type_ids must not get them, even if the tokenizer's file lists them.
    taken = inspect.signature(model.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    if names != tokenizer.model_input_names:
        tokenizer = load_processor("AutoTokenizer", section, model, model_input_names=names)
    notes = _fit_padding(model.config, tokenizer)
    if len(tokenizer) > model.config.vocab_size:
        raise ModelError(
            f"model.name: the tokenizer of {section.name!r} has {len(tokenizer)} tokens, and the model has "
            f"{model.config.vocab_size}; they do not belong together"
        )
    longest = longest_input(model, tokenizer)
    if max_length is not None and longest is not None and max_length > longest:
        raise ModelError(f"task.max_length: found {max_length}; the model reads at most {longest} tokens")
    tokenizer.model_max_length = max_length or min(longest or USUAL_LENGTH, USUAL_LENGTH)
    return tokenizer, notes


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Return the largest number of tokens that the model can read, or None where there is no limit."""
    bounds = [tokenizer.model_max_length] if tokenizer.model_max_length < 10**6 else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        tables = [table for name, table in model.named_modules() if name.endswith("position_embeddings")]
        # RoBERTa and its relatives number positions from the padding token's id + 1.
        paddings = [getattr(table, "padding_idx", None) for table in tables]
        bounds.append(positions - max((index + 1 for index in paddings if index is not None), default=0))
    return min(bounds, default=None)


def _fit_padding(config: Any, tokenizer: Any) -> list[str]:
    """Give the tokenizer and the configuration the same padding token."""
    notes = []
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            kind = type(tokenizer).__name__
            raise ModelError(
                f"model.name: {kind} has no padding, end or unknown token, so batches cannot be padded; set "
                "pad_token in model.processor"
            )
        notes.append(
            f"the tokenizer has no padding token; it pads with {tokenizer.pad_token!r}, saved with it"
        )
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id != tokenizer.pad_token_id:
        raise ModelError(
            f"the model pads with token {config.pad_token_id}, its tokenizer with {tokenizer.pad_token_id} "
            f"({tokenizer.pad_token!r}); they do not belong together"
        )
    return notes

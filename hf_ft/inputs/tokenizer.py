"""The tokenizer of a sequence classifier, made to fit its model: inputs, padding, vocabulary, length."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError

if TYPE_CHECKING:
    from hf_ft.recipe.schema import ModelSection

# Tokens of a text where the recipe sets no bound, even if the model could take more: attention costs the
# square.
USUAL_LENGTH = 512


def load_tokenizer(section: ModelSection, model: Any, max_length: int | None = None) -> tuple[Any, list[str]]:
    """Load the tokenizer that belongs to a model, and settle what the two must agree on.

    The configuration gets the padding token, by which a decoder such as GPT-2 finds the end of a text. The
    tokenizer's `model_max_length` becomes the length that texts are cut at, and is saved with it, so that
    whoever truncates with it sees the same tokens.

    Args:
        section: the recipe's `model`.
        model: the loaded model; its configuration is changed.
        max_length: most tokens of a row; None: what the model can take, at most 512.

    Returns:
        The tokenizer, and what was decided, one line each.

    Raises:
        ModelError: tokenizer and model do not belong together, or the model cannot take that many tokens.
    """
    from hf_ft.model.load import load_processor

    tokenizer = load_processor("AutoTokenizer", section, model)
    # A model without token_type_ids must not get them, whatever its tokenizer's file says.
    taken = inspect.signature(model.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    if names != tokenizer.model_input_names:
        tokenizer = load_processor("AutoTokenizer", section, model, model_input_names=names)
    notes = _fit_padding(model.config, tokenizer)
    if len(tokenizer) > model.config.vocab_size:
        raise ModelError(
            f"model.name: the tokenizer of {section.name!r} has {len(tokenizer)} tokens, the model "
            f"{model.config.vocab_size}; they do not belong together"
        )
    longest = longest_input(model, tokenizer)
    if max_length is not None and longest is not None and max_length > longest:
        raise ModelError(f"task.max_length: {max_length} tokens, and the model can take at most {longest}")
    tokenizer.model_max_length = max_length or min(longest or USUAL_LENGTH, USUAL_LENGTH)
    return tokenizer, notes


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Give the number of tokens that the model has positions for, or None where nothing bounds them."""
    bounds = [tokenizer.model_max_length] if tokenizer.model_max_length < 10**6 else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        tables = [table for name, table in model.named_modules() if name.endswith("position_embeddings")]
        # RoBERTa and its kin count positions from the padding token's id on.
        paddings = [getattr(table, "padding_idx", None) for table in tables]
        bounds.append(positions - max((index + 1 for index in paddings if index is not None), default=0))
    return min(bounds, default=None)


def _fit_padding(config: Any, tokenizer: Any) -> list[str]:
    """Give tokenizer and configuration one padding token."""
    notes = []
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            kind = type(tokenizer).__name__
            raise ModelError(f"{kind} has no padding, end or unknown token to pad a batch with")
        notes.append(
            f"the tokenizer has no padding token: {tokenizer.pad_token!r} is used, and saved with it"
        )
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id != tokenizer.pad_token_id:
        raise ModelError(
            f"the model pads with token {config.pad_token_id}, its tokenizer with {tokenizer.pad_token_id} "
            f"({tokenizer.pad_token!r}); they do not belong together"
        )
    return notes

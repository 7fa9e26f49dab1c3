"""model.attn_implementation takes the names of transformers."""

from typing import get_args

import pytest
import tiny
from transformers import AttentionInterface

from hf_ft.errors import ModelError, RecipeError
from hf_ft.model.load import load_model
from hf_ft.recipe.read import load_recipe
from hf_ft.recipe.schema import ModelSection

TEXT = "AutoModelForSequenceClassification"


def test_the_names_are_those_of_transformers():
    names = set(get_args(ModelSection.model_fields["attn_implementation"].annotation)) - {"auto", "eager"}
    assert names <= set(AttentionInterface._global_mapping)


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize(("asked", "got"), [("auto", "sdpa"), ("eager", "eager"), ("sdpa", "sdpa")])
def test_the_chosen_attention_is_used_and_gives_equal_outputs(tmp_path, asked, got, scratch):
    folder = tiny.saved(tiny.bert(), tmp_path / "m")
    section = ModelSection(name=folder, attn_implementation=asked, from_scratch=scratch)
    model = load_model(TEXT, section).model
    assert model.config._attn_implementation == got
    if not scratch:
        batch = tiny.inputs(model)
        expected = tiny.outputs(tiny.bert().from_pretrained(folder).eval(), batch)
        assert (tiny.outputs(model, batch) - expected).abs().max() < 1e-5


def test_an_unknown_name_is_refused_with_the_list():
    recipe = {"task": "toy:ToyTask", "data": {"source": "a"}, "model": {"name": "m"}}
    with pytest.raises(RecipeError, match=r"model\.attn_implementation.*sdpa"):
        load_recipe({**recipe, "model": {"name": "m", "attn_implementation": "spda"}})


def test_an_attention_that_is_not_installed_is_an_error(tmp_path):
    """transformers names the missing package; no other implementation is used instead."""
    folder = tiny.saved(tiny.bert(), tmp_path / "m")
    with pytest.raises(ModelError, match=r"cannot load.*FlashAttention2"):
        load_model(TEXT, ModelSection(name=folder, attn_implementation="flash_attention_2"))

"""A name that cannot be on the Hub is refused at once, because loaders retry for half a minute."""

from types import SimpleNamespace

import pytest

from hf_ft.data.hub_lookup import did_you_mean, why_not_on_hub
from hf_ft.data.sources import read_source
from hf_ft.errors import DataError, ModelError
from hf_ft.model.load import find_model
from hf_ft.model.predictor import Predictor
from hf_ft.recipe.schema import DataSection, ModelSection


@pytest.fixture
def hub(monkeypatch):
    """A fake Hub that raises `hub.error`, or answers if it is None; `hub.asked` lists the requests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = SimpleNamespace(error=None, asked=[])

    def answer(kind):
        def ask(self, name, revision=None, timeout=None):
            found.asked.append((kind, name, revision))
            if found.error is not None:
                raise found.error

        return ask

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", answer("model"))
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", answer("data set"))
    return found


def errors():
    from huggingface_hub import errors

    request = errors.HTTPError("x")
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return {
        "the Hub has no model of that name": errors.RepositoryNotFoundError("x", response=response),
        "no revision 'v2'": errors.RevisionNotFoundError("x", response=response),
        "it is gated": errors.GatedRepoError("x", response=response),
        "the Hub cannot be reached": request,
    }


@pytest.mark.parametrize(("message", "error"), errors().items())
def test_one_request_is_sent_and_its_error_is_reported(hub, message, error):
    hub.error = error
    assert message in why_not_on_hub("someone/thing", "model", "v2")
    assert hub.asked == [("model", "someone/thing", "v2")]


def test_a_loader_may_try_after_success_or_a_server_error(hub):
    from huggingface_hub.errors import HfHubHTTPError

    assert why_not_on_hub("someone/thing", "data set") is None
    hub.error = HfHubHTTPError("x", response=SimpleNamespace(headers={}, request=None, status_code=503))
    assert why_not_on_hub("someone/thing", "model") is None


def test_no_request_is_sent_for_an_invalid_name(hub):
    assert "no name on the Hub" in why_not_on_hub("my models/bert", "model")
    assert hub.asked == []


def test_no_request_is_sent_offline(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in why_not_on_hub("someone/thing", "model")
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: "/cache/config.json"
    )
    assert why_not_on_hub("someone/thing", "model") is None
    assert hub.asked == []


def test_near_names_of_every_kind_are_named(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub.error = errors()["the Hub has no model of that name"]
    (tmp_path / "my_bert").mkdir()
    (tmp_path / "my_bert" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"Did you mean \./my_bert, a folder\?"):
        find_model(ModelSection(name="my_bret"))
    with pytest.raises(ModelError, match=r"Did you mean sample:minilm\?"):
        find_model(ModelSection(name="minlm"))
    with pytest.raises(ModelError, match=r"patchtst, a model type \(with model\.from_scratch: true\)"):
        find_model(ModelSection(name="patchtts"))
    assert find_model(ModelSection(name="patchtst", from_scratch=True)) == "patchtst"
    (tmp_path / "signs").mkdir()
    with pytest.raises(DataError, match=r"Did you mean 'signs', which is here\?"):
        read_source(DataSection(source="sings"))
    with pytest.raises(DataError, match=r"Did you mean sample:digits\?"):
        read_source(DataSection(source="digit"))
    (tmp_path / "runs" / "signs" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "signs" / "model" / "task.json").write_text("{}")
    with pytest.raises(ModelError, match=r"Did you mean runs/signs\?"):
        Predictor.load("runs/sign")
    assert did_you_mean("nothing like it", {"{}": ["bert"]}) == ""

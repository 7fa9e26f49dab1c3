"""The cache folder: a place that can be written to, or a clear word about it."""

import pytest

from hf_ft.errors import HfFtError
from hf_ft.storage.cache_folder import cache_folder


def test_a_cache_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b" and cache_folder().is_dir()


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        monkeypatch.setenv("HF_FT_CACHE", str(place))
        with pytest.raises(HfFtError, match="expected a folder that can be written to"):
            cache_folder()

"""The cache folder: it is created, or an error names the folder that cannot be written to."""

import pytest

from hf_ft.errors import HfFtError
from hf_ft.storage.cache_folder import cache_folder


def test_the_cache_folder_is_created(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b" and cache_folder().is_dir()


def test_an_unusable_cache_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        monkeypatch.setenv("HF_FT_CACHE", str(path))
        with pytest.raises(HfFtError, match="expected a folder that can be written to"):
            cache_folder()

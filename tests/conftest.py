"""What every test has: a cache folder of its own session, so that it finds nothing of others."""

import os
import tempfile


def pytest_configure(config):
    config.cache_folder = tempfile.TemporaryDirectory(prefix="hf_ft-tests-")
    os.environ["HF_FT_CACHE"] = config.cache_folder.name


def pytest_unconfigure(config):
    config.cache_folder.cleanup()

"""The seed and the counts of the tests in this folder."""

import fuzzing
import pytest


@pytest.fixture
def seed(request):
    """The seed of every input; `--fuzz-seed` sets it."""
    return request.config.getoption("--fuzz-seed")


@pytest.fixture
def tally(request, record_property):
    """Count the inputs of a test; the summary of pytest prints the counts."""
    kind = request.node.path.stem.removeprefix("test_")
    how = request.node.originalname.removeprefix("test_").replace("_", " ")
    found = fuzzing.Tally(f"{kind}, {how}")
    yield found
    record_property("fuzz", str(found))

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def close_figures():
    """Close what a test has drawn: pyplot keeps figures until then."""
    yield
    from matplotlib import pyplot

    pyplot.close("all")

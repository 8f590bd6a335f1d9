from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lessons(tmp_path_factory) -> Path:
    """The folder where the notebooks simulate their observations, once for all of them: MRSXR_LESSONS, or a new one."""
    given = os.environ.get("MRSXR_LESSONS")
    folder = Path(given).resolve() if given else tmp_path_factory.mktemp("lessons")
    folder.mkdir(parents=True, exist_ok=True)
    return folder

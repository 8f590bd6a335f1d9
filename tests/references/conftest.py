from __future__ import annotations

from pathlib import Path

import pytest
import reference_set


@pytest.fixture(scope="session")
def reference_folder(tmp_path_factory) -> Path:
    """A folder with one reference file of every kind that the writers make (MIRIFUSHORT, 12A, FASTR1)."""
    return reference_set.write_set(tmp_path_factory.mktemp("references"))

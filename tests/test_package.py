"""What a package has: one version, names that go away are said, CRDS only where it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mrsxr
from mrsxr.deprecation import deprecated, renamed
from mrsxr.errors import MrsxrDeprecationWarning, ParameterError

ROOT = Path(mrsxr.__file__).parents[1]


def test_the_version_stands_in_one_place():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text() == f'__version__ = "{mrsxr.__version__}"\n'
    assert f"\nversion: {mrsxr.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {mrsxr.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_what_goes_away_says_so():
    @deprecated("0.2", "0.4", "use sorted")
    def in_order(values):
        return sorted(values)

    with pytest.warns(MrsxrDeprecationWarning, match="since mrsxr 0.2 and gone in 0.4; use sorted") as told:
        assert in_order([2, 1]) == [1, 2]
    assert told[0].filename == __file__

    @renamed("0.2", "0.4", z="redshift")
    def fit(line, *, redshift=0.0):
        return line, redshift

    assert fit("a", redshift=1.0) == ("a", 1.0)
    with pytest.warns(MrsxrDeprecationWarning, match="z is called redshift since mrsxr 0.2") as told:
        assert fit("a", z=2.0) == ("a", 2.0)
    assert told[0].filename == __file__
    with pytest.raises(ParameterError, match="z is the old name of redshift"):
        fit("a", z=2.0, redshift=1.0)


def test_crds_is_imported_where_it_is_used():
    code = (
        "import sys; sys.modules |= {'crds': None, 'stdatamodels': None}\n"
        "import mrsxr.cli, mrsxr.pipeline, mrsxr.simulate\n"
        "from mrsxr.references import References, find; print(References({}).kinds)\n"
        "try: find._crds('getreferences')\n"
        "except mrsxr.errors.ReferenceFileError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.startswith("()\n")
    assert "pip install 'mrsxr[crds]'" in found.stdout

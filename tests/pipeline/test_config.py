from __future__ import annotations

import pytest

from mrsxr.errors import MrsxrError
from mrsxr.pipeline import Config, load_config


def write(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_values_and_defaults(tmp_path):
    config = load_config(
        write(tmp_path, "[rate]\nrejection_threshold = 5\n[spectrum]\ncenter = [10.0, -3.0]\nstitch = 'additive'\n")
    )
    assert config.rate.rejection_threshold == 5
    assert config.rate.three_group_rejection_threshold == 6.0
    assert config.spectrum.center == (10.0, -3.0)
    assert load_config(write(tmp_path, "")) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rates]\n", r"unknown table \[rates\]"),
        ("[rate]\nthreshold = 3\n", "unknown key 'threshold' in"),
        ("[cal]\nflat = 1\n", "is int, expected bool"),
        ("[rate]\nn_pix_grow_sat = 'x'\n", "is str, expected int"),
        ("[rate\n", "cannot be read as TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(MrsxrError, match=message):
        load_config(write(tmp_path, text))


def test_missing_file(tmp_path):
    with pytest.raises(MrsxrError, match="cannot be read"):
        load_config(tmp_path / "none.toml")

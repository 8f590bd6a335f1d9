"""Parameters of the chains as frozen dataclasses, read from one TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrsxr.errors import MrsxrError


@dataclass(frozen=True)
class RateConfig:
    """Parameters of ramp -> rate; the names and defaults of jwst 3.0.0."""

    n_pix_grow_sat: int = 1
    average_dark_current: float | None = None
    rejection_threshold: float = 4.0
    four_group_rejection_threshold: float = 5.0
    three_group_rejection_threshold: float = 6.0
    flag_4_neighbors: bool = True
    min_jump_to_flag_neighbors: float = 10.0
    max_jump_to_flag_neighbors: float = 1000.0
    min_diffs_single_pass: int = 10
    suppress_one_group: bool = True


@dataclass(frozen=True)
class CalConfig:
    """Parameters of rate -> cal."""

    flat: bool = True
    fringe: bool = True
    apply_time_correction: bool = True


@dataclass(frozen=True)
class CubeConfig:
    """Parameters of cal -> cube; None takes the value of the cubepar reference file."""

    coord_system: str = "skyalign"
    spaxel_size: float | None = None
    wavelength_step: float | None = None
    center: tuple[float, float] | None = None


@dataclass(frozen=True)
class SpectrumConfig:
    """Parameters of cube -> spectrum.

    ``background`` "auto" subtracts an annulus where the extract1d file says so (the aperture correction is made for
    it), and without such a file unless a master background was subtracted before; else "annulus" or "none".
    ``center`` is (RA, Dec) [deg], by default the brightest source of each band.
    """

    source_type: str = "POINT"
    center: tuple[float, float] | None = None
    radius_factor: float = 2.0
    radius: float | None = None
    background: str = "auto"
    stitch: str = "none"
    reference_band: str | None = None


@dataclass(frozen=True)
class Config:
    """All parameters of a reduction."""

    rate: RateConfig = field(default_factory=RateConfig)
    cal: CalConfig = field(default_factory=CalConfig)
    cube: CubeConfig = field(default_factory=CubeConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)


def load_config(path: str | Path) -> Config:
    """Read a Config from a TOML file with the tables [rate], [cal], [cube], [spectrum].

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Config, defaults where the file says nothing

    Raises
    ------
    MrsxrError
        Where the file cannot be read, or has a table, a key or a type of value that is not known.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MrsxrError(f"{path}: cannot be read as TOML ({error})") from error
    sections = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    unknown = set(tables) - set(sections)
    if unknown:
        raise MrsxrError(f"{path}: unknown table [{sorted(unknown)[0]}]; expected {', '.join(sections)}")
    return Config(**{name: _section(path, name, tables.get(name, {}), type(make())) for name, make in sections.items()})  # type: ignore[operator,misc]


def _section(path: str | Path, name: str, values: dict[str, Any], cls: type) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    default = cls()
    checked = {}
    for key, value in values.items():
        if key not in fields:
            raise MrsxrError(f"{path}: unknown key '{key}' in [{name}]; expected one of {', '.join(fields)}")
        expected = getattr(default, key)
        if isinstance(value, list):
            value = tuple(value)
        if expected is not None and not _fits(value, expected):
            raise MrsxrError(
                f"{path}: [{name}] {key} = {value!r} is {type(value).__name__}, expected {type(expected).__name__}"
            )
        checked[key] = value
    return cls(**checked)


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(value, int | float)
    return isinstance(value, type(expected))

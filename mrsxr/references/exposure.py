"""What the choice of reference files depends on, taken from a Dataset of any level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.attributes import headers_of

#: Kinds made for cubes and spectra: they are chosen by the channel of the cube, not by those of the detector.
CUBE_KINDS = ("cubepar", "extract1d", "apcorr", "mrsptcorr", "pfpc")
#: Made for one band or for both of a setting: looked for by band, and a band without one has none.
BAND_KINDS = ("psf",)
_DETECTOR_LEVELS = ("ramp", "rate", "rateints", "cal")


@dataclass(frozen=True)
class Exposure:
    """What the choice of reference files depends on."""

    name: str  # setting or band, for messages
    fields: Mapping[str, str]
    date: str = ""  # "YYYY-MM-DDTHH:MM:SS", "" where unknown
    start: tuple[int, int] = (0, 0)  # first row and column of the exposure in the full frame, from 0
    shape: tuple[int, int] | None = None  # of the subarray
    columns: tuple[int, ...] = ()  # of the subarray that the Dataset holds, where not all
    rows: tuple[int, ...] | None = None  # chunks of the exposure along y
    cube_channel: str = ""  # channels of a cube or spectrum

    @classmethod
    def of(cls, ds: xr.Dataset) -> Exposure:
        """Return the facts of a Dataset of any level."""
        header = header_of(ds)
        attrs = ds.attrs
        setting = str(attrs.get("setting", "") or attrs.get("band", "") or "unknown setting")
        fields = {
            "detector": str(attrs.get("detector") or header.get("DETECTOR") or ""),
            "channel": str(attrs.get("channels") or header.get("CHANNEL") or ""),
            "band": str(attrs.get("band") or header.get("BAND") or ""),
            "readpatt": str(attrs.get("readpatt") or header.get("READPATT") or ""),
            "ngroups": str(header.get("NGROUPS") or attrs.get("n_groups") or ""),
            "subarray": str(attrs.get("subarray") or header.get("SUBARRAY") or ""),
            "exp_type": str(header.get("EXP_TYPE") or "MIR_MRS"),
            "filter": str(header.get("FILTER") or ""),
        }
        detector_level = attrs.get("level") in _DETECTOR_LEVELS
        channel = ""
        if not detector_level:
            channel, of_bands = _of_bands(ds, fields["channel"])
            fields |= of_bands
        start = (int(header.get("SUBSTRT2") or 1) - 1, int(header.get("SUBSTRT1") or 1) - 1)
        shape = (ds.sizes["y"], ds.sizes["x"]) if detector_level and {"y", "x"} <= set(ds.sizes) else None
        columns = _columns(ds, header) if shape is not None else ()
        if shape is not None and columns:
            shape = (shape[0], int(header.get("SUBSIZE1") or mrs.DETECTOR_SHAPE[1]))
        return cls(setting, fields, _date(ds, header), start, shape, columns, _rows(ds, shape), channel)

    def by_band(self) -> dict[str, Exposure]:
        """Return what the choice depends on for each band ("1A"); for all together, by "", where none is told."""
        letter = mrs.LETTERS.get(self.fields["band"].upper(), "")
        channels = self.cube_channel or self.fields["channel"]
        return {f"{one}{letter}": replace(self, fields={**self.fields, "channel": one}, cube_channel="")
                for one in channels if letter} or {"": self}  # fmt: skip

    def wanted(self, kind: str) -> dict[str, str]:
        """Return the fields that a file of a kind must agree with."""
        fields = dict(self.fields)
        if kind in CUBE_KINDS and self.cube_channel:
            fields["channel"] = self.cube_channel
        return fields


def _of_bands(ds: xr.Dataset, channels: str) -> tuple[str, dict[str, str]]:
    """Return the channels of a cube or spectrum and the fields of its exposures, "" where these have several values."""
    bands = [band for band in str(ds.attrs.get("band") or "").split() if band in mrs.BANDS]
    bands = bands or [band for band in mrs.BANDS if band in (ds.attrs.get("bands") or ())]
    if not bands:
        held = [name for name, those in mrs.DETECTORS.items() if set(channels) & set(those)]
        grating = str(ds.attrs.get("band") or "")
        known = {"band": grating if grating in mrs.LETTERS else "", "channel": ""}
        return channels, known | ({"detector": ""} if len(held) > 1 else {})
    keys = [mrs.setting_keywords(mrs.setting_of_band(band)) for band in bands]
    one = {name: value if all(k[name] == value for k in keys) else "" for name, value in keys[0].items()}
    fields = {"detector": one["DETECTOR"], "channel": one["CHANNEL"], "band": one["BAND"]}
    return "".join(sorted({band[0] for band in bands})), fields


def header_of(ds: xr.Dataset) -> dict[str, Any]:
    """Return the PRIMARY keywords of the (first) exposure of a Dataset of any level, {} where it carries none.

    Exposures have them on dither, cubes, spectra and line fits in their attrs.
    """
    return dict(next((header["PRIMARY"] for header in headers_of(ds) if header.get("PRIMARY")), {}))


def _columns(ds: xr.Dataset, header: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the columns of its subarray that a Dataset holds, told by the coordinate x; () for all of them."""
    size = ds.sizes["x"]
    own = ds["x"].values.astype(int) if "x" in ds.coords else np.arange(size)
    whole = size == int(header.get("SUBSIZE1") or size) and np.array_equal(own, np.arange(size))
    return () if whole else tuple(own.tolist())


def _date(ds: xr.Dataset, header: Mapping[str, Any]) -> str:
    """Return the start of the first exposure as ISO text, from DATE-OBS, TIME-OBS, DATE-BEG, MJD or start_time."""
    day = str(header.get("DATE-OBS") or "")[:10]
    if day:
        return f"{day}T{str(header.get('TIME-OBS') or '00:00:00').split('.')[0]}"
    begin = str(header.get("DATE-BEG") or "")
    if len(begin) >= 10:
        return f"{begin[:10]}T{begin[11:].split('.')[0] or '00:00:00'}"
    days = [header.get(key) for key in ("EXPSTART", "MJD-BEG")]
    if "start_time" in ds.coords and ds["start_time"].size:
        days.append(np.atleast_1d(ds["start_time"].values)[0])
    for value in days:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if np.isfinite(number) and number > 0:
            origin = np.datetime64("1858-11-17T00:00:00", "s")
            return str(origin + np.timedelta64(round(number * 86400), "s"))
    return ""


def _rows(ds: xr.Dataset, shape: tuple[int, int] | None) -> tuple[int, ...] | None:
    """Return the chunks of the data along y; whole detector-level Datasets in memory count as one block."""
    if shape is None:
        return None
    for name in ("sci", "rate", "rates", "flux"):
        if name in ds.data_vars and ds[name].chunks is not None:
            return tuple(ds.variables[name].chunksizes["y"])
    return None

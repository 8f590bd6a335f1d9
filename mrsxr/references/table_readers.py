"""Read the reference files that are tables; each reader returns a Dataset and extra attributes.

============  ==========================================================================================
rscd          ``group_skip1``, ``group_skip`` on (row) with coordinates ``subarray`` and ``readpatt``
psf           ``psf`` (plane, psf_alpha, psf_beta), the source in the middle; ``psf_wavelength`` [um], ``psf_step``
              [arcsec], coordinate ``psf_band`` on (plane)
latent        ``decay_time`` [s], ``amplitude``, ``amplitude_err``, ``saturated_amplitude`` (component); attribute
              ``full_well`` [DN]
pfpc          ``pattern`` (position, wavelength [um]); attributes ``dither_type``, ``dither_direction``,
              ``dither_optimized_for``
ipc           ``kernel`` (kernel_y, kernel_x) or (kernel_y, kernel_x, y, x)
mrsxartcorr   ``yrow``; ``lor_fwhm``, ``gau_fwhm``, ``gau_xoff`` [pix]; ``lor_scale``, ``gau_scale1``,
              ``gau_scale2``, all on (band, y); bands "1A" ... "4C"
mrsptcorr     ``frac_leak``, ``err_leak`` (wavelength [um]); ``tracor_*`` (channel); ``wavcorr_optical_*``
              (sub_band); ``wavcorr_xslice_*`` (xslice); ``wavcorr_shift_*`` (beta_off)
fringefreq    ``ffreq``, ``dffreq``, ``pgram_res`` [1/cm], ``max_nfringes``, ``min_snr`` on (band,
              slice_label, family), ``min_nfringes`` (band, slice_label), bands "SHORT", "MEDIUM",
              "LONG", NaN where a band lacks a slice; ``max_amplitude`` (wavelength [um])
cubepar       ``spaxel_size`` [arcsec], ``wavelength_step``, ``wavelength_min``, ``wavelength_max`` [um] on
              (band); ``msm_*``, ``emsm_*`` (band) and ``multichannel_wavelength`` [um] where present
extract1d     ``radius``, ``inner_background``, ``outer_background`` [arcsec] on (wavelength [um])
apcorr        ``radius`` [arcsec], ``correction``, ``correction_err`` on (aperture, wavelength [um])
emicorr       ``frequency`` [Hz] (name), ``waveform`` [DN] (name, phase_bin), NaN behind shorter ones;
              ``row_clocks``, ``frame_clocks`` (case); ``order`` (case, speed, detector, name) in which the frequencies
              are taken off, 0: not
============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from mrsxr import mrs
from mrsxr.errors import ReferenceFileError
from mrsxr.io.headers import FitsFile
from mrsxr.mrs import DETECTORS

from .tables import (
    CUBEPAR_TABLES,
    FRINGEFREQ_COLUMNS,
    FRINGEFREQ_UNITS,
    LATENT_COLUMNS,
    MAX_AMP_COLUMNS,
    MRSPTCORR_COLUMNS,
    MRSPTCORR_UNITS,
    PFPC_COLUMNS,
    PHOTOM_TIME_COLUMNS,
    PSF_COLUMNS,
    XART_COLUMNS,
    XART_UNITS,
)

Result = tuple[xr.Dataset, dict[str, Any]]
_CUBEPAR_NAMES = {
    "SPAXELSIZE": ("spaxel_size", "arcsec"), "SPECTRALSTEP": ("wavelength_step", "um"),
    "WAVEMIN": ("wavelength_min", "um"), "WAVEMAX": ("wavelength_max", "um"),
    "ROISPATIAL": ("roi_spatial", "arcsec"), "ROISPECTRAL": ("roi_spectral", "um"), "POWER": ("power", "1"),
    "SOFTRAD": ("softrad", "1"), "SCALERAD": ("scalerad", "arcsec"), "WAVELENGTH": ("wavelength", "um"),
}  # fmt: skip


def _columns(file: FitsFile, name: str, wanted: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the columns of a table extension by upper-case name; all ``wanted`` must be there."""
    columns = {}
    for key, column in file.table(name).items():
        if column.dtype.kind == "S":
            column = np.char.decode(column, "ascii")
        columns[key.upper()] = np.char.strip(column) if column.dtype.kind == "U" else column
    missing = [key for key in wanted if key.upper() not in columns]
    if missing:
        found = ", ".join(columns)
        raise ReferenceFileError(f"{file.path}: table {name} lacks the column {missing[0]}; found {found}")
    return columns


def read_rscd(file: FitsFile) -> Result:
    """Read the groups to drop; a missing or negative ``group_skip1`` counts as 1, as in jwst."""
    columns = _columns(file, "RSCD_GROUP_SKIP", {"SUBARRAY": "", "READPATT": "", "GROUP_SKIP": ""})
    skip = columns["GROUP_SKIP"].astype(np.int32)
    first = columns.get("GROUP_SKIP1", np.full_like(skip, -1)).astype(np.int32)
    variables = {
        "group_skip1": ("row", np.where(first < 0, 1, first), {"units": "1"}),
        "group_skip": ("row", skip, {"units": "1"}),
    }
    coords = {"subarray": ("row", columns["SUBARRAY"]), "readpatt": ("row", columns["READPATT"])}
    return xr.Dataset(variables, coords), {}


def read_latent(file: FitsFile) -> Result:
    """Read decay times and shares of the components of latents."""
    columns = _columns(file, "LATENT", LATENT_COLUMNS)
    well = file.hdus[0].header.get("FULLWELL")
    if well is None:
        raise ReferenceFileError(f"{file.path}: the keyword FULLWELL is missing")
    units = {"DECAY_TIME": "s"}
    variables = {
        name.lower(): ("component", columns[name].astype(float), {"units": units.get(name, "1")})
        for name in LATENT_COLUMNS
    }
    return xr.Dataset(variables), {"full_well": float(well)}


def read_pfpc(file: FitsFile) -> Result:
    """Read the patterns of point sources; rows without a wavelength are left out."""
    name = next((hdu.name for hdu in file.hdus if hdu.kind == "table"), "PFPC")
    columns = _columns(file, name, PFPC_COLUMNS)
    wavelength, *patterns = (columns[column.upper()].astype(float) for column in PFPC_COLUMNS)
    known = wavelength > 0
    cards = {**file.get(name).header, **file.hdus[0].header}
    keywords = {"dither_type": "PATTTYPE", "dither_direction": "DITHDIRC", "dither_optimized_for": "DITHOPFR"}
    pattern = (("position", "wavelength"), np.stack(patterns)[:, known], {"units": "1"})
    wave = ("wavelength", wavelength[known], {"units": "um"})
    coords = {"position": np.arange(1, 1 + len(patterns)), "wavelength": wave}
    return xr.Dataset({"pattern": pattern}, coords), {k: str(cards.get(word) or "") for k, word in keywords.items()}


def read_psf(file: FitsFile) -> Result:
    """Read images of a point source on the detector."""
    columns = _columns(file, "PSF", PSF_COLUMNS)
    images = columns["IMAGE"].astype(np.float32)
    side = round(np.sqrt(images.shape[-1]))
    if images.shape[1:] != (side * side,):
        raise ReferenceFileError(f"{file.path}: images of {images.shape[1:]} values; expected square ones in rows")
    variables = {
        "psf": (("plane", "psf_alpha", "psf_beta"), images.reshape(-1, side, side), {"units": "1"}),
        "psf_wavelength": ("plane", columns["WAVELENGTH"].astype(float), {"units": "um"}),
        "psf_step": ("plane", columns["STEP"].astype(float), {"units": "arcsec"}),
    }
    return xr.Dataset(variables, {"psf_band": ("plane", columns["BAND"].astype(str))}), {}


def read_ipc(file: FitsFile) -> Result:
    """Read the kernel that undoes interpixel capacitance."""
    shape = file.get("SCI").shape
    if len(shape) not in (2, 4):
        raise ReferenceFileError(f"{file.path}: SCI has the shape {shape}, expected a 2-D or 4-D kernel")
    dims = ("kernel_y", "kernel_x", "y", "x")[: len(shape)]
    image = file.image("SCI", dtype="f4")
    lazy = image if isinstance(image, np.ndarray) else indexing.LazilyIndexedArray(image)
    return xr.Dataset({"kernel": xr.Variable(dims, lazy, {"units": "1"}).load()}), {}


def read_mrsxartcorr(file: FitsFile) -> Result:
    """Read the kernels of the cross artifact of the bands that the file has."""
    bands = [band for band in mrs.BANDS if f"CH{band}" in file]
    if not bands:
        raise ReferenceFileError(f"{file.path}: none of the tables CH1A ... CH4C is in the file")
    tables = [_columns(file, f"CH{band}", XART_COLUMNS) for band in bands]
    sizes = {len(table["YROW"]) for table in tables}
    if len(sizes) > 1:
        raise ReferenceFileError(f"{file.path}: the tables CH1A ... CH4C differ in length {sorted(sizes)}")
    variables = {}
    for column, dtype in XART_COLUMNS.items():
        values = np.stack([table[column] for table in tables]).astype(dtype)
        variables[column.lower()] = (("band", "y"), values, {"units": XART_UNITS.get(column, "1")})
    return xr.Dataset(variables, {"band": bands}), {}


def read_mrsptcorr(file: FitsFile) -> Result:
    """Read the corrections of point sources, each table that the file has."""
    present = [name for name in MRSPTCORR_COLUMNS if name in file]
    if not present:
        raise ReferenceFileError(f"{file.path}: none of the tables {', '.join(MRSPTCORR_COLUMNS)} is in the file")
    keys = {"LEAKCOR": "WAVELENGTH", "TRACOR": "CHANNEL", "WAVCORR_OPTICAL": "SUB_BAND", "WAVCORR_SHIFT": "BETA_OFF"}
    variables, coords = {}, {}
    for name in present:
        columns = _columns(file, name, MRSPTCORR_COLUMNS[name])
        key = keys.get(name, "")
        dim = key.lower() or "xslice"
        prefix = "" if name == "LEAKCOR" else f"{name.lower()}_"
        prefix = "wavcorr_" if name == "WAVCORR_XSLICE" else prefix
        for column in MRSPTCORR_COLUMNS[name]:
            attrs = {"units": MRSPTCORR_UNITS[column]} if column in MRSPTCORR_UNITS else {}
            if column == key:
                coords[dim] = (dim, columns[column], attrs)
            else:
                variables[prefix + column.lower()] = (dim, columns[column], attrs)
    return xr.Dataset(variables, coords), {}


def read_fringefreq(file: FitsFile) -> Result:
    """Read the frequencies of residual fringes per slice and the largest amplitudes."""
    parts = []
    for band in ("SHORT", "MEDIUM", "LONG"):
        columns = _columns(file, f"RFC_FREQ_{band}", FRINGEFREQ_COLUMNS)
        slices = np.round(columns.pop("SLICE")).astype(np.int16)
        variables = {}
        for name in FRINGEFREQ_COLUMNS:
            if name == "SLICE":
                continue
            values, dims = columns[name].astype(np.float64).reshape(len(slices), -1), ["slice_label", "family"]
            if name == "MIN_NFRINGES":
                values, dims = values[:, 0], dims[:1]
            variables[name.lower()] = xr.Variable(dims, values, {"units": FRINGEFREQ_UNITS[name]})
        parts.append(xr.Dataset(variables, {"slice_label": slices}))
    ds = xr.concat(
        parts, xr.Variable("band", ["SHORT", "MEDIUM", "LONG"]), join="outer", combine_attrs="override",
        coords="minimal", data_vars="all", compat="override",
    )  # fmt: skip
    limits = _columns(file, "MAX_AMP", MAX_AMP_COLUMNS)
    amplitude = ("wavelength", limits["AMPLITUDE"], {"units": "1"})
    wavelength = ("wavelength", limits["WAVELENGTH"], {"units": "um"})
    return ds.assign(max_amplitude=amplitude).assign_coords(wavelength=wavelength), {}


def read_cubepar(file: FitsFile) -> Result:
    """Read the grids of the cubes: one row a band, and the tables of the weightings that the file has."""
    ds = _band_table(file, "CUBEPAR", "")
    for name, prefix in (("CUBEPAR_MSM", "msm_"), ("CUBEPAR_EMSM", "emsm_")):
        if name in file:
            ds = ds.merge(_band_table(file, name, prefix).reindex(band=ds.band), compat="override", join="left")
    for name in ("MULTICHANNEL_DRIZ", "MULTICHANNEL_MSM", "MULTICHANNEL_EMSM"):
        if name not in file:
            continue
        dim = name.lower()
        prefix = "multichannel_" if name == "MULTICHANNEL_DRIZ" else f"{dim}_"
        columns = _columns(file, name, CUBEPAR_TABLES[name])
        for column in CUBEPAR_TABLES[name]:
            new, unit = _CUBEPAR_NAMES[column]
            ds[prefix + new] = (dim, columns[column].astype(np.float64), {"units": unit})
    return ds, {}


def _band_table(file: FitsFile, name: str, prefix: str) -> xr.Dataset:
    columns = _columns(file, name, CUBEPAR_TABLES[name])
    letters = [mrs.LETTERS.get(str(grating).upper(), "") for grating in columns["BAND"]]
    bands = [f"{str(channel).strip()}{letter}" for channel, letter in zip(columns["CHANNEL"], letters, strict=True)]
    rows = [i for i, band in enumerate(bands) if band in mrs.BANDS]
    variables = {}
    for column in CUBEPAR_TABLES[name]:
        if column in _CUBEPAR_NAMES:
            new, unit = _CUBEPAR_NAMES[column]
            # the decimal numbers that were meant: 0.0008, not its float32 neighbour
            values = np.array([float(str(value)) for value in columns[column][rows].astype(np.float32)])
            variables[prefix + new] = ("band", values, {"units": unit})
    return xr.Dataset(variables, {"band": [bands[i] for i in rows]})


def read_time_law(file: FitsFile) -> dict[str, xr.Variable]:
    """Return the time law of a photom file on (channel 1 ... 4, time_bin); empty where the file has none.

    Notes
    -----
    C(t) = min(1, year1value ((t - t0 + tsoft) / (365 + tsoft))^alpha), t and t0 in MJD, at each wavelength;
    NaN fills channels with fewer bins.
    """
    names = [f"TIMECOEFF_POWERLAW_CH{channel}" for channel in (1, 2, 3, 4)]
    tables = [_columns(file, name, PHOTOM_TIME_COLUMNS) if name in file else None for name in names]
    length = max((len(table["BINWAVE"]) for table in tables if table), default=0)
    if not length:
        return {}
    new = {
        "BINWAVE": ("time_wavelength", "um"), "ALPHA": ("time_alpha", "1"), "T0": ("time_t0", "d"),
        "YEAR1VALUE": ("time_year1value", "1"), "TSOFT": ("time_tsoft", "d"),
    }  # fmt: skip
    out = {}
    for column, (name, unit) in new.items():
        values = np.full((4, length), np.nan)
        for row, table in enumerate(tables):
            if table:
                values[row, : len(table[column])] = table[column]
        out[name] = xr.Variable(("channel", "time_bin"), values, {"units": unit})
    return out


def read_extract1d(tree: Mapping[str, Any], where: str) -> Result:
    """Read the apertures of the extraction (``Extract1dIFUModel``)."""
    data = _branch(tree, "data", where, ("wavelength", "radius", "inner_bkg", "outer_bkg"))
    names = {"radius": "radius", "inner_bkg": "inner_background", "outer_bkg": "outer_background"}
    variables = {
        new: ("wavelength", np.asarray(data[old], np.float64).ravel(), {"units": "arcsec"})
        for old, new in names.items()
    }
    coords = {"wavelength": ("wavelength", np.asarray(data["wavelength"], np.float64).ravel(), {"units": "um"})}
    meta = tree["meta"]
    attrs = {
        "subtract_background": int(bool(meta.get("subtract_background", False))),
        "region_type": str(meta.get("region_type", "target")),
        "method": str(meta.get("method", "subpixel")),
        "subpixels": int(meta.get("subpixels", 10)),
    }
    return xr.Dataset(variables, coords), attrs


def read_apcorr(tree: Mapping[str, Any], where: str) -> Result:
    """Read the aperture corrections (``MirMrsApcorrModel``)."""
    table = _branch(tree, "apcorr_table", where, ("wavelength", "radius", "apcorr"))
    wavelength = np.asarray(table["wavelength"], np.float64).ravel()
    values = np.atleast_2d(np.asarray(table["apcorr"], np.float64))
    radius = np.broadcast_to(np.atleast_2d(np.asarray(table["radius"], np.float64)), values.shape)
    error = np.asarray(table.get("apcorr_err", np.zeros_like(values)), np.float64)
    if values.shape[1] != len(wavelength):
        raise ReferenceFileError(
            f"{where}: apcorr has the shape {values.shape}, expected (aperture, {len(wavelength)})"
        )
    unit = str(table.get("radius_units", "arcsec"))
    if not unit.startswith("arcsec"):
        raise ReferenceFileError(f"{where}: the aperture radius is in '{unit}', expected arcsec")
    dims = ("aperture", "wavelength")
    variables = {
        "radius": (dims, radius.copy(), {"units": "arcsec"}),
        "correction": (dims, values, {"units": "1"}),
        "correction_err": (dims, np.broadcast_to(error, values.shape).copy(), {"units": "1"}),
    }
    return xr.Dataset(variables, {"wavelength": ("wavelength", wavelength, {"units": "um"})}), {}


def read_emicorr(tree: Mapping[str, Any], where: str) -> Result:
    """Read the waveforms of the electromagnetic interference (``EmiModel``)."""
    branch = _branch(tree, "frequencies", where, ())
    cases = _branch(tree, "subarray_cases", where, ())
    names = sorted(branch)
    waves = [np.asarray(branch[name]["phase_amplitudes"], np.float64).ravel() for name in names]
    values = np.full((len(names), max((len(wave) for wave in waves), default=0)), np.nan)
    for row, wave in enumerate(waves):
        values[row, : len(wave)] = wave
    variables = {
        "frequency": ("name", np.array([float(branch[name]["frequency"]) for name in names]), {"units": "Hz"}),
        "waveform": (("name", "phase_bin"), values, {"units": "DN"}),
    }
    coords = {"name": names, "case": sorted(cases), "speed": ["FAST", "SLOW"], "detector": list(DETECTORS)}
    for clocks, key in (("row_clocks", "rowclocks"), ("frame_clocks", "frameclocks")):
        found = np.array([float(cases[case].get(key, np.nan)) for case in coords["case"]])
        variables[clocks] = (("case",), found, {"units": "1"})
    order = np.zeros([len(axis) for axis in (coords["case"], coords["speed"], coords["detector"], names)], np.int16)
    for place in np.ndindex(order.shape[:3]):
        case, speed, detector = (coords[dim][k] for dim, k in zip(("case", "speed", "detector"), place, strict=True))
        wanted = cases[case].get("freqs", {}).get(speed, [])
        for number, name in enumerate(wanted.get(detector, []) if isinstance(wanted, Mapping) else wanted, 1):
            if name not in names:
                raise ReferenceFileError(f"{where}: asks for the frequency '{name}' but holds {', '.join(names)}")
            order[place][names.index(name)] = number
    variables["order"] = (("case", "speed", "detector", "name"), order, {"units": "1"})
    return xr.Dataset(variables, coords), {}


def _branch(tree: Mapping[str, Any], key: str, where: str, wanted: tuple[str, ...]) -> Mapping[str, Any]:
    """Return a branch of an ASDF tree that has the wanted keys; EmiModel keeps some below ``data``."""
    branch = tree.get(key)
    if branch is None and isinstance(tree.get("data"), Mapping):
        branch = tree["data"].get(key)
    if not isinstance(branch, Mapping):
        raise ReferenceFileError(f"{where}: the tree has no '{key}'; found {', '.join(map(str, tree))}")
    missing = [name for name in wanted if name not in branch]
    if missing:
        raise ReferenceFileError(f"{where}: '{key}' lacks '{missing[0]}'; found {', '.join(map(str, branch))}")
    return branch

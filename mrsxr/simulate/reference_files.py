"""Write reference files in the layouts of CRDS (``stdatamodels`` schemas): names and values in, file out.

The images of a kind are those that :data:`mrsxr.references.readers.IMAGES` reads, the tables those of
:mod:`mrsxr.references.tables`; what a kind takes has the name that the Dataset of the reader has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr import dq as dq_bits
from mrsxr import mrs
from mrsxr.errors import ReferenceFileError
from mrsxr.io.asdffile import LOCK
from mrsxr.io.atomic import replacing
from mrsxr.references import tables as layouts
from mrsxr.references.headers import FIELDS
from mrsxr.references.readers import IMAGES, WITH_DQ, Image
from mrsxr.units import ARCSEC2_TO_SR

#: Keys that a header may have: their FITS keyword and their place below ``meta`` in ASDF files.
HEADER_KEYWORDS: dict[str, tuple[str, str]] = {
    **{name: (keys[0], keys[2]) for name, keys in FIELDS.items()},
    "n_groups": ("NGROUPS", "exposure.ngroups"),
    "n_integrations": ("NINTS", "exposure.nints"),
    "n_frames": ("NFRAMES", "exposure.nframes"),
    "group_gap": ("GROUPGAP", "exposure.groupgap"),
    "x_start": ("SUBSTRT1", "subarray.xstart"),
    "y_start": ("SUBSTRT2", "subarray.ystart"),
    "x_size": ("SUBSIZE1", "subarray.xsize"),
    "y_size": ("SUBSIZE2", "subarray.ysize"),
    "dither_type": ("PATTTYPE", "dither.primary_type"),
    "dither_direction": ("DITHDIRC", "dither.direction"),
    "dither_optimized_for": ("DITHOPFR", "dither.optimized_for"),
    "useafter": ("USEAFTER", "useafter"),
    "author": ("AUTHOR", "author"),
    "pedigree": ("PEDIGREE", "pedigree"),
    "description": ("DESCRIP", "description"),
    "origin": ("ORIGIN", "origin"),
}
DEFAULTS = {
    "detector": "N/A", "useafter": "2022-05-01T00:00:00", "author": "mrsxr", "pedigree": "DUMMY",
    "exp_type": "MIR_MRS", "origin": "mrsxr",
}  # fmt: skip
#: Class of stdatamodels that opens a kind (``DATAMODL``).
MODELS = {
    "mask": "MaskModel", "saturation": "SaturationModel", "linearity": "LinearityModel", "dark": "DarkMIRIModel",
    "reset": "ResetModel", "gain": "GainModel", "readnoise": "ReadnoiseModel", "flat": "FlatModel",
    "fringe": "FringeModel", "photom": "MirMrsPhotomModel", "ipc": "IPCModel", "rscd": "RSCDModel",
    "latent": "LatentModel", "mrsxartcorr": "MirMrsXArtCorrModel", "mrsptcorr": "MirMrsPtCorrModel",
    "pfpc": "MirMrsPfpcModel", "psf": "PsfModel",
    "fringefreq": "FringeFreqModel", "cubepar": "MiriIFUCubeParsModel", "extract1d": "Extract1dIFUModel",
    "apcorr": "MirMrsApcorrModel", "emicorr": "EmiModel", "distortion": "DistortionMRSModel",
    "specwcs": "SpecwcsModel", "regions": "RegionsModel", "wavelengthrange": "WavelengthrangeModel",
}  # fmt: skip
#: Numbers of the primary header of a kind: keyword, default (None: not written) and comment.
NUMBERS: dict[str, dict[str, tuple[str, float | None, str]]] = {
    "dark": {"average_dark_current": ("AVDRKCUR", 0.0, "average dark current [e/s]")},
    "gain": {"gain_factor": ("GAINFACT", None, "")},
    "latent": {"full_well": ("FULLWELL", None, "[DN] charge of a pixel that saturates")},
}
_BUNITS = {"dark": "DN", "reset": "DN", "readnoise": "DN", "gain": "ELECTRONS/DN"}
_IMAGES = {**IMAGES, "ipc": (Image("kernel", "SCI", ("y", "x"), "1"),)}
_DQ_DEF_DTYPE = [("BIT", ">i4"), ("VALUE", ">u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")]
_NO_TIME_LAW = {"binwave": (4.0, 30.0), "alpha": (0.0, 0.0), "year1value": (1.0, 1.0), "tsoft": (1.0, 1.0),
                "t0": (59700.0, 59700.0)}  # fmt: skip


def write_reference(path: Any, kind: str, header: Mapping[str, Any] | None = None, **values: Any) -> Path:
    """Write a reference file of any kind but the geometry (:func:`mrsxr.simulate.geometry_files.write_geometry`).

    Parameters
    ----------
    path : path-like
        The file to write, ``.asdf`` for extract1d, apcorr and emicorr; it appears complete or not at all.
    kind : str
        "mask", "dark" ...: one of :data:`mrsxr.references.KINDS`.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; those left out get a default or are not written.
    **values
        Of images, arrays (numpy or dask) by the name that ``read_reference`` gives them, as ``threshold`` [DN] of
        saturation or ``coefficients`` (order, y, x) of linearity; errors are zero where left out. ``dq`` (y, x) are
        flags in standard bits, stored in as few bits as are used, none by default. Further

        * dark: ``average_dark_current`` [electron/s]; gain: ``gain_factor``; latent: ``full_well`` [DN];
        * photom: ``pixel_area`` (y, x) or one number [arcsec2]; ``time_law``, ``{channel: {"binwave" [um], "alpha",
          "year1value", "tsoft" [d], "t0" [MJD]}}`` with two rows or more: C = min(1, year1value ((t - t0 + tsoft) /
          (365 + tsoft))^alpha), and 1 in channels left out, as jwst wants all four tables or none;
        * ``tables`` of rscd, latent, mrsxartcorr, mrsptcorr, pfpc, fringefreq, cubepar: ``{extension: {column:
          values}}`` as in :data:`mrsxr.references.tables.TABLES`;
        * ``psf`` of psf: the Dataset of :func:`mrsxr.cal.learn_psf`, which tells detector, channel and band;
        * extract1d: ``wavelength`` [um], ``radius``, ``inner_background``, ``outer_background`` [arcsec];
        * apcorr: ``wavelength`` [um], ``radius`` [arcsec], ``correction`` (aperture, wavelength), ``correction_err``;
          jwst wants two apertures or more;
        * emicorr: ``frequencies`` {name: (frequency [Hz], waveform [DN])}, ``subarray_cases`` {"FULL_FAST":
          {"rowclocks": int, "frameclocks": int, "freqs": {"FAST": [names]}}} in clocks of 10 us.

    Returns
    -------
    Path of the file

    Raises
    ------
    ReferenceFileError
        Where a value is missing, unknown or of another shape.

    Examples
    --------
    >>> gain = np.full((1024, 1032), 5.5, np.float32)
    >>> path = mx.simulate.write_reference("jwst_miri_gain_0001.fits", "gain", {"detector": "MIRIFUSHORT"}, gain=gain)
    >>> mx.references.read_reference(path).attrs["detector"]
    'MIRIFUSHORT'
    """
    header, path = header or {}, Path(path)
    if kind in _TREES:
        branches = _called(_TREES[kind], kind, values)
        return write_asdf_file(path, {"meta": asdf_meta(header, kind), **branches}, all_array_storage="inline")
    if kind not in _IMAGES and kind not in layouts.TABLES:
        raise ReferenceFileError(f"no reference file of kind '{kind}' is written here")
    numbers = {}
    for name, (keyword, default, comment) in NUMBERS.get(kind, {}).items():
        number = values.pop(name, default)
        if number is not None:
            numbers[keyword] = (float(number), comment) if comment else float(number)
    if kind == "psf" and "psf" in values:
        psf = values.pop("psf")
        header = {to: psf.attrs[name] for to, name in _PSF_KEYS.items() if psf.attrs.get(name)} | dict(header)
        values["tables"] = {"PSF": _psf_columns(psf)}
    if kind in layouts.TABLES:
        primary = primary_header(header, kind)
        hdus = _called(_tables, kind, {"kind": kind, **values})
    else:
        primary, hdus = _images(header, kind, values)
    primary.update(numbers)
    primary["FILENAME"] = path.name
    with replacing(path, sync=False) as part:
        fits.HDUList([fits.PrimaryHDU(header=primary), *hdus]).writeto(part, output_verify="exception")
    return Path(path)


_PSF_KEYS = {"detector": "detector", "channel": "channels", "band": "band"}


def _psf_columns(psf: xr.Dataset) -> dict[str, np.ndarray]:
    images = psf["psf"].values
    return {"BAND": psf["psf_band"].values, "WAVELENGTH": psf["psf_wavelength"].values,
            "STEP": psf["psf_step"].values, "IMAGE": images.reshape(len(images), -1)}  # fmt: skip


def _called(function: Any, kind: str, values: Mapping[str, Any]) -> Any:
    try:
        return function(**values)
    except TypeError as error:
        raise ReferenceFileError(f"{kind}: {error}") from error


def _images(header: Mapping[str, Any], kind: str, values: dict[str, Any]) -> tuple[fits.Header, list[Any]]:
    """Return the primary header and the HDUs of a kind of images; flags stand before the pixel area."""
    values = dict(values)
    dq, area, time_law = values.pop("dq", None), values.pop("pixel_area", None), values.pop("time_law", None)
    images = [image for image in _IMAGES[kind] if image.name != "pixel_area"]
    if unknown := set(values) - {image.name for image in images}:
        raise ReferenceFileError(f"{kind} has no '{min(unknown)}'; known: {', '.join(i.name for i in _IMAGES[kind])}")
    arrays: list[np.ndarray] = []
    for image in images:
        given = values.get(image.name)
        if given is None and image.optional:
            arrays.append(np.zeros_like(arrays[0]))
        else:
            arrays.append(as_array(given, "float32", (2, 4) if kind == "ipc" else len(image.dims), image.name))
    hdus = [fits.ImageHDU(array, name=image.hdu) for image, array in zip(images, arrays, strict=True)]
    data = arrays[0] if arrays else as_array(dq, "uint32", 2, "dq")
    if kind in _BUNITS:
        hdus[0].header["BUNIT"] = _BUNITS[kind]
    if kind == "ipc":
        return primary_header(header, kind), hdus
    defaults: dict[str, Any] = {"band": "N/A"} if kind == "linearity" else {}
    if data.ndim == 4:
        defaults = {"n_integrations": data.shape[0], "n_groups": data.shape[1]}
    if kind == "dark":
        defaults |= {"n_frames": 1, "group_gap": 0}
    primary = primary_header(header, kind, shape=data.shape, **defaults)
    if kind in WITH_DQ:
        hdus += _flags(dq, data.shape, leading=data.shape[0] if kind == "dark" else None)
    if kind == "photom":
        hdus += _photom(primary, data, area, time_law)
    return primary, hdus


def _photom(primary: fits.Header, conversion: np.ndarray, pixel_area: np.ndarray, time_law: Any) -> list[Any]:
    """Write the medians into the header; return the HDUs of pixel area and time law."""
    area = np.broadcast_to(as_array(pixel_area, "float32", (0, 2), "pixel_area"), conversion.shape)
    median_area = float(np.nanmedian(area))
    primary["PHOTMJSR"] = (float(np.nanmedian(conversion)), "median conversion [MJy/sr / (DN/s)]")
    primary["PIXAR_A2"] = (median_area, "median pixel area [arcsec2]")
    primary["PIXAR_SR"] = (median_area * ARCSEC2_TO_SR, "median pixel area [sr]")
    hdus: list[Any] = [fits.ImageHDU(area, name="PIXSIZ")]
    if time_law is not None:
        for channel in (1, 2, 3, 4):
            columns = time_law.get(channel, _NO_TIME_LAW)
            name = f"TIMECOEFF_POWERLAW_CH{channel}"
            hdus.append(table_hdu(name, columns, layouts.PHOTOM_TIME_COLUMNS, {"BINWAVE": "um"}))
    return hdus


def _tables(kind: str, *, tables: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    known = layouts.TABLES[kind]
    for name in tables:
        if name not in known:
            raise ReferenceFileError(f"{kind} has no table '{name}'; expected {', '.join(known)}")
    return [table_hdu(name, columns, known[name], layouts.UNITS.get(kind)) for name, columns in tables.items()]


def _extract1d(
    *, wavelength: np.ndarray, radius: np.ndarray, inner_background: np.ndarray, outer_background: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    waves = as_array(wavelength, "float32", 1, "wavelength")
    data: dict[str, Any] = {"wavelength": waves, "wavelength_units": "micron"}
    given = {"radius": radius, "inner_bkg": inner_background, "outer_bkg": outer_background}
    for name, values in given.items():
        data[name] = np.broadcast_to(np.asarray(values, "float32"), waves.shape).copy()
        data[f"{name}_units"] = "arcsec"
    data |= {"axis_ratio": np.ones_like(waves), "axis_pa": np.zeros_like(waves), "axis_pa_units": "degree"}
    return {"data": data}


def _apcorr(
    *, wavelength: np.ndarray, radius: np.ndarray, correction: np.ndarray, correction_err: Any = None,
) -> dict[str, Any]:  # fmt: skip
    waves = as_array(wavelength, "float32", 1, "wavelength")
    radii = as_array(radius, "float32", 2, "radius")
    values = as_array(correction, "float32", 2, "correction")
    errors = np.zeros_like(values) if correction_err is None else as_array(correction_err, "float32", 2, "error")
    if not radii.shape == values.shape == errors.shape == (len(radii), len(waves)):
        raise ReferenceFileError(
            f"apcorr: radius {radii.shape} and correction {values.shape} must be (aperture, {len(waves)})"
        )
    return {"apcorr_table": {
        "channel": "ANY", "band": "ANY", "wavelength": waves, "wavelength_units": "micron", "radius": radii,
        "radius_units": "arcsec", "apcorr": values, "apcorr_err": errors,
    }}  # fmt: skip


def _emicorr(*, frequencies: dict[str, Any], subarray_cases: dict[str, Any]) -> dict[str, Any]:
    waves = {
        name: {"frequency": float(frequency), "phase_amplitudes": np.asarray(waveform, "float32")}
        for name, (frequency, waveform) in frequencies.items()
    }
    return {"frequencies": waves, "subarray_cases": {name: dict(case) for name, case in subarray_cases.items()}}


_TREES = {"extract1d": _extract1d, "apcorr": _apcorr, "emicorr": _emicorr}
#: More of ``meta`` of ASDF files.
_META = {"extract1d": {"region_type": "target", "subtract_background": True, "method": "subpixel", "subpixels": 10}}


def _complete(header: Mapping[str, Any], kind: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header with defaults filled in; an unknown key raises ReferenceFileError."""
    unknown = sorted(set(header) - set(HEADER_KEYWORDS))
    if unknown:
        raise ReferenceFileError(
            f"header of the {kind} file has unknown key '{unknown[0]}'; known: {', '.join(HEADER_KEYWORDS)}"
        )
    full = {**DEFAULTS, "description": f"MIRI MRS {kind} made by mrsxr", **defaults, **header}
    return {key: value for key, value in full.items() if value is not None}


def primary_header(
    header: Mapping[str, Any], kind: str, *, shape: tuple[int, ...] | None = None, **defaults: Any
) -> fits.Header:
    """Return the primary header of a FITS reference file; the shape of a detector image gives its subarray."""
    if shape is not None:
        defaults = {"subarray": "FULL", "x_start": 1, "y_start": 1, "x_size": shape[-1], "y_size": shape[-2],
                    **defaults}  # fmt: skip
    out = fits.Header()
    out["TELESCOP"], out["INSTRUME"], out["REFTYPE"], out["DATAMODL"] = "JWST", "MIRI", kind.upper(), MODELS[kind]
    for key, value in _complete(header, kind, defaults).items():
        out[HEADER_KEYWORDS[key][0]] = value
    if shape is not None:
        out["FASTAXIS"], out["SLOWAXIS"] = 1, 2
    return out


def asdf_meta(header: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the ``meta`` tree of an ASDF reference file, the same facts as :func:`primary_header`."""
    meta: dict[str, Any] = {
        "telescope": "JWST", "reftype": kind, "model_type": MODELS[kind], "instrument": {"name": "MIRI"},
    }  # fmt: skip
    for key, value in _complete(header, kind, {}).items():
        *parents, last = HEADER_KEYWORDS[key][1].split(".")
        node = meta
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return meta | _META.get(kind, {})


def as_array(values: Any, dtype: str, ndim: int | tuple[int, ...], what: str) -> np.ndarray:
    """Return values (numpy or dask) as an array of a dtype, or raise where the number of axes is wrong."""
    if values is None:
        raise ReferenceFileError(f"{what} is missing")
    array = np.asarray(values, dtype=dtype)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in allowed:
        raise ReferenceFileError(
            f"{what} has {array.ndim} axes {array.shape}, expected {' or '.join(map(str, allowed))}"
        )
    return array


def _flags(dq: Any, shape: tuple[int, ...], *, leading: int | None = None) -> list[Any]:
    """Return the HDUs DQ (as few bits as are used) and DQ_DEF of a flag plane in standard bits.

    With ``leading`` it is stored in 4-D as (leading, 1, y, x), the layout of MIRI darks.
    """
    plane = np.zeros(shape[-2:], np.uint32) if dq is None else as_array(dq, "uint32", 2, "dq")
    if plane.shape != tuple(shape[-2:]):
        raise ReferenceFileError(f"dq has shape {plane.shape}, the data have {tuple(shape[-2:])}")
    present = int(np.bitwise_or.reduce(plane, axis=None)) if plane.size else 0
    names = [name for name, bit in dq_bits.FLAGS.items() if present & bit] or ["DO_NOT_USE"]
    stored = np.zeros_like(plane)
    rows = []
    for bit, name in enumerate(names):
        stored[(plane & np.uint32(dq_bits.FLAGS[name])) != 0] |= np.uint32(1 << bit)
        rows.append((bit, 1 << bit, name, name.replace("_", " ").capitalize()))
    if leading is not None:
        stored = np.broadcast_to(stored, (leading, 1, *stored.shape))
    return [fits.ImageHDU(stored, name="DQ"), fits.BinTableHDU(np.array(rows, _DQ_DEF_DTYPE), name="DQ_DEF")]


def table_hdu(
    name: str, columns: Mapping[str, Any], layout: Mapping[str, str], units: Mapping[str, str] | None = None
) -> fits.BinTableHDU:
    """Return a binary table with the columns (n,) or (n, k) of a layout, in its order.

    Raises ReferenceFileError where a column is missing, unknown or of another length.
    """
    given = {key.upper(): np.atleast_1d(value) for key, value in columns.items()}
    wanted = [key.upper() for key in layout]
    if set(given) != set(wanted):
        wrong = sorted(set(given) ^ set(wanted))
        raise ReferenceFileError(f"table {name} needs the columns {', '.join(wanted)}; '{wrong[0]}' does not fit")
    if len({len(value) for value in given.values()}) > 1:
        raise ReferenceFileError(f"columns of table {name} differ in length")
    arrays = {
        key: np.char.encode(given[key.upper()].astype(str), "ascii") if kind.startswith("S") else given[key.upper()]
        for key, kind in layout.items()
    }
    dtype = [(key, np.dtype(layout[key]).newbyteorder(">"), array.shape[1:]) for key, array in arrays.items()]
    rows = np.zeros(len(next(iter(arrays.values()))), dtype)
    for key, array in arrays.items():
        rows[key] = array
    hdu = fits.BinTableHDU(rows, name=name)
    for key in arrays:
        if units and key in units:
            hdu.columns[key].unit = units[key]
    return hdu


def write_asdf_file(path: Path, tree: dict[str, Any], **how: Any) -> Path:
    """Write an ASDF file; it appears complete or not at all.

    jwst closes the files of extract1d and apcorr before it reads their arrays, which therefore must be inline.
    """
    tree["meta"]["filename"] = path.name
    with LOCK, replacing(path, sync=False) as part, asdf.AsdfFile(tree) as document:
        document.write_to(part, **how)
    return path


def cubepar_tables(
    bands: Mapping[str, tuple[float, float, float, float]],
    *,
    multichannel: Any = None,
    emsm: Mapping[str, tuple[float, float, float]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the tables of a cubepar file, the grids of the cubes.

    Parameters
    ----------
    bands : mapping of band to (spaxel [arcsec], wavelength step [um], minimum [um], maximum [um])
        "1A" ... "4C". The MSM weighting has the values of the public miri3d tables for each channel.
    multichannel : array (n) [um], optional
        Wavelengths of a cube of many channels; by default :func:`multichannel_wavelengths`.
    emsm : mapping of band to (spatial radius [arcsec], spectral radius [um], scale radius [arcsec]), optional
        Left out by default.
    """
    waves = np.asarray(multichannel_wavelengths() if multichannel is None else multichannel, "float32")
    msm = {band: MSM_DEFAULTS[int(band[0])] for band in bands}
    rows = {"CUBEPAR": _band_rows(bands), "CUBEPAR_MSM": _band_rows(msm), "MULTICHANNEL_MSM": _wave_rows(waves, msm)}
    if emsm is not None:
        rows |= {"CUBEPAR_EMSM": _band_rows(emsm), "MULTICHANNEL_EMSM": _wave_rows(waves, emsm)}
    rows["MULTICHANNEL_DRIZ"] = [waves]
    return {name: dict(zip(layouts.CUBEPAR_TABLES[name], columns, strict=True)) for name, columns in rows.items()}


#: EMSM weighting of the cubes per channel: spatial [arcsec] and spectral [um] radius, scale radius [arcsec]. About 2.3
#: spaxels and 2 planes; made up, for simulated files.
EMSM_DEFAULTS = {1: (0.30, 0.0016, 0.09), 2: (0.38, 0.0026, 0.12), 3: (0.46, 0.005, 0.14), 4: (0.8, 0.012, 0.25)}
#: MSM weighting of the cubes per channel: spatial and spectral radius, power, softening (miri3d).
MSM_DEFAULTS = {1: (0.1, 0.001, 2.0, 0.01), 2: (0.15, 0.002, 2.0, 0.01), 3: (0.2, 0.003, 2.0, 0.01),
                4: (0.4, 0.006, 2.0, 0.01)}  # fmt: skip


def _band_rows(values: Mapping[str, tuple[float, ...]]) -> list[Any]:
    """Return the columns CHANNEL, BAND and the numbers of one table of the cubepar file."""
    names = [[band[0] for band in values], [mrs.GRATINGS[band[1]] for band in values]]
    return names + [list(column) for column in zip(*values.values(), strict=True)]


def _wave_rows(waves: np.ndarray, values: Mapping[str, tuple[float, ...]]) -> list[Any]:
    """Return the columns WAVELENGTH and the numbers of the band nearest to each wavelength."""
    centres = np.array([sum(mrs.WAVELENGTH_LIMITS[band]) / 2 for band in values])
    nearest = np.abs(waves[:, None] - centres).argmin(axis=1)
    return [waves, *np.array(list(values.values()))[nearest].T]


def multichannel_wavelengths(start: float = 4.90, stop: float = 28.7) -> np.ndarray:
    """Return the wavelengths [um] of a cube of all channels: two samples a resolution element.

    The resolving power is the parabola through (5, 4000), (10, 3400), (12, 3000), (17, 2500) and (27, 1400),
    the rule of miri3d ``make_cubepar`` (2023).
    """
    parabola = np.polynomial.Polynomial.fit((5, 10, 12, 17, 27), (4000, 3400, 3000, 2500, 1400), 2).convert()
    waves = [start]
    while waves[-1] < stop:
        waves.append(waves[-1] * (1 + 0.5 / float(parabola(waves[-1]))))
    return np.array(waves[:-1])

"""Sections on what came out: decisions, apertures and stitching, fitted lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from mrsxr.errors import MrsxrError
from mrsxr.lines.fit import fit_lines
from mrsxr.schema import LINE_LIMITS, is_measured
from mrsxr.scores import Decision, merged
from mrsxr.scores import decisions as judged
from mrsxr.step import branches, read_history

from .gather import Contents
from .markup import NONE, bullets, code, details, join, number, paragraph, strong, table, with_error
from .pictures import aperture_of, line_pictures, whole_spectra

_MOST_ZOOMS = 12
_DETECTED, _SURE = 3.0, 5.0  # S/N; from the second on also fits at a bound are looked at closely
_AT_BOUND = 2  # bit of fit_flags
_BACKGROUNDS = {
    "subtract_background": "exposures of the background, pixel by pixel",
    "subtract_master_background": "spectrum of the background exposures (master background)",
    "subtract_field_background": "in bins of wavelength, linear over the field",
}  # fmt: skip
_ANNULI = {
    "annulus": "annulus around the aperture", "annulus_jwst": "annulus around the aperture, clipped as in jwst",
}  # fmt: skip


def decisions(contents: Contents) -> Markup:
    """Return what was chosen: type of the source, background, outliers, stitching."""
    steps = {e["step"].rsplit(".", 1)[-1]: e for _, entries in contents.histories() for e in entries}
    items = [_source_type(contents)]
    ways = [text for verb, text in _BACKGROUNDS.items() if verb in steps]
    if "match_backgrounds" in steps:
        ways.insert(0, "exposures matched to one level first")
    annuli = {str(ds.attrs.get("background_method")) for _, ds in contents.spectra()} - {"none", "None", ""}
    ways += [_ANNULI.get(name, f"{name} around the aperture") for name in sorted(annuli)]
    if not steps:
        ways += _background_of_headers(contents)
    if ways or (steps and contents.cubes()):
        items.append(("Background", ", ".join(ways) or "not subtracted"))
    if "flag_outliers" in steps:
        items.append(("Outliers", "flagged before the cubes were built"))
    for _, ds in contents.stitched():
        method = str(ds.attrs.get("stitch_method", ""))
        if method:
            text = "bands side by side, not scaled" if method == "none" else f"{method}, from band "
            items.append(("Stitching", text + ("" if method == "none" else str(ds.attrs.get("reference_band", "")))))
            break
    shown = [join(strong(f"{name}:"), " ", text) for name, text in items if text]
    tables = [found for found in (_scores(contents), _levels(contents)) if found is not None]
    if not (shown or tables):
        raise MrsxrError("the products tell of no decisions")
    return join(bullets(shown), *tables)


def _scores(contents: Contents) -> Markup | None:
    """Return what the steps decided by judging themselves on data that they did not fit, from the products."""
    latest: dict[tuple[str, str], Decision] = {}  # cal data carry what was judged on the ramps
    for file in contents.of("rate", "cal", "crf", "s3d", "x1d"):
        latest |= {(file.exposure or file.path.name, one.step): one for one in judged(contents.open(file))}
    if not latest:
        return None
    rows = []
    for one in merged(latest.values()):
        low, middle, high = one.spread
        rows.append([
            code(one.step), one.method, one.instead, one.held_out, f"{one.n_taken} of {one.scores.size}",
            number(middle), f"{number(low)} to {number(high)}",
        ])  # fmt: skip
    text = (
        "Better methods judge themselves on data that they did not fit: the misfit there, over that of what is done "
        "otherwise. Only where it is below 1 are they taken."
    )
    header = ["Step", "Method", "Else", "Judged on", "Taken", "Median", "Range"]
    return join(paragraph(text), table("Methods that judged themselves", header, rows, numbers=(4, 5, 6)))


def _background_of_headers(contents: Contents) -> list[str]:
    """Return what jwst says of the background of files without a history."""
    known = {"S_BKDSUB": "exposures of the background, pixel by pixel", "S_MSBSUB": "master background"}
    done = {k for f in contents.of("cal", "crf", "s3d", "x1d") for k in known if f.keywords.get(k) == "COMPLETE"}
    return [f"{known[key]} (by the headers)" for key in sorted(done)]


def _source_type(contents: Contents) -> tuple[str, str]:
    taken = sorted({str(ds.attrs["source_type"]) for _, ds in contents.spectra() if ds.attrs.get("source_type")})
    decision: dict[str, Any] = next(
        (r["decisions"]["source type"] for r in reversed(contents.runs) if r["decisions"].get("source type")), {}
    )
    asked = str(decision.get("asked", ""))
    by = {"header": "as the headers say", "images": "decided from the images", "user": "as asked for",
          "region": "of a region", "default": "the headers say nothing"}  # fmt: skip
    why = by.get(
        str(decision.get("decided_by") or {"auto": "images"}.get(asked, asked)), "as asked for" if asked else ""
    )
    if decision.get("score") is not None:
        why += (
            f" (score of the images {float(decision['score']):.2f}{', ambiguous' if decision.get('ambiguous') else ''})"
        )
    text = " and ".join(kind.lower() for kind in taken)
    return "Source", f"{text}{', ' + why if why and text else ''}"


def _levels(contents: Contents) -> Markup | None:
    """Return the background levels taken off single exposures, where the products tell them."""
    levels: dict[str, dict[str, float]] = {}
    files = [file.path for file in contents.of("crf")]
    for ds in map(contents.open, [*files, *(path for path, level in contents.others.items() if level == "cal")]):
        found = ds["background_level"].transpose("dither", "band").values if "background_level" in ds else ()
        for exposure, values in zip(np.atleast_1d(ds["exposure"].values), found, strict=False):
            levels.setdefault(str(exposure), {}).update(zip(map(str, ds["band"].values), values, strict=True))
    bands = sorted({band for by_band in levels.values() for band in by_band})
    if not bands:
        return None
    rows = [[code(name), *(number(by_band.get(b, np.nan)) for b in bands)] for name, by_band in sorted(levels.items())]
    caption = "Background matching: level taken off each exposure [MJy/sr]"
    return table(caption, ["Exposure", *bands], rows, range(1, len(bands) + 1))


def apertures(contents: Contents) -> Markup:
    """Return one row for each band: aperture, background, what was corrected, scale factor."""
    spectra = contents.spectra()
    if not spectra:
        raise MrsxrError("no spectra of single bands in this folder")
    scales: dict[tuple[str, str], str] = {}
    for _, ds in contents.stitched():
        kind = str(ds.attrs.get("source_type", ""))
        if "scale_factor" in ds.coords:
            found = zip(ds["stitched_band"].values, ds["scale_factor"].values, ds["scale_error"].values, strict=True)
            scales |= {(kind, str(band)): _scale(factor, error) for band, factor, error in found}
    rows = []
    for file, ds in spectra:
        circle, kind = aperture_of(ds), str(ds.attrs.get("source_type") or NONE)
        shape = str(ds.attrs.get("aperture") or NONE)
        if circle is not None and circle[2]:
            shape = f"{shape}, {circle[2]:.2f}″"
        rows.append(
            [
                str(ds.attrs.get("band") or file.node), kind.lower(), shape,
                f"{circle[0]:.6f}" if circle else NONE, f"{circle[1]:.6f}" if circle else NONE,
                str(ds.attrs.get("background_method") or NONE).split("_")[0], _corrections(ds),
                number(_median_snr(ds)), scales.get((str(ds.attrs.get("source_type", "")), file.node), NONE),
            ]
        )  # fmt: skip
    header = ["Band", "Source", "Aperture, radius", "RA [deg]", "Dec [deg]", "Background", "Corrected for",
              "S/N a sample", "Scale"]  # fmt: skip
    return table("Spectra of the bands", header, rows, numbers=(3, 4, 7, 8))


def _scale(value: float, error: float) -> str:
    return with_error(float(value), float(error)) if error else f"{float(value):.4g}"


def _corrections(ds: xr.Dataset) -> str:
    done = {e["step"].rsplit(".", 1)[-1] for steps in branches(read_history(ds)) for e in steps}
    known = {
        "correct_spectral_leak": "leak", "correct_residual_fringe_1d": "residual fringes",
        "correct_residual_fringe_cube": "residual fringes in the cube", "set_exact_errors": "covariance",
        "correct_fixed_pattern": "fixed pattern",
    }  # fmt: skip
    found = [text for verb, text in known.items() if verb in done]
    if ds.attrs.get("aperture_correction_ref"):
        found.insert(0, "aperture")
    return ", ".join(found) or NONE


def _median_snr(ds: xr.Dataset) -> float:
    name, var = ("flux", "var") if np.isfinite(ds["flux"].values).any() else ("surface_brightness",) * 2
    var = "var" if name == "flux" else "surface_brightness_var"
    variance = ds[var].values
    good = np.isfinite(ds[name].values) & (variance > 0)
    return float(np.median(ds[name].values[good] / np.sqrt(variance[good]))) if good.any() else float("nan")


def fitted(contents: Contents, redshift: float) -> xr.Dataset:
    """Return the fitted lines of the first spectrum of all bands, by wavelength; fitted once."""
    if redshift not in contents.fits:
        found = whole_spectra(contents)
        if not found:
            raise MrsxrError("no spectra in this folder, so that no lines were fitted")
        fit = fit_lines(found[0][1], redshift=redshift, components="auto").compute()
        contents.fits[redshift] = fit.isel(line=np.argsort(fit["wavelength_rest"].values, kind="stable"))
    return contents.fits[redshift]


def lines(contents: Contents, redshift: float | None) -> Markup:
    """Return the table of the fitted lines, upper limits of the others folded away."""
    if redshift is None:
        ask = "No redshift is known, so that no lines were fitted. Give it: "
        return paragraph(join(ask, code("mrsxr report FOLDER --redshift Z"), " (0 for sources of our galaxy)."))
    fit = fitted(contents, redshift)
    seen = fit["snr"].values >= _DETECTED
    rows = [_line_row(fit.isel(line=i), redshift) for i in np.flatnonzero(seen)]
    header = ["Line", "Observed [µm]", "Flux [1e-18 W/m²]", "S/N", "Velocity [km/s]", "Width σ [km/s]",
              "Equivalent width [nm]", "Gaussians", "Notes"]  # fmt: skip
    shown = table(f"Lines with S/N of {_DETECTED:.0f} or more, at z = {redshift:g}", header, rows, range(1, 8))
    text = (
        "Gaussians on a local continuum; widths are those of the source, the instrument removed; velocities against z. "
        f"Velocities are given from a signal-to-noise ratio of {LINE_LIMITS['velocity']:.0f} on, widths from "
        f"{LINE_LIMITS['dispersion']:.0f}, neither where the fit ended at a bound."
    )
    none = paragraph(f"No line has a signal-to-noise ratio of {_DETECTED:.0f} or more.")
    return join(paragraph(text), shown if rows else none, _limits(fit, seen))


def zooms(contents: Contents, redshift: float | None) -> Markup | None:
    """Return pictures of the lines with the best S/N; None without a redshift."""
    if redshift is None:
        return None
    fit = fitted(contents, redshift)
    snr = np.nan_to_num(fit["snr"].values)
    snr[((fit["fit_flags"].values & _AT_BOUND) != 0) & (snr < _SURE)] = 0.0
    best = [i for i in np.argsort(-snr, kind="stable")[:_MOST_ZOOMS] if snr[i] >= _DETECTED]
    if not best:
        raise MrsxrError("no line was detected")
    labels = [str(fit["line"].values[i]) for i in sorted(best)]
    return line_pictures(whole_spectra(contents)[0][1], fit, labels)


def _line_row(row: xr.Dataset, redshift: float) -> list[Any]:
    def value(name: str, factor: float = 1.0) -> str:
        if not measured(name):
            return NONE
        return with_error(factor * float(row[name]), factor * float(row[f"{name}_err"]))

    def measured(name: str) -> bool:
        seen = is_measured(row, name)
        return seen is None or bool(seen)

    rest, velocity = float(row["wavelength_rest"]), float(row["velocity"]) if measured("velocity") else 0.0
    place = rest * (1 + redshift) * (1 + velocity / 299792.458)
    return [
        str(row["line"].values), f"{place:.4f}", value("flux", 1e18), f"{float(row['snr']):.1f}", value("velocity"),
        value("dispersion"), value("ew", 1e3), str(int(row["n_components"])), _fit_notes(row),
    ]  # fmt: skip


def _fit_notes(row: xr.Dataset) -> str:
    bits, attrs = int(row["fit_flags"]), row["fit_flags"].attrs
    names = zip(np.atleast_1d(attrs["flag_masks"]).tolist(), attrs["flag_meanings"].split(), strict=True)
    return ", ".join(text.replace("_", " ") for bit, text in names if bits & int(bit)) or NONE


def _limits(fit: xr.Dataset, seen: np.ndarray) -> Markup:
    """Return the upper limits of the lines that were not detected, folded away."""
    rows = [
        [str(one["line"].values), f"< {number(1e18 * float(one['upper_limit']))}", number(float(one["snr"]), 2)]
        for one in (fit.isel(line=i) for i in np.flatnonzero(~seen)) if np.isfinite(float(one["upper_limit"]))
    ]  # fmt: skip
    if not rows:
        return Markup("")
    shown = table("Upper limits, 3 sigma", ["Line", "Flux [1e-18 W/m²]", "S/N"], rows, (1, 2))
    return details(f"{len(rows)} lines that were not detected", shown)

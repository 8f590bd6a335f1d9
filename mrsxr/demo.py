"""The demonstration: simulate an observation, reduce it, compare with the truth, draw one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from . import plot
from .arguments import as_bands, reads
from .errors import MrsxrError
from .io import load_dataset
from .io.atomic import check_folder
from .io.files import BACKGROUND
from .lines import fit_line
from .mrs import BANDS, resolving_power
from .pipeline import Recipe, Reporter, RunResult, run
from .references import References
from .simulate import Effects, Simulation, simulate_observation
from .units import C_KM_S

#: What each size of the demonstration simulates.
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"bands": ("1A", "2A"), "n_dithers": 2, "n_background": 1, "n_groups": 10, "n_integrations": 1},
    "default": {"bands": ("1A", "2A", "3A", "4A"), "n_dithers": 4, "n_background": 2, "n_groups": 10},
    "full": {"bands": BANDS, "n_dithers": 4, "n_background": 2, "n_groups": 40},
}
LIMITS = {"continuum": 0.03, "line": 0.05, "wavelength": 0.1, "position": 0.05}


#: What the simulated exposures have besides the defaults.
EFFECTS = Effects(straylight=True, leak=True)


@dataclass(frozen=True)
class Check:
    """One number against its truth: the relative (flux), resolution-element (wavelength) or arcsec (position) error."""

    what: str
    where: str
    found: float
    true: float
    error: float
    kind: str
    sigma: float = float("nan")  #: statistical error of ``error``, where the noise matters

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit of its kind."""
        return bool(abs(self.error) <= LIMITS[self.kind])


@dataclass
class DemoResult:
    """What the demonstration made."""

    simulation: Simulation
    run: RunResult
    checks: list[Check]
    picture: Path

    @property
    def passed(self) -> bool:
        """Whether everything was reduced and recovered within the limits."""
        return not self.run.failed and all(check.passed for check in self.checks)


@reads(bands=as_bands)
def demo(
    out: str | Path = "mrsxr_demo",
    *,
    size: str = "default",
    bands: tuple[str, ...] | None = None,
    distortion: str | Path | None = None,
    recipe: Recipe | str | Path = "baseline",
    workers: int | None = None,
    seed: int = 1,
    reporter: Reporter | None = None,
) -> DemoResult:
    """Simulate, reduce, compare and draw.

    Parameters
    ----------
    out : path
        Gets ``simulated/`` and ``reduced/`` and the picture.
    size : {"quick", "default", "full"}
        One setting with two dithers; band SHORT of all channels with four; all twelve bands with 40 groups.
    bands : tuple of str, optional
        Other bands than those of the size.
    distortion : path, optional
        Folder of real distortion files, in place of the parametric geometry.
    recipe : Recipe, name or TOML file
        Of the reduction.
    workers : int, optional
    seed : int
    reporter : Reporter, optional

    Returns
    -------
    DemoResult
    """
    if size not in SIZES:
        raise MrsxrError(f"size is '{size}'; expected one of {', '.join(SIZES)}")
    out = check_folder(out)
    plan = dict(SIZES[size])
    if bands:
        plan["bands"] = bands
    reporter = reporter or Reporter()
    simulation = _simulate(out / "simulated", plan, distortion, seed, reporter)
    sources = truth_of(simulation)[1]
    redshift = float(sources.redshift[0])
    result = run(
        simulation.uncal_folder, simulation.background_folder, out=out / "reduced",
        refs=References(simulation.reference_folder), recipe=Recipe.of(recipe).set("extract_1d", source_type="POINT"),
        workers=workers, reporter=reporter, redshift=redshift,
    )  # fmt: skip
    checks = compare(simulation, result)
    picture = draw(
        result, out / "mrsxr_demo.png", redshift=redshift,
        title=f"{sources.attrs['target']}: simulated and reduced by mrsxr",
    )  # fmt: skip
    return DemoResult(simulation, result, checks, picture)


def _simulate(
    folder: Path, plan: dict[str, Any], distortion: str | Path | None, seed: int, reporter: Reporter
) -> Simulation:
    settings = {b[1] + ("12" if b[0] in "12" else "34") for b in plan["bands"]}
    reporter.begin("simulate", len(settings) * (1 + plan["n_dithers"] + plan["n_background"]))
    return simulate_observation(
        folder, **plan, distortion=distortion, seed=seed, save_slopes=False, effects=EFFECTS,
        progress=lambda text: reporter.done("simulate", Path(text).name, 0.0),
    )  # fmt: skip


def compare(simulation: Simulation, result: RunResult) -> list[Check]:
    """Compare the spectra of a run with the truth of its simulation.

    Parameters
    ----------
    simulation : Simulation
    result : RunResult

    Returns
    -------
    list of Check
        For every band the continuum and the position; for every line of the point source that stands clear of
        the disc's lines the flux and the wavelength.
    """
    checks = []
    lines, sources = truth_of(simulation)
    for path in result.files.get("spectrum", []):
        spectrum = load_dataset(path)
        band = str(spectrum.attrs["band"])
        truth = simulation.spectra[band]
        checks += [_continuum(spectrum, truth, lines, band), _position(spectrum, sources, band)]
        for name, components in _clean_lines(lines, spectrum):
            checks += _line(spectrum, name, components, band)
    return sorted(checks, key=lambda c: (c.kind, BANDS.index(c.where.split()[0])))


def truth_of(simulation: Simulation) -> tuple[xr.Dataset, xr.Dataset]:
    """Return line list and sources of a simulation that was run."""
    if simulation.lines is None or simulation.sources is None:
        raise MrsxrError(f"{simulation.folder}: holds no truth; simulate it first")
    return simulation.lines, simulation.sources


def _continuum(spectrum: xr.Dataset, truth: Any, lines: Any, band: str) -> Check:
    wavelength = spectrum.wavelength.values
    clear = np.isfinite(spectrum.flux.values)
    for centre, sigma in zip(lines.wavelength.values, lines.sigma.values, strict=True):
        clear &= np.abs(wavelength - centre) > 8 * sigma
    true = np.interp(wavelength, truth.wavelength.values, truth.continuum.values)
    ratio = float(np.median(spectrum.flux.values[clear] / true[clear]))
    middle = float(np.median(true[clear]))
    return Check("continuum [mJy]", band, 1e3 * ratio * middle, 1e3 * middle, ratio - 1, "continuum")


def _position(spectrum: xr.Dataset, sources: Any, band: str) -> Check:
    ra, dec = float(sources.ra[0]), float(sources.dec[0])
    east = (float(spectrum.attrs["aperture_ra"]) - ra) * np.cos(np.deg2rad(dec)) * 3600
    north = (float(spectrum.attrs["aperture_dec"]) - dec) * 3600
    off = float(np.hypot(east, north))
    return Check("position [arcsec]", band, off, 0.0, off, "position")


def _clean_lines(lines: xr.Dataset, spectrum: xr.Dataset) -> Iterator[tuple[str, Any]]:
    """Yield (name, its components) of the point source's lines of a band that no disc line touches."""
    low, high = float(spectrum.wavelength[0]), float(spectrum.wavelength[-1])
    point, disc = (lines.isel(line=lines.source.values == kind) for kind in ("point", "disc"))
    keys = list(dict.fromkeys(zip(point.name.values, point.wavelength_rest.values, strict=True)))
    for name, rest in keys:
        components = point.isel(line=(point.name.values == name) & (point.wavelength_rest.values == rest))
        reach = 7 * float(components.sigma.max())
        centres = components.wavelength.values
        if centres.min() - 2 * reach < low or centres.max() + 2 * reach > high:
            continue
        if np.any(np.abs(disc.wavelength.values[:, None] - centres) < reach + 5 * disc.sigma.values[:, None]):
            continue
        yield str(name), components


def _line(spectrum: xr.Dataset, name: str, components: Any, band: str) -> list[Check]:
    strongest = int(np.argmax(components.flux.values))
    true, centre = float(components.flux.sum()), float(components.wavelength[strongest])
    reach = 8 * float(components.sigma.max()) + float(np.ptp(components.wavelength.values))
    fit = fit_line(spectrum, centre, redshift=0.0, components=components.sizes["line"], window=reach / centre * C_KM_S)
    found, sigma = float(fit.flux[0]), float(fit.flux_err[0])
    position = centre * (1 + float(fit.component_velocity.isel(line=0, component=0)) / C_KM_S)
    element = centre / float(resolving_power(centre))
    where = f"{band} {name}"
    return [
        Check("line [1e-18 W/m2]", where, 1e18 * found, 1e18 * true, found / true - 1, "line", sigma / true),
        Check("wavelength [um]", where, position, centre, (position - centre) / element, "wavelength"),
    ]


@reads()
def draw(
    result: RunResult, path: Path, *, cubes: Sequence[Path] = (), redshift: float | None = None, title: str
) -> Path:
    """Draw the one picture of a run: a science exposure, a cube a channel with the aperture, the whole spectrum.

    Parameters
    ----------
    result : RunResult
    path : path
        PNG to write.
    cubes : sequence of path, optional
        Cubes that the run began with, where it made none.
    redshift : float, optional
        Redshift, marks the lines.
    title : str

    Returns
    -------
    Path
    """
    images = [load_dataset(p) for p in sorted(result.files.get("cube", [])) or cubes]
    spectra = [load_dataset(p) for p in result.files.get("spectrum", [])]
    aperture = {str(s.attrs["band"]): (s.attrs["aperture_ra"], s.attrs["aperture_dec"]) for s in spectra}
    whole = load_dataset(result.files["stitched"][1]) if result.files.get("stitched") else None
    science = [p for p in result.files.get("cal", []) if BACKGROUND not in p.relative_to(result.out).parts]
    cal = load_dataset(science[0]) if science else None
    axes = plot.summary(cal, images, whole, redshift=redshift, title=title, aperture=aperture or None)
    return plot.save_figure(axes, path)

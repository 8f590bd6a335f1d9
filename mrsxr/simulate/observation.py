"""A whole simulated observation on disk: raw exposures, reference files, an offline CRDS cache and the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.arguments import as_bands, reads
from mrsxr.errors import MrsxrError
from mrsxr.io.atomic import check_folder
from mrsxr.io.netcdf import read_netcdf, write_netcdf
from mrsxr.limits import Count, Range, SourceType, Workers, checked

from .exposure import Effects, Instrument, Truth, make_cosmic_rays, make_instrument, observe, ramp_blocks
from .instrument import find_geometry_file, load_geometry, make_geometry
from .pointing import DITHERS, Aim, aim_at
from .references import write_common_references, write_detector_references, write_setting_references
from .scene import Scene, line_table
from .uncal import Visit, write_uncal

_START = 59764.5  # MJD of the first exposure, 2022-07-04
_ROLL = 247.0  # deg
_VA_SCALE = 1.00005
_VELOSYS = 12000.0  # m/s
_BACKGROUND_OFFSET = 60.0 / 3600  # deg north of the target


@dataclass
class Simulation:
    """Where a simulated observation lies and what is true of it.

    ``crds`` are the environment variables that select the reference files through CRDS. ``spectra`` holds one
    Dataset a band (flux of the point sources and continuum [Jy], background [MJy/sr]), ``lines`` the line list,
    ``sources`` positions, ``slopes`` the truth file of each exposure root.

    Examples
    --------
    >>> made = mx.simulate_observation("sim", bands=["1A"], n_groups=2, n_dithers=1, n_background=0)  # doctest: +SKIP
    >>> made.reference_folder, made.spectra["1A"].flux, made.lines  # doctest: +SKIP
    """

    folder: Path
    uncal: list[Path] = field(default_factory=list)
    background: list[Path] = field(default_factory=list)
    references: list[Path] = field(default_factory=list)
    crds: dict[str, str] = field(default_factory=dict)
    spectra: dict[str, xr.Dataset] = field(default_factory=dict)
    lines: xr.Dataset | None = None
    sources: xr.Dataset | None = None
    slopes: dict[str, Path] = field(default_factory=dict)

    @property
    def uncal_folder(self) -> Path:
        """Folder of the science exposures."""
        return self.folder / "uncal"

    @property
    def background_folder(self) -> Path:
        """Folder of the background exposures."""
        return self.folder / "background"

    @property
    def reference_folder(self) -> Path:
        """Folder of the reference files."""
        return self.folder / "refs"

    @property
    def truth_folder(self) -> Path:
        """Folder of the truth files."""
        return self.folder / "truth"

    def slope(self, root: str) -> xr.Dataset:
        """Return what is true of an exposure: slope [DN/s], surface brightness [MJy/sr], ``moved`` [arcsec] if so."""
        if root not in self.slopes:
            raise MrsxrError(f"no truth of exposure '{root}'; known: {', '.join(self.slopes) or 'none was saved'}")
        return read_netcdf(self.slopes[root])


@reads(bands=as_bands)
@checked
def simulate_observation(
    out_dir: str | Path,
    *,
    scene: Scene | None = None,
    bands: Iterable[str] = ("1A", "2A", "3A", "4A"),
    n_groups: Count = 10,
    n_integrations: Count = 2,
    n_dithers: Annotated[int, Range(1, 4)] = 4,
    n_background: Annotated[int, Range(0, 4)] = 2,
    readpatt: Literal["FASTR1", "SLOWR1"] = "FASTR1",
    seed: int = 1,
    distortion: str | Path | None = None,
    effects: Effects | None = None,
    pattern: Literal["POINT", "EXTENDED"] = "EXTENDED",
    source_type: SourceType = "POINT",
    save_slopes: bool = True,
    save_cosmic_rays: bool = False,
    workers: Workers = 2,
    progress: Callable[[str], None] | None = None,
) -> Simulation:
    """Write a simulated MRS observation with everything that a calibration needs, and the truth.

    Parameters
    ----------
    out_dir : path-like
        Gets the folders uncal, background, refs, crds and truth.
    scene : Scene, optional
        By default :meth:`Scene.default`, a Seyfert galaxy like NGC 7319.
    bands : iterable of str
        Bands ("1A") or settings ("12A"); a band brings the other band of its exposure along.
    n_groups, n_integrations, n_dithers : int
        Of the science exposures; up to four dithers.
    n_background : int
        Background exposures of each setting, with the first dither offsets; 0 for none.
    readpatt : str
        FASTR1 or SLOWR1.
    seed : int
        The same seed and arguments give the same files.
    distortion : path-like, optional
        Folder of real distortion, specwcs and wavelengthrange files (ASDF) to use instead of the parametric geometry.
    effects : Effects, optional
    pattern : str
        Dither pattern, "EXTENDED" or "POINT".
    source_type : str
        SRCTYAPT of the science exposures.
    save_slopes, save_cosmic_rays : bool
        Write the noiseless images, and the cosmic-ray hits, of each exposure to truth.
    workers : int
        Exposures made side by side; the files do not depend on it.
    progress : callable, optional
        Called with a line of text for each file written.

    Returns
    -------
    Simulation

    Examples
    --------
    >>> made = mx.simulate_observation("sim", bands=["1A"], n_dithers=1, n_background=0)  # doctest: +SKIP
    >>> made.uncal, made.reference_folder, made.spectra["1A"]  # doctest: +SKIP
    """
    scene = scene or Scene.default()
    effects = effects or Effects()
    settings = sorted({mrs.setting_of_band(band) for band in bands}, key=mrs.SETTINGS.index)
    tell = progress or (lambda text: None)
    made = Simulation(Path(out_dir))
    for name in ("uncal", "background", "refs", "truth"):
        check_folder(made.folder / name)
    visits = [
        *_visits(settings, scene, "004", n_dithers, pattern, source_type, n_groups, n_integrations, readpatt),
        *_visits(settings, scene, "005", n_background, pattern, "EXTENDED", n_groups, n_integrations, readpatt),
    ]
    for setting in settings:
        geometry = load_geometry(setting, distortion) if distortion else make_geometry(setting)
        instrument = make_instrument(geometry, effects, seed)
        _write_references(made, instrument, effects, readpatt, n_integrations, n_groups, distortion, settings)
        tell(f"references of {setting}")
        expose = partial(_expose, made, scene, instrument, effects, seed, save_slopes, save_cosmic_rays)
        now = [visit for visit in visits if visit.setting == setting]
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for visit, (path, slope) in zip(now, pool.map(expose, now), strict=True):
                (made.background if visit.background else made.uncal).append(path)
                if slope is not None:
                    made.slopes[visit.root] = slope
                tell(str(path))
    made.uncal.sort()
    made.background.sort()
    _write_truth(made, scene, settings)
    from mrsxr.references.crds_cache import build_crds_cache

    made.crds = build_crds_cache(made.reference_folder, made.folder / "crds")
    return made


def _visits(
    settings: list[str], scene: Scene, observation: str, count: int, pattern: str, source_type: str, n_groups: int,
    n_integrations: int, readpatt: str,
) -> list[Any]:  # fmt: skip
    """Return the exposures of an observation; the two detectors of a grating expose at the same time."""
    background = observation == "005"
    target = f"{scene.target}-BKG" if background else scene.target
    step = (mrs.FRAME_TIME[readpatt] * (n_groups * n_integrations + n_integrations - 1) + 90.0) / 86400
    return [
        Visit(
            setting, observation, k + 1, count, offset, pattern, target, scene.ra,
            scene.dec + (_BACKGROUND_OFFSET if background else 0.0), source_type, background,
            _START + (0.5 if background else 0.0) + step * (4 * "ABC".index(setting[2]) + k), n_integrations,
            n_groups, readpatt,
        )
        for setting in settings for k, offset in enumerate(DITHERS[pattern][:count])
    ]  # fmt: skip


def _write_references(
    made: Simulation, instrument: Instrument, effects: Effects, readpatt: str, n_integrations: int, n_groups: int,
    distortion: Any, settings: list[str],
) -> None:  # fmt: skip
    folder = made.reference_folder
    setting = instrument.setting
    source = None
    if distortion:
        source = {kind: find_geometry_file(setting, distortion, kind) for kind in ("distortion", "specwcs")}
    made.references += write_setting_references(folder, instrument.geometry, instrument.maps, readpatt, source)
    if setting == next(name for name in settings if name[:2] == setting[:2]):
        made.references += write_detector_references(
            folder, instrument.detector, readpatt, n_integrations, n_groups, mrs.FRAME_TIME[readpatt]
        )
    if setting == settings[0]:
        emi = (effects.emi, 10.039216, 0.0)
        made.references += write_common_references(folder, instrument.geometry, emi, effects.slice_shift)


def _expose(
    made: Simulation, scene: Scene, instrument: Instrument, effects: Effects, seed: int, save_slopes: bool,
    save_cosmic_rays: bool, visit: Visit,
) -> tuple[Path, Path | None]:  # fmt: skip
    """Write an exposure and, on request, its truth; return both paths."""
    # the observatory's velocity changes a little from exposure to exposure
    velosys = _VELOSYS + 5.0 * visit.exposure + (40.0 if visit.background else 0.0)
    aim = aim_at(visit.target_ra, visit.target_dec, _ROLL, visit.offset, _VA_SCALE, velosys)
    name = (seed, mrs.SETTINGS.index(visit.setting), int(visit.observation), visit.exposure)
    if effects.centroid_jitter:
        draw = partial(np.random.default_rng([*name, 7]).normal, 0.0, effects.centroid_jitter)
        aim = replace(aim, moved={band: (draw(), draw()) for band in mrs.bands_of_setting(visit.setting)})
    here = scene.empty() if visit.background else scene
    if effects.background_scatter:
        scatter = np.random.default_rng([*name, 3]).normal(0.0, effects.background_scatter)
        here = here.brighter_background(1.0 + scatter)
    truth = observe(here, aim, instrument, effects)
    blocks = ramp_blocks(truth, instrument, effects, visit.n_integrations, visit.n_groups, visit.group_time, name)
    path = (made.background_folder if visit.background else made.uncal_folder) / f"{visit.root}_uncal.fits"
    write_uncal(path, visit, aim, blocks)
    slope = _save_slopes(made.truth_folder / f"{visit.root}_slope.nc", truth, visit, aim) if save_slopes else None
    if save_cosmic_rays:
        rng = np.random.default_rng([*name, 5])
        rays = make_cosmic_rays(rng, effects.cosmic_rays, visit.n_integrations, visit.n_groups, visit.group_time)
        names = ("integration", "group", "y", "x", "electrons")
        hits = xr.Dataset({key: ("hit", getattr(rays, key)) for key in names}, attrs={"exposure": visit.root})
        write_netcdf(hits, made.truth_folder / f"{visit.root}_cosmic_rays.nc", sync=False)
    return path, slope


def _save_slopes(path: Path, truth: Truth, visit: Visit, aim: Aim) -> Path:
    images = xr.Dataset(
        {
            "slope": (("y", "x"), truth.slope.astype(np.float32), {"units": "DN/s"}),
            "surface_brightness": (("y", "x"), truth.surface_brightness.astype(np.float32), {"units": "MJy/sr"}),
        },
        attrs={"exposure": visit.root, "setting": visit.setting},
    )
    if aim.moved:
        where = {"units": "arcsec", "long_name": "V2, V3 by which the light lies elsewhere than the header says"}
        images["moved"] = ("band", "axis"), [*aim.moved.values()], where
        images = images.assign_coords(band=[*aim.moved])
    return write_netcdf(images, path, encoding={name: {"zlib": True, "complevel": 1} for name in images}, sync=False)


def _write_truth(made: Simulation, scene: Scene, settings: list[str]) -> None:
    made.lines = line_table(scene)
    write_netcdf(made.lines, made.truth_folder / "lines.nc", sync=False)
    made.sources = _source_table(scene)
    write_netcdf(made.sources, made.truth_folder / "sources.nc", sync=False)
    for setting in settings:
        for band in mrs.bands_of_setting(setting):
            made.spectra[band] = true_spectrum(scene, band)
            write_netcdf(made.spectra[band], made.truth_folder / f"spectrum_{band}.nc", sync=False)


def _source_table(scene: Scene) -> xr.Dataset:
    sources = [("point", one) for one in scene.points] + [("disc", one) for one in scene.discs]
    return xr.Dataset(
        {
            "ra": ("source", np.array([one.ra for _, one in sources], dtype=float), {"units": "deg"}),
            "dec": ("source", np.array([one.dec for _, one in sources], dtype=float), {"units": "deg"}),
            "redshift": ("source", np.array([one.redshift for _, one in sources], dtype=float), {"units": "1"}),
        },
        {"kind": ("source", np.array([kind for kind, _ in sources], dtype=str))},
        {"target": scene.target, "target_ra": scene.ra, "target_dec": scene.dec},
    )


@reads()
@checked
def true_spectrum(scene: Scene, band: str) -> xr.Dataset:
    """Return the true spectrum of a band on the wavelengths of its cube.

    Parameters
    ----------
    scene : Scene
    band : str

    Returns
    -------
    Dataset (wavelength)
        ``flux`` of all point sources and their ``continuum`` [Jy], ``disc`` lines of all discs [Jy], each averaged
        over the plane after the instrument's resolution; ``background`` [MJy/sr]. Wavelengths [um] are barycentric.

    Examples
    --------
    >>> truth = mx.simulate.true_spectrum(mx.simulate.Scene.default(), "1A")
    >>> truth.flux.attrs["units"]
    'Jy'
    """
    from .scene import line_in_bins

    low, high = mrs.WAVELENGTH_LIMITS[band]
    step = mrs.WAVELENGTH_STEP[int(band[0])]
    edges = low + step * np.arange(int(np.ceil((high - low) / step)) + 1)
    bins = edges[:-1], edges[1:]
    wave = 0.5 * (bins[0] + bins[1])
    flux, continuum, disc = (np.zeros(wave.size) for _ in range(3))
    for point in scene.points:
        flux += point.spectrum(*bins)
        continuum += point.spectrum(*bins, with_lines=False)
    for one in scene.discs:
        for line in one.lines:
            disc += line_in_bins(line, one.redshift, *bins)
    values = {"flux": flux, "continuum": continuum, "disc": disc}
    return xr.Dataset(
        {key: ("wavelength", value, {"units": "Jy"}) for key, value in values.items()}
        | {"background": ("wavelength", scene.background(wave), {"units": "MJy/sr"})},
        {"wavelength": ("wavelength", wave, {"units": "um"})},
        {"band": band, "target": scene.target},
    )

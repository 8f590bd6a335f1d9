"""What is on the sky: point sources, a rotating disc with lines, and the background; and the PSF that blurs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import astropy.units as u
import numpy as np
import xarray as xr
from scipy.special import erf

from mrsxr import mrs, units
from mrsxr.arguments import as_numbers
from mrsxr.errors import MrsxrError
from mrsxr.limits import checked_fields

from .psf import Psf

C_KM_S = units.C_KM_S
_JY_PER_W_M2_UM = 1e26 / 2.99792458e14  # times wavelength[um]^2
_TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))

#: The PSF: weights of three round Gaussians and their widths relative to the first.
PSF_WEIGHTS = np.array([0.72, 0.18, 0.10])
_PSF_RATIOS = np.array([1.0, 2.1, 4.5])


def _first_sigma() -> float:
    """Return the sigma of the first Gaussian where the sum has FWHM 1."""
    core = PSF_WEIGHTS / _PSF_RATIOS**2
    low, high = 0.2, 0.6
    for _ in range(60):
        middle = 0.5 * (low + high)
        value = np.sum(core * np.exp(-0.125 / (middle * _PSF_RATIOS) ** 2)) / core.sum()
        low, high = (middle, high) if value < 0.5 else (low, middle)
    return 0.5 * (low + high)


#: Sigma of each Gaussian in units of the FWHM of the whole PSF.
PSF_SIGMAS = _first_sigma() * _PSF_RATIOS


def psf_fwhm(wavelength: np.ndarray | float) -> Any:
    """Return the FWHM [arcsec] of the light on the slicer at a wavelength [um].

    Narrower than that of a cube (:func:`mrsxr.mrs.psf_fwhm`), which pixels, slices and spaxels widen.
    """
    return 0.0265 * wavelength + 0.05


def encircled_energy(radius: Any, wavelength: np.ndarray | float, *, blur: np.ndarray | float = 0.0) -> Any:
    """Return the fraction of a point source's light within a radius, in closed form.

    Parameters
    ----------
    radius : array-like [arcsec]
        Numbers or a Quantity of 0 and more, as all of these; they are broadcast against each other.
    wavelength : array-like [um]
    blur : array-like [arcsec], optional
        Sigma of a further round Gaussian, for the sampling by pixels, slices and spaxels.

    Returns
    -------
    ndarray
        Sum over the Gaussians of w (1 - exp(-r^2 / 2 s^2)), with the FWHM of :func:`psf_fwhm`.

    Raises
    ------
    MrsxrError
        Where one of them is no number, below 0, or of another shape than the others.

    Examples
    --------
    >>> mx.simulate.encircled_energy([0.3, 1.0], 10.0).round(2)
    array([0.77, 0.98])
    """
    within, width = (as_numbers(one, u.arcsec, what, least=0) for one, what in ((radius, "radius"), (blur, "blur")))
    fwhm = psf_fwhm(as_numbers(wavelength, u.um, "wavelength", u.spectral(), least=0))
    try:
        np.broadcast_shapes(within.shape, width.shape, fwhm.shape)
    except ValueError as error:
        shapes = f"{within.shape}, {fwhm.shape} and {width.shape}"
        raise MrsxrError(
            f"encircled_energy: radius, wavelength and blur of shapes {shapes} do not go together"
        ) from error
    total = 0.0
    for weight, sigma in zip(PSF_WEIGHTS, PSF_SIGMAS, strict=True):
        variance = (sigma * fwhm) ** 2 + width**2
        total = total + weight * (1.0 - np.exp(-0.5 * within**2 / variance))
    return total


@dataclass(frozen=True)
@checked_fields
class Line:
    """An emission line; several entries with one name are its components.

    ``wavelength`` [um] at rest, ``flux`` [W m-2], ``velocity`` and ``fwhm`` [km/s] of the gas, before the
    instrument's resolution.

    Examples
    --------
    >>> narrow = mx.simulate.Line("[S IV]", 10.5105, 4e-17, fwhm=200)
    >>> outflow = mx.simulate.Line("[S IV]", 10.5105, 2.5e-17, velocity=-180, fwhm=700)
    """

    name: str
    wavelength: float
    flux: float
    velocity: float = 0.0
    fwhm: float = 150.0


@dataclass(frozen=True)
@checked_fields
class PowerLaw:
    """Continuum F = flux (wavelength / reference)^index in mJy; wavelengths in um.

    Examples
    --------
    >>> float(mx.simulate.PowerLaw(60.0, index=1.0)(20.0))  # mJy at 20 um
    120.0
    """

    flux: float
    index: float = 1.5
    reference: float = 10.0

    def __call__(self, wavelength: np.ndarray | float) -> Any:
        """Return the flux density [mJy] at wavelengths [um]."""
        return self.flux * (np.asarray(wavelength, dtype=float) / self.reference) ** self.index


@dataclass(frozen=True)
@checked_fields
class PointSource:
    """An unresolved source at ``ra``, ``dec`` [deg]; ``continuum`` maps um to mJy.

    Examples
    --------
    >>> star = mx.simulate.PointSource(339.015, 33.976, continuum=mx.simulate.PowerLaw(20.0, index=-2.0))
    >>> star.spectrum(np.array([9.99]), np.array([10.01])).round(3)  # Jy
    array([0.02])
    """

    ra: float
    dec: float
    continuum: Callable[..., Any] = PowerLaw(60.0)
    lines: tuple[Line, ...] = ()
    redshift: float = 0.0

    def spectrum(self, low: np.ndarray, high: np.ndarray, *, with_lines: bool = True) -> np.ndarray:
        """Return the mean flux density [Jy] in wavelength bins [um, barycentric], lines blurred by the instrument."""
        middle = 0.5 * (low + high)
        total = 1e-3 * np.asarray(self.continuum(middle), dtype=float)
        for line in self.lines if with_lines else ():
            total = total + line_in_bins(line, self.redshift, low, high)
        return total


@dataclass(frozen=True)
@checked_fields
class LineDisc:
    """A rotating exponential disc that shines in lines and, if given, in a continuum.

    ``scale_length`` [arcsec] of the face-on profile, ``inclination`` and ``position_angle`` (of the receding side of
    the major axis, east of north) [deg], ``rotation`` [km/s] flat velocity in the disc plane reached as tanh(r/turn)
    with ``turn`` [arcsec]. Line fluxes are those of the whole disc.

    Examples
    --------
    >>> line = mx.simulate.Line("[Ne II]", 12.81355, 5e-17, fwhm=60)
    >>> disc = mx.simulate.LineDisc(339.015, 33.976, scale_length=1.0, inclination=60, rotation=200, lines=(line,))
    >>> truth = mx.simulate.simulate_cube(mx.simulate.Scene(339.015, 33.976, discs=(disc,)), wavelength=(12.7, 12.9))
    """

    ra: float
    dec: float
    scale_length: float = 1.2
    inclination: float = 45.0
    position_angle: float = 40.0
    rotation: float = 180.0
    turn: float = 0.6
    lines: tuple[Line, ...] = ()
    continuum: Callable[..., Any] | None = None
    redshift: float = 0.0

    def surface(self, east: np.ndarray, north: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the unblurred profile [1/arcsec2, sum 1] and the velocity [km/s] at sky offsets [arcsec]."""
        angle = np.deg2rad(self.position_angle)
        tilt = np.cos(np.deg2rad(self.inclination))
        major = east * np.sin(angle) + north * np.cos(angle)
        minor = (east * np.cos(angle) - north * np.sin(angle)) / tilt
        radius = np.hypot(major, minor)
        profile = np.exp(-radius / self.scale_length) / (2 * np.pi * self.scale_length**2 * tilt)
        cosine = np.divide(major, radius, out=np.zeros_like(radius), where=radius > 0)
        speed = self.rotation * np.tanh(radius / self.turn) * np.sin(np.deg2rad(self.inclination))
        return profile, speed * cosine


@dataclass(frozen=True)
@checked_fields
class Background:
    """Zodiacal light and the telescope's own heat as grey bodies, uniform over the field.

    The default gives about 11 MJy/sr at 10 um and 350 MJy/sr at 25 um.

    Examples
    --------
    >>> bool(10 < mx.simulate.Background()(10.0) < 12)  # MJy/sr at 10 um
    True
    """

    zodi: tuple[float, float] = (6e-8, 265.0)  # emissivity, K
    thermal: tuple[float, float] = (4e-5, 100.0)
    scale: float = 1.0

    def __call__(self, wavelength: np.ndarray | float) -> Any:
        """Return the surface brightness [MJy/sr] at wavelengths [um]."""
        wavelength = np.asarray(wavelength, dtype=float)
        total: Any = 0.0
        for emissivity, temperature in (self.zodi, self.thermal):
            # Planck's law: 2 h c / wavelength^3 = 3.973e-25 J m / wavelength^3, 1 W/m2/Hz/sr = 1e20 MJy/sr
            planck = 3.97289e-25 * 1e18 / wavelength**3 * 1e20 / np.expm1(14387.77 / (wavelength * temperature))
            total = total + emissivity * planck
        return self.scale * total


@dataclass(frozen=True)
@checked_fields
class Scene:
    """All that shines: sources, discs and background around a target position [deg].

    ``background``: a :class:`Background`, or what else gives surface brightness [MJy/sr] of wavelengths [um].
    ``psf`` are images that blur exposures instead of the sum of three Gaussians; :func:`simulate_cube` knows the
    latter alone.

    Examples
    --------
    >>> from mrsxr.simulate import Line, LineDisc, PointSource, PowerLaw, Scene
    >>> nucleus = PointSource(339.015, 33.976, PowerLaw(20.0), (Line("[Ne II]", 12.81355, 3e-17),))
    >>> truth = mx.simulate.simulate_cube(Scene(339.015, 33.976, points=(nucleus,)), "3A", wavelength=(12.7, 12.9))
    """

    ra: float
    dec: float
    target: str = "SIM-GALAXY"
    points: tuple[PointSource, ...] = ()
    discs: tuple[LineDisc, ...] = ()
    background: Background | Callable[[Any], Any] = field(default_factory=Background)
    psf: Psf | None = None

    @classmethod
    def default(cls) -> Scene:
        """Return a Seyfert galaxy like NGC 7319: a dusty nucleus with narrow and broad lines in a disc of H2."""
        ra, dec, redshift = 339.014948, 33.975891, 0.0225
        return cls(
            ra, dec, "NGC-7319-SIM",
            points=(PointSource(ra, dec, PowerLaw(60.0, 1.5), NUCLEAR_LINES, redshift),),
            discs=(LineDisc(ra, dec, lines=DISC_LINES, redshift=redshift),),
        )  # fmt: skip

    def empty(self) -> Scene:
        """Return the background alone, for a background pointing."""
        return Scene(self.ra, self.dec, f"{self.target}-BKG", background=self.background)

    def brighter_background(self, factor: float) -> Scene:
        """Return the scene with the background scaled."""
        one = self.background
        if isinstance(one, Background):
            return replace(self, background=replace(one, scale=one.scale * factor))
        return replace(self, background=lambda wavelength: factor * one(wavelength))


#: Nuclear lines: wavelengths at rest [um], narrow component and, for some, an outflow.
NUCLEAR_LINES = (
    Line("[Fe II]", 5.340169, 1.5e-17, 0.0, 200.0),
    Line("[Ar II]", 6.985274, 8.0e-18, 0.0, 200.0),
    Line("[Ne VI]", 7.652400, 2.0e-17, 0.0, 250.0),
    Line("[Ne VI]", 7.652400, 1.2e-17, -300.0, 700.0),
    Line("[Ar III]", 8.991380, 1.0e-17, 0.0, 200.0),
    Line("[S IV]", 10.510500, 4.0e-17, 0.0, 220.0),
    Line("[S IV]", 10.510500, 2.5e-17, -250.0, 650.0),
    Line("[Ne II]", 12.813550, 4.0e-17, 0.0, 220.0),
    Line("[Ne V]", 14.321700, 5.0e-17, 0.0, 250.0),
    Line("[Ne III]", 15.555100, 9.0e-17, 0.0, 240.0),
    Line("[S III]", 18.713000, 4.0e-17, 0.0, 220.0),
    Line("[Ne V]", 24.317500, 5.0e-17, 0.0, 250.0),
    Line("[O IV]", 25.890300, 1.6e-16, 0.0, 250.0),
)
#: Lines of the disc: molecular hydrogen, pure rotation, and [Ne II].
DISC_LINES = (
    Line("H2 S(8)", 5.053115, 2.5e-18, 0.0, 80.0),
    Line("H2 S(7)", 5.511183, 8.0e-18, 0.0, 80.0),
    Line("H2 S(5)", 6.909500, 2.5e-17, 0.0, 80.0),
    Line("H2 S(4)", 8.025041, 1.4e-17, 0.0, 80.0),
    Line("H2 S(3)", 9.664910, 4.0e-17, 0.0, 80.0),
    Line("H2 S(2)", 12.278610, 2.5e-17, 0.0, 80.0),
    Line("[Ne II]", 12.813550, 3.0e-17, 0.0, 80.0),
    Line("H2 S(1)", 17.034840, 5.0e-17, 0.0, 80.0),
)


def line_width(line: Line, redshift: float, velocity: np.ndarray | float = 0.0) -> tuple[Any, Any]:
    """Return centre and sigma [um] of a line as the instrument sees it, barycentric."""
    centre = line.wavelength * (1.0 + redshift) * (1.0 + (line.velocity + velocity) / C_KM_S)
    instrument = centre / mrs.resolving_power(centre)
    return centre, np.hypot(instrument, centre * line.fwhm / C_KM_S) * _TO_SIGMA


def shines(line: Line, redshift: float, speed: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return in which wavelength bins [um] a line shines whose gas moves at up to a speed [km/s]."""
    centre, sigma = line_width(line, redshift)
    reach = 8 * sigma + centre * abs(speed) / C_KM_S
    return (high > centre - reach) & (low < centre + reach)


def psf_transfer(square: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the Fourier transform of the PSF at squared frequencies [1/arcsec2]."""
    total = np.zeros(square.shape)
    for weight, sigma in zip(PSF_WEIGHTS, PSF_SIGMAS, strict=True):
        total += weight * np.exp(-2.0 * np.pi**2 * (sigma * fwhm) ** 2 * square)
    return total


def by_velocity(profile: np.ndarray, velocity: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return a profile shared out to velocity channels, linearly between the two nearest."""
    place = np.clip((velocity - steps[0]) / (steps[1] - steps[0]), 0, steps.size - 1 - 1e-9)
    lower = place.astype(int)
    channels = np.zeros((steps.size, *profile.shape))
    rows, columns = np.indices(profile.shape)
    channels[lower, rows, columns] = profile * (1 - (place - lower))
    channels[lower + 1, rows, columns] += profile * (place - lower)
    return channels


def line_in_bins(
    line: Line, redshift: float, low: np.ndarray, high: np.ndarray, velocity: np.ndarray | float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Return the mean flux density [Jy] of a line in wavelength bins [um]; their sum times width is the flux."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    centre, sigma = line_width(line, redshift, velocity)
    out = np.zeros(np.broadcast_shapes(low.shape, np.shape(velocity)))
    near = np.broadcast_to((high > np.min(centre - 8 * sigma)) & (low < np.max(centre + 8 * sigma)), out.shape)
    if not near.any():
        return out
    root = np.sqrt(0.5) / sigma
    below = np.broadcast_to((low - centre) * root, out.shape)[near]
    above = np.broadcast_to((high - centre) * root, out.shape)[near]
    width = np.broadcast_to(high - low, out.shape)[near]
    wave = np.broadcast_to(0.5 * (low + high), out.shape)[near]
    out[near] = line.flux * 0.5 * (erf(above) - erf(below)) / width * wave**2 * _JY_PER_W_M2_UM
    return out


def line_table(scene: Scene) -> xr.Dataset:
    """Return all lines of a scene: rest and observed (barycentric) wavelength [um], flux [W m-2], velocity, width."""
    rows = [("point", line, one.redshift) for one in scene.points for line in one.lines]
    rows += [("disc", line, one.redshift) for one in scene.discs for line in one.lines]

    def column(values: list[float], unit: str) -> tuple[str, np.ndarray, dict[str, str]]:
        return ("line", np.array(values, dtype=float), {"units": unit})

    return xr.Dataset(
        {
            "wavelength_rest": column([line.wavelength for _, line, _ in rows], "um"),
            "wavelength": column([line_width(line, z)[0] for _, line, z in rows], "um"),
            "sigma": column([line_width(line, z)[1] for _, line, z in rows], "um"),
            "flux": column([line.flux for _, line, _ in rows], "W m-2"),
            "velocity": column([line.velocity for _, line, _ in rows], "km/s"),
            "fwhm": column([line.fwhm for _, line, _ in rows], "km/s"),
        },
        {
            "name": ("line", np.array([line.name for _, line, _ in rows], dtype=str)),
            "source": ("line", np.array([kind for kind, _, _ in rows], dtype=str)),
        },
    )


def to_mjysr(jy_per_arcsec2: np.ndarray) -> np.ndarray:
    """Return surface brightness [MJy/sr] of Jy/arcsec2."""
    return jy_per_arcsec2 / units.MJYSR_TO_JY_PER_ARCSEC2

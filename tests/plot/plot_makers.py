"""Small Datasets of every level for the tests of pictures, made by hand."""

from __future__ import annotations

import itertools

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.lines import line_list
from mrsxr.plot._style import figure_of

CENTRE = (120.0, -30.0)


def make_exposure(level="rate", fill=None, n_dithers=2, shape=(40, 48)):
    rng = np.random.default_rng(5)
    x = np.mgrid[: shape[0], : shape[1]][1]
    image = (10 + 200 * np.exp(-0.5 * ((x - 20) / 3.0) ** 2) + rng.normal(0, 1, shape)).astype("float32")
    if fill is not None:
        image[:] = fill
    stack = np.stack([image * (i + 1) for i in range(n_dithers)])
    dq = np.zeros(stack.shape, dtype="uint32")
    dq[:, :, :4] = 1 << 31
    dq[:, 5:15, 10:20] |= 1 | 4
    dq[:, 6, 11] |= 1 << 10
    coords = {"dither": np.arange(1, n_dithers + 1), "exposure": ("dither", [f"jw_{i}" for i in range(n_dithers)])}
    attrs = {"level": level, "setting": "12A", "target": "TEST", "program": "1"}
    dims = ("dither", "y", "x")
    if level == "ramp":
        groups = np.arange(4, dtype="float32")[:, None, None]
        sci = (stack[:, None, None] * groups + 1000).astype("uint16")
        return xr.Dataset(
            {"sci": (("dither", "integration", "group", "y", "x"), sci, {"units": "DN"}),
             "group_dq": (("dither", "integration", "group", "y", "x"), np.zeros(sci.shape, "uint8")),
             "pixel_dq": (dims, dq)}, coords, attrs)  # fmt: skip
    name, unit = ("flux", "MJy/sr") if level == "cal" else ("rate", "DN/s")
    slices = np.where((x > 6) & (x < 40), 101, 0).astype("int16")
    coords["slice"] = (("y", "x"), slices)
    return xr.Dataset({name: (dims, stack, {"units": unit}), "dq": (dims, dq)}, coords, attrs)


def make_cube(band="1A", fill=None, angle=30.0, nz=12, chunks=None, centre=CENTRE):
    low, high = mrs.WAVELENGTH_LIMITS[band]
    grid = CubeGrid(centre, 0.2, 14, 12, low, (high - low) / nz, nz, angle)
    x, y = np.meshgrid(grid.x, grid.y)
    image = 50 + 1000 * np.exp(-0.5 * (((x - 0.4) ** 2 + (y + 0.2) ** 2) / 0.3**2))
    flux = np.broadcast_to(image, (nz, *image.shape)).astype("float32").copy()
    flux[:, :2] = np.nan
    if fill is not None:
        flux[:] = fill
    dims = ("wavelength", "y", "x")
    data = da.from_array(flux, chunks=chunks) if chunks else flux
    dq = np.where(np.isnan(flux), 513, 0).astype("uint32")
    attrs = {
        "level": "cube",
        "band": band,
        "wcs": grid.header().tostring(sep="\n"),
        "pixel_scale": 0.2,
        "target": "TEST",
    }
    return xr.Dataset({"flux": (dims, data, {"units": "MJy/sr"}), "dq": (dims, dq)}, grid.coords(), attrs)


def make_spectrum(bands=("1A",), redshift=0.0, level=0.3, peak=0.4, n=400, slope=0.0, noise=0.002):
    rng = np.random.default_rng(3)
    wave = np.concatenate([np.linspace(*mrs.WAVELENGTH_LIMITS[b], n) for b in bands])
    band = np.repeat(bands, n)
    flux = level * (wave / 5.0) ** slope * (1 + rng.normal(0, noise, wave.size))
    lines = line_list()
    bright = (lines["rank"].values == 1) & (lines["kind"].values != "PAH")
    for place in lines["wavelength"].values[bright] * (1 + redshift):
        flux = flux + peak * np.exp(-0.5 * ((wave - place) / (0.6 * 3e-3 * place / 2)) ** 2)
    radius = 2 * mrs.psf_fwhm(wave)
    dims = "wavelength"
    return xr.Dataset(
        {"flux": (dims, flux, {"units": "Jy"}), "var": (dims, (0.01 * flux) ** 2, {"units": "Jy2"}),
         "dq": (dims, np.zeros(wave.size, "uint32")), "aperture_radius": (dims, radius, {"units": "arcsec"})},
        {"wavelength": (dims, wave, {"units": "um"}), "band": (dims, band)},
        {"level": "spectrum", "target": "TEST", "aperture_ra": CENTRE[0], "aperture_dec": CENTRE[1]},
    )  # fmt: skip


LINES = ("[Ne V] 24.32", "[O IV] 25.89")


def make_maps(angle=0.0, lines=LINES, redshift=0.016, index=True):
    """Fits of lines in the layout of fit_lines: a rotating disc, faint at the edge, its first row not observed."""
    grid = CubeGrid(CENTRE, 0.35, 14, 12, 24.4, 0.1, 3, angle)
    x, y = np.meshgrid(grid.x, grid.y)
    radius = np.hypot(x, y)
    flux = 1e-18 * np.exp(-radius)
    flux[0] = np.nan
    snr = flux / 2e-20
    velocity = 30.0 + 150.0 * x / (radius + 0.5)
    dims = ("line", "y", "x")
    stack = lambda image: np.stack([image * (i + 1) for i in range(len(lines))])  # noqa: E731
    same = lambda image: np.stack([np.where(np.isfinite(flux), image, np.nan)] * len(lines))  # noqa: E731
    table = line_list().sel(line=list(lines))
    ds = xr.Dataset(
        {
            "flux": (dims, stack(flux), {"units": "W m-2"}), "flux_err": (dims, same(2e-20), {"units": "W m-2"}),
            "velocity": (dims, same(velocity), {"units": "km/s"}),
            "dispersion": (dims, same(80.0 + 10.0 * radius), {"units": "km/s"}),
            "snr": (dims, stack(snr), {"units": "1"}),
            "n_components": (dims, (same(1.0 + (radius < 1.0)) > 1.5).astype("int8") + np.int8(1), {"units": "1"}),
            "component_flux": (("line", "component", "y", "x"), np.stack([stack(flux), stack(0.2 * flux)], axis=1),
                               {"units": "W m-2"}),
        },
        {"line": list(lines), "wavelength_rest": ("line", table["wavelength"].values), "component": [1, 2],
         "y": ("y", grid.y, {"units": "arcsec"}), "x": ("x", grid.x, {"units": "arcsec"})},
        {"level": "lines", "redshift": redshift, "wcs": grid.header().tostring(sep="\n"), "pixel_scale": 0.35},
    )  # fmt: skip
    return attach_index(ds) if index else ds


def make_channels(n=6, angle=0.0):
    """Channel maps in the layout of lines.channel_maps."""
    maps = make_maps(angle).isel(line=0)
    velocity = np.linspace(-250.0, 250.0, n)
    weight = np.exp(-0.5 * ((velocity[:, None, None] - maps["velocity"].values) / 100.0) ** 2)
    flux = xr.DataArray(weight * maps["flux"].values, dims=("velocity", "y", "x"), attrs={"units": "W m-2"})
    out = maps.drop_vars(list(maps.data_vars)).assign(flux=flux)
    return out.assign_coords(velocity=("velocity", velocity, {"units": "km/s"})).assign_attrs(level="channel_maps")


def make_line_spectrum(redshift=0.01, broad=True, seed=4):
    """A spectrum around [Ne II] with a narrow and, on demand, a broad component of known numbers [W m-2]."""
    rng = np.random.default_rng(seed)
    centre = 12.81355 * (1.0 + redshift)
    wave = np.arange(centre - 0.25, centre + 0.25, 0.0025)
    density = np.full(wave.size, 2e-16)
    for flux, velocity, sigma in ((5e-18, 20.0, 90.0), (3e-18, -250.0, 350.0))[: 1 + broad]:
        mu, s = centre * (1.0 + velocity / 299792.458), centre * sigma / 299792.458
        density = density + flux / np.sqrt(2 * np.pi) / s * np.exp(-0.5 * ((wave - mu) / s) ** 2)
    flux = density * wave**2 / 2.99792458e-12
    noise = 0.01 * float(np.median(flux))
    dims = "wavelength"
    return xr.Dataset(
        {"flux": (dims, flux + rng.normal(0, noise, wave.size), {"units": "Jy"}),
         "var": (dims, np.full(wave.size, noise**2), {"units": "Jy2"}), "dq": (dims, np.zeros(wave.size, "uint32"))},
        {"wavelength": (dims, wave, {"units": "um"}), "band": (dims, np.full(wave.size, "3A"))},
        {"level": "spectrum", "redshift": redshift},
    )  # fmt: skip


def labels(ax, gid):
    return [t for t in ax.texts if t.get_gid() == gid]


def drawn(picture):
    """Draw a picture, so that texts and boxes have their places, and return it."""
    figure_of(picture).canvas.draw()
    return picture


def main_axes(picture):
    """The axes of the figure of a picture, colour bars left out."""
    figure = figure_of(picture)
    inner = {child for ax in figure.axes for child in ax.child_axes}
    return [ax for ax in figure.axes if ax not in inner]


def assert_tidy(picture):
    """No panel touches another one or leaves the figure."""
    drawn(picture)
    figure = figure_of(picture)
    renderer = figure.canvas.get_renderer()
    boxes = [ax.get_tightbbox(renderer) for ax in main_axes(picture)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    edge = figure.bbox
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= edge.x1 and b.y1 <= edge.y1 for b in boxes)

"""Centres and types of sources in cubes of another telescope: a lopsided PSF with a ghost and wings, turned at random.

Points, faint ones, pairs, sources at the border and over it, on sloping fields, in nuclei of galaxies, rings and hosts,
with hot spaxels and stripes; in real cubes of NGC 7469 a real star (16 Cyg B) is put. A centre is held against what
"daofind" finds, a type against a header that is right. ``before``: the judge of centres took what lies within 1.5 FWHM
on a flat field, so that the light of neighbours and of slopes spoke for the place it had drawn aside.
"""

import sys
from pathlib import Path

import numpy as np
from _truth_backgrounds import psf

from mrsxr import mrs

TESTS = Path(__file__).resolve().parents[1] / "tests"
N, FINE, PLANES = 33, 5, 18
BANDS = ("1B", "2C", "3A", "4A")


def image_of(kind, band, wavelength, place, turn, ratio=0.0, apart=0.0, size=1.0, share=1.0):
    """Return the image (y, x) of a source at a place [spaxel from the middle]; the peak of a point is 1.

    kind : "point"; "pair" (of a ratio, so many FWHM apart); "disc" (exponential), "cusp" (de Vaucouleurs), "ring" or
    "blob" (Gaussian) of a size [FWHM] with a share of its light in a point.
    """
    scale, fwhm = mrs.SPAXEL_SIZE[int(band[0])], float(mrs.psf_fwhm(wavelength))
    axis = ((np.arange(N * FINE) + 0.5) / FINE - 0.5 - N // 2) * scale
    x, y = np.meshgrid(axis, axis)
    c, s = np.cos(turn), np.sin(turn)

    def point(dx, dy):
        u, v = x - dx, y - dy
        return psf(u * c + v * s, v * c - u * s, wavelength)

    at = place[0] * scale, place[1] * scale
    out = point(*at)
    if kind == "pair":
        out = out + ratio * point(at[0] + apart * fwhm, at[1])
    elif kind != "point":
        r = np.hypot(x - at[0], (y - at[1]) / 0.7) / (size * fwhm)
        forms = {"disc": lambda: np.exp(-1.386 * r), "cusp": lambda: np.exp(-7.67 * r**0.25),
                 "ring": lambda: np.exp(-4.0 * size**2 * (r - 1) ** 2),
                 "blob": lambda: np.exp(-2.77 * r**2)}  # fmt: skip
        seen = np.fft.ifft2(np.fft.fft2(forms[kind]()) * np.fft.fft2(np.fft.ifftshift(point(0.0, 0.0)))).real
        out = share * out + (1 - share) * seen * (out.sum() / seen.sum())
    return out.reshape(N, FINE, N, FINE).mean(axis=(1, 3)) / psf(0.0, 0.0, wavelength)


def cube_of(band, seed, kind="point", signal=300.0, at=(0, 0), slope=0.0, hot=0, stripes=0.0, border=0.0, **form):
    """Return (cube, true place (x, y) [spaxel]); ``signal``: peak over the noise of a plane."""
    if str(TESTS / "spectrum") not in sys.path:
        sys.path[:0] = [str(TESTS), str(TESTS / "spectrum")]
    from test_extract_1d import make_cube

    rng = np.random.default_rng(seed)
    place, turn = rng.uniform(-0.5, 0.5, 2) + at, rng.uniform(0, 2 * np.pi)
    low, high = mrs.WAVELENGTH_LIMITS[band]
    wave, t = np.linspace(low + 0.02, high - 0.02, PLANES), np.linspace(0, 1, PLANES)[:, None, None]
    blue, red = (image_of(kind, band, w, place, turn, **form) for w in (wave[0], wave[-1]))
    flux = blue * (1 - t) + red * t
    y, x = np.mgrid[:N, :N] - N // 2
    flux = flux * (1 + stripes * np.sin(2 * np.pi * y / 4.1 + 6 * t)) * (1 + 0.4 * np.cos(5 * t))
    flux = signal * (flux + 0.03 + slope * (x + y) / N + border * np.exp(-0.25 * ((x - 15) ** 2 + (y + 3) ** 2)))
    flux += rng.normal(size=flux.shape) * np.sqrt(1 + 0.003 * np.maximum(flux, 0))
    for _ in range(hot):
        j, i = rng.integers(3, N - 3, 2)
        flux[:, j, i] += rng.exponential(0.5 * signal)
    flux[:, :2] = flux[:, -2:] = flux[:, :, :2] = flux[:, :, -2:] = np.nan
    cube = make_cube(flux, np.ones_like(flux), wave0=float(wave[0]), step=float(wave[1] - wave[0]), band=band,
                     scale=mrs.SPAXEL_SIZE[int(band[0])])  # fmt: skip
    return cube, place + N // 2


#: Scenes of centres, and the rms error [spaxel] before.
CENTRES = {
    "point": ({}, 0.066), "faint": ({"signal": 8.0}, 0.079), "very faint": ({"signal": 2.5}, 0.171),
    "pair, 1.5 FWHM apart": ({"kind": "pair", "ratio": 0.7, "apart": 1.5}, 0.215),
    "pair, 0.8 FWHM apart": ({"kind": "pair", "ratio": 0.5, "apart": 0.8}, 0.500),
    "on a slope": ({"slope": 0.5}, 0.150), "on a steep slope": ({"slope": 3.0}, 0.400),
    "hot spaxels": ({"hot": 4}, None),
    "near the border": ({"at": (11, 0)}, 2.024), "stripes": ({"stripes": 0.3}, None),
    "a brighter blob at the border": ({"border": 2.0}, None),
    "nucleus in a disc": ({"kind": "disc", "size": 2.0, "share": 0.4}, None),
    "nucleus in a cusp": ({"kind": "cusp", "size": 2.0, "share": 0.3}, None),
    "nucleus in a ring": ({"kind": "ring", "size": 2.5, "share": 0.2}, None),
    "disc alone": ({"kind": "disc", "size": 2.5, "share": 0.0}, None),
}  # fmt: skip


def compare_centres(table, quick):
    """Centres are no further from the truth than those of daofind, but for chance (0.01 spaxel)."""
    from mrsxr.spectrum.centre import centre_of

    for number, (name, (scene, before)) in enumerate(CENTRES.items()):
        if quick and number % 4 != 3:
            continue
        off = {"daofind": [], "fit": []}
        for k, seed in np.ndindex(len(BANDS), 2 if quick else 8):
            cube, true = cube_of(BANDS[k], 500 + 10 * k + seed, **scene)
            for search, found in off.items():
                found.append(np.hypot(*(np.array(centre_of(cube, None, search, None)[0]) - true)))
        plain, fitted = (float(np.sqrt(np.mean(np.square(one)))) for one in off.values())
        table.add(f"centering, {name}: rms error [spaxel]", f"{fitted:.3f}", "<= baseline", fitted <= plain + 0.01,
                  baseline=f"{plain:.3f}", before="" if before is None else f"{before:.3f}")  # fmt: skip


#: Scenes of types: what the header rightly says.
TYPES = {
    "point": ("POINT", {}), "faint": ("POINT", {"signal": 3.0}), "at 20 000 sigma": ("POINT", {"signal": 2e4}),
    "on a slope": ("POINT", {"slope": 0.5}), "hot spaxels": ("POINT", {"hot": 6}),
    "stripes": ("POINT", {"stripes": 0.3}),
    "near the border": ("POINT", {"at": (11, 0)}),
    "pair, 1.5 FWHM apart": ("EXTENDED", {"kind": "pair", "ratio": 0.7, "apart": 1.5}),
    "blob of 1.2 FWHM": ("EXTENDED", {"kind": "blob", "size": 1.2, "share": 0.0}),
    "half in a disc": ("EXTENDED", {"kind": "disc", "size": 4.0, "share": 0.5}),
    "0.7 in a wide disc": ("EXTENDED", {"kind": "disc", "size": 6.0, "share": 0.7}),
    "cusp alone": ("EXTENDED", {"kind": "cusp", "size": 2.0, "share": 0.0}),
    "half in a cusp": ("EXTENDED", {"kind": "cusp", "size": 4.0, "share": 0.5}),
    "half in a ring": ("EXTENDED", {"kind": "ring", "size": 3.0, "share": 0.5}),
    "nothing but a slope": ("EXTENDED", {"signal": 0.01, "slope": 300.0}),
    "nothing but hot spaxels": ("EXTENDED", {"signal": 0.3, "hot": 8}),
}  # fmt: skip


def compare_types(table, quick):
    """A header that is right is not overruled; one that is wrong may be."""
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.source_types import source_types_of

    recipe = Recipe.of("optimal")
    wrong, mended, total = [], 0, 0
    for number, (name, (truth, scene)) in enumerate(TYPES.items()):
        for seed in range(0 if quick and number % 5 else 1 if quick else 3):
            cubes = [
                cube_of(band, 700 + 10 * number + seed, **scene)[0] for band in (("1A", "1C"), ("2C", "4A"))[seed % 2]
            ]
            other = {"POINT": "EXTENDED", "EXTENDED": "POINT"}[truth]
            right, mend = (
                source_types_of([c.assign_attrs(source_type=said) for c in cubes], recipe)[0] == truth
                for said in (truth, other)
            )
            wrong += [] if right else [name]
            mended, total = mended + mend, total + 1
    table.add("source type: right headers overruled", f"{len(wrong)} of {total}" + "".join(f", {n}" for n in wrong),
              "0", not wrong, baseline="0")  # fmt: skip
    table.add("source type: wrong headers mended", f"{mended} of {total}", baseline="0")


def compare_real(table, shared, quick):
    """A real star put into real cubes, beside the nucleus or far from it, with its coordinates as target."""
    from astropy.io import fits
    from scipy.ndimage import shift

    import mrsxr as mx
    from mrsxr.geometry.place import Place
    from mrsxr.spectrum.centre import centre_of

    with fits.open(shared / "data/s3d_example/16CygB_ch4-short_s3d_cutout.fits.gz") as hdus:
        star = np.nan_to_num(np.nanmedian(hdus["SCI"].data[100:400], axis=0))
    star -= np.median(star[[0, -1]])
    y, x = np.mgrid[: star.shape[0], : star.shape[1]]
    core = np.where(np.hypot(y - 6, x - 6) < 3, np.maximum(star, 0), 0)
    middle = np.array([(core * y).sum(), (core * x).sum()]) / core.sum()
    cube = mx.load(shared / "data/s3d_ngc7469/NGC7469_ch4-short_s3d.fits.gz").compute()
    cube = cube.isel(wavelength=slice(100, 400, 20)) if "wavelength" in cube.dims else cube
    rng, off = np.random.default_rng(9), {"daofind": [], "fit": []}
    for _ in range(4 if quick else 16):
        place = rng.uniform((7.0, 7.0), (18.0, 16.0))  # y, x
        canvas = np.zeros(cube.flux.shape[1:])
        canvas[:13, :13] = star / star.max()
        moved = shift(canvas, place - middle, order=3) * 4.0 * float(np.nanmax(cube.flux.median("wavelength")))
        made = cube.assign(flux=(cube.flux + moved.astype("f4")).assign_attrs(cube.flux.attrs))
        ra, dec = Place.of(made).to_sky(place[1], place[0])
        made = made.assign_attrs(target_ra=float(ra), target_dec=float(dec))
        for search, found in off.items():
            found.append(np.hypot(*(np.array(centre_of(made, None, search, None)[0]) - place[::-1])))
    plain, fitted = (float(np.sqrt(np.mean(np.square(one)))) for one in off.values())
    table.add("centering, 16 Cyg B put into NGC 7469 (4A): rms error [spaxel]", f"{fitted:.3f}", "<= baseline",
              fitted <= plain + 0.01, baseline=f"{plain:.3f}")  # fmt: skip


def run(table, shared, quick):
    """Add the figures of centres and types."""
    compare_centres(table, quick)
    compare_types(table, quick)
    if shared is not None:
        compare_real(table, shared, quick)

"""Stray light and showers of stage 2 beside jwst: parity and cost on six settings, what is left of the truth.

    python benchmarks/stage2_straylight.py FOLDER /path/to/jwst-env/bin/python [setting ...]

FOLDER as made by ``compare_jwst.py --stage 2``, which calls :func:`run`. The truth: an exposure of a bright point
source as the simulator makes it, with scattered light and noise, but without ramps; once with the kernels of the
reference file, once with 1.2 times as much light scattered, once of faint light alone, each also with showers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

LIMIT = 1e-4  # of the image maximum
PEDESTAL, READ_NOISE, EXPOSURE_TIME, GAIN = 0.11, 0.05, 277.0, 4.0  # DN/s, DN/s, s, electron/DN
UNFIT = 1 | 512 | 1024 | 2048
BLOCK = 16


@dataclass(frozen=True)
class Truth:
    """Light that fell directly on each pixel [DN/s], what it scattered, showers, and the exposure made of them."""

    setting: str
    direct: np.ndarray
    scattered: np.ndarray
    shower: np.ndarray
    rate: np.ndarray
    variance: np.ndarray
    dq: np.ndarray
    inside: np.ndarray

    def left(self, rate: np.ndarray) -> tuple[float, float]:
        """Return what is left in the slices [% of the direct light]: the sum, and the sum of |blocks of 16 x 16|."""
        good = np.isfinite(rate) & ((self.dq & UNFIT) == 0) & self.inside
        off = np.where(good, rate - self.direct, 0.0)[:, 4:-4]
        blocks = off.reshape(1024 // BLOCK, BLOCK, -1, BLOCK).sum(axis=(1, 3))
        light = 0.01 * self.direct[good].sum()
        return float(off.sum() / light), float(np.abs(blocks).sum() / light)


def make_truth(setting: str, flux: float, amplitude: float, showers: int, seed: int = 3) -> Truth:
    """Make an exposure of the default scene with its source ``flux`` times as bright; 0: the background alone."""
    from mrsxr.simulate import Effects, Scene
    from mrsxr.simulate.exposure import make_instrument, observe, scattered
    from mrsxr.simulate.instrument import make_geometry
    from mrsxr.simulate.pointing import aim_at

    scene = Scene.default()
    source = scene.points[0]
    bright = replace(source, continuum=replace(source.continuum, flux=flux * source.continuum.flux))
    scene = replace(scene, points=(bright,)) if flux else scene.empty()
    effects = Effects()
    instrument = make_instrument(make_geometry(setting), effects, seed)
    aim = aim_at(scene.ra, scene.dec, 247.0, (0.138, -0.449), 1.00005, 12000.0)
    truth = observe(scene, aim, instrument, effects)
    response = instrument.detector.response
    light = np.divide(truth.slope, response, out=np.zeros_like(response), where=response > 0)
    stray = amplitude * scattered(light, setting) * response
    rng = np.random.default_rng([seed, 5])
    shower = _showers(rng, showers) if showers else np.zeros_like(stray)
    variance = READ_NOISE**2 + (truth.slope + stray + shower) / (GAIN * EXPOSURE_TIME)
    rate = truth.slope + stray + shower + PEDESTAL + rng.normal(size=stray.shape) * np.sqrt(variance)
    dq = instrument.detector.dq.astype(np.uint32)
    rate[(dq & 1) != 0] = np.nan
    inside = np.isfinite(truth.surface_brightness)
    return Truth(setting, truth.slope, stray, shower, rate.astype("f4"), variance.astype("f4"), dq, inside)


def _showers(rng, count: int) -> np.ndarray:
    y, x = np.mgrid[:1024, :1032].astype(float)
    total = np.zeros(y.shape)
    for _ in range(count):
        place = ((y - rng.uniform(0, 1024)) / rng.uniform(10, 40)) ** 2
        place = place + ((x - rng.uniform(0, 1032)) / rng.uniform(15, 60)) ** 2
        total += rng.uniform(0.1, 0.3) * np.exp(-0.5 * place)
    return total


def theirs(job: str) -> None:
    """The jwst half, in an environment of its own: correct_xartifact and clean_showers of arrays, timed."""
    import logging
    from types import SimpleNamespace

    from jwst.straylight import straylight
    from stdatamodels.jwst import datamodels

    logging.disable(logging.WARNING)
    told = json.loads(Path(job).read_text())
    with np.load(told["image"]) as file:
        rate, dq, regions = file["rate"], file["dq"], file["regions"]
    instrument = SimpleNamespace(channel=told["channel"], band=told["band"])
    model = SimpleNamespace(data=rate, dq=dq, meta=SimpleNamespace(instrument=instrument))
    found, seconds = {}, []
    with datamodels.MirMrsXArtCorrModel(told["mrsxartcorr"]) as kernels:
        for name, call in (
            ("straylight", lambda: straylight.correct_xartifact(model, kernels)),
            ("showers", lambda: straylight.clean_showers(model, regions)),
        ):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
            found[name] = np.asarray(model.data, dtype=np.float32)
    np.savez(told["out"], seconds=seconds, **found)


def run_theirs(folder: Path, jwst_python: str, name: str, images: dict, setting: str, refs: Path):
    """Return jwst's images and its seconds of CPU, running it once."""
    from mrsxr import mrs

    folder.mkdir(exist_ok=True)
    out = folder / f"{name}_theirs.npz"
    if not out.exists():
        keys = mrs.setting_keywords(setting)
        image, job = folder / f"{name}_image.npz", folder / f"{name}.json"
        np.savez(image, **images)
        told = {"image": image, "out": out, "channel": keys["CHANNEL"], "band": keys["BAND"],
                "mrsxartcorr": next(refs.glob("*_mrsxartcorr.fits"))}  # fmt: skip
        job.write_text(json.dumps({k: str(v) for k, v in told.items()}))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        subprocess.run([jwst_python, __file__, "--theirs", str(job)], check=True, env=environment, cwd=folder)
    with np.load(out) as file:
        return dict(file)


def timed(call):
    """Return (result, seconds of CPU) of the second call."""
    call()
    start = time.process_time()
    return call(), time.process_time() - start


def compare_setting(table, folder: Path, jwst_python: str, setting: str) -> None:
    """Compare the numbers and the cost on one exposure of a setting."""
    import mrsxr as mx
    from mrsxr.cal import clean_showers, subtract_straylight

    rate = sorted((folder / setting / "rate").glob("*_rate.fits"))[0]
    refs = folder / setting / "sim" / "refs"
    ds = mx.io.open_exposures(rate).compute()
    find = mx.References(refs)
    kernels, regions = find.get("mrsxartcorr", ds), find.get("regions", ds).compute()
    images = {"rate": ds.rate.values[0], "dq": ds.dq.values[0], "regions": regions.regions.values}
    found = run_theirs(folder / "straylight", jwst_python, setting, images, setting, refs)
    ours, seconds = timed(lambda: subtract_straylight(ds, mrsxartcorr=kernels))
    compare(table, f"{setting} straylight", ours, found["straylight"], seconds, found["seconds"][0])
    cleaned = ours.assign(rate=ours.rate.copy(data=found["straylight"][None]))
    after, seconds = timed(lambda: clean_showers(cleaned, regions=regions))
    compare(table, f"{setting} clean_showers", after, found["showers"], seconds, found["seconds"][1])
    if setting == "12A":
        for name, call in (
            ("straylight fitted", lambda: subtract_straylight(
                ds, mrsxartcorr=kernels, method="fitted", regions=regions)),
            ("clean_showers gated", lambda: clean_showers(ours, regions=regions, method="gated")),
        ):  # fmt: skip
            _, seconds = timed(call)
            table.add(f"{setting} {name}: cpu", f"{seconds:.2f} s", "< 2 s", seconds < 2)


def compare(table, what: str, ours, wanted, seconds: float, others: float) -> None:
    """Add parity and cost of one step."""
    found = ours.rate.values[0]
    off = float(np.nanmax(np.abs(found - wanted)) / np.nanmax(wanted))
    same = np.array_equal(np.isnan(found), np.isnan(wanted))
    table.add(what, f"{off:.1e} of the maximum", f"<= {LIMIT:g} of the maximum", off <= LIMIT and same)
    table.add(f"{what}: cpu", f"{seconds:.3f} s, jwst {others:.2f}: x {others / seconds:.0f}", "< 0.4 s", seconds < 0.4)


def compare_truth(table, folder: Path, jwst_python: str, setting: str) -> None:
    """Show what is left of stray light and showers in the slices, of jwst, of the baseline and of the optimal form."""
    refs = folder / setting / "sim" / "refs"
    for name, flux, amplitude, showers in (
        ("bright", 40.0, 1.0, 0), ("kernel x 1.2", 40.0, 1.2, 0), ("bright, showers", 40.0, 1.0, 6),
        ("faint", 0.0, 1.0, 0), ("faint, showers", 0.0, 1.0, 6),
    ):  # fmt: skip
        truth = make_truth(setting, flux, amplitude, showers)
        file = f"{setting}_" + name.replace(" ", "_").replace(",", "")
        images = corrected(truth, refs)
        if name == "bright" or showers:
            planes = {"rate": truth.rate, "dq": truth.dq, "regions": _planes(truth)}
            found = run_theirs(folder / "straylight", jwst_python, file, planes, setting, refs)
            images["jwst"] = found["showers" if showers else "straylight"]
        left = {key: truth.left(image) for key, image in images.items()}
        for key, (total, blocks) in left.items():
            wanted, fine = "", True
            if key == "fitted" and flux and not showers:
                wanted, fine = "< 1 %", abs(total) < 1 and blocks < 1
            if key == "fitted, gated":
                wanted, fine = "no more than fitted alone", blocks <= 1.01 * left["fitted"][1]
            table.add(f"{setting} {name}: {key}", f"{total:+.3f} %, blocks {blocks:.3f} %", wanted, fine)


def corrected(truth: Truth, refs: Path) -> dict[str, np.ndarray]:
    """Return the images before (less the pedestal) and after each of our forms."""
    import mrsxr as mx
    from mrsxr.cal import clean_showers, subtract_straylight

    ds = _dataset(truth)
    kernels = mx.references.read_reference(next(refs.glob("*_mrsxartcorr.fits")))
    regions = _reference(_planes(truth))
    out = {"uncorrected": truth.rate - np.float32(PEDESTAL)}
    for method in ("kernel", "fitted"):
        one = subtract_straylight(ds, mrsxartcorr=kernels, method=method, regions=regions)
        out[method] = one.rate.values[0]
        for clean in ("smooth", "gated"):
            out[f"{method}, {clean}"] = clean_showers(one, regions=regions, method=clean).rate.values[0]
    return out


def _planes(truth: Truth) -> np.ndarray:
    return np.stack([np.where(truth.inside, 101, 0).astype(np.int16)] * 9)


def _reference(planes):
    import xarray as xr

    return xr.Dataset({"regions": (("plane", "y", "x"), planes)}, attrs={"kind": "regions", "ref_id": "made"})


def _dataset(truth: Truth):
    import xarray as xr

    from mrsxr import mrs

    keys = mrs.setting_keywords(truth.setting)
    attrs = {"level": "rate", "setting": truth.setting, "channels": keys["CHANNEL"], "band": keys["BAND"]}
    dims = ("dither", "y", "x")
    zero = np.zeros_like(truth.variance)
    planes = {"rate": truth.rate, "var_poisson": truth.variance, "var_read": zero, "dq": truth.dq}
    coords = {"y": np.arange(1024), "x": np.arange(1032)}
    return xr.Dataset({k: (dims, v[None]) for k, v in planes.items()}, coords, attrs)


def run(args, table, jwst=None, settings=None) -> None:
    """Compare all settings of ``args.folder``, then the truth; ``args.jwst_python`` is jwst's interpreter."""
    settings = settings or ("12A", "34A", "12B", "34B", "12C", "34C")
    folder = Path(args.folder).resolve()
    for setting in settings:
        compare_setting(table, folder, args.jwst_python, setting)
    for setting in settings[:2]:
        compare_truth(table, folder, args.jwst_python, setting)


def main() -> None:
    """Run alone."""
    from compare_jwst import Table

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("jwst_python")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_args()
    run(args, Table(), settings=tuple(args.settings) or None)


if __name__ == "__main__":
    if sys.argv[1] == "--theirs":
        theirs(sys.argv[2])
    else:
        main()

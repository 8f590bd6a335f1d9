"""Real raw ramps of a MIRI detector through the jump step and the slope fits: what the residuals and chi2 say.

python benchmarks/real_ramps.py FILE [--out real_ramps.png]

FILE: MIRI_5582_89_S_20180308-010230_SCE1.fits.gz of the JPL test rig (SUB64-like window, 5 integrations x 50 groups of
0.085 s, dark). There are no reference files for it: the gain is the nominal one, the read noise is measured on the
ramps themselves from differences of differences, which no slope and no slow drift reaches.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

from mrsxr import dq, rate, schema
from mrsxr.rate.ramp_fit import fit_integrations, fit_ramps

GAIN = 5.5  # electron/DN, nominal
REFERENCE_COLUMNS = 4


def read_ramp(path, rows=slice(None), columns=slice(REFERENCE_COLUMNS, None)):
    """Return (ramp Dataset, {"gain", "readnoise"}) of the rig's file; by default without the reference pixels."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        header, data = hdus[0].header, np.asarray(hdus[0].data, dtype=np.float32)
    n_int, n_group = header["NINT"], header["NGROUPS"]
    sci = np.ascontiguousarray(data.reshape(1, n_int, n_group, *data.shape[1:])[..., rows, columns])
    ramp = ("dither", "integration", "group", "y", "x")
    coords = {"dither": [1], "integration": np.arange(1, n_int + 1), "group": np.arange(1, n_group + 1),
              "y": np.arange(sci.shape[-2]), "x": np.arange(sci.shape[-1])}  # fmt: skip
    for spec in schema.DITHER_COORDS:
        value = "{}" if spec.name == "fits_header" else header["ROOTNAME"] if spec.name == "exposure" else np.nan
        coords[spec.name] = ("dither", [value], {"units": spec.units} if spec.units else {})
    attrs = {
        "level": "ramp", "setting": "12A", "detector": "MIRIFUSHORT", "channels": "12", "band": "SHORT",
        "readpatt": "FAST", "subarray": "WINDOW", "group_time": float(header["TGROUP"]),
        "frame_time": float(header["TFRAME"]), "n_groups": n_group, "n_integrations": n_int, "target": "dark",
        "program": str(header["OBS_ID"]), "history_json": "[]", "Conventions": "mrsxr-1",
    }  # fmt: skip
    ds = xr.Dataset(
        {
            "sci": (ramp, sci, {"units": "DN"}),
            "group_dq": (ramp, np.zeros(sci.shape, "u1"), dq.GROUP_DQ_ATTRS),
            "pixel_dq": (("dither", "y", "x"), np.zeros((1, *sci.shape[-2:]), "u4"), dq.PIXEL_DQ_ATTRS),
        },
        coords=coords, attrs=attrs,
    )  # fmt: skip
    noise = {"gain": np.full(sci.shape[-2:], GAIN, "f4"), "read_noise": measure_read_noise(sci[0])}
    refs = {
        kind: xr.Dataset({name: (("y", "x"), noise[name])}, attrs={"level": "reference", "kind": kind, "ref_id": "rig"})
        for kind, name in (("gain", "gain"), ("readnoise", "read_noise"))
    }
    return ds, refs


def measure_read_noise(sci):
    """CDS noise [DN] (y, x) from third differences of the second half of integrations 2 and later."""
    third = np.diff(sci[1:, sci.shape[1] // 2 : -1], n=3, axis=1)  # variance 20 of a read
    # integers: the mean absolute deviation is finer than the median; hits are cut at 5 sigma
    sigma = 1.2533 * np.mean(np.abs(third), axis=(0, 1))
    third = np.where(np.abs(third) > 5 * sigma, np.nan, third)
    return (np.sqrt(np.nanmean(third**2, axis=(0, 1)) / 20) * np.sqrt(2)).astype(np.float32)


def residuals(ds, each):
    """Return samples less the fitted line (integration, group, y, x) [DN]; NaN where a sample is not used."""
    time = ds.attrs["group_time"] * np.arange(ds.sizes["group"], dtype="f4")
    left = ds.sci.values[0] - each.rate.values[0][:, None] * time[:, None, None]
    left[(ds.group_dq.values[0] & 3) > 0] = np.nan
    left = left[:, :-1]  # lastframe
    return left - np.nanmedian(left, axis=1, keepdims=True)


def tell_noise(ds):
    """Print how differences of neighbouring reads are correlated: -0.5 at lag 1 for white read noise, then 0."""
    steps = np.diff(ds.sci.values[0, 1:, 10:-1].astype("f8"), axis=1)
    steps -= np.median(steps, axis=1, keepdims=True)
    steps[np.abs(steps) > 5 * steps.std()] = 0
    lags = [float((steps[:, lag:] * steps[:, : steps.shape[1] - lag]).mean() / steps.var()) for lag in (1, 2, 3)]
    print(f"correlation of differences at lags 1, 2, 3: {', '.join(f'{v:+.3f}' for v in lags)} (white: -0.5, 0, 0)")
    rows = steps - np.median(steps, axis=-1, keepdims=True)
    print(f"   the median of a row takes {100 * (1 - rows.var() / steps.var()):.0f} % of the variance with it")


def describe(name, ds, refs, **options):
    """Fit, print a line for the mean and one for every integration; return rateints."""
    mean, each = fit_ramps(ds, **refs, **options), fit_integrations(ds, **refs, **options)
    error = np.sqrt(mean.var_poisson + mean.var_read)
    spread = float(each.rate.median(("dither", "y", "x")).std("integration"))
    print(
        f"{name:34s} median rate {float(mean.rate.median()):+7.3f} DN/s, error {float(error.median()):.3f}; "
        f"integrations differ by {spread:.2f} (rms); jumps in "
        f"{100 * float((mean.n_jumps > 0).mean()):.1f} % of pixels, NaN {int(mean.rate.isnull().sum())}"
    )
    for i in range(each.sizes["integration"]):
        one = each.isel(dither=0, integration=i)
        said = f"   integration {i + 1}: rate {float(one.rate.median()):+8.3f}, jumps {int(one.n_jumps.sum()):5d}"
        if "chi2" in one:
            free = float(one.groups_used.median()) - 2
            high = float((one.chi2 > 1 + 4 * np.sqrt(2 / free)).mean())
            said += f", chi2 median {float(one.chi2.median()):.3f}, above 4 sigma {100 * high:.1f} %"
        print(said)
    return each


def draw(ds, fits_of, out):
    """Plot the median residual of the ramps and the distribution of chi2."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(17, 5))
    group = ds.group.values
    for axis, (name, (ramp, each)) in zip(axes, list(fits_of.items())[:2], strict=False):
        left = np.nanmedian(residuals(ramp, each), axis=(2, 3))
        for i, line in enumerate(left):
            axis.plot(group[: len(line)], line, ".-", label=f"integration {i + 1}")
        axis.axhline(0, color="grey", lw=0.8)
        axis.set(xlabel="group", ylabel="sample less fitted line, median of pixels [DN]", title=name)
        axis.legend()
    bins = np.linspace(0, 4, 81)
    for name, (_, each) in fits_of.items():
        if "chi2" in each:
            for i, style in ((0, "--"), (2, "-")):
                values = each.chi2.values[0, i]
                axes[2].hist(
                    values[np.isfinite(values)], bins, histtype="step", ls=style, label=f"{name}, int. {i + 1}"
                )
    axes[2].set(xlabel="reduced chi2", ylabel="pixels")
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=Path("real_ramps.png"))
    parser.add_argument("--skip", type=int, default=5, help="groups left out at the start in the second part")
    args = parser.parse_args()
    ds, refs = read_ramp(args.file)
    print(f"{dict(ds.sizes)}, read noise (CDS) median {float(refs['readnoise'].read_noise.median()):.2f} DN")
    tell_noise(ds)
    ds = rate.flag_last_frame(ds)
    flagged = rate.flag_jumps(ds, **refs)
    print(f"two-point test: {int(((flagged.group_dq & dq.JUMP_DET) > 0).sum())} jumps of {ds.sci.size} samples")
    whole = {
        "ols, all groups": (flagged, describe("ols, all groups", flagged, refs)),
        "gls, all groups": (ds, describe("gls, all groups", ds, refs, method="gls")),
    }
    describe("likelihood (jwst), all groups", ds, refs, method="likelihood")
    late = {"method": "gls", "firstgroup": args.skip}
    describe(f"ols, from group {args.skip + 1}", flagged, refs, firstgroup=args.skip)
    whole[f"gls, from group {args.skip + 1}"] = (ds, describe(f"gls, from group {args.skip + 1}", ds, refs, **late))
    describe(f"likelihood, from group {args.skip + 1}", ds, refs, method="likelihood", firstgroup=args.skip)
    draw(ds, whole, args.out)
    print(f"drawn: {args.out}")


if __name__ == "__main__":
    main()

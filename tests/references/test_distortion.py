from __future__ import annotations

import gzip

import asdf
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.modeling.models import Identity, Polynomial2D, Shift

from mrsxr.errors import ReferenceFileError
from mrsxr.mrs import BANDS, setting_keywords
from mrsxr.references import distortion
from mrsxr.simulate import write_geometry
from mrsxr.simulate.reference_files import MODELS

KINDS = ("distortion", "specwcs", "regions", "wavelengthrange")
LABELS = np.array([101, 102, 201], dtype=np.int16)


def triangle(rng, count: int, size: int) -> np.ndarray:
    """Return random coefficients with i + j <= degree."""
    out = rng.normal(size=(count, size, size))
    return np.where(np.add.outer(np.arange(size), np.arange(size)) < size, out, 0.0)


def made(kind: str, n_planes: int = 9) -> xr.Dataset:
    rng = np.random.default_rng(4)
    keys = setting_keywords("12B")
    attrs = {
        "level": "reference", "kind": kind, "ref_id": f"made_{kind}.asdf", "useafter": "2022-05-01T00:00:00",
        "detector": keys["DETECTOR"], "band": keys["BAND"], "channels": keys["CHANNEL"], "readpatt": "",
        "subarray": "", "pedigree": "GROUND", "author": "A. Tester", "description": f"made {kind}",
    }  # fmt: skip
    n = LABELS.size
    slices = {"slice_label": LABELS}
    bands = {"band": np.array(["1B", "2B"])}
    forward = ("slice_label", "power_y", "power_x")
    backward = ("slice_label", "power_lambda", "power_alpha")
    sky = np.zeros((4, 2, 5, 3))
    sky[:, :, :3] = triangle(rng, 8, 3).reshape(4, 2, 3, 3)
    if kind == "distortion":
        return xr.Dataset(
            {
                "alpha_coefficients": (forward, triangle(rng, n, 4), {"units": "arcsec"}),
                "alpha_x_shift": ("slice_label", [0.0, 12.5, -3.25], {"units": "pix"}),
                "slice_beta": ("slice_label", [-0.1, 0.1, 0.3], {"units": "arcsec"}),
                "slice_width": ("band", [0.2, 0.28], {"units": "arcsec"}),
                "beta_zero": ("band", [-0.1, 0.3], {"units": "arcsec"}),
                "x_coefficients": (backward, triangle(rng, n, 5), {"units": "pix"}),
                "x_lambda_shift": ("slice_label", [5.1, 5.2, 8.1], {"units": "um"}),
                "y_coefficients": (backward, triangle(rng, n, 5), {"units": "pix"}),
                "y_lambda_shift": ("slice_label", [5.1, 5.25, 8.1], {"units": "um"}),
                "v2_coefficients": (("band", "power_alpha", "power_beta"), sky[0], {"units": "arcsec"}),
                "v3_coefficients": (("band", "power_alpha", "power_beta"), sky[1], {"units": "arcsec"}),
                "alpha_from_v2v3": (("band", "power_v2", "power_v3"), sky[2, :, :3], {"units": "arcsec"}),
                "beta_from_v2v3": (("band", "power_v2", "power_v3"), sky[3, :, :3], {"units": "arcsec"}),
            },
            slices | bands,
            attrs,
        )
    if kind == "specwcs":
        return xr.Dataset(
            {
                "wavelength_coefficients": (forward, triangle(rng, n, 9), {"units": "um"}),
                "wavelength_x_shift": ("slice_label", [480.5, 460.25, 0.0], {"units": "pix"}),
            },
            slices,
            attrs,
        )
    if kind == "regions":
        values = rng.choice([0, 101, 217], size=(n_planes, 6, 8)).astype(np.int16)
        coords = {"y": np.arange(6), "x": np.arange(8)}
        return xr.Dataset({"regions": (("plane", "y", "x"), values, {"units": "1"})}, coords, attrs)
    names = np.array(["1A", "2C", "3LONG-SHORT"])
    limits = (("band", "limit"), [[4.68, 5.97], [9.76, 11.97], [15.14, 18.29]], {"units": "um"})
    attrs |= {"detector": "", "band": "", "channels": ""}
    return xr.Dataset({"limits": limits}, {"band": names, "limit": ["lower", "upper"]}, attrs)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_exact(kind, tmp_path):
    ds = made(kind)
    path = write_geometry(tmp_path / f"made_{kind}.asdf", ds)
    xr.testing.assert_identical(distortion.READERS[kind](path), ds)
    # an existing file is replaced
    write_geometry(path, ds)
    with asdf.open(path) as file:
        meta = file["meta"]
        assert meta["reftype"] == kind
        assert meta["model_type"] == MODELS[kind]
        assert meta["telescope"] == "JWST"
        assert meta["filename"] == f"made_{kind}.asdf"
        assert meta["exposure"]["type"] == "MIR_MRS"
        expected = "N/A" if kind == "wavelengthrange" else "12"
        assert (meta["instrument"]["name"], meta["instrument"]["channel"]) == ("MIRI", expected)


def test_written_models_evaluate_as_the_coefficients(tmp_path):
    ds = made("distortion")
    path = write_geometry(tmp_path / "d.asdf", ds)
    with asdf.open(path) as file:
        assert file["slices"] == LABELS.tolist()
        assert file["bdel"]["channel_band"] == ["1MEDIUM", "2MEDIUM"]
        assert file["meta"]["input_units"] == u.pix
        y, x = 3.5, 11.0
        c = ds.alpha_coefficients.values[1]
        expected = sum(c[i, j] * y**i * (x - 12.5) ** j for i in range(4) for j in range(4))
        assert file["alpha_model"][1](y, x) == pytest.approx(expected, rel=1e-13)
        c = ds.y_coefficients.values[1]
        expected = sum(c[i, j] * (5.3 - 5.25) ** i * 0.7**j for i in range(5) for j in range(5))
        assert file["y_model"][1](5.3, 0.7) == pytest.approx(expected, rel=1e-13)
        model = file["abv2v3_model"]["model"][1]
        names = ("v2_coefficients", "v3_coefficients", "alpha_from_v2v3", "beta_from_v2v3")
        values = (*model(0.3, -0.4), *model.inverse(0.3, -0.4))
        for got, name in zip(values, names, strict=True):
            c = ds[name].values[1]
            expected = sum(c[i, j] * 0.3**i * (-0.4) ** j for i in range(c.shape[0]) for j in range(3))
            assert got == pytest.approx(expected, rel=1e-12)
        assert file["beta_model"][2](99.0) == 0.3


def test_regions_are_compressed_small_integers_of_nine_planes(tmp_path):
    one = made("regions", n_planes=1)
    path = write_geometry(tmp_path / "r.asdf", one)
    back = distortion.read_regions(path)
    assert back.regions.shape == (9, 6, 8)
    assert back.regions.dtype == np.int16
    for plane in back.regions.values:
        np.testing.assert_array_equal(plane, one.regions.values[0])
    big = xr.Dataset({"regions": (("plane", "y", "x"), np.full((9, 256, 258), 101, np.int32))}, attrs=one.attrs)
    assert write_geometry(tmp_path / "big.asdf", big).stat().st_size < 20_000
    assert distortion.read_regions(tmp_path / "big.asdf").regions.dtype == np.int16


def test_files_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ReferenceFileError, match=r"nowhere\.asdf: no such file"):
        distortion.read_distortion(tmp_path / "nowhere.asdf")
    (tmp_path / "text.asdf").write_text("not asdf at all")
    with pytest.raises(ReferenceFileError, match="no readable ASDF"):
        distortion.read_regions(tmp_path / "text.asdf")
    path = write_geometry(tmp_path / "s.asdf", made("specwcs"))
    with pytest.raises(ReferenceFileError, match=r"s\.asdf: is a specwcs file; expected a distortion"):
        distortion.read_distortion(path)
    with pytest.raises(ReferenceFileError, match="kind flat; expected one of distortion, specwcs"):
        write_geometry(tmp_path / "x.asdf", made("specwcs").assign_attrs(kind="flat"))


def edited(tmp_path, kind: str, change) -> str:
    """Write a made file, change its tree and write it again."""
    path = write_geometry(tmp_path / "first.asdf", made(kind))
    with asdf.open(path, lazy_load=False, memmap=False) as file:
        tree = dict(file.tree)
        change(tree)
        asdf.AsdfFile(tree).write_to(tmp_path / "edited.asdf")
    return str(tmp_path / "edited.asdf")


def test_models_of_another_shape_are_named(tmp_path):
    def no_shift(tree):
        tree["alpha_model"][1] = Identity(2) | Polynomial2D(2)

    with pytest.raises(ReferenceFileError, match=r"edited\.asdf: 'alpha_model' of slice 102 is Identity Polynomial2D"):
        distortion.read_distortion(edited(tmp_path, "distortion", no_shift))

    def wrong_order(tree):
        tree["x_model"][0] = (Identity(1) & Shift(-5.0)) | Polynomial2D(2)

    with pytest.raises(ReferenceFileError, match="'x_model' of slice 101 is Identity Shift Polynomial2D"):
        distortion.read_distortion(edited(tmp_path, "distortion", wrong_order))

    def scaled(tree):
        tree["model"][2] = (Identity(1) & Shift(-5.0)) | Polynomial2D(2, x_domain=(0, 1024))

    with pytest.raises(ReferenceFileError, match="slice 201 has a x domain"):
        distortion.read_specwcs(edited(tmp_path, "specwcs", scaled))

    def one_short(tree):
        tree["y_model"] = tree["y_model"][:2]

    with pytest.raises(ReferenceFileError, match="'y_model' holds 2 models for 3 slices"):
        distortion.read_distortion(edited(tmp_path, "distortion", one_short))

    def missing(tree):
        del tree["bdel"]

    with pytest.raises(ReferenceFileError, match="key 'bdel' is missing"):
        distortion.read_distortion(edited(tmp_path, "distortion", missing))

    def floats(tree):
        tree["regions"] = tree["regions"] * 1.5

    with pytest.raises(ReferenceFileError, match="expected an integer"):
        distortion.read_regions(edited(tmp_path, "regions", floats))


def test_coefficients_beyond_the_degree_are_refused(tmp_path):
    ds = made("specwcs")
    ds.wavelength_coefficients.values[0, 8, 8] = 1.0
    with pytest.raises(ReferenceFileError, match="above its degree 8"):
        write_geometry(tmp_path / "s.asdf", ds)


@pytest.mark.shared
@pytest.mark.parametrize(("delivery", "setting"), [("flt9", "34C"), ("cdp8b", "12B")])
def test_real_files_round_trip(shared_data, tmp_path, delivery, setting):
    for kind in ("distortion", "specwcs"):
        path = shared_data / f"coords_{delivery}" / f"jwst_miri_mrs{setting}_{kind}_{delivery}.asdf"
        ds = distortion.READERS[kind](path)
        keys = setting_keywords(setting)
        found = (ds.attrs["detector"], ds.attrs["channels"], ds.attrs["band"], ds.attrs["kind"])
        assert found == (keys["DETECTOR"], keys["CHANNEL"], keys["BAND"], kind)
        assert ds.sizes["slice_label"] == (38 if setting[0] == "1" else 28)
        copy = write_geometry(tmp_path / path.name, ds)
        xr.testing.assert_identical(distortion.READERS[kind](copy), ds)
        if kind == "distortion":
            assert ds.band.values.tolist() == [setting[0] + setting[2], setting[1] + setting[2]]
            number = ds.slice_label % 100 - 1
            k = (ds.slice_label // 100 == int(setting[1])).astype(int)
            beta = ds.beta_zero.values[k] + number * ds.slice_width.values[k]
            np.testing.assert_allclose(ds.slice_beta, beta, rtol=0, atol=1e-9)
            with asdf.open(path) as one, asdf.open(copy) as two:
                assert set(one.tree) <= set(two.tree) | {"history"}
                assert two["x_model"][7](5.3, 0.2) == one["x_model"][7](5.3, 0.2)


@pytest.mark.shared
def test_real_wavelength_ranges(shared_data, tmp_path):
    for delivery, count in (("flt9", 36), ("cdp8b", 12)):
        ds = distortion.read_wavelengthrange(
            shared_data / f"coords_{delivery}" / f"jwst_miri_mrs_wavelengthrange_{delivery}.asdf"
        )
        assert ds.sizes["band"] == count
        assert ds.band.values[:12].tolist() == [f"{c}{g}" for c in "1234" for g in "ABC"] == list(BANDS)
        np.testing.assert_array_equal(ds.limits.sel(band="3B"), [13.08, 15.86])
        assert ds.attrs["detector"] == ds.attrs["band"] == ""
        copy = write_geometry(tmp_path / ds.attrs["ref_id"], ds)
        xr.testing.assert_identical(distortion.read_wavelengthrange(copy), ds)


@pytest.mark.shared
def test_real_two_dimensional_regions(shared_data, tmp_path):
    path = tmp_path / "jwst_miri_regions_0017.asdf"
    path.write_bytes(gzip.decompress((shared_data / "regions" / "jwst_miri_regions_0017.asdf.gz").read_bytes()))
    ds = distortion.read_regions(path)
    assert ds.regions.shape == (1, 1024, 1032)
    assert ds.regions.dtype == np.dtype("int16")
    assert set(np.unique(ds.regions.values // 100)) == {0, 3, 4}
    assert (ds.attrs["channels"], ds.attrs["band"]) == ("34", "LONG")

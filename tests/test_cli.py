"""The commands, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

import mrsxr as mx
from mrsxr import cli
from mrsxr.cli import main
from mrsxr.errors import MrsxrError
from mrsxr.pipeline.reduction import RunResult
from mrsxr.threads import cores_here


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_help_names_every_command():
    text = invoke("--help").output
    for name in ("demo", "run", "status", "info", "simulate", "show", "report", "match", "history", "check"):
        assert name in text


def test_a_command_ends_without_a_last_look_for_cycles():
    code = "import atexit, gc, runpy; atexit.register(lambda: print(gc.get_freeze_count() > 0)); "
    code += "runpy.run_module('mrsxr', run_name='__main__')"  # as python -m mrsxr
    found = subprocess.run([sys.executable, "-c", code, "recipe"], capture_output=True, text=True)
    assert "outlier_detection" in found.stdout
    assert found.stdout.endswith("True\n")


def test_info(simulated):
    out = invoke("info", simulated.uncal_folder, "--background-from", simulated.background_folder)
    assert out.exit_code == 0
    assert "1A" in out.output
    assert "FASTR1" in out.output
    assert "2 files" in out.output


def test_run_show_history_check(simulated, tmp_path):
    out = invoke("run", simulated.uncal[0], "--refs", simulated.reference_folder, "--to", "rate", "--out", tmp_path)
    assert out.exit_code == 0, out.output
    rate = next((tmp_path / "stage1").glob("*_rate.fits"))
    shown = invoke("show", rate, "--out", tmp_path / "rate.png")
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "rate.png").read_bytes()[:4] == b"\x89PNG"
    told = invoke("history", rate)
    assert "rate.fit_ramps" in told.output
    assert "rejection_threshold=4.0" in told.output
    assert invoke("check", rate).exit_code == 0


def test_show_draws_every_level(simulated, reduced, tmp_path):
    cube = next(p for p in reduced.files["cube"] if "ch1" in p.name)
    cases = {
        "ramp": (simulated.uncal[0],), "cal": (reduced.files["cal"][0],), "flags": (reduced.files["cal"][0], "--dq"),
        "cube": (cube, "--wavelength", 5.4, 5.2), "spectrum": (reduced.files["stitched"][0],),
        "zoom": (reduced.files["stitched"][1], "--zoom", 5.3, 5.6, "--redshift", 0.0225),
    }  # fmt: skip
    seen = {}
    for name, arguments in cases.items():
        path = tmp_path / f"{name}.png"
        out = invoke("show", *arguments, "--out", path)
        assert out.exit_code == 0, out.output
        seen[name] = path.read_bytes()
        assert seen[name][:4] == b"\x89PNG"
        assert len(seen[name]) > 10_000
    assert len(set(seen.values())) == len(cases)


def test_show_refuses_in_one_line(simulated, reduced, tmp_path):
    gain = next(p for p in simulated.references if p.name.endswith("gain.fits"))
    apcorr = next(p for p in simulated.references if p.name.endswith("apcorr.asdf"))
    cube = reduced.files["cube"][0]
    for arguments, text in (
        ((gain,), "reference file"), ((apcorr,), "reference file"), ((tmp_path / "none.fits",), "none.fits"),
        ((cube, "--zoom", 5, 6), "--zoom is for data of level spectrum; this file is of level cube"),
        ((cube, "--dither", 2), "--dither is for"), ((cube, "--wavelength", 20, 21), "no plane between"),
        ((reduced.files["stitched"][0], "--zoom", 20, 21), "the spectrum has 0 samples between 20 and 21 um"),
    ):  # fmt: skip
        out = invoke("show", *arguments, "--out", tmp_path / "no.png")
        assert out.exit_code == 1, arguments
        assert text in out.output
        assert len(out.output.strip().splitlines()) == 1, out.output
    assert not (tmp_path / "no.png").exists()


def test_show_fitted_lines(reduced, tmp_path):
    import mrsxr as mx
    from mrsxr.lines.fit import fit_lines

    table = fit_lines(mx.load(reduced.files["stitched"][1]), ["[Ne VI] 7.65"], redshift=0.0225)
    mx.save(table, tmp_path / "table.nc")
    out = invoke("show", tmp_path / "table.nc", "--out", tmp_path / "no.png")
    assert out.exit_code == 0, out.output
    assert "[Ne VI]" in out.output
    assert not (tmp_path / "no.png").exists()
    cube = mx.load(next(p for p in reduced.files["cube"] if "ch2" in p.name))
    lines = ["[Ne VI] 7.65", "H2 S(4) 8.03"]
    maps = fit_lines(cube.isel(y=slice(10, 22), x=slice(12, 26)).compute(), lines, redshift=0.0225).compute()
    mx.save(maps, tmp_path / "maps.nc")
    out = invoke("show", tmp_path / "maps.nc", "--out", tmp_path / "maps.png")
    assert out.exit_code == 0, out.output
    assert (tmp_path / "maps.png").stat().st_size > 10_000
    other = invoke("show", tmp_path / "maps.nc", "--line", lines[1], "--out", tmp_path / "other.png")
    assert other.exit_code == 0, other.output
    assert (tmp_path / "other.png").read_bytes() != (tmp_path / "maps.png").read_bytes()


def test_report(reduced, tmp_path):
    out = invoke("report", reduced.out, "--out", tmp_path / "page.html", "--redshift", 0.0225)
    assert out.exit_code == 0, out.output
    assert "report: " in out.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "NGC-7319-SIM" in text
    wrong = invoke("report", tmp_path / "nowhere")
    assert wrong.exit_code == 1
    assert "no such folder of products" in wrong.output


def test_mistakes_end_with_one_line_and_code_1(simulated, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (
        ("run", empty, "--refs", simulated.reference_folder, "--out", tmp_path / "o"),
        ("run", simulated.uncal[0], "--refs", tmp_path / "no_refs", "--out", tmp_path / "o"),
        ("run", simulated.uncal[0], "--refs", simulated.reference_folder, "--recipe", tmp_path / "no.toml"),
        ("info", tmp_path / "nothing.fits"),
        ("history", simulated.uncal[0]),
    ):
        out = invoke(*arguments)
        assert out.exit_code == 1, arguments
        assert out.output.strip().startswith("error:"), out.output
        assert len(out.output.strip().splitlines()) == 1, out.output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("run", "x", "--bands", "1A,5B"), "'5B' is no band or channel"),
        (("demo", "--bands", "ch9"), "'ch9' is no band or channel"),
        (("simulate", "x", "--bands", ","), "--bands is empty"),
        (("run", "x", "--redshift", "nan"), "--redshift is 'nan'; expected a number above -1"),
        (("run", "x", "--redshift", "-4"), "--redshift is -4; expected a number above -1"),
        (("run", "x", "--residual-fringe", "slices"), "--residual-fringe slices: expected LEVEL=METHOD"),
        (("run", "x", "--residual-fringe", "rate=slices"), "expected one of cal, cube, spectrum"),
        (("run", "x", "--residual-fringe", "cube=sines"), "residual_fringe is 'sines'"),
        (("show", "x", "--redshift", "6600"), "cz = 6600 km/s is z = 0.022"),
        (("report", "x", "--redshift", "high"), "--redshift is 'high'"),
    ],
)
def test_options_are_read_before_any_work(arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = invoke(*arguments)
    assert out.exit_code == 1
    assert text in out.output
    assert len(out.output.strip().splitlines()) == 1, out.output
    assert not list(tmp_path.iterdir())


def test_source_types_in_any_case(tmp_path):
    out = invoke("run", tmp_path / "none", "--source-type", "POINT", "--bands", "ch1-short", "--redshift", "0.01")
    assert out.exit_code == 1
    assert "none" in out.output
    assert "--source-type" not in out.output


def test_failed_exposure_gives_code_1(simulated, tmp_path):
    bad = tmp_path / simulated.uncal[0].name
    bad.write_bytes(simulated.uncal[0].read_bytes()[:100_000])
    out = invoke("run", bad, "--refs", simulated.reference_folder, "--out", tmp_path / "o", "--to", "rate")
    assert out.exit_code == 1
    assert bad.name in out.output


@pytest.mark.shared
def test_real_cubes_to_a_spectrum(shared_data, tmp_path):
    out = invoke("run", shared_data / "s3d_ngc7469", "--to", "spectrum", "--redshift", 0.0163, "--out", tmp_path)
    assert out.exit_code == 0, out.output
    assert len(list((tmp_path / "stage3").glob("*_x1d.fits"))) == 4
    assert len(list((tmp_path / "stage3").glob("*.png"))) == 1
    import numpy as np

    import mrsxr as mx

    whole = mx.load(next((tmp_path / "stage3").glob("*.nc")))
    assert 17.7 < float(whole.wavelength[0]) < 17.72
    assert 28.6 < float(whole.wavelength[-1]) < 28.72
    for rest in (18.713, 24.3175, 25.8903):  # [S III], [Ne V], [O IV]
        line = rest * 1.0163
        near = whole.flux.sel(wavelength=slice(line - 0.12, line + 0.12))
        peak = float(near.wavelength[int(np.argmax(near.values))])
        assert abs(peak / line - 1) < 1 / 1300
        assert float(near.max()) > 1.05 * float(np.nanmedian(near))


@pytest.mark.parametrize("name", ["[rate]", "a [/x] b", "[bold]x", ":smile:", "[link=http://x]y", "\\[red]"])
def test_foreign_text_is_printed_as_it_is(tmp_path, name):
    missing = tmp_path / name.replace("/", "_") / "nothing_uncal.fits"
    out = invoke("info", missing)
    assert out.exit_code == 1
    assert str(missing) in out.output
    wrong = tmp_path / "c.toml"
    wrong.write_text(f"[rate.refpix]\nmethod = '{name}'\n")
    out = invoke("run", tmp_path, "--recipe", wrong, "--out", tmp_path / "o")
    assert out.exit_code == 1
    shown = repr(name)
    assert f"[rate.refpix]: method is {shown}; expected one of constant, smooth" in out.output
    assert len(out.output.strip().splitlines()) == 1
    failing = _bars().failed
    failing("stage", name, "[/b] is no tag")


def _bars():
    from mrsxr.console import progress_bars, reporter_of

    bars = reporter_of(progress_bars())
    bars.begin("[/stage]", 1)
    return bars


def test_wrong_values_are_refused_before_a_file_is_opened(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("a file was looked for")

    monkeypatch.setattr(sys.modules["mrsxr.pipeline.runner"], "find_files", refuse)
    monkeypatch.setattr("mrsxr.references.References.__init__", refuse)
    cases = {
        "[spectrum.stitch]\nmethod = 'ratio'\n": "method is 'ratio'", "skip = ['photom']\n": "'photom' cannot be",
        "[cal.fringe]\nafter = 'any'\n": "no step 'cal.any'",
        "[cube.cube_build]\noutput_type = 'bands'\n": "did you mean 'band'?",
    }  # fmt: skip
    for text, message in cases.items():
        (tmp_path / "c.toml").write_text(text)
        out = invoke("run", tmp_path, "--recipe", tmp_path / "c.toml", "--refs", tmp_path)
        assert out.exit_code == 1
        assert message in out.output
    for arguments in (("--workers", 0), ("--workers", -3), ("--workers", "two")):
        assert invoke("run", tmp_path, *arguments).exit_code == 2
    out = invoke("run", tmp_path, "--skip", "reset,darc", "--refs", tmp_path)
    assert out.exit_code == 1
    assert "there is no step 'darc'" in out.output


def test_skip_on_the_command_line(simulated, tmp_path):
    from astropy.io import fits

    source = simulated.uncal[0]
    folder = tmp_path / "refs"
    folder.mkdir()
    for path in simulated.references:
        if "_dark" not in path.name and "_reset" not in path.name:
            (folder / path.name).symlink_to(path)
    out = invoke("run", source, "--refs", folder, "--to", "rate", "--skip", "reset, dark", "--out", tmp_path / "o")
    assert out.exit_code == 0, out.output
    header = fits.getheader(next((tmp_path / "o" / "stage1").glob("*_rate.fits")))
    assert [header[key] for key in ("S_RESET", "S_DARK", "S_REFPIX")] == ["SKIPPED", "SKIPPED", "COMPLETE"]


def test_without_workers_a_warm_up_takes_all_cores(monkeypatch):
    def simulated(*_args, workers, **_kwargs):
        raise MrsxrError(f"asked for {workers} workers")

    monkeypatch.setattr("mrsxr.warmup.simulate_observation", simulated)
    assert f"asked for {cores_here()} workers" in invoke("warmup").output
    assert "asked for 3 workers" in invoke("warmup", "--workers", 3).output


def test_match_brings_cubes_to_one_scale_and_grid(tmp_path):
    for band, low, factor in (("1A", 5.6, 1.0), ("1B", 5.66, 1.07)):
        cube = mx.simulate.simulate_cube(band=band, wavelength=(low, low + 0.14), noise=0.5, seed=int(factor * 100))
        mx.save(cube.assign(flux=(factor * cube.flux).assign_attrs(cube.flux.attrs)), tmp_path / "in")
    out = invoke("match", tmp_path / "in", "--out", tmp_path / "out", "--fwhm", "0.5", "--grid", "ch1-short")
    assert out.exit_code == 0, out.output
    medium, short = (mx.load(path) for path in sorted((tmp_path / "out").glob("*_s3d.fits")))
    assert (short.attrs["band"], short.attrs["scale_factor"]) == ("1A", 1.0)
    assert medium.attrs["scale_factor"] == pytest.approx(1 / 1.07, abs=5e-3)
    (path,) = (tmp_path / "out").glob("*medium*_s3d.fits")
    assert fits.getval(path, "SCALEFAC", 1) == medium.attrs["scale_factor"]
    np.testing.assert_allclose(medium.ra, short.ra)
    assert medium.attrs["variant"].split() == ["psf-matched", "scaled", "regridded"]
    wrong = invoke("match", tmp_path / "in", "--grid", "4A")
    assert wrong.exit_code == 1
    assert "grid is 4A; expected one of the cubes, 1A, 1B" in wrong.output


def test_the_picture_of_a_run_is_drawn_where_something_is_new(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mrsxr.demo.draw", lambda _result, path, **_: drawn.append(path) or path)
    there = tmp_path / "stage3" / "a_stitched_x1d.png"
    there.parent.mkdir()
    files = {"stitched": [tmp_path / "a.fits", tmp_path / "a_stitched_x1d.nc"], "cube": [tmp_path / "c.fits"]}
    result = SimpleNamespace(out=tmp_path, files=files, taken_over=7, pieces=7)
    assert cli._picture(str(tmp_path), result, None) == there
    assert drawn == [there]
    there.touch()
    assert cli._picture(str(tmp_path), result, None) == there
    assert drawn == [there]
    result.taken_over = 6
    cli._picture(str(tmp_path), result, None)
    assert drawn == [there, there]


def test_several_observations_have_no_picture_in_common(tmp_path, monkeypatch):
    files = {"stitched": [tmp_path / "a" / "stage3" / "a.fits", tmp_path / "b" / "stage3" / "b.nc"]}
    parts = {name: RunResult(tmp_path / name, files=files) for name in "ab"}
    monkeypatch.setattr("mrsxr.pipeline.run", lambda *_, **__: RunResult(tmp_path, files=files, observations=parts))
    monkeypatch.setattr("mrsxr.demo.draw", None)
    found = invoke("run", tmp_path, "--refs", tmp_path)
    assert found.exit_code == 0
    assert f"2 stitched             {tmp_path}\n" in found.output
    assert "picture" not in found.output


@pytest.mark.parametrize("module", ["mrsxr", "mrsxr.cli"])
def test_modules_are_the_command(module):
    found = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True)
    assert found.stdout.startswith(f"Usage: python -m {module} ")
    assert "simulate" in found.stdout

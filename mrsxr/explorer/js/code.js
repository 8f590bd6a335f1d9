// The lines of Python that make what is on the screen.
const text = value => JSON.stringify(value);

function background(lines) {
  lines.push("per_spaxel = 1e6 * spectrum.pixel_area_sr  # Jy of 1 MJy/sr",
    "spectrum[\"flux\"] = spectrum.flux - ring.surface_brightness * spectrum.n_pixels * per_spaxel",
    "spectrum[\"var\"] = spectrum[\"var\"] + ring.surface_brightness_var * (spectrum.n_pixels * per_spaxel) ** 2");
}

export function codeOf(app) {
  const cube = app.windowCube() ?? app.cubes[0], line = app.line(), [low, high] = app.window.map(w => w.toFixed(5));
  const out = ["import mrsxr as mx", "", `cube = mx.load(${text(cube.file || "cube_s3d.fits")})  # ${cube.name.replace(/\s+/g, " ")}`,
    `spectrum = mx.spectrum.extract_spectrum(cube, region=${text(app.regionText("main"))})`];
  if (app.regions.ring) {
    out.push(`ring = mx.spectrum.extract_spectrum(cube, region=${text(app.regionText("ring"))})`);
    background(out);
  }
  if (app.regions.second) out.push(`second = mx.spectrum.extract_spectrum(cube, region=${text(app.regionText("second"))})`);
  if (app.mode !== "all") {
    out.push(`image = cube.flux.sel(wavelength=slice(${low}, ${high})).mean("wavelength")`);
    const level = ([a, b]) => `cube.flux.sel(wavelength=slice(${a.toFixed(5)}, ${b.toFixed(5)})).mean("wavelength")`;
    if (app.mode === "line") out.push(`image = image - 0.5 * (${level(app.sides[0])}\n                       + ${level(app.sides[1])})`);
  }
  const what = line.label ? text(line.label) : line.wave.toFixed(5);
  const options = `redshift=${Number(app.z.toPrecision(9))}, components=${app.components}`;
  out.push(`fit = mx.lines.fit_line(spectrum, ${what}, ${options})`, `maps = mx.lines.fit_line(cube, ${what}, ${options})`);
  return out.join("\n") + "\n";
}

// What goes to files: the spectrum as a table, the picture, text.
export function saveBlob(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export const saveText = (name, text) => saveBlob(name, new Blob([text], {type: "text/plain"}));

export function tableOf(app, kind) {
  const columns = ["wavelength", "band", "flux", "flux_err", "surface_brightness", "n_pixels"];
  const units = ["um", "", "Jy", "Jy", "MJy / sr", ""], types = ["float64", "string", "float64", "float64", "float64", "float64"];
  const rows = app.spectra.flatMap(({cube, main}) => Array.from(cube.wave, (wave, k) =>
    [wave.toFixed(6), cube.name.replace(/[\s,"]+/g, "_"), main.flux[k], main.error[k], main.mean[k], main.seen[k]].map(v => v !== v ? "nan" : v)));
  const header = kind === "csv" ? [columns.join(",")] : ["# %ECSV 1.0", "# ---", "# datatype:",
    ...columns.map((name, k) => `# - {name: ${name}, ${units[k] && `unit: ${units[k]}, `}datatype: ${types[k]}}`), "# delimiter: ','",
    `# meta: {region: ${JSON.stringify(app.regionText())}, redshift: ${app.z}}`, "# schema: astropy-2.0", columns.join(",")];
  return [...header, ...rows.map(row => row.join(","))].join("\n") + "\n";
}

export const saveSpectrum = (app, kind) => saveText(`spectrum.${kind}`, tableOf(app, kind));

const PROPERTIES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "opacity"];

function styled(sheet) {  // a copy that carries what the style sheet gives
  const copy = sheet.cloneNode(true), from = sheet.querySelectorAll("*"), to = copy.querySelectorAll("*");
  from.forEach((element, k) => {
    const style = getComputedStyle(element);
    for (const name of PROPERTIES) to[k].setAttribute(name, style.getPropertyValue(name));
  });
  return copy;
}

// Axes and curves by Bokeh, image and marks of the sheet on them, as SVG text.
export async function pictureOf(figure) {
  const whole = figure.view.export("svg"), blob = await whole.to_blob(), text = await blob.text();
  const page = new DOMParser().parseFromString(text, "image/svg+xml").documentElement, frame = figure.view.frame.bbox;
  const group = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({x: frame.left, y: frame.top, width: frame.width, height: frame.height})) group.setAttribute(key, value);
  group.append(...styled(figure.sheet).childNodes);
  if (figure.canvas.dataset.used) {
    const image = document.createElementNS("http://www.w3.org/2000/svg", "image");
    for (const [key, value] of Object.entries({href: figure.canvas.toDataURL(), width: frame.width, height: frame.height})) image.setAttribute(key, value);
    group.prepend(image);
  }
  page.append(group);
  const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor})) ground.setAttribute(key, value);
  page.prepend(ground);
  return {text: new XMLSerializer().serializeToString(page), width: figure.view.bbox.width, height: figure.view.bbox.height};
}

export async function pngOf(picture, dots = 2) {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([picture.text], {type: "image/svg+xml"}));
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: picture.width * dots, height: picture.height * dots});
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise(done => canvas.toBlob(done, "image/png"));
}

export async function savePicture(app, kind) {
  for (const [name, view] of [["sky", app.sky], ["spectrum", app.view]]) {
    const picture = await pictureOf(view.figure);
    saveBlob(`${name}.${kind}`, kind === "svg" ? new Blob([picture.text], {type: "image/svg+xml"}) : await pngOf(picture));
  }
}

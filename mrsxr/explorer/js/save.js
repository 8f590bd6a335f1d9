// What goes to files: the spectrum as a table, the picture, text.
import {svg} from "./figure.js";

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

const PROPERTIES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "font-size", "font-family", "opacity"];

function styled(sheet) {  // a copy that carries what the style sheet gives
  const copy = sheet.cloneNode(true), from = sheet.querySelectorAll("*"), to = copy.querySelectorAll("*");
  from.forEach((element, k) => {
    const style = getComputedStyle(element);
    for (const name of PROPERTIES) to[k].setAttribute(name, style.getPropertyValue(name));
  });
  return copy;
}

class Pen {  // writes the path of SVG
  d = "";
  moveTo(x, y) { this.d += `M${x.toFixed(2)} ${y.toFixed(2)}`; }
  lineTo(x, y) { this.d += `L${x.toFixed(2)} ${y.toFixed(2)}`; }
}

// Axes, what is drawn and what lies on the sheet, as text of SVG; images are pixels in it.
export function pictureOf(view) {
  const {figure} = view, [width, height] = [figure.box.clientWidth, figure.box.clientHeight], whole = styled(figure.axes);
  for (const [key, value] of Object.entries({width, height, xmlns: "http://www.w3.org/2000/svg"})) whole.setAttribute(key, value);
  whole.prepend(svg("rect", {width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor}));
  const place = {x: parseFloat(figure.canvas.style.left), y: parseFloat(figure.canvas.style.top), width: figure.width, height: figure.height};
  const inner = svg("svg", place, whole);
  if (view.paths) {
    for (const [{d}, {fill, colour, width: wide, alpha}] of view.paths(() => new Pen())) {
      svg("path", {d, fill: fill ? colour : "none", stroke: fill ? "none" : colour, "stroke-width": wide ?? 0, opacity: alpha}, inner);
    }
  } else svg("image", {href: figure.canvas.toDataURL(), width: figure.width, height: figure.height}, inner);
  inner.append(...styled(figure.sheet).childNodes);
  return {text: new XMLSerializer().serializeToString(whole), width, height};
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
    const picture = pictureOf(view);
    saveBlob(`${name}.${kind}`, kind === "svg" ? new Blob([picture.text], {type: "image/svg+xml"}) : await pngOf(picture));
  }
}

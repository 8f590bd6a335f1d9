// Tangent planes: (u, v) are arcseconds to the west and to the north of the middle of the page's field.
const ARCSEC = Math.PI / 180 / 3600;

export function frameOf(ra, dec) {
  const a = ra * Math.PI / 180, d = dec * Math.PI / 180;
  return [[Math.cos(a) * Math.cos(d), Math.sin(a) * Math.cos(d), Math.sin(d)], [Math.sin(a), -Math.cos(a), 0],
    [-Math.sin(d) * Math.cos(a), -Math.sin(d) * Math.sin(a), Math.cos(d)]];
}

export function toSky(frame, u, v) {
  const w = [0, 1, 2].map(i => frame[0][i] + ARCSEC * (u * frame[1][i] + v * frame[2][i]));
  const ra = Math.atan2(w[1], w[0]) / ARCSEC / 3600;
  return [ra < 0 ? ra + 360 : ra, Math.atan2(w[2], Math.hypot(w[0], w[1])) / ARCSEC / 3600];
}

export function fromSky(frame, ra, dec) {
  const w = frameOf(ra, dec)[0], dot = row => row[0] * w[0] + row[1] * w[1] + row[2] * w[2];
  const h = dot(frame[0]) * ARCSEC;
  return [dot(frame[1]) / h, dot(frame[2]) / h];
}

// The way between (u, v) of the page and spaxels (x, y) of a cube, counted from 0; affine over a few arcseconds.
export function gridOf(cube, frame) {
  const own = frameOf(...cube.crval), [west, north] = cube.plane;
  const at = (x, y) => fromSky(frame, ...toSky(own, west[0] + west[1] * x + west[2] * y, north[0] + north[1] * x + north[2] * y));
  const [x0, y0] = [(cube.nx - 1) / 2, (cube.ny - 1) / 2], o = at(x0, y0), px = at(x0 + 1, y0), py = at(x0, y0 + 1);
  const m = [px[0] - o[0], py[0] - o[0], px[1] - o[1], py[1] - o[1]], det = m[0] * m[3] - m[1] * m[2];
  return {
    scale: Math.sqrt(Math.abs(det)),
    toPixel: (u, v) => [x0 + (m[3] * (u - o[0]) - m[1] * (v - o[1])) / det, y0 + (m[0] * (v - o[1]) - m[2] * (u - o[0])) / det],
    toPlane: (x, y) => [o[0] + m[0] * (x - x0) + m[1] * (y - y0), o[1] + m[2] * (x - x0) + m[3] * (y - y0)],
  };
}

function sexagesimal(value, digits) {
  const unit = 10 ** digits, all = Math.round(Math.abs(value) * 3600 * unit), seconds = all % (60 * unit);
  const minutes = Math.floor(all / 60 / unit), pad = n => String(n).padStart(2, "0");
  return `${pad(Math.floor(minutes / 60))}:${pad(minutes % 60)}:${(seconds / unit).toFixed(digits).padStart(3 + digits, "0")}`;
}

export const raText = ra => sexagesimal(ra / 15, 3);
export const decText = dec => (dec < 0 ? "−" : "+") + sexagesimal(dec, 2);

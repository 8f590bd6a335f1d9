// Regions of the sky: circle, ellipse, box, polygon, annulus; sizes in arcseconds, angles from west to north [rad].
import {ellipseShare, polygonArea, polygonShare} from "./area.js";
import {toSky} from "./sky.js";

export const KINDS = ["circle", "ellipse", "box", "polygon"];

export function makeRegion(kind, u, v, size) {
  if (kind === "polygon") {
    return {kind, points: [0, 1, 2, 3, 4].map(k => [u + size * Math.sin(0.4 * Math.PI * k), v + size * Math.cos(0.4 * Math.PI * k)])};
  }
  return {kind, u, v, a: size, b: kind === "circle" ? size : 0.6 * size, angle: 0};  // half axes
}

export function cornersOf(region) {
  if (region.kind === "polygon") return region.points;
  const c = Math.cos(region.angle), s = Math.sin(region.angle);
  return [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([i, j]) =>
    [region.u + i * region.a * c - j * region.b * s, region.v + i * region.a * s + j * region.b * c]);
}

export function middleOf(region) {
  if (region.kind !== "polygon") return [region.u, region.v];
  const n = region.points.length;
  return [0, 1].map(i => region.points.reduce((sum, p) => sum + p[i], 0) / n);
}

export function move(region, du, dv) {
  if (region.kind === "polygon") return {...region, points: region.points.map(([u, v]) => [u + du, v + dv])};
  return {...region, u: region.u + du, v: region.v + dv};
}

export function grow(region, factor) {
  if (region.kind !== "polygon") {
    const out = {...region, a: region.a * factor, b: region.b * factor};
    return region.kind === "annulus" ? {...out, inner: region.inner * factor} : out;
  }
  const [u, v] = middleOf(region);
  return {...region, points: region.points.map(p => [u + factor * (p[0] - u), v + factor * (p[1] - v)])};
}

// Area in the units of its coordinates, squared.
export function areaOf(region) {
  if (region.kind === "polygon") return polygonArea(region.points);
  if (region.kind === "box") return 4 * region.a * region.b;
  return Math.PI * (region.a * region.b - (region.kind === "annulus" ? region.inner ** 2 : 0));
}

// The same region in spaxels of a cube.
export function inSpaxels(region, grid) {
  if (region.kind === "polygon") return {...region, points: region.points.map(p => grid.toPixel(...p))};
  const [x, y] = grid.toPixel(region.u, region.v);
  const [ex, ey] = grid.toPixel(region.u + Math.cos(region.angle), region.v + Math.sin(region.angle));
  const out = {...region, u: x, v: y, a: region.a / grid.scale, b: region.b / grid.scale, angle: Math.atan2(ey - y, ex - x)};
  return region.kind === "annulus" ? {...out, inner: region.inner / grid.scale} : out;
}

function shareOf(region) {
  const {u, v, a, b, angle} = region;
  if (region.kind === "polygon") return (x, y) => polygonShare(x, y, region.points);
  if (region.kind === "box") { const points = cornersOf(region); return (x, y) => polygonShare(x, y, points); }
  if (region.kind === "annulus") {
    return (x, y) => ellipseShare(x, y, u, v, a, a, 0) - ellipseShare(x, y, u, v, region.inner, region.inner, 0);
  }
  return (x, y) => ellipseShare(x, y, u, v, a, b, angle);
}

function boxOf(region) {
  const points = region.kind === "polygon" || region.kind === "box" ? cornersOf(region)
    : [[-1, -1], [1, 1]].map(([i, j]) => [region.u + i * Math.max(region.a, region.b), region.v + j * Math.max(region.a, region.b)]);
  return [0, 1].map(i => [Math.min(...points.map(p => p[i])), Math.max(...points.map(p => p[i]))]);
}

// Spaxels of a cube that a region touches, the share of each, and the whole area [spaxel], beyond the cube too.
export function weightsOf(region, cube, grid) {
  const here = inSpaxels(region, grid), share = shareOf(here), [[x0, x1], [y0, y1]] = boxOf(here);
  const index = [], weight = [];
  for (let y = Math.max(0, Math.floor(y0)); y <= Math.min(cube.ny - 1, Math.ceil(y1)); y++) {
    for (let x = Math.max(0, Math.floor(x0)); x <= Math.min(cube.nx - 1, Math.ceil(x1)); x++) {
      const part = share(x, y);
      if (part > 1e-12) { index.push(y * cube.nx + x); weight.push(part); }
    }
  }
  return {index, weight, area: areaOf(here)};
}

// DS9 text, which mrsxr.spectrum.region.read_region reads.
export function regionText(region, frame) {
  const place = (u, v) => { const [ra, dec] = toSky(frame, u, v); return `${ra.toFixed(12)},${dec.toFixed(12)}`; };  // finer than 1e-5 of bright errors
  const size = value => `${value.toFixed(9)}"`, turn = (region.angle * 180 / Math.PI).toFixed(7);
  if (region.kind === "polygon") return `icrs; polygon(${region.points.map(p => place(...p)).join(",")})`;
  const at = place(region.u, region.v);
  if (region.kind === "circle") return `icrs; circle(${at},${size(region.a)})`;
  if (region.kind === "annulus") return `icrs; annulus(${at},${size(region.inner)},${size(region.a)})`;
  if (region.kind === "ellipse") return `icrs; ellipse(${at},${size(region.a)},${size(region.b)},${turn})`;
  return `icrs; box(${at},${size(2 * region.a)},${size(2 * region.b)},${turn})`;
}

// Exact areas that spaxels (squares of side 1 about x, y) have in common with circles, ellipses and polygons.
const sector = (ax, ay, bx, by) => 0.5 * Math.atan2(ax * by - ay * bx, ax * bx + ay * by);

// Signed area of the triangle (0, a, b) inside the unit circle.
function wedge(ax, ay, bx, by) {
  const dx = bx - ax, dy = by - ay, a = dx * dx + dy * dy, b = ax * dx + ay * dy, c = ax * ax + ay * ay - 1;
  const root = b * b - a * c;
  if (a === 0) return 0;
  if (root <= 0) return sector(ax, ay, bx, by);
  const first = (-b - Math.sqrt(root)) / a, last = (-b + Math.sqrt(root)) / a;
  if (first >= 1 || last <= 0) return sector(ax, ay, bx, by);
  const low = Math.max(first, 0), high = Math.min(last, 1);
  const px = ax + low * dx, py = ay + low * dy, qx = ax + high * dx, qy = ay + high * dy;
  return (first > 0 ? sector(ax, ay, px, py) : 0) + 0.5 * (px * qy - py * qx) + (last < 1 ? sector(qx, qy, bx, by) : 0);
}

const CORNERS = [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]];

export function ellipseShare(x, y, cx, cy, a, b, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), far = Math.hypot(x - cx, y - cy);
  if (far > Math.max(a, b) + 0.7072) return 0;
  if (far < Math.min(a, b) - 0.7072) return 1;
  const p = CORNERS.map(([i, j]) => {
    const dx = x + i - cx, dy = y + j - cy;
    return [(c * dx + s * dy) / a, (c * dy - s * dx) / b];
  });
  let sum = 0;
  for (let k = 0; k < 4; k++) sum += wedge(...p[k], ...p[(k + 1) % 4]);
  return Math.abs(sum) * a * b;
}

function cut(points, axis, limit, sign) {
  const out = [];
  for (let k = 0; k < points.length; k++) {
    const p = points[k], q = points[(k + 1) % points.length];
    const inside = sign * (p[axis] - limit) <= 0, next = sign * (q[axis] - limit) <= 0;
    if (inside) out.push(p);
    if (inside !== next) {
      const t = (limit - p[axis]) / (q[axis] - p[axis]);
      out.push([p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])]);
    }
  }
  return out;
}

export function polygonArea(points) {
  let sum = 0;
  for (let k = 0; k < points.length; k++) {
    const [ax, ay] = points[k], [bx, by] = points[(k + 1) % points.length];
    sum += ax * by - ay * bx;
  }
  return Math.abs(sum) / 2;
}

export function polygonShare(x, y, points) {
  let rest = points;
  for (const [axis, limit, sign] of [[0, x + 0.5, 1], [0, x - 0.5, -1], [1, y + 0.5, 1], [1, y - 0.5, -1]]) {
    rest = cut(rest, axis, limit, sign);
    if (!rest.length) return 0;
  }
  return polygonArea(rest);
}

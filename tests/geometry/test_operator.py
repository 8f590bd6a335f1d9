"""The operator from pixels to voxels against slow, plain versions."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from mrsxr.geometry._operator_kernels import GOOD, HOLE, OUTSIDE, quad_entries
from mrsxr.geometry.operator import Placement, Sums, Weighting, make_operator


def clip(polygon, inside, cross):
    out = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if inside(a):
            out.append(a)
        if inside(a) != inside(b):
            out.append(cross(a, b))
    return out


def clipped_area(polygon, x0, y0, x1, y1):
    """Sutherland-Hodgman on any number type; with Fractions it is exact."""

    def at_x(x):
        return lambda a, b: (x, a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]))

    def at_y(y):
        return lambda a, b: (a[0] + (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]), y)

    for inside, cross in (
        (lambda p: p[0] >= x0, at_x(x0)), (lambda p: p[0] <= x1, at_x(x1)),
        (lambda p: p[1] >= y0, at_y(y0)), (lambda p: p[1] <= y1, at_y(y1)),
    ):  # fmt: skip
        polygon = clip(polygon, inside, cross)
        if not polygon:
            return 0
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2


def overlaps(x, y, rows=12, columns=14):
    corners = (np.array([one], float) for one in (x, y))
    _, spaxel, area = quad_entries(*corners, np.zeros(1, np.uint8), rows, columns)
    cover = np.zeros(rows * columns)
    cover[spaxel] = area
    return cover.reshape(rows, columns)


def random_quad(rng, size):
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * rng.uniform(0.1, size, 2) / 2
    corners = (corners + rng.uniform(-0.05, 0.05, (4, 2)) * size) @ turn
    corners = corners - corners.min(axis=0) + rng.uniform(0, 1, 2)
    return corners[:: rng.choice([1, -1])]


@pytest.mark.parametrize("seed", range(40))
def test_overlap_equals_exact_clipping(seed):
    quad = random_quad(np.random.default_rng(seed), 1.0 + seed % 5)
    cover = overlaps(quad[:, 0], quad[:, 1])
    exact = [(Fraction(float(x)), Fraction(float(y))) for x, y in quad]
    for j in range(int(quad[:, 1].max()) + 1):
        for i in range(int(quad[:, 0].max()) + 1):
            expected = float(clipped_area(exact, i, j, i + 1, j + 1))
            assert cover[j, i] == pytest.approx(expected, abs=2e-14)


def test_overlap_of_cells_on_the_grid_lines():
    cover = overlaps([1, 1, 3, 3], [1, 2, 2, 1])
    expected = np.zeros((3, 5))
    expected[1, 1:3] = 1
    np.testing.assert_array_equal(cover[:3, :5], expected)


def slow_drizzle(quads, low, high, value, variance, status, shape):
    sums = [np.zeros(shape) for _ in range(5)]
    for quad, a, b, f, v, s in zip(quads, low, high, value, variance, status, strict=True):
        for k in range(shape[0]):
            length = min(b, k + 1) - max(a, k)
            for j in range(shape[1]):
                for i in range(shape[2]):
                    area = clipped_area([tuple(p) for p in quad], i, j, i + 1, j + 1)
                    if s == OUTSIDE or length <= 0 or area <= 1e-9:
                        continue
                    w = area * length
                    if s == HOLE:
                        sums[4][k, j, i] = 1
                        continue
                    for plane, add in zip(sums, (w * f, w, w * w * v, 1), strict=False):
                        plane[k, j, i] += add
    return sums


@pytest.fixture
def scene():
    """40 slanted pixels of 2 slices on an 8 x 7 grid with 5 planes, in units of spaxels and planes."""
    rng = np.random.default_rng(5)
    n = 40
    edges = np.zeros((2, 2, 2, 3))
    edges[:, :, 0, 0], edges[:, :, 0, 1] = 4.0, 3.4
    edges[:, :, 1, 0] = [[1.2, 3.3], [3.3, 5.6]]
    edges[:, :, 1, 1], edges[:, 1, 0, 0], edges[:, :, 0, 2] = 0.4, 4.3, 0.05
    middle, half = np.array([0.1, -0.1]), np.array([1.5, 1.6])
    s = rng.integers(0, 2, n).astype(np.int16)
    left = rng.uniform(-1.4, 1.0, n)
    right = left + rng.uniform(0.2, 0.5, n)
    low = np.sort(rng.uniform(-1, 5, n))
    high = low + 1.3
    status = rng.choice([GOOD, GOOD, GOOD, HOLE, OUTSIDE], n).astype(np.uint8)
    value, variance = rng.normal(5, 1, n).astype("f4"), rng.uniform(1, 2, n).astype("f4")
    return (0, n, s, left, right, low, high, value, variance, status, edges, middle, half)


def operator_of(scene, first=0, n_planes=5, n_y=7, n_x=8, weighting=Weighting()):  # noqa: B008
    _, _, s, left, right, low, high, _, _, status, edges, middle, half = scene
    planes = np.arange(first, first + n_planes + 1.0)
    place = Placement(edges, middle, half, 1.0)
    weight = np.ones(status.size, dtype=np.float32)
    return make_operator(s, (left, right), (low, high), status, weight, place, planes, (n_y, n_x), weighting)


def run(scene, first=0, n_planes=5, n_y=7, n_x=8, weighting=Weighting()):  # noqa: B008
    sums = Sums.zeros(1, 1, n_planes, n_y * n_x)
    operator_of(scene, first, n_planes, n_y, n_x, weighting).add(scene[7][None], scene[8][None], sums)
    found = (sums.linear[0], sums.weight, sums.square[0], sums.count, sums.hole)
    return [a.reshape(n_planes, n_y, n_x) for a in found]


def quads_of(scene):
    _, n, s, left, right, *_, edges, middle, half = scene
    t = (left - middle[s]) / half[s], (right - middle[s]) / half[s]
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    return [
        [[np.polyval(edges[s[p], e, axis][::-1], t[side][p]) for axis in (0, 1)] for e, side in corners]
        for p in range(n)
    ]


def test_drizzle_equals_the_slow_version(scene):
    low, high, value, variance, status = scene[5:10]
    expected = slow_drizzle(quads_of(scene), low, high, value, variance, status, (5, 7, 8))
    found = run(scene)
    assert (expected[1] > 0).sum() > 100
    assert expected[4].sum() > 20
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-7, atol=1e-7)


def test_pixels_past_the_grid_are_cut(scene):
    whole, cut = run(scene), run(scene, n_y=4, n_x=5)
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a[:, :4, :5], b)


def test_blocks_of_planes_give_the_same_bits(scene):
    whole = run(scene)
    for first in range(5):
        for a, b in zip(whole, run(scene, first=first, n_planes=1), strict=True):
            np.testing.assert_array_equal(a[first : first + 1], b)


def test_weight_is_conserved(scene):
    """Away from the borders of the grid the weights sum to quad area times interval length."""
    *geometry, status = scene[:10]
    scene = (*geometry, np.zeros_like(status), *scene[10:])
    found = run(scene, first=-3, n_planes=12)
    areas = [clipped_area([tuple(p) for p in q], -99, -99, 99, 99) for q in quads_of(scene)]
    assert found[1].sum() == pytest.approx(1.3 * sum(areas), rel=1e-7)
    assert found[0].sum() == pytest.approx(1.3 * np.dot(areas, scene[7].astype(float)), rel=1e-7)


def test_large_quads_grow_the_work_space(scene):
    scene = list(scene)
    scene[10] = scene[10] * 9.0
    found = run(tuple(scene), n_y=70, n_x=80, first=-3, n_planes=12)
    good = scene[9] == GOOD
    areas = [clipped_area([tuple(p) for p in q], -999, -999, 999, 999) for q in quads_of(scene)]
    assert found[1].sum() == pytest.approx(1.3 * np.dot(areas, good), rel=1e-7)


def test_eight_threads_agree(scene):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: run(scene), range(16)))
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(a, b)


def matrix_of(scene, **grid):
    """Return the operator as a dense matrix (voxel, pixel), by drizzling one pixel at a time."""
    columns = []
    for p in range(scene[1]):
        status = np.where(np.arange(scene[1]) == p, scene[9], OUTSIDE).astype(np.uint8)
        columns.append(run((*scene[:9], status, *scene[10:]), **grid)[1].ravel())
    return np.stack(columns, axis=1)


def test_the_transpose_gives_the_exact_variance_of_a_sum(scene):
    matrix = matrix_of(scene)
    weight = np.random.default_rng(1).uniform(0, 1, (5, 56))
    variance, error = scene[8], np.sqrt(scene[8])
    out = np.zeros((5, 2))
    operator_of(scene).variance(weight, variance[None], error[None], out)
    for k in range(5):
        reach = (weight[k] @ matrix.reshape(5, 56, -1)[k]).astype(float)
        assert out[k, 0] == pytest.approx(np.sum(reach**2 * variance), rel=1e-5)
        assert out[k, 1] == pytest.approx(np.sum(reach * error), rel=1e-5)
    simple = (weight.ravel() ** 2) @ (matrix**2 @ variance)
    assert out[:, 0].sum() > 1.3 * simple  # neighbours share pixels


def test_a_further_weight_counts_in_all_sums(scene):
    whole = run(scene)
    operator = operator_of(scene)
    doubled = type(operator)(*[getattr(operator, f) for f in list(operator.__dataclass_fields__)[:-1]],
                             2 * operator.weight)  # fmt: skip
    sums = Sums.zeros(1, 1, 5, 56)
    doubled.add(scene[7][None], scene[8][None], sums)
    np.testing.assert_allclose(sums.weight.ravel(), 2 * whole[1].ravel())
    np.testing.assert_allclose(sums.square[0].ravel(), 4 * whole[2].ravel())


def test_exponential_shepard_weights(scene):
    _, n, s, left, right, low, high, value, _, status, edges, middle, half = scene
    weighting = Weighting("emsm", reach=1.7, reach_wavelength=1.2, scale=0.8)
    found = run(scene, weighting=weighting)
    t = (0.5 * (left + right) - middle[s]) / half[s]
    place = [[np.mean([np.polyval(edges[s[p], e, axis][::-1], t[p]) for e in (0, 1)]) for p in range(n)]
             for axis in (0, 1)]  # fmt: skip
    expected = np.zeros((2, 5, 7, 8))
    for p in np.flatnonzero(status == GOOD):
        for k in range(5):
            dz = k + 0.5 - 0.5 * (low[p] + high[p])
            for j in range(7):
                for i in range(8):
                    square = (i + 0.5 - place[0][p]) ** 2 + (j + 0.5 - place[1][p]) ** 2
                    if abs(dz) <= 1.2 and square <= 1.7**2:
                        w = np.exp(-(square + dz**2) / 0.8)
                        expected[:, k, j, i] += w * value[p], w
    assert (expected[1] > 0).sum() > 100
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-9)


def test_planes_of_unequal_width(scene):
    """A pixel counts in a plane by the share of the plane that it covers."""
    _, _, s, left, right, low, high, _, _, status, edges, middle, half = scene
    planes = np.array([0.0, 0.5, 2.0, 2.25, 4.0])
    place, one = Placement(edges, middle, half, 1.0), np.ones(status.size, dtype=np.float32)
    operator = make_operator(s, (left, right), (low, high), status, one, place, planes, (7, 8))
    for p in range(status.size):
        mine = slice(operator.wave_start[p], operator.wave_start[p + 1])
        expected = {
            k: (min(high[p], b) - max(low[p], a)) / (b - a)
            for k, (a, b) in enumerate(itertools.pairwise(planes))
            if min(high[p], b) > max(low[p], a)
        }
        assert list(operator.plane[mine]) == list(expected)
        np.testing.assert_allclose(operator.length[mine], list(expected.values()), rtol=1e-6)


def test_planes_with_gaps_and_overlaps(scene):
    """Lower and upper edges of planes: what falls into a gap is lost, what two planes share counts in both."""
    _, _, s, left, right, low, high, _, _, status, edges, middle, half = scene
    planes = np.array([[0.0, 1.5, 2.0], [1.0, 2.25, 4.0]])
    place, one = Placement(edges, middle, half, 1.0), np.ones(status.size, dtype=np.float32)
    operator = make_operator(s, (left, right), (low, high), status, one, place, planes, (7, 8))
    for p in range(status.size):
        mine = slice(operator.wave_start[p], operator.wave_start[p + 1])
        expected = {
            k: (min(high[p], b) - max(low[p], a)) / (b - a)
            for k, (a, b) in enumerate(planes.T)
            if min(high[p], b) > max(low[p], a)
        }
        assert list(operator.plane[mine]) == list(expected)
        np.testing.assert_allclose(operator.length[mine], list(expected.values()), rtol=1e-6)

"""Kernels that give fits of lines their starts, and settle which of several ends is taken.

The words and tuples are those of ``_descent_kernels``.
"""

import math

import numpy as np

from mrsxr._solve_kernels import substitute
from mrsxr.compiled import njit

from ._descent_kernels import C, descend, evaluate, project

N_ITER, N_FIRST, N_SHIFTS = 80, 6, 3
SHIFT = 9.0  # gain in chi2 for which lines of a blend stand where others of it are expected
CLOSE = 4.0  # lines that are nearer than this in their observed widths overlap
NEAR = 40.0  # chi2 of fits that are looked at, above the best
SPREAD = 250.0  # of velocities, where lines that overlap leave a choice [km/s]
_USUAL = 500.0  # km/s


@njit(cache=True, nogil=True, error_model="numpy")
def _peak(voxels, m, mu0, group, g, w, reach, both_signs):
    """Return (velocity, score) of the best place of a box of half width 1.2 w for the lines of group g.

    The score is the squared S/N of the box, summed over the lines. Voxels are in order of wavelength.
    """
    _, inv, lo, hi, rest = voxels
    n = max(math.ceil(reach / (0.5 * w)), 1)
    score = np.zeros(2 * n + 1)
    members = 0
    for line in range(mu0.size):
        if group[line] != g:
            continue
        members += 1
        scale = mu0[line] / C
        first = last = 0  # the box holds voxels first .. last - 1
        total = weight = 0.0
        for step in range(2 * n + 1):
            middle = mu0[line] + reach * (step - n) / n * scale
            while last < m and 0.5 * (lo[last] + hi[last]) <= middle + 1.2 * w * scale:
                total += rest[last] * inv[last]
                weight += inv[last] ** 2
                last += 1
            while first < last and 0.5 * (lo[first] + hi[first]) < middle - 1.2 * w * scale:
                total -= rest[first] * inv[first]
                weight -= inv[first] ** 2
                first += 1
            if first < last:
                score[step] += total * (total if both_signs else abs(total)) / weight
    best, place = -np.inf, 0.0
    for step in range(2 * n + 1):
        v = reach * (step - n) / n
        if members > 1:  # one line may stand where another is expected: the smaller velocity wins
            score[step] /= 1.0 + (v / _USUAL) ** 2
        if score[step] > best:
            best, place = score[step], v
    return place, best


@njit(cache=True, nogil=True, error_model="numpy")
def first_start(number, voxels, m, setup, reach, both_signs, x):
    """Fill the start of one component: 0, 1: the better, the other of the best narrow and the best wide box; 2: where
    lines are expected.
    """
    mu0, _, group, reference, _ = setup
    for g in range(reference.size):
        narrow, wide = 1.3 * reference[g], 3.0 * reference[g]
        if number == 2:
            x[2 * g], x[2 * g + 1] = 0.0, narrow
            continue
        v_a, score_a = _peak(voxels, m, mu0, group, g, narrow, reach[g], both_signs)
        v_b, score_b = _peak(voxels, m, mu0, group, g, wide, reach[g], both_signs)
        if (score_a > score_b) != (number == 1):
            x[2 * g], x[2 * g + 1] = v_a, narrow
        else:
            x[2 * g], x[2 * g + 1] = v_b, wide


@njit(cache=True, nogil=True, error_model="numpy")
def next_start(number, k, before, voxels, m, setup, reach, both_signs, x):
    """Fill start ``number`` of k components from the fit with k - 1 components and its residuals.

    0, 1: one more where most is left, narrow or wide; 2, 3, 4: a wide one below, centred, to the blue, to the red;
    5: two side by side in place of the last one.
    """
    mu0, _, group, reference, _ = setup
    for g in range(reference.size):
        first, j = 2 * g * (k - 1), 2 * g * k
        v, w = before[first], before[first + 1]
        for c in range(k - 1):
            x[j + 2 * c], x[j + 2 * c + 1] = before[first + 2 * c], before[first + 2 * c + 1]
            if x[j + 2 * c + 1] > w:
                v, w = x[j + 2 * c], x[j + 2 * c + 1]
        last = j + 2 * (k - 1)
        if number < 2:
            x[last + 1] = 1.3 * reference[g] if number == 0 else 2.0 * w
            x[last] = _peak(voxels, m, mu0, group, g, x[last + 1], reach[g], both_signs)[0]
        elif number < 5:
            for c in range(k - 1):
                x[j + 2 * c + 1] *= 0.8
            x[last] = v + (0.0 if number == 2 else (-0.8 if number == 3 else 0.8)) * w
            x[last + 1] = (2.4 if number == 2 else 1.8) * w
        else:
            v, w = x[last - 2], x[last - 1]
            x[last - 2], x[last - 1], x[last], x[last + 1] = v - 0.6 * w, 0.75 * w, v + 0.6 * w, 0.75 * w


@njit(cache=True, nogil=True, error_model="numpy")
def farther(x, y, setup):
    """Return 1 where x stands farther from velocity 0 than y, -1 where nearer, 0 within a width or for one line."""
    mu0, _, _, reference, _ = setup
    more = 0.0
    for g in range(reference.size if mu0.size > 1 else 0):
        more += (abs(x[2 * g]) - abs(y[2 * g])) / reference[g]
    return 1.0 if more > 1.0 else (-1.0 if more < -1.0 else 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def held(x, low, high):
    for q in range(x.size):
        if x[q] <= low[q] or x[q] >= high[q]:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _gap(g, setup):
    """Return the least distance of two lines of a group [km/s], inf of one line."""
    mu0, group = setup[0], setup[2]
    gap, before = np.inf, 0.0
    for line in range(mu0.size):
        if group[line] == g:
            gap = min(gap, C * (mu0[line] / before - 1.0)) if before > 0.0 else gap
            before = mu0[line]
    return gap


@njit(cache=True, nogil=True, error_model="numpy")
def overlap(x, setup):
    """Return whether lines of a group overlap."""
    for g in range(setup[3].size):
        if _gap(g, setup) < CLOSE * x[2 * g + 1]:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def elsewhere(x, y, setup):
    """Return 0 where two fits have one velocity, 1 where they differ as lines of the blend that overlap may, else 2."""
    out = 0
    for g in range(setup[3].size):
        width, apart = min(x[2 * g + 1], y[2 * g + 1]), abs(x[2 * g] - y[2 * g])
        if apart > 0.2 * width:
            out = max(out, 1 if max(apart, _gap(g, setup)) < CLOSE * width else 2)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _cost(x, nearest, unit, both_signs, setup, voxels, m, work):
    """Return chi2 without negative fluxes (but where both signs may be) and with what is known of velocities.

    What stands alone stands where it is expected: of fits that show one line only (above 3 sigma) those farther from
    velocity 0 than the nearest cost ``SHIFT`` more.
    """
    mu0, _, _, reference, n_cont = setup
    n_lin, seen = n_cont + mu0.size, 0
    evaluate(x, 1, setup, voxels, m, work)
    chi2 = project(voxels, m, n_cont, n_lin, not both_signs, work)
    column = np.empty(n_lin)
    for a in range(n_cont, n_lin):
        column[:] = 0.0
        column[a] = 1.0
        substitute(work[6], n_lin, column)
        seen += 1 if work[2][a] ** 2 > 9.0 * unit * column[a] and not work[4][a] else 0
    if seen < 2 and farther(x, nearest, setup) > 0.0:
        chi2 += unit * SHIFT
    for g in range(reference.size):
        chi2 += unit * (x[2 * g] / SPREAD) ** 2
    return chi2


@njit(cache=True, nogil=True, error_model="numpy")
def _shift(share, x, low, high, best, plain, setup, voxels, m, work, out):
    """Fill the likeliest kinematics of which the lines of a group stand where others of it do in x; False: no way.

    All lines of a group move by a share of the gap from one of them to the next. Half of it, up or down: two lines
    where one as wide as both was found. What leaves more than a third of the light of the lines is no way.
    """
    mu0, _, group, _, n_cont = setup
    trial, least, found = x.copy(), best + 0.3 * (plain - best) + 30.0 * best / m, False
    for line in range(1, mu0.size):
        before, g = line - 1, group[line]
        while before >= 0 and group[before] != g:
            before -= 1
        gap, width = (C * (mu0[line] / mu0[before] - 1.0), x[2 * g + 1]) if before >= 0 else (np.inf, 1.0)
        if gap > (2.5 * width if abs(share) < 1.0 else high[2 * g] - low[2 * g]):
            continue
        for sign in range(1, -2 if abs(share) < 1.0 else 0, -2):
            trial[:] = x
            trial[2 * g] += sign * share * gap
            if abs(share) < 1.0:
                trial[2 * g + 1] = max(math.sqrt(max(width**2 - (share * gap) ** 2, 0.0)), low[2 * g + 1])
            if not low[2 * g] < trial[2 * g] < high[2 * g]:
                continue
            evaluate(trial, 1, setup, voxels, m, work)
            chi2 = project(voxels, m, n_cont, n_cont + mu0.size, False, work)
            if chi2 < least:
                least, found = chi2, True
                out[:] = trial
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def known(number, tries, score, setup):
    """Return whether an earlier try has the place and the width of this one."""
    for other in range(number):
        same = score[other] < np.inf and elsewhere(tries[other], tries[number], setup) == 0
        for g in range(setup[3].size):
            same = same and abs(tries[other, 2 * g + 1] / tries[number, 2 * g + 1] - 1.0) < 0.1
        if same:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _try_shifts(at, tries, score, done, low, high, plain, setup, voxels, m, work):
    """Fill the last ``N_SHIFTS`` of the tries by fits whose lines begin where others of their group were found."""
    n = len(tries)
    for number in range(n - N_SHIFTS, n):
        share = 0.5 if number == n - N_SHIFTS else (1.0 if number == n - 1 else -1.0)
        found = _shift(share, tries[at], low, high, score[at], plain, setup, voxels, m, work, tries[number])
        if not found or known(number, tries, score, setup):
            continue
        chi2, _ = descend(tries[number], low, high, 1, False, N_FIRST, setup, voxels, m, work)
        if chi2 < score[at] * (1.0 + NEAR / m) and not known(number, tries, score, setup):
            score[number], done[number] = descend(tries[number], low, high, 1, False, N_ITER, setup, voxels, m, work)


@njit(cache=True, nogil=True, error_model="numpy")
def settle(at, tries, score, done, low, high, both_signs, plain, setup, voxels, m, work):
    """Return (the most likely try of one component of a blend, the next likely elsewhere, its excess of cost).

    ``at`` is the best so far; more are tried here. Lines that overlap stand where the cost is least; others where they
    are expected, unless chi2 gains ``SHIFT``. The next is looked for where lines overlap; -1: there is none.
    """
    n = len(tries)
    _try_shifts(at, tries, score, done, low, high, plain, setup, voxels, m, work)
    unit = np.min(score) / m
    for number in range(n - N_SHIFTS, n):
        gain = farther(tries[number], tries[at], setup) * SHIFT * unit if score[number] < np.inf else np.inf
        if score[number] < score[at] - gain and elsewhere(tries[number], tries[at], setup) == 2:
            at = number
    cost, nearest = np.full(n, np.inf), at
    for number in range(n):
        if score[number] < score[at] + NEAR * unit and elsewhere(tries[number], tries[at], setup) == 1:
            cost[number] = 0.0
            nearest = number if farther(tries[number], tries[nearest], setup) < 0.0 else nearest
    if not np.min(cost) < np.inf:
        return at, -1, np.inf
    cost[at] = 0.0
    for number in range(n):
        if cost[number] < np.inf:
            cost[number] = _cost(tries[number], tries[nearest], unit, both_signs, setup, voxels, m, work)
    at, other = int(np.argmin(cost)), -1
    for number in range(n):
        if cost[number] < np.inf and elsewhere(tries[number], tries[at], setup) == 1:
            other = number if other < 0 or cost[number] < cost[other] else other
    return at, other, (cost[other] - cost[at] if other >= 0 else np.inf)

"""Generalised least squares on the differences of a ramp, a tile of pixels at once (Brandt 2024, PASP 136, 045004).

Symbols, for the difference k of two neighbouring usable groups of a pixel: d = difference [DN], dt = group times
between the two, r = sum of the read variances of the two samples, b = read variance of the earlier one (r and b in
units of s^2, the variance of one read [DN2]), c = dt times the scale of the photon noise. A rate a [DN/group] gives
the covariance s^2 C,

    C_kk = r_k + kappa c_k,    C_k,k-1 = -b_k,    kappa = (a + dark) / (gain s^2),

tridiagonal, so C = L D L^T by one pass: pivots p_k = C_kk - b_k^2 / p_(k-1). Forward elimination of d - a0 dt and of dt
gives f and g; A, B, C = sum f^2/p, sum f g/p, sum g^2/p; the rate is a0 + B/C, its variance s^2 / C and
chi2 = (A - B^2/C) / s^2. Everything is counted from a start a0, so float32 is enough.

A difference is used, cut (free: a jump; the chain ends there) or absent (its later group is unusable; the chain passes
over it). A block (difference, BLOCK) holds all that belongs to the differences of a tile, lanes (LANES) what belongs to
its pixels: rows of TILE at fixed places of one array, which the compiler can tell apart and so works on side by side.
"""

import numpy as np

from mrsxr._median_kernels import TILE
from mrsxr.compiled import njit

#: Where the rows of a block begin.
DIFF, USED, ABSENT, TIME, PHOTON, READ, LINK, PIVOT, F, G = range(0, 10 * TILE, TILE)
BLOCK = 10 * TILE
#: Where the rows of the lanes begin: noise of the pixel, the fit, the search, and what the passes carry along.
S2, PER_S2, PER_GAIN, DARK = range(0, 4 * TILE, TILE)
START, KAPPA, SUM_A, SUM_B, SUM_C, SUM_N = range(4 * TILE, 10 * TILE, TILE)
LIMIT_ONE, LIMIT_TWO, BEST, PLACE, SHIFT, BEST_PAIR, SHIFT_PAIR, PLACE_PAIR = range(10 * TILE, 18 * TILE, TILE)
C0, C1, C2, C3, C4, C5, C6, W0, W1, W2, W3, W4, VALUE = range(18 * TILE, 31 * TILE, TILE)
LANES = 31 * TILE

ONE = np.float32(1)
ZERO = np.float32(0)
TWO = np.float32(2)
LEAST = np.float32(1e-4)  # a variance so much smaller than its parts is rounding


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def forward(block, lanes):
    """Eliminate forward from START with the covariance of KAPPA; fill PIVOT (inverse), F, G and the sums."""
    lanes[SUM_A : SUM_N + TILE] = ZERO
    lanes[C0 : C2 + TILE] = ZERO  # inverse pivot, f, g of the difference before in the chain
    for k in range(block.shape[0]):
        one = block[k]
        for t in range(TILE):
            u, over, b = one[USED + t], one[ABSENT + t], one[LINK + t]
            w = b * lanes[C0 + t]
            i = u / (one[READ + t] + lanes[KAPPA + t] * one[PHOTON + t] - w * b)
            x = one[DIFF + t] - lanes[START + t] * one[TIME + t] + w * lanes[C1 + t]
            y = one[TIME + t] + w * lanes[C2 + t]
            one[PIVOT + t] = i
            one[F + t] = x
            one[G + t] = y
            lanes[SUM_A + t] += x * x * i
            lanes[SUM_B + t] += x * y * i
            lanes[SUM_C + t] += y * y * i
            lanes[SUM_N + t] += u
            lanes[C0 + t] = i + over * lanes[C0 + t]
            lanes[C1 + t] = u * x + over * lanes[C1 + t]
            lanes[C2 + t] = u * y + over * lanes[C2 + t]


@njit(cache=True, nogil=True, error_model="numpy")
def find_worst(block, lanes, pairs):
    """Find the difference of each pixel whose release lowers chi2 most beyond its limit, or where none does the pair.

    Fills BEST (excess of the fall of chi2 over the limit, 0 for none), PLACE (k; -k - 1 for the pair that begins at k)
    and SHIFT (what the rate [DN/group] loses). ``pairs``: whether pairs are tried.
    """
    lanes[BEST : PLACE_PAIR + TILE] = ZERO
    lanes[C0 : C6 + TILE] = ZERO  # of the next in the chain: b, z, u, C^-1 kk, q, P, used
    for t in range(TILE):
        lanes[W4 + t] = ONE / lanes[SUM_C + t] if lanes[SUM_C + t] > ZERO else ZERO
    for back in range(block.shape[0]):
        k = block.shape[0] - 1 - back
        _try_one(block[k], lanes, k)
        if pairs:
            _try_pair(block[k], lanes, k)
        _step_back(block[k], lanes)
    for t in range(TILE):
        alone = lanes[BEST + t] > ZERO
        lanes[PLACE + t] = lanes[PLACE + t] if alone else lanes[PLACE_PAIR + t]
        lanes[SHIFT + t] = lanes[SHIFT + t] if alone else lanes[SHIFT_PAIR + t]
        lanes[BEST + t] = lanes[BEST + t] if alone else lanes[BEST_PAIR + t]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _try_one(one, lanes, k):
    """Try to release the difference k; leaves its z, u, C^-1 kk and q in W0 to W3."""
    for t in range(TILE):
        i, per_c = one[PIVOT + t], lanes[W4 + t]
        h = lanes[C0 + t] * i
        z = one[F + t] * i + h * lanes[C1 + t]
        u = one[G + t] * i + h * lanes[C2 + t]
        own = i + h * h * lanes[C3 + t]
        q = z - lanes[SUM_B + t] * per_c * u
        p = own - u * u * per_c
        ratio = q / p
        possible = (p > LEAST * own) & ((q > ZERO) | (lanes[SUM_N + t] > TWO))
        gain = q * ratio * lanes[PER_S2 + t] - lanes[LIMIT_ONE + t] if possible else ZERO
        better = gain > lanes[BEST + t]
        lanes[BEST + t] = gain if better else lanes[BEST + t]
        lanes[PLACE + t] = np.float32(k) if better else lanes[PLACE + t]
        lanes[SHIFT + t] = u * ratio * per_c if better else lanes[SHIFT + t]
        lanes[W0 + t] = z
        lanes[W1 + t] = u
        lanes[W2 + t] = own
        lanes[W3 + t] = q


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _step_back(one, lanes):
    """Hand on what the difference before needs of this one."""
    for t in range(TILE):
        on, over = one[USED + t], one[ABSENT + t]
        u, own = lanes[W1 + t], lanes[W2 + t]
        lanes[C0 + t] = one[LINK + t] * on + over * lanes[C0 + t]
        lanes[C1 + t] = lanes[W0 + t] * on + over * lanes[C1 + t]
        lanes[C2 + t] = u * on + over * lanes[C2 + t]
        lanes[C3 + t] = own * on + over * lanes[C3 + t]
        lanes[C4 + t] = lanes[W3 + t] * on + over * lanes[C4 + t]
        lanes[C5 + t] = (own - u * u * lanes[W4 + t]) * on + over * lanes[C5 + t]
        lanes[C6 + t] = on + over * lanes[C6 + t]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _try_pair(one, lanes, k):
    """Try to release the difference k and the next of its chain together."""
    for t in range(TILE):
        u, own, q, per_c = lanes[W1 + t], lanes[W2 + t], lanes[W3 + t], lanes[W4 + t]
        u2, own2, q2, p2 = lanes[C2 + t], lanes[C3 + t], lanes[C4 + t], lanes[C5 + t]
        p = own - u * u * per_c
        cross = lanes[C0 + t] * one[PIVOT + t] * own2 - u * u2 * per_c
        det = p * p2 - cross * cross
        per = ONE / det
        x, y = (q * p2 - q2 * cross) * per, (q2 * p - q * cross) * per
        possible = (one[USED + t] * lanes[C6 + t] > ZERO) & (det > LEAST * own * p2)
        gain = (q * x + q2 * y) * lanes[PER_S2 + t] - lanes[LIMIT_TWO + t] if possible else ZERO
        better = gain > lanes[BEST_PAIR + t]
        lanes[BEST_PAIR + t] = gain if better else lanes[BEST_PAIR + t]
        lanes[PLACE_PAIR + t] = np.float32(-k - 1) if better else lanes[PLACE_PAIR + t]
        lanes[SHIFT_PAIR + t] = (u * x + u2 * y) * per_c if better else lanes[SHIFT_PAIR + t]


@njit(cache=True, nogil=True)
def release(block, lanes, n_jump):
    """Cut the differences that find_worst found; return how many pixels have one."""
    n = 0
    for t in range(TILE):
        if not lanes[BEST + t] > ZERO:
            continue
        n += 1
        k = int(lanes[PLACE + t])
        pair = k < 0
        k = -k - 1 if pair else k
        block[k, USED + t] = ZERO
        n_jump[t] += 1
        if pair:
            k += 1
            while block[k, ABSENT + t] > ZERO:
                k += 1
            block[k, USED + t] = ZERO
            n_jump[t] += 1
    return n


@njit(cache=True, nogil=True)
def split_variance(block, lanes):
    """Fill W0, W1, W2: u^T C_photon u / kappa and u^T C_read u with u = C^-1 dt, and the groups used."""
    lanes[C0 : C1 + TILE] = ZERO  # of the next in the chain: b, u
    lanes[W0 : W2 + TILE] = ZERO
    for back in range(block.shape[0]):
        _split_one(block[block.shape[0] - 1 - back], lanes)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _split_one(one, lanes):
    """Add one difference to the sums of split_variance."""
    for t in range(TILE):
        on, over, b, next_u = one[USED + t], one[ABSENT + t], lanes[C0 + t], lanes[C1 + t]
        u = (one[G + t] + b * next_u) * one[PIVOT + t]
        lanes[W0 + t] += one[PHOTON + t] * u * u
        lanes[W1 + t] += one[READ + t] * u * u - TWO * b * next_u * u
        lanes[W2 + t] += on if b > ZERO else TWO * on
        lanes[C0 + t] = one[LINK + t] * on + over * b
        lanes[C1 + t] = u * on + over * next_u


@njit(cache=True, nogil=True)
def _load(row, row_dq, lost, mask, by_jumps, raw, bits, lanes, flags):
    """Take one group of a tile: VALUE, W0 whether it is usable (no flag of ``mask``), W1 whether a jump counts in it.

    Samples that are no number, and all where ``lost`` is 1, are DO_NOT_USE; flags (TILE) gets all flags. Rows are
    copied first and all else is done in whole tiles, side by side.
    """
    for t in range(row.shape[0]):
        raw[t] = row[t]
    for t in range(row.shape[0]):
        bits[t] = row_dq[t]
    for t in range(TILE):
        good = abs(raw[t]) < np.float32(1e30)
        seen = bits[t] | lost | np.uint8(not good)
        lanes[VALUE + t] = raw[t] if good else ZERO
        lanes[W0 + t] = ONE if (seen & mask) == 0 else ZERO
        lanes[W1 + t] = ONE if (seen & by_jumps) != 0 else ZERO
        flags[t] |= seen


@njit(cache=True, nogil=True)
def gather_plain(sci, group_dq, place, width, limits, block, lanes, flags):
    """Differences of neighbouring groups, used where both have no flag at all; the rule of jwst's LIKELY.

    flags (TILE) gets the OR of the flags of the ramp.
    """
    d, i, y, x0 = place
    raw, bits = np.zeros(TILE, dtype=np.float32), np.ones(TILE, dtype=np.uint8)
    flags[:] = 0
    for k in range(sci.shape[2]):
        lost = np.uint8(k < limits[0] or k > limits[1])
        row, row_dq = sci[d, i, k, y, x0 : x0 + width], group_dq[d, i, k, y, x0 : x0 + width]
        _load(row, row_dq, lost, np.uint8(255), np.uint8(0), raw, bits, lanes, flags)
        if k > 0:
            _difference(block[k - 1], lanes)
        for t in range(TILE):
            lanes[C0 + t], lanes[C4 + t] = lanes[VALUE + t], lanes[W0 + t]


@njit(cache=True, nogil=True)
def _difference(one, lanes):
    """Fill a difference of :func:`gather_plain`."""
    for t in range(TILE):
        one[DIFF + t] = lanes[VALUE + t] - lanes[C0 + t]
        one[USED + t] = lanes[W0 + t] * lanes[C4 + t]


@njit(cache=True, nogil=True)
def _terms(coefficients, skip, y, x0, width):
    """Return the coefficients of the linearity correction of a tile (order, TILE); the identity where it has none."""
    terms = np.zeros((coefficients.shape[0], TILE), dtype=np.float32)
    for order in range(coefficients.shape[0]):
        row = coefficients[order, y, x0 : x0 + width]
        for t in range(width):
            terms[order, t] = row[t]
    for t in range(TILE):
        if coefficients.shape[0] > 1 and (t >= width or skip[y, x0 + t]):
            terms[:, t] = ZERO
            terms[1, t] = ONE
    return terms


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _respond(terms, lanes):
    """Fill C5: derivative of the linearity correction at the raw level whose corrected level is VALUE.

    C6, W3, W4 hold the raw level of the usable group before, and the polynomial and its derivative there: one step of
    Newton's method from them, which squares what the level changes by from group to group; two where there is none
    before. What is left, 1e-3 of the level after a change of 10 % in the response, only scales the noise.
    """
    fresh = np.int32(0)
    for t in range(TILE):
        fresh += np.int32(lanes[W0 + t] > lanes[C4 + t])
    for again in range(2 if fresh > 0 else 1):
        for t in range(TILE):
            step = (lanes[VALUE + t] - lanes[W3 + t]) / lanes[W4 + t]
            moves = lanes[W0 + t] if again == 0 else lanes[W0 + t] * (ONE - lanes[C4 + t])
            lanes[C6 + t] += step if moves > ZERO else ZERO
        lanes[W3 : W4 + TILE] = ZERO
        for order in range(terms.shape[0] - 1, -1, -1):
            _horner(terms[order], lanes)
    for t in range(TILE):
        good = (lanes[W4 + t] > LEAST) & (lanes[W4 + t] < ONE / LEAST)
        lanes[C6 + t] = lanes[C6 + t] if good else lanes[VALUE + t]
        lanes[W3 + t] = lanes[W3 + t] if good else lanes[VALUE + t]
        lanes[W4 + t] = lanes[W4 + t] if good else ONE
        lanes[C5 + t] = lanes[W4 + t]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _horner(row, lanes):
    """One order of a polynomial and its derivative."""
    for t in range(TILE):
        lanes[W4 + t] = lanes[W4 + t] * lanes[C6 + t] + lanes[W3 + t]
        lanes[W3 + t] = lanes[W3 + t] * lanes[C6 + t] + row[t]


@njit(cache=True, nogil=True)
def gather_bridged(sci, group_dq, place, width, limits, linear, by_jumps, block, lanes, flags, n_jump):
    """Differences of neighbouring usable groups, over unusable ones between; cut where JUMP_DET lies between.

    ``linear``: coefficients (order, y, x), skip (y, x) and whether the photon noise follows, or coefficients of no
    order. flags (TILE) gets the OR of the flags of the ramp; n_jump (TILE) counts the cuts.
    """
    d, i, y, x0 = place
    scaled = linear[0].shape[0] > 0
    terms = _terms(linear[0], linear[1], y, x0, width)
    raw, bits = np.zeros(TILE, dtype=np.float32), np.ones(TILE, dtype=np.uint8)
    flags[:] = 0
    lanes[C0 : C4 + TILE] = ZERO  # value, response, group number, pending jump, whether there is a group before
    lanes[C5 : C5 + TILE] = ONE  # response of this group
    lanes[C6 : C6 + TILE] = ZERO  # raw level of the group before, W3 and W4 the polynomial and its derivative there
    lanes[W2 : W3 + TILE] = ZERO  # W2: number of cuts
    lanes[W4 : W4 + TILE] = ONE
    for k in range(sci.shape[2]):
        lost = np.uint8(k < limits[0] or k > limits[1])
        row, row_dq = sci[d, i, k, y, x0 : x0 + width], group_dq[d, i, k, y, x0 : x0 + width]
        _load(row, row_dq, lost, np.uint8(219), by_jumps, raw, bits, lanes, flags)
        if scaled:
            _respond(terms, lanes)
        if k > 0:
            _bridge(block[k - 1], lanes, k)
            if scaled:
                _scale(block[k - 1], lanes, linear[2])
        _step_on(k, lanes)
    for t in range(TILE):
        n_jump[t] = np.int32(lanes[W2 + t])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _bridge(one, lanes, k):
    """Fill a difference from the group before (C0 to C4) and group k."""
    now = np.float32(k)
    for t in range(TILE):
        follows = lanes[W0 + t] * lanes[C4 + t]
        on = follows * (ONE - max(lanes[C3 + t], lanes[W1 + t]))
        one[DIFF + t] = follows * (lanes[VALUE + t] - lanes[C0 + t])
        one[USED + t] = on
        one[ABSENT + t] = ONE - follows
        one[TIME + t] = now - lanes[C2 + t]
        one[PHOTON + t] = now - lanes[C2 + t]
        lanes[W2 + t] += follows - on


@njit(cache=True, nogil=True, fastmath={"contract"})
def _scale(one, lanes, photons):
    """Scale the noise of a difference by the response of its two groups (C1, C5)."""
    for t in range(TILE):
        before, now = lanes[C1 + t], lanes[C5 + t]
        one[LINK + t] = before * before
        one[READ + t] = before * before + now * now
    if photons:
        for t in range(TILE):
            one[PHOTON + t] = one[TIME + t] * np.float32(0.5) * (lanes[C1 + t] + lanes[C5 + t])


@njit(cache=True, nogil=True)
def _step_on(k, lanes):
    """Make group k the group before where it is usable."""
    now = np.float32(k)
    for t in range(TILE):
        usable = lanes[W0 + t] > ZERO
        lanes[C0 + t] = lanes[VALUE + t] if usable else lanes[C0 + t]
        lanes[C1 + t] = lanes[C5 + t] if usable else lanes[C1 + t]
        lanes[C2 + t] = now if usable else lanes[C2 + t]
        lanes[C3 + t] = ZERO if usable else max(lanes[C3 + t], lanes[W1 + t])
        lanes[C4 + t] = ONE if usable else lanes[C4 + t]

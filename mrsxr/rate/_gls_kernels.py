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
C0, C1, C2, C3, C4, C5, C6, C7, W0, W1, W2, W3, W4, ACTIVE = range(18 * TILE, 32 * TILE, TILE)
LANES = 32 * TILE
ORDERS = 5  # of a polynomial that are worked on at a time

ONE = np.float32(1)
ZERO = np.float32(0)
TWO = np.float32(2)
LOST = np.uint64(0x0101010101010101)  # DO_NOT_USE eight times
LARGE = np.float32(1e30)
HALF = np.float32(0.5)
LEAST = np.float32(1e-4)  # a variance so much smaller than its parts is rounding


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", fastmath={"contract"})
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


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def begin_chain(lanes):
    """Set what :func:`carry` needs before the last difference: nothing of a next one, SUM_B / SUM_C, 1 / SUM_C."""
    lanes[C0 : C6 + TILE] = ZERO  # of the next in the chain: b, z, u, C^-1 kk, q, P, used
    for t in range(TILE):
        lanes[W4 + t] = ONE / lanes[SUM_C + t] if lanes[SUM_C + t] > ZERO else ZERO
        lanes[W3 + t] = lanes[SUM_B + t] * lanes[W4 + t]


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def find_worst(block, lanes):
    """Find the difference of each pixel whose release lowers chi2 most beyond its limit, or where none does the pair.

    Fills BEST (excess of the fall of chi2 over the limit, 0 for none), PLACE (k; -k - 1 for the pair that begins at k)
    and SHIFT (what the rate [DN/group] loses).
    """
    lanes[BEST : PLACE_PAIR + TILE] = ZERO
    begin_chain(lanes)
    for k in range(block.shape[0] - 1, -1, -1):
        _try(block[k], lanes, np.float32(k))
    for t in range(TILE):
        alone = lanes[BEST + t] > ZERO
        lanes[PLACE + t] = lanes[PLACE + t] if alone else lanes[PLACE_PAIR + t]
        lanes[SHIFT + t] = lanes[SHIFT + t] if alone else lanes[SHIFT_PAIR + t]
        lanes[BEST + t] = lanes[BEST + t] if alone else lanes[BEST_PAIR + t]


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", fastmath={"contract"})
def carry(one, lanes, t):
    """Return of a difference b i, z, u, C^-1 kk, q and P, which follow from those of the next in the chain."""
    i, h = one[PIVOT + t], lanes[C0 + t] * one[PIVOT + t]
    z = one[F + t] * i + h * lanes[C1 + t]
    u = one[G + t] * i + h * lanes[C2 + t]
    own = i + h * h * lanes[C3 + t]
    return h, z, u, own, z - lanes[W3 + t] * u, own - u * u * lanes[W4 + t]


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", fastmath={"contract"})
def hand_on(one, lanes, t, found):
    """Give the difference before in the chain what it needs: z, u, C^-1 kk, q and P of this one where it is used."""
    on, over, (z, u, own, q, p) = one[USED + t], one[ABSENT + t], found
    lanes[C0 + t] = one[LINK + t] * on + over * lanes[C0 + t]
    lanes[C1 + t] = z * on + over * lanes[C1 + t]
    lanes[C2 + t] = u * on + over * lanes[C2 + t]
    lanes[C3 + t] = own * on + over * lanes[C3 + t]
    lanes[C4 + t] = q * on + over * lanes[C4 + t]
    lanes[C5 + t] = p * on + over * lanes[C5 + t]


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", fastmath={"contract"})
def _try(one, lanes, k):
    """Try to release the difference k alone and with the next of its chain, and hand on what the one before needs."""
    for t in range(TILE):
        per_c, on, over = lanes[W4 + t], one[USED + t], one[ABSENT + t]
        u2, own2, q2, p2 = lanes[C2 + t], lanes[C3 + t], lanes[C4 + t], lanes[C5 + t]
        place, shift = lanes[PLACE + t], lanes[SHIFT + t]
        pair, pair_shift = lanes[PLACE_PAIR + t], lanes[SHIFT_PAIR + t]
        h, z, u, own, q, p = carry(one, lanes, t)
        ratio = q / p
        possible = (p > LEAST * own) & ((q > ZERO) | (lanes[SUM_N + t] > TWO))
        gain = q * ratio * lanes[PER_S2 + t] - lanes[LIMIT_ONE + t] if possible else ZERO
        better = gain > lanes[BEST + t]
        lanes[BEST + t] = gain if better else lanes[BEST + t]
        lanes[PLACE + t] = k if better else place
        lanes[SHIFT + t] = u * ratio * per_c if better else shift
        cross = h * own2 - u * u2 * per_c
        det = p * p2 - cross * cross
        per = ONE / det
        x, y = (q * p2 - q2 * cross) * per, (q2 * p - q * cross) * per
        possible = (on * lanes[C6 + t] > ZERO) & (det > LEAST * own * p2)
        gain = (q * x + q2 * y) * lanes[PER_S2 + t] - lanes[LIMIT_TWO + t] if possible else ZERO
        better = gain > lanes[BEST_PAIR + t]
        lanes[BEST_PAIR + t] = gain if better else lanes[BEST_PAIR + t]
        lanes[PLACE_PAIR + t] = -k - ONE if better else pair
        lanes[SHIFT_PAIR + t] = (u * x + u2 * y) * per_c if better else pair_shift
        hand_on(one, lanes, t, (z, u, own, q, p))
        lanes[C6 + t] = on + over * lanes[C6 + t]


@njit(cache=True, nogil=True, forceinline=True)
def release(block, lanes, n_jump):
    """Cut the differences that find_worst found; return how many pixels have one, W2 is 1 for them."""
    n = 0
    for t in range(TILE):
        if not lanes[BEST + t] > ZERO:
            continue
        n += 1
        lanes[W2 + t] = ONE
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


@njit(cache=True, nogil=True, forceinline=True)
def split_variance(block, lanes):
    """Fill W0, W1, W2: u^T C_photon u / kappa and u^T C_read u with u = C^-1 dt, and the groups used."""
    lanes[C0 : C1 + TILE] = ZERO  # of the next in the chain: b, u
    lanes[W0 : W2 + TILE] = ZERO
    for back in range(block.shape[0]):
        _split_one(block[block.shape[0] - 1 - back], lanes)


@njit(cache=True, nogil=True, forceinline=True, fastmath={"contract"})
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


@njit(cache=True, nogil=True, forceinline=True)
def _see(bits, limits, flags):
    """Add DO_NOT_USE to the flags of the ramps of a tile outside the limits; flags (TILE) gets the OR of all."""
    held, seen = bits.view(np.uint64), flags.view(np.uint64)  # eight at a time
    seen[:] = 0
    for k in range(held.shape[0]):
        lost = LOST if k < limits[0] or k > limits[1] else np.uint64(0)
        for t in range(TILE // 8):
            held[k, t] |= lost
            seen[t] |= held[k, t]


@njit(cache=True, nogil=True, forceinline=True)
def _mask(bits, k, mask, by_jumps, lanes):
    """Fill W0 with 1 where group k has no flag of ``mask``, W1 where it has one of ``by_jumps``."""
    for t in range(TILE):
        lanes[W0 + t] = ONE if (bits[k, t] & mask) == 0 else ZERO
        lanes[W1 + t] = ONE if (bits[k, t] & by_jumps) != 0 else ZERO


@njit(cache=True, nogil=True, forceinline=True)
def _flag_numberless(lanes, flags):
    """Add DO_NOT_USE to the flags of ramps with samples that are no numbers, where C7 is 1."""
    for t in range(TILE):
        flags[t] |= np.uint8(lanes[C7 + t])


@njit(cache=True, nogil=True)
def gather_plain(samples, bits, limits, block, lanes, flags):
    """Differences of neighbouring groups, used where both have no flag at all; the rule of jwst's LIKELY.

    samples, bits (group, TILE): of a tile, whose flags it spoils. flags (TILE) gets the OR of the flags of the ramp.
    """
    _see(bits, limits, flags)
    lanes[C0 : C7 + TILE] = ZERO  # value and whether it is usable of the group before
    for k in range(samples.shape[0]):
        _mask(bits, k, np.uint8(255), np.uint8(0), lanes)
        _difference(samples[k], block[max(k - 1, 0)], lanes)
    _flag_numberless(lanes, flags)


@njit(cache=True, nogil=True, forceinline=True)
def _difference(row, one, lanes):
    """Fill a difference of :func:`gather_plain`; that of the first group is written over by the next."""
    for t in range(TILE):
        good = abs(row[t]) < LARGE
        value, usable = row[t] if good else ZERO, lanes[W0 + t] if good else ZERO
        one[DIFF + t] = value - lanes[C0 + t]
        one[USED + t] = usable * lanes[C4 + t]
        lanes[C0 + t] = value
        lanes[C4 + t] = usable
        lanes[C7 + t] = lanes[C7 + t] if good else ONE


@njit(cache=True, nogil=True)
def fill_terms(coefficients, skip, y, x0, width, terms):
    """Fill the coefficients of the linearity correction of a tile (part, ORDERS x TILE), the highest order first.

    They are preceded by zeros; where a pixel has no correction it is the identity.
    """
    n_order = coefficients.shape[0]
    for order in range(n_order):
        place = terms.size // TILE - 1 - order
        part, at = place // ORDERS, place % ORDERS * TILE
        row, target = coefficients[order, y, x0 : x0 + width], terms[part, at : at + TILE]
        for t in range(width):
            target[t] = row[t]
        for t in range(TILE if n_order > 1 else 0):
            if t >= width or skip[y, x0 + t]:
                target[t] = ONE if order == 1 else ZERO


@njit(cache=True, nogil=True)
def gather_bridged(samples, bits, limits, terms, photons, by_jumps, block, lanes, flags, n_jump):
    """Differences of neighbouring usable groups, over unusable ones between; cut where JUMP_DET lies between.

    ``terms``: those of :func:`fill_terms`, of no part without a correction; ``photons``: whether the photon noise
    follows it. n_jump (TILE) counts the cuts. The others as in :func:`gather_plain`.
    """
    scaled, waiting = terms.shape[0] > 0, True
    _see(bits, limits, flags)
    lanes[C0 : C4 + TILE] = ZERO  # value, response, group number, pending jump, whether there is a group before
    lanes[C6 : C7 + TILE] = ZERO  # C6: raw level of the group before, W3 and W4 the polynomial and its derivative there
    lanes[W2 : W3 + TILE] = ZERO  # W2: number of cuts
    lanes[W4 : W4 + TILE] = ONE
    for k in range(samples.shape[0]):
        _mask(bits, k, np.uint8(219), by_jumps, lanes)
        for again in range((2 if waiting else 1) if scaled else 0):
            for part in range(terms.shape[0]):
                _respond(samples[k], terms, part, ONE if again else ZERO, lanes)
        _bridge(samples[k], block[max(k - 1, 0)], lanes, np.float32(k), HALF if photons else ZERO)
        waiting = waiting and _some_wait(lanes)
    _flag_numberless(lanes, flags)
    for t in range(TILE):
        n_jump[t] = np.int32(lanes[W2 + t])


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", fastmath={"contract"})
def _respond(row, terms, part, again, lanes):
    """Fill W3 and W4 with the linearity correction and its derivative at C6, the raw level of the sample.

    One step of Newton's method from the usable group before, whose C6, W3 and W4 they were, which squares what the
    level changes by from group to group; a second one (``again``) where there is none before. What is left, 1e-3 of the
    level after a change of 10 % in the response, only scales the noise. A part is five orders.
    """
    first = part == 0
    for t in range(TILE):
        moves = (lanes[W0 + t] * (ONE - again * lanes[C4 + t]) > ZERO) & (abs(row[t]) < LARGE) & first
        x, value, slope = lanes[C6 + t], lanes[W3 + t], lanes[W4 + t]
        x = x + (row[t] - value) / slope if moves else x
        value, slope = ZERO if first else value, ZERO if first else slope
        slope = slope * x + value
        value = value * x + terms[part, t]
        slope = slope * x + value
        value = value * x + terms[part, TILE + t]
        slope = slope * x + value
        value = value * x + terms[part, 2 * TILE + t]
        slope = slope * x + value
        value = value * x + terms[part, 3 * TILE + t]
        slope = slope * x + value
        value = value * x + terms[part, 4 * TILE + t]
        lanes[C6 + t] = x
        lanes[W3 + t] = value
        lanes[W4 + t] = slope


@njit(cache=True, nogil=True, forceinline=True, fastmath={"contract"})
def _bridge(row, one, lanes, now, half):
    """Fill a difference from the usable group before (C0 to C4) and group ``now``, which then is the one before.

    The noise is scaled by the response of the two groups (1 where it is beyond reason), that of photons with ``half``.
    What the first group leaves in the place of its difference is written over by the second.
    """
    for t in range(TILE):
        good = abs(row[t]) < LARGE
        value, usable = row[t] if good else ZERO, lanes[W0 + t] if good else ZERO
        level, linear, slope, last = lanes[C6 + t], lanes[W3 + t], lanes[W4 + t], lanes[C0 + t]
        before, then = lanes[C1 + t], lanes[C2 + t]  # taken before a choice, else the compiler stores where it is made
        known = (slope > LEAST) & (slope < ONE / LEAST)
        lanes[C6 + t] = level if known else value
        lanes[W3 + t] = linear if known else value
        response = slope if known else ONE
        lanes[W4 + t] = response
        follows, time = usable * lanes[C4 + t], now - then
        on = follows * (ONE - max(lanes[C3 + t], lanes[W1 + t]))
        one[DIFF + t] = follows * (value - last)
        one[USED + t] = on
        one[ABSENT + t] = ONE - follows
        one[TIME + t] = time
        one[PHOTON + t] = time * half * (before + response) if half > ZERO else time
        one[LINK + t] = before * before
        one[READ + t] = before * before + response * response
        lanes[W2 + t] += follows - on
        lanes[C0 + t] = value if usable > ZERO else last
        lanes[C1 + t] = response if usable > ZERO else before
        lanes[C2 + t] = now if usable > ZERO else then
        lanes[C3 + t] = ZERO if usable > ZERO else max(lanes[C3 + t], lanes[W1 + t])
        lanes[C4 + t] = ONE if usable > ZERO else lanes[C4 + t]
        lanes[C7 + t] = lanes[C7 + t] if good else ONE


@njit(cache=True, nogil=True, forceinline=True)
def _some_wait(lanes):
    """Tell whether some ramps of a tile have had no usable group yet."""
    for t in range(TILE):
        if not lanes[C4 + t] > ZERO:
            return True
    return False


@njit(cache=True, nogil=True)
def new_terms(n_order):
    """Return the place for the coefficients of a tile, see fill_terms."""
    return np.zeros(((n_order + ORDERS - 1) // ORDERS, ORDERS * TILE), dtype=np.float32)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def set_kappa(rate, dark, lanes):
    """Set KAPPA by the rate (TILE), never negative, and ``dark`` times the dark current."""
    for t in range(TILE):
        lanes[KAPPA + t] = max(rate[t] + dark * lanes[DARK + t], ZERO) * lanes[PER_GAIN + t]

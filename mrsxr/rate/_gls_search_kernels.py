"""Search for jumps in tiles of ramps by the likelihood; symbols and rows of blocks and lanes as in _gls_kernels."""

import numpy as np

from mrsxr._median_kernels import TILE
from mrsxr.compiled import njit

from ._gls_kernels import (
    ACTIVE,
    C2,
    C3,
    C4,
    C5,
    DARK,
    DIFF,
    KAPPA,
    LIMIT_ONE,
    LIMIT_TWO,
    ONE,
    PER_GAIN,
    PER_S2,
    PHOTON,
    PIVOT,
    READ,
    S2,
    SHIFT,
    START,
    SUM_B,
    SUM_C,
    SUM_N,
    TIME,
    TWO,
    USED,
    W0,
    W1,
    W2,
    W4,
    ZERO,
    begin_chain,
    carry,
    find_worst,
    forward,
    hand_on,
    release,
    set_kappa,
)

UNTESTED = np.float32(3.0e38)  # a limit that no fall of chi2 exceeds
NEARLY = np.float32(0.98)  # of a limit, more than rounding can hide


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def common_rate(rates, lanes):
    """Fill W0 with the mean rate of the integrations by their weights."""
    lanes[W0 : W1 + TILE] = ZERO
    for i in range(rates.shape[1]):
        for t in range(TILE):
            lanes[W0 + t] += rates[0, i, t] * rates[1, i, t]
            lanes[W1 + t] += rates[1, i, t]
    for t in range(TILE):
        lanes[W0 + t] = lanes[W0 + t] / lanes[W1 + t] if lanes[W1 + t] > ZERO else ZERO


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _set_limits(lanes, one, two):
    """Set the limits of active pixels that have differences enough."""
    for t in range(TILE):
        n = lanes[SUM_N + t] * lanes[ACTIVE + t]
        lanes[LIMIT_ONE + t] = one if n > np.float32(1.5) else UNTESTED
        lanes[LIMIT_TWO + t] = two if n > np.float32(3.5) else UNTESTED


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _renew(lanes, rate, weight):
    """Fill the rate of an integration and its inverse variance where pixels are active."""
    for t in range(TILE):
        c = lanes[SUM_C + t]
        found = lanes[START + t] + (lanes[SUM_B + t] / c if c > ZERO else ZERO) - lanes[SHIFT + t]
        rate[t] = found if lanes[ACTIVE + t] > ZERO else lanes[START + t]
        weight[t] = c if lanes[ACTIVE + t] > ZERO else weight[t]


@njit(cache=True, nogil=True, error_model="numpy")
def search(blocks, lanes, thresholds, rates, n_jump, n_round):
    """Release jumps, the worst of each ramp at a time, with the covariance of the rate found so far.

    A pixel of which a round found none is no longer ACTIVE: nothing of it changes, whatever others it shares a tile
    with. Leaves in rates the rate of each integration and its inverse variance. Returns how many pixels are active.
    """
    n_found = 0
    for _ in range(n_round):
        n_found = 0
        lanes[W2 : W2 + TILE] = ZERO
        for i in range(blocks.shape[0]):
            lanes[START : START + TILE] = rates[0, i]
            forward(blocks[i], lanes)
            _set_limits(lanes, thresholds[0], thresholds[1])
            find_worst(blocks[i], lanes)
            n_found += release(blocks[i], lanes, n_jump[i])
            _renew(lanes, rates[0, i], rates[1, i])
        lanes[ACTIVE : ACTIVE + TILE] *= lanes[W2 : W2 + TILE]
        common_rate(rates, lanes)
        set_kappa(lanes[W0 : W0 + TILE], ONE, lanes)
        if n_found == 0:
            break
    return n_found


@njit(cache=True, nogil=True, error_model="numpy")
def suspects(blocks, lanes, thresholds, rates):
    """Fill W2 with 1 for pixels in which the first round of :func:`search` may release a difference; return how many.

    No pixel that it would is missed, so that the others need no search, which costs three times as much.
    """
    lanes[W2 : W2 + TILE] = ZERO
    for i in range(blocks.shape[0]):
        lanes[START : START + TILE] = rates[0, i]
        forward(blocks[i], lanes)
        _set_limits(lanes, NEARLY * thresholds[0], NEARLY * thresholds[1])
        for t in range(TILE):
            lanes[LIMIT_ONE + t] *= lanes[S2 + t]
            lanes[LIMIT_TWO + t] *= lanes[S2 + t]
        begin_chain(lanes)
        for k in range(blocks.shape[1] - 1, -1, -1):
            _suspect(blocks[i, k], lanes)
    n = 0
    for t in range(TILE):
        n += 1 if lanes[W2 + t] > ZERO else 0
    return n


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", fastmath={"contract"})
def _suspect(one, lanes):
    """Raise W2 above 0 where the release of a difference, or of it and the next of its chain, may exceed its limit.

    The falls of chi2 of :func:`find_worst` times their denominators: no division, no place, no exceptions.
    """
    for t in range(TILE):
        per_c, u2, own2, q2, p2 = lanes[W4 + t], lanes[C2 + t], lanes[C3 + t], lanes[C4 + t], lanes[C5 + t]
        worst = lanes[W2 + t]
        h, z, u, own, q, p = carry(one, lanes, t)
        cross = h * own2 - u * u2 * per_c
        alone = q * q - lanes[LIMIT_ONE + t] * p
        pair = q * q * p2 + q2 * (q2 * p - TWO * q * cross) - lanes[LIMIT_TWO + t] * (p * p2 - cross * cross)
        worst = alone if alone > worst else worst
        lanes[W2 + t] = pair if pair > worst else worst
        hand_on(one, lanes, t, (z, u, own, q, p))


@njit(cache=True, nogil=True)
def move(tile, t, place, queue, places, q):
    """Copy what the search needs of pixel t of a tile to place q of the queue, and where the pixel is."""
    (blocks, lanes, rates, _, n_jump, _, _), ((others, their_lanes, their_rates, _, their_jumps, _, _), kept) = (
        tile, queue,
    )  # fmt: skip
    places[0, q], places[1, q], places[2, q] = place[0], place[1], place[2] + t
    for i in range(blocks.shape[0]):
        for k in range(blocks.shape[1]):
            here, there = blocks[i, k], others[i, k]
            for row in range(DIFF, PIVOT, TILE):
                there[row + q] = here[row + t]
            kept[i, k, q] = here[USED + t]
        their_rates[0, i, q], their_rates[1, i, q] = rates[0, i, t], rates[1, i, t]
        their_jumps[i, q] = n_jump[i, t]
    for row in (S2, PER_S2, PER_GAIN, DARK, KAPPA):
        their_lanes[row + q] = lanes[row + t]


@njit(cache=True, nogil=True, error_model="numpy")
def finish(queue, places, n, thresholds, bounds, out_dq, out_spread):
    """Search in the first n pixels of a queue; add JUMP_DET on the later group of each difference released."""
    (blocks, lanes, rates, _, n_jump, _, _), before = queue
    for t in range(TILE):
        lanes[ACTIVE + t] = ONE if t < n else ZERO
    search(blocks, lanes, thresholds, rates, n_jump, blocks.shape[1])
    for t in range(n):
        d, y, x = places[0, t], places[1, t], places[2, t]
        for i in range(blocks.shape[0]):
            for k in range(1, out_dq.shape[2] if n_jump[i, t] > 0 else 1):
                if blocks[i, k - 1, USED + t] == before[i, k - 1, t]:
                    continue
                one = blocks[i, k - 1]
                excess = one[DIFF + t] - rates[0, i, t] * one[TIME + t]
                sigma = np.sqrt((one[READ + t] + lanes[KAPPA + t] * one[PHOTON + t]) * lanes[S2 + t])
                out_dq[d, i, k, y, x] |= np.uint8(4)
                out_spread[d, i, k, y, x] = excess > bounds[0] * sigma and excess < bounds[1] * sigma

"""Kernel of the persistence step on plain arrays. Bits: DO_NOT_USE 1, SATURATED 2, PERSISTENCE 32.

Times are in seconds from the start of the exposure. A window is the time until which a pixel is flagged, 0 for none;
it opens with the first saturated group of an integration, or, where none is open, with a sample above the threshold.
"""

import numpy as np

from mrsxr.compiled import njit


@njit(cache=True, nogil=True)
def _flag_windows(sci, group_dq, window, times, length, threshold, bits, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_saturated = np.zeros((n_y, n_x), dtype=np.int32)
    for d in range(n_dither):
        for i in range(n_integration):
            n_saturated[:] = 0
            for g in range(n_group):
                now = times[i, g]
                last = now + length
                for y in range(n_y):
                    for x in range(n_x):
                        flags = group_dq[d, i, g, y, x]
                        end = window[d, y, x]
                        if end < now:
                            end = 0.0
                        if flags & np.uint8(2):
                            n_saturated[y, x] += 1
                        if n_saturated[y, x] == 1 or (sci[d, i, g, y, x] > threshold and not end > 0):
                            end = last
                        if end > last:
                            end = 0.0
                        window[d, y, x] = end
                        out[d, i, g, y, x] = flags | bits if end > 0 else flags


def flag_windows(sci, group_dq, before, times, length, threshold, bits):
    """Return (group flags with ``bits`` inside the windows, end of the window at the end of the exposure [s]).

    before : end of the window [s] (dither, y, x) or (y, x) as the exposure starts; NaN counts as none.
    times : time [s] of each group, (integration, group); length [s]; threshold [DN], inf for none.
    """
    out = np.empty(sci.shape, dtype=np.uint8)
    window = np.empty((sci.shape[0], *sci.shape[-2:]), dtype=np.float64)
    window[:] = np.nan_to_num(before, nan=0.0)
    _flag_windows(
        sci, np.broadcast_to(group_dq, sci.shape), window, np.asarray(times, dtype=np.float64), float(length),
        np.float32(threshold), np.uint8(bits), out,
    )  # fmt: skip
    return out, window

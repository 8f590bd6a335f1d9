"""netCDF files in threads: HDF5 crashes the process where two open files at once."""

import pickle
import subprocess
import sys
import textwrap

from mrsxr.io.netcdf import LOCK

MANY = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    from mrsxr.io import key_of, load, save
    from mrsxr.simulate import simulate_spectrum

    folder = sys.argv[1]
    spectrum = simulate_spectrum(band="3B", snr=50.0).assign_attrs(mrsxr_key="k")
    first = save(spectrum, folder + "/first.nc")[0]

    def ask(_):
        for _ in range(400):
            key_of(first)

    def read(_):
        for _ in range(40):
            assert np.array_equal(load(first)["flux"].values, spectrum["flux"].values, equal_nan=True)

    def write(number):
        for turn in range(10):
            save(load(first), f"{folder}/{number}_{turn}.nc")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda task: task[0](task[1]), [(ask, 0), (ask, 0), (ask, 0), (read, 0), (read, 0), (write, 0)]))
    print("all done")
"""


def test_threads_read_and_write_side_by_side(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(MANY), str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.endswith("all done\n"), (done.returncode, done.stderr[-2000:])
    assert len(list(tmp_path.glob("*_*.nc"))) == 10


def test_the_lock_is_one_for_a_process_and_may_be_taken_again():
    there = pickle.loads(pickle.dumps(LOCK))
    with LOCK, there:
        assert there.acquire(blocking=False)
        there.release()

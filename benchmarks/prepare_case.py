"""Time by part and peak memory of preparing one adult's case, from files to the training store, in a fresh process.

Run: python benchmarks/prepare_case.py [CASE_FOLDER]; without one, the synthetic chest_0018 is made first (not timed).
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

PARTS = ("read_case", "lung_mask", "thin", "distance_to_centreline", "small_airways", "window")


def timed(call, name: str, seconds: dict):
    def run(*arguments, **options):
        start = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            seconds[name] += time.perf_counter() - start

    return run


def measure(folder: str) -> None:
    from airwaystudy.data import prepare
    from airwaystudy.data.cases import folder_case

    seconds = defaultdict(float)
    for name in PARTS:
        setattr(prepare, name, timed(getattr(prepare, name), name, seconds))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        prepare.prepare_files(folder_case(Path(folder)), out)
        whole = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9  # bytes on macOS, KiB on Linux
    for name in PARTS:
        print(f"{name:17}  {seconds[name]:6.1f} s")
    print(f"{'writing, the rest':17}  {whole - sum(seconds.values()):6.1f} s")
    print(f"{whole:.1f} s in all, {usage.ru_utime + usage.ru_stime:.1f} s of one core, {peak:.2f} GB at most")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        measure(sys.argv[1])
    else:
        from airwaystudy.phantoms.case import ensure_phantom

        with tempfile.TemporaryDirectory() as made:
            case = sys.argv[1] if len(sys.argv) > 1 else ensure_phantom(18, "chest", made)
            subprocess.run([sys.executable, __file__, case, "measure"], check=True)

"""Time and peak memory of a phantom of each size, made and written in a fresh process.

Run: python benchmarks/phantom_size.py
"""

import resource
import subprocess
import sys
import tempfile
import time


def measure(size: str) -> None:
    from airwaystudy.phantoms.case import make_phantom, write_phantom

    start = time.perf_counter()
    phantom = make_phantom(0, size)
    made = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(phantom, folder)
    written = time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9  # bytes on macOS, KiB on Linux
    print(
        f"{size:5}  {made - start:6.1f} s to make  {written - made:6.1f} s to write  "
        f"{usage.ru_utime + usage.ru_stime:6.1f} s of one core in all  {peak:.2f} GB at most"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        for name in ("mini", "chest"):
            subprocess.run([sys.executable, __file__, name], check=True)

"""airwaystudy: the study around airwaylib; phantoms, data, training, analysis, claims, figures, report."""

import os

# MKL may add up a long sum in another order each time, so that two equal runs differ in the last bits; this fixes the
# order for a given number of threads. MKL reads it at its first call, hence before anything is computed.
os.environ.setdefault("MKL_CBWR", "AUTO")

# Threads that wait sleep instead of spinning: where another program holds a core, spinning made a training step 20
# times slower. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

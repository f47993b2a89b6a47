"""All benchmarks in turn: ``python -m benchmarks``; arguments such as --quick go to each."""

import runpy
import sys

for name in ("benchmarks.metrics", "benchmarks.solver", "benchmarks.training"):
    print(f"\n{name}\n{'=' * len(name)}", flush=True)
    sys.argv[0] = name
    runpy.run_module(name, run_name="__main__")

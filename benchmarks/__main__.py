"""Run every benchmark of this folder, one after the other: `python -m benchmarks [NAME ...]`.

Each prints a table for people and then one JSON document; arguments of its own are given when it is run alone,
`python -m benchmarks.NAME --help`. Those that cannot do without (trained networks, say) are passed over, and named.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drsn_edge.errors import MissingDevice

USAGE = 2  # argparse's exit code


def main() -> int:
    """Exit code of the first benchmark that failed, else 0."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    names = sys.argv[1:] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: there is no benchmark {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        if code == MissingDevice.exit_code:
            print(f"== {name}: not measured, see above", flush=True)
        elif code == USAGE and not sys.argv[1:]:
            print(f"== {name}: not measured, it needs arguments: python -m benchmarks.{name} --help", flush=True)
        elif code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

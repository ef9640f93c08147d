"""One kind of file under libFuzzer: in a process of its own, which libFuzzer ends in its own way.

python -m benchmarks._fuzz_atheris KIND INPUTS KEEP TOLD
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["drsn_edge"]):
    from benchmarks import fuzz

_MOST = 20  # failures that are kept: what is wrong in one way is so many thousands of times


def main() -> None:
    name, inputs, keep, told = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    kind = fuzz.kinds()[name]
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        corpus, work = Path(folder) / "corpus", Path(folder) / "work"
        corpus.mkdir()
        work.mkdir()
        for index, example in enumerate(kind.examples):
            (corpus / str(index)).write_bytes(example)

        def one(data: bytes) -> None:
            if kind.seal is not None:
                with contextlib.suppress(ValueError, TypeError, RecursionError, OverflowError):
                    data = json.dumps(kind.seal(json.loads(data))).encode("utf-8", "surrogatepass")
            problem = fuzz.judge(kind, data, work)
            if problem is not None and problem not in seen and len(seen) < _MOST:
                seen.add(problem)
                file = keep / f"input-{hashlib.sha256(data).hexdigest()[:16]}{kind.suffix}"
                file.write_bytes(data)
                with told.open("a") as lines:
                    lines.write(json.dumps({"file": str(file), "problem": problem}) + "\n")

        limits = [f"-rss_limit_mb={fuzz.MEMORY >> 20}", f"-timeout={fuzz.SECONDS}", f"-artifact_prefix={keep}/"]
        longest = max(4096, *(2 * len(example) for example in kind.examples))
        atheris.Setup(
            [sys.argv[0], f"-runs={inputs}", "-seed=1", f"-max_len={longest}", *limits, str(corpus)], one,
            enable_python_coverage=True,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Write down what each TensorRT's Python interface has, from NVIDIA's own bindings. No GPU, no TensorRT library.

The bindings wheels on PyPI are small (1 MB), and their extension module needs the libraries only to be called. So it is
imported over stub libraries, made by a C compiler, that export the symbols which it looks for, and is then asked for
all its classes and attributes. `test_contract.py` holds our code against the tables, and `fakes.py` builds stand-ins
that cannot have an attribute which the genuine class lacks.

    python tests/trt_api/make_tables.py 10.3.0                  # download, import, write tables/10.3.0.json
    python tests/trt_api/make_tables.py 8.6.0 --python PYTHON   # CPython 3.10; this wheel alone is 819 MB

TensorRT for RTX is installed where the tests run, and read from there: `rtx-1.7`.

A table has per class its attributes: `r TYPE` and `rw TYPE` are properties, `m LEAST-MOST TYPE` methods with how many
arguments they take (`*`: any number) and what they return; TYPE is there where it is one of the module's own classes.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

TABLES = Path(__file__).parent / "tables"
# Name of the table -> what pip is asked for; None for what is installed.
REQUIREMENTS = {
    "8.6.0": "tensorrt==8.6.0",
    "10.3.0": "tensorrt_cu12_bindings==10.3.0",
    "10.7.0": "tensorrt_cu12_bindings==10.7.0",
    "10.13.3.9": "tensorrt_cu12_bindings==10.13.3.9",
    "10.16.1.11": "tensorrt_cu12_bindings==10.16.1.11",
    "11.4.0.106": "tensorrt_cu13_bindings==11.4.0.106",
    "rtx-1.7": None,
}
# Every symbol that some bindings look up when they are loaded. The last four are those of 8.6's other parsers.
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
    "_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)  # fmt: skip
_LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser", "libnvparsers")


def make_table(name: str, *, python: str = sys.executable) -> dict[str, Any]:
    """The table of one version, from its wheel.

    Args:
        name: A key of `REQUIREMENTS`.
        python: The interpreter that imports the bindings; the wheel is chosen for it.
    """
    requirement = REQUIREMENTS[name]
    if requirement is None:
        return describe(importlib.import_module("tensorrt_rtx"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        download = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder]
        subprocess.run([*download, requirement], check=True, capture_output=True, text=True)
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            # Not the libraries: the stubs take their place.
            archive.extractall(work, [item for item in archive.namelist() if item.endswith((".py", "/tensorrt.so"))])
        stub_libraries(work / "stubs", major=name.partition(".")[0])
        package = "tensorrt" if (work / "tensorrt").is_dir() else "tensorrt_bindings"
        done = subprocess.run(
            [python, __file__, "--describe", package],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": folder, "LD_LIBRARY_PATH": str(work / "stubs")},
        )
        table: dict[str, Any] = json.loads(done.stdout)
        return table


def stub_libraries(folder: Path, *, major: str) -> None:
    """Libraries of TensorRT's names whose functions return a null pointer."""
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for library in _LIBRARIES:
        soname = f"{library}.so.{major}"
        command = ["cc", "-shared", "-fPIC", "-o", str(folder / soname), f"-Wl,-soname,{soname}", str(source)]
        subprocess.run(command, check=True, capture_output=True, text=True)


def describe(module: Any) -> dict[str, Any]:
    """All that a module of TensorRT has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated attributes warn when they are looked at
        public = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    classes |= {
        f"{name}.{inner}": value  # ILogger.Severity
        for name, owner in list(classes.items())
        for inner, value in vars(owner).items()
        if inspect.isclass(value) and hasattr(value, "__members__")
    }
    return {
        "version": str(module.__version__),
        "enums": {
            name: {member: int(number) for member, number in sorted(value.__members__.items())}
            for name, value in classes.items()
            if hasattr(value, "__members__")
        },
        "classes": {
            name: {item: _kind(value, item, set(classes)) for item in dir(value) if not item.startswith("_")}
            for name, value in classes.items()
            if not hasattr(value, "__members__")
        },
        "functions": sorted(name for name, value in public.items() if inspect.isroutine(value)),
        "values": sorted(name for name, value in public.items() if name not in classes and not callable(value)),
    }


def _kind(owner: type, attribute: str, classes: set[str]) -> str:
    value = inspect.getattr_static(owner, attribute)
    if isinstance(value, property):
        return f"{'rw' if value.fset else 'r'} {_result(value.fget.__doc__ or '', classes)}".strip()
    if inspect.isclass(value) or not callable(getattr(owner, attribute)):
        return "r"
    text = getattr(owner, attribute).__doc__ or ""
    signatures = re.findall(rf"^(?:\d+\. )?{attribute}\((.*)\)( -> .*)?$", text, re.MULTILINE)
    counts = [_counts(arguments) for arguments, _ in signatures if not arguments.startswith("*args")]
    if not counts:
        return "m 0-*"
    most = "*" if any(high is None for _, high in counts) else str(max(high or 0 for _, high in counts))
    results = " ".join(result for _, result in signatures)
    return f"m {min(low for low, _ in counts)}-{most} {_result(results, classes)}".strip()


def _counts(arguments: str) -> tuple[int, int | None]:
    """Least and largest number of arguments after self, from pybind11's `self: a.B, x: int, y: int = 0`."""
    depth, parts = 0, [""]
    for character in arguments:
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    named = [part for part in (item.strip() for item in parts) if part and not re.match(r"(self|arg0)\b", part)]
    if any(part.startswith("*") for part in named):
        return 0, None
    return sum("=" not in part for part in named), len(named)


def _result(text: str, classes: set[str]) -> str:
    """The class of the module that a signature returns, if any; some are written as in C++, nvinfer1::IRuntimeCache."""
    found = re.search(r"-> (?:\w+(?:\.|::))+(\w+)", text)
    return found[1] if found and found[1] in classes else ""


def main() -> None:
    """Write the tables that were named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", choices=[*REQUIREMENTS, []])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--describe", metavar="MODULE", help="print the table of a module that can be imported")
    arguments = parser.parse_args()
    if arguments.describe:
        sys.stdout.write(json.dumps(describe(importlib.import_module(arguments.describe))))
    for name in arguments.versions:
        table = make_table(name, python=arguments.python)
        (TABLES / f"{name}.json").write_text(dump(table))


def dump(table: dict[str, Any]) -> str:
    """JSON with one class a line: differences between versions can be read."""
    lines = []
    for key, value in table.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(item)}" for name, item in sorted(value.items()))
            lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()

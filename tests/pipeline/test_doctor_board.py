"""The doctor on boards that are folders of files: what each would say, and what each should do about it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drsn_edge.bundle import Bundle, NewFile
from drsn_edge.pipeline.doctor import Finding, doctor, to_json
from drsn_edge.runtime.board import read_board
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.preflight import BackendInfo, Here, this_platform
from drsn_edge.runtime.verification import Verification, VerifiedOn

MEMORY = "MemTotal:       62821164 kB\nMemFree:        1000 kB\nMemAvailable:   54321000 kB\nBuffers: 1 kB\n"
NVPMODEL = (
    "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n< PM_CONFIG DEFAULT=2 >\n"
)


def dpkg(**versions: str) -> str:
    """dpkg's status file, with a package among them that was removed and one that has nothing to do with it."""
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    text = "Package: bash\nStatus: install ok installed\nVersion: 5.1-6\nDescription: a\n shell\n\n"
    for name, version in names.items():
        text += f"Package: {name}\nStatus: install ok installed\nPriority: optional\nVersion: {version}\n\n"
    return text + "Package: tensorrt\nStatus: deinstall ok config-files\nVersion: 1.0-1\n"


def release(major: int, revision: str) -> str:
    return f"# R{major} (release), REVISION: {revision}, GCID: 34298571, BOARD: generic, EABI: aarch64, DATE: Fri\n"


ORIN = {"proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0", "proc/meminfo": MEMORY}
JP5 = ORIN | {
    "etc/nv_tegra_release": release(35, "4.1"),
    "var/lib/dpkg/status": dpkg(libnvinfer8="8.5.2-1+cuda11.4", python3_libnvinfer="8.5.2-1+cuda11.4"),
    "var/lib/nvpmodel/status": "pmode:0000",
    "etc/nvpmodel.conf": NVPMODEL,
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "11.4.20220808"}}',
    **{f"sys/class/devfreq/17000000.ga10b/{name}_freq": "1300500000" for name in ("cur", "min", "max")},
    "dev/nvhost-gpu": "", "dev/nvmap": "",
}  # fmt: skip
JP6 = ORIN | {
    "etc/nv_tegra_release": release(36, "4.3"),
    "var/lib/dpkg/status": dpkg(
        nvidia_jetpack="6.2+b77", libnvinfer10="10.3.0.30-1+cuda12.5", python3_libnvinfer="10.3.0.30-1+cuda12.5"
    ),
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
    "etc/nvpmodel.conf": NVPMODEL,
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "624750000",
    "dev/nvhost-gpu": "", "dev/nvmap": "",
}  # fmt: skip
JP7 = JP6 | {
    "etc/nv_tegra_release": release(39, "2.0"),
    "var/lib/dpkg/status": dpkg(libnvinfer10="10.16.1.2-1+cuda13.2"),
}
THOR = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.00  Release Build\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "proc/meminfo": MEMORY,
    "etc/nv_tegra_release": release(38, "2.0"),
    "var/lib/dpkg/status": dpkg(libnvinfer10="10.13.3.9-1+cuda13.0", python3_libnvinfer="10.13.3.9-1+cuda13.0"),
    "var/lib/nvpmodel/status": "pmode:0007",
    **{f"sys/class/devfreq/gpu-gpc-0/{name}_freq": "1575000000" for name in ("cur", "min", "max")},
    "dev/nvidia0": "", "dev/nvidiactl": "", "dev/nvmap": "",
}  # fmt: skip
X86 = {
    "proc/meminfo": MEMORY,
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\nGCC\n",
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
    "dev/nvidia0": "", "dev/nvidiactl": "",
}  # fmt: skip
X86_NO_DRIVER = {name: text for name, text in X86.items() if name.startswith(("proc/meminfo", "sys"))}
BARE = {"proc/meminfo": MEMORY, "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n"}

Tree = Callable[[dict[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def make(files: dict[str, str]) -> Path:
        root = tmp_path / "root"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    return make


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Here]:
    """What is imported and which GPU answers, beside what stands in files."""

    def use(*, tensorrt: str | None = None, origin: str | None = None, gpu: DeviceInfo | None = None) -> Here:
        backends = {"tensorrt": BackendInfo("tensorrt", tensorrt, None if tensorrt else "not installed", "apt install")}
        here = Here(backends, DeviceProbe(gpu, None if gpu else "no CUDA driver"), this_platform())
        monkeypatch.setattr("drsn_edge.pipeline.doctor.describe_here", lambda: here)
        monkeypatch.setattr("drsn_edge.pipeline.doctor_board.tensorrt_origin", lambda module: origin)
        return here

    return use


def found(root: Path) -> dict[str, Finding]:
    findings = doctor(root=root)
    json.dumps(to_json(findings))
    assert all(item.found for item in findings)
    assert all(item.fix for item in findings if item.level != "ok"), "every finding has its fix"
    assert not any(item.fix for item in findings if item.level == "ok")
    return {item.subject: item for item in findings}


APT = "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py"
PIP = "/home/me/drsn/lib/python3.10/site-packages/tensorrt/__init__.py"
ORIN_GPU = DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)


def test_orin_with_jetpack_6(tree: Tree, machine: Callable[..., Here]) -> None:
    machine(tensorrt="10.3.0", origin=APT, gpu=ORIN_GPU)
    seen = found(tree(JP6))
    assert seen["board"].found == "NVIDIA Jetson AGX Orin Developer Kit"
    assert seen["Jetson Linux"].found == "36.4.3, JetPack 6.2"
    assert seen["CUDA toolkit"].found == "12.6.68"
    assert seen["TensorRT install"] == Finding(
        "TensorRT install", "ok", "10.3.0 from apt, /usr/lib/python3.10/dist-packages/tensorrt"
    )
    assert seen["power mode"].found == "MODE_30W (nvpmodel 2)"
    assert seen["clocks"].found == "GPU at 306 MHz, moves within 306 to 625 MHz: timings will too"
    assert seen["clocks"].fix == "sudo jetson_clocks"
    assert seen["memory"].found == "55.6 of 64.3 GB available"
    assert seen["GPU"].found == "Orin, sm87, CUDA 12.6, 69 GB, shared with the CPU"
    assert seen["permissions"].level == "ok"
    assert "driver" not in seen


def test_orin_with_jetpack_5(tree: Tree, machine: Callable[..., Here]) -> None:
    """Its TensorRT belongs to Python 3.8, which no environment of drsn-edge can see."""
    machine(gpu=dataclasses.replace(ORIN_GPU, driver="11.4"))
    seen = found(tree(JP5))
    assert seen["Jetson Linux"].found == "35.4.1, JetPack 5.1.2"
    assert seen["TensorRT install"].found == "8.5.2 of the system, which this Python does not see"
    assert "Python 3.8 only: build by trtexec" in seen["TensorRT install"].fix
    assert seen["power mode"].found == "MAXN (nvpmodel 0)"
    assert seen["clocks"] == Finding("clocks", "ok", "GPU at 1300 MHz, locked")


def test_orin_with_a_jetpack_that_is_not_known(tree: Tree, machine: Callable[..., Here]) -> None:
    machine(gpu=ORIN_GPU)
    seen = found(tree(JP7))
    assert seen["Jetson Linux"].found == "39.2.0, a JetPack that is not known here"
    assert seen["TensorRT install"].fix.startswith("apt install python3-libnvinfer")


def test_thor(tree: Tree, machine: Callable[..., Here]) -> None:
    machine(tensorrt="10.13.3.9", origin=APT, gpu=DeviceInfo("NVIDIA Thor", "sm110", "13.0", 128 << 30, True))
    seen = found(tree(THOR))
    assert seen["Jetson Linux"].found == "38.2.0, JetPack 7.0"
    assert seen["TensorRT install"].level == "ok"
    assert seen["driver"].found == "580.00"
    assert seen["power mode"].found == "unnamed (nvpmodel 7)"
    assert seen["clocks"].found == "GPU at 1575 MHz, locked"
    assert seen["permissions"].found == "3 device files of the GPU can be used"


def test_a_desktop(tree: Tree, machine: Callable[..., Here]) -> None:
    machine(tensorrt="11.4.0.106", origin=PIP, gpu=DeviceInfo("NVIDIA RTX", "sm86", "13.0", 8 << 30, False))
    seen = found(tree(X86))
    assert seen["driver"].found == "550.54.15"
    assert seen["TensorRT install"].found.startswith("11.4.0.106 from pip, /home/me/drsn")
    assert not {"board", "Jetson Linux", "power mode", "clocks", "CUDA toolkit"} & set(seen)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (X86_NO_DRIVER, "install NVIDIA's driver"),
        (BARE, "engines run on an NVIDIA GPU"),
        (JP6, "--runtime nvidia"),
    ],
)
def test_without_a_driver(tree: Tree, machine: Callable[..., Here], files: dict[str, str], words: str) -> None:
    machine()
    gpu = found(tree(files))["GPU"]
    assert (gpu.level, gpu.found) == ("missing", "no CUDA driver")
    assert words in gpu.fix


def test_pips_tensorrt_over_jetpacks(tree: Tree, machine: Callable[..., Here]) -> None:
    machine(tensorrt="10.13.2", origin=PIP, gpu=ORIN_GPU)
    finding = found(tree(JP6))["TensorRT install"]
    assert finding.level == "problem"
    assert "10.13.2 from pip" in finding.found
    assert "the system has 10.3.0.30" in finding.found
    assert finding.fix.startswith("pip uninstall tensorrt")


def test_an_environment_that_does_not_see_the_system(tree: Tree, machine: Callable[..., Here]) -> None:
    machine(gpu=ORIN_GPU)
    assert "--system-site-packages" in found(tree(JP6))["TensorRT install"].fix


def test_no_right_to_the_gpu(tree: Tree, machine: Callable[..., Here], monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu=ORIN_GPU)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "nvmap" not in str(path) and access(path, mode))
    findings = found(tree(JP6))
    assert findings["permissions"].level == "problem"
    assert findings["permissions"].found.endswith("root/dev/nvmap")
    assert "usermod -aG video,render" in findings["permissions"].fix
    assert to_json(tuple(findings.values()))["ok"] is False


def test_no_memory_left(tree: Tree, machine: Callable[..., Here]) -> None:
    machine()
    seen = found(tree({"proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 100000 kB\n"}))["memory"]
    assert (seen.level, seen.found) == ("problem", "0.1 of 4.1 GB available")


def test_damaged_files_are_as_good_as_none(tree: Tree, machine: Callable[..., Here]) -> None:
    machine()
    broken = {name: "\0\xff{ Version: \n\nPackage\n: : :" for name in JP6 if not name.startswith("dev")}
    board = read_board(tree(broken))
    assert (board.l4t, board.jetpack, board.packages, board.gpu_clock, board.power_mode) == (None, None, {}, None, None)
    assert board.memory_bytes is None
    found(tree(broken))


def test_a_release_is_known_by_its_package_where_the_file_is_gone(tree: Tree) -> None:
    files = {"var/lib/dpkg/status": dpkg(nvidia_l4t_core="36.4.4-20250616085344")}
    board = read_board(tree(files))
    assert (board.l4t, board.jetpack, board.jetson) == ("36.4.4", "6.2.1", True)


# --- what a bundle needs


def test_what_a_bundle_needs(workshop: Any, tmp_path: Path, machine: Callable[..., Here], tree: Tree) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX, which builds without a GPU")
    machine()
    findings = {item.subject: item for item in doctor(workshop.copy(tmp_path), root=tree(BARE))}
    assert findings["builder for fp16"].found.startswith("fp16 from model.fp16.onnx with rtx")
    assert findings["builder for int8"].level == "ok"
    assert findings["bundle folder"].found.startswith("writable")


def test_what_a_bundle_lacks(
    workshop: Any, tmp_path: Path, machine: Callable[..., Here], tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    path = workshop.copy(tmp_path)
    bundle = Bundle.open(path).update({}, remove=("model.fp16.onnx",))
    assert "fp16" not in bundle.precisions
    monkeypatch.setattr("drsn_edge.exporters.trt_choice.available", lambda module: False)
    usage = SimpleNamespace(total=10, used=9, free=1000)
    monkeypatch.setattr("drsn_edge.pipeline.doctor_bundle.shutil", SimpleNamespace(disk_usage=lambda path: usage))
    findings = {item.subject: item for item in doctor(path, root=tree(BARE))}
    assert "builder for fp16" not in findings
    assert findings["builder for int8"].found == "neither is installed"
    assert findings["builder for int8"].fix.startswith("pip install")
    assert findings["bundle folder"].level == "problem"
    assert "a build needs" in findings["bundle folder"].found
    access = os.access
    monkeypatch.setattr(os, "access", lambda item, mode: mode != os.W_OK and access(item, mode))
    finding = {item.subject: item for item in doctor(path, root=tree(BARE))}["bundle folder"]
    assert f"no right to write into {path}" in finding.found
    assert "chown" in finding.fix


def test_engines_of_before_an_upgrade(workshop: Any, tmp_path: Path, machine: Callable[..., Here], tree: Tree) -> None:
    """An engine of this device, made before its driver changed; the same, verified; another device's."""
    gpu = DeviceInfo("Orin", "sm87", "12.8", 8 << 30, integrated=True)
    machine(tensorrt="10.3.0", origin=APT, gpu=gpu)
    info: dict[str, Any] = {
        "format_version": 1, "runner": "tensorrt",
        "version": "10.3.0", "platform": this_platform(), "targets": ["sm87"], "sm": "sm87",
        "driver": "12.6", "precision": "fp16", "verified": None,
    }  # fmt: skip
    on = VerifiedOn("Orin", "sm87", "12.8", "10.3.0", this_platform())
    now = info | {"driver": "12.8", "verified": Verification(True, on, None, 0.0, 1.0, 96).to_json()}
    path = workshop.copy(tmp_path)
    bundle = Bundle.open(path)
    files = {
        f"engines/{key}/{name}": NewFile(data, role)
        for key, notes in (("old", info), ("new", now), ("thor", info | {"targets": ["sm110"]}))
        for name, data, role in (
            ("model.fp16.engine", b"a plan", "engine"),
            ("engine.json", json.dumps(notes).encode(), "engine-info"),
        )
    }
    bundle.update(files)
    findings = {item.subject: item for item in doctor(path, root=tree(JP6))}
    assert findings["engine old"].found.startswith("built with a driver for CUDA 12.6, here 12.8: it was built before")
    assert findings["engine old"].fix == f"drsn-edge build {path} --rebuild"
    assert findings["engine new"] == Finding("engine new", "ok", "fits this machine and is verified on it")
    assert "built for sm110" in findings["engine thor"].found

"""Lines that boards really wrote; where each was published stands beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.runtime.tegrastats import parse_tegrastats

# AGX Xavier, JetPack 4: the power check of a public monitoring agent, and a published detector benchmark.
AGX_XAVIER_IDLE = (
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,0%@1190,0%@1190,0%@1190,off,off,off,off] "
    "EMC_FREQ 0%@665 GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C "
    "PMIC@100C AUX@36C CPU@37.5C "
    "thermal@36.9C Tboard@37C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
AGX_XAVIER_BUSY = (
    "RAM 10881/31919MB (lfb 4230x4MB) SWAP 0/15959MB (cached 0MB) CPU [17%@1190,17%@1190,18%@1190,25%@1190,17%@1336,"
    "15%@1340,23%@1543,15%@1574] EMC_FREQ 55%@2133 GR3D_FREQ 95%@1377 APE 150 MTS fg 0% bg 10% AO@48C GPU@54.5C "
    "Tdiode@53.25C PMIC@100C AUX@46C CPU@49C thermal@49.45C Tboard@47C GPU 18401/18525 CPU 2301/2330 SOC 4602/4602 "
    "CV 0/0 VDDRQ 2914/2911 SYS5V 4632/4620"
)
# Xavier NX, JetPack 4 (no unit) and JetPack 5.1.2 (a Prometheus exporter's test).
XAVIER_NX_4 = (
    "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%@1190,6%@1190,6%@1190,5%@1190,4%@1190,8%@1267] "
    "EMC_FREQ 10%@1600 GR3D_FREQ 62%@306 APE 150 MTS fg 0% bg 0% AO@41.5C GPU@43C PMIC@100C AUX@41.5C CPU@43.5C "
    "thermal@42.55C VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
)
XAVIER_NX_5 = (
    "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU [23%@1397,17%@1192,16%@1190,"
    "13%@1190,23%@1190,10%@1190] EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 AUX@45C "
    "CPU@46.5C thermal@45.6C "
    "AO@45C GPU@45.5C PMIC@50C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW"
)
# Orin Nano, L4T 36.4 (its last rail's figures are made up: the published line was cut); AGX Orin, L4T 36.4.4 (a
# parser's test) and JetPack 5 with sensors that are off and channels NC.
ORIN_NANO = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,2%@729,1%@729,0%@729,"
    "1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@57.125C "
    "soc2@55.093C soc0@56.625C gpu@58.625C tj@58.312C soc1@55.937C VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW "
    "VDD_SOC 3120mW/2800mW"
)
AGX_ORIN = (
    "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU [14%@2188,5%@2112,8%@2035,"
    "14%@2201,46%@1267,47%@1267,2%@1267,10%@1267,4%@1036,5%@1036,6%@1036,10%@1036] EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] "
    "NVENC 79%@166 NVDEC off NVJPG off NVJPG1 off VIC 36%@115 OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 "
    "cpu@52.562C soc2@48.437C soc0@49.093C tj@52.562C soc1@49.656C VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW "
    "VIN_SYS_5V0 4707mW/4707mW"
)
AGX_ORIN_5 = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ "
    "0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C "
    "SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW "
    "VDD_CPU_CV 390mW/390mW "
    "VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# AGX Thor: L4T 38; 39.2 with a third figure (a monitoring agent's test). The last is put together from published
# pieces: the fields that root sees (38.4), a negative figure, and rails without averages.
THOR = (
    "01-20-2026 22:46:22 RAM 17842/125772MB (lfb 79x4MB) CPU [0%@972,0%@972,0%@1566,0%@1566] cpu@30.468C tj@31.218C "
    "soc012@30.218C soc345@31.218C VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 5535mW/5535mW VIN_SYS_5V0 5040mW/5040mW "
    "VIN 16802mW/16802mW"
)
THOR_THREE = (
    "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972,1%@972] cpu@60.406C "
    "tj@63.281C soc012@58.468C gpu@62.906C soc345@63.281C VDD_GPU 37528mW/37528mW/37528mW "
    "VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"
)
THOR_ROOT = (
    "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,8%@972] EMC_FREQ 0%@2750 "
    "GR3D_FREQ @[314,314,314] "
    "NVENC0_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C tj@38.875C soc012@37.468C gpu@38.875C "
    "soc345@37.406C VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 5887mW VIN_SYS_5V0 5635mW VIN 19780mW"
)
LINES = [
    (AGX_XAVIER_IDLE, {"GPU": 0, "CPU": 0.311, "SOC": 0.932, "CV": 0, "VDDRQ": 0.621, "SYS5V": 1.482}, 37.5),
    (AGX_XAVIER_BUSY, {"GPU": 18.401, "CPU": 2.301, "SOC": 4.602, "CV": 0, "VDDRQ": 2.914, "SYS5V": 4.632}, 54.5),
    (XAVIER_NX_4, {"VDD_IN": 4.067, "VDD_CPU_GPU_CV": 0.738, "VDD_SOC": 1.353}, 43.0),
    (XAVIER_NX_5, {"VDD_IN": 2.763, "VDD_CPU_GPU_CV": 0.65, "VDD_SOC": 0.65}, 45.5),
    (ORIN_NANO, {"VDD_IN": 16.321, "VDD_CPU_GPU_CV": 7.104, "VDD_SOC": 3.12}, 58.625),
    (AGX_ORIN, {"VDD_GPU_SOC": 2.412, "VDD_CPU_CV": 1.607, "VIN_SYS_5V0": 4.707}, 52.562),
    (AGX_ORIN_5, {"VDD_GPU_SOC": 2.34, "VDD_CPU_CV": 0.39, "VIN_SYS_5V0": 4.025, "VDDQ_VDD2_1V8AO": 0.301}, 44.343),
    (THOR, {"VDD_GPU": 0, "VDD_CPU_SOC_MSS": 5.535, "VIN_SYS_5V0": 5.04, "VIN": 16.802}, 31.218),
    (THOR_THREE, {"VDD_GPU": 37.528, "VDD_CPU_SOC_MSS": 18.961, "VIN_SYS_5V0": 18.331, "VIN": 87.426}, 62.906),
    (THOR_ROOT, {"VDD_GPU": -0.392, "VDD_CPU_SOC_MSS": 5.887, "VIN_SYS_5V0": 5.635, "VIN": 19.78}, 38.875),
]


@pytest.mark.parametrize(("line", "rails", "temperature"), LINES)
def test_recorded_lines(line: str, rails: dict[str, float], temperature: float) -> None:
    found = parse_tegrastats(line)
    assert found is not None
    assert found.rails_w == pytest.approx(rails)
    assert found.gpu_temperature_c == temperature
    assert found.ram_mb is not None
    assert 0 < found.ram_mb[0] < found.ram_mb[1]
    assert min(found.temperatures_c.values()) > -50


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    found = parse_tegrastats(text)
    assert found is None or found.ram_mb is not None or "@" in text


@pytest.mark.parametrize("cut", range(0, len(THOR), 17))
def test_a_line_that_was_cut_off_gives_no_wrong_figures(cut: int) -> None:
    found = parse_tegrastats(THOR[:cut])
    whole = {"VDD_GPU": 0, "VDD_CPU_SOC_MSS": 5.535, "VIN_SYS_5V0": 5.04, "VIN": 16.802}
    assert found is None or found.rails_w.items() <= whole.items()


def test_other_output_is_none() -> None:
    assert parse_tegrastats("tegrastats: command not found") is None
    assert parse_tegrastats("") is None

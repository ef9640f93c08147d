"""Where and in what arithmetic steps are computed: what a CPU can show of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from drsn_edge.errors import MissingDependency, MissingDevice, UsageError
from drsn_edge.model.network import Network
from drsn_edge.model.shrinkage import Shrinkage, SqueezeExcite
from drsn_edge.signals.windows import Windows
from drsn_edge.training.compute import Compute, TrainStep, find_device
from drsn_edge.training.loop import fit, make_optimizer
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.parallel import Processes
from drsn_edge.training.state import State

MakeWindows = Callable[..., Windows]
MakeNetwork = Callable[..., Network]
OPTIONS = FitOptions(epochs=3, batch=16, lr=0.05, noise=NoiseRange(("gaussian",), (0.0, 10.0)), seed=1)


def test_bf16_learns_as_fp32_does(make_windows: MakeWindows, make_network: MakeNetwork) -> None:
    curves = []
    for amp in ("none", "bf16"):
        network = make_network()
        compute = Compute(amp=amp)
        result = fit(network, make_windows(96), make_windows(30, seed=1), options=OPTIONS, compute=compute)
        curves.append(torch.tensor([record.train_loss for record in result.records]))
        assert result.records[-1].train_loss < result.records[0].train_loss
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not torch.equal(*curves)
    torch.testing.assert_close(*curves, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("shared", [False, True])
def test_thresholds_are_fp32_whatever_the_maps_are(shared: bool) -> None:
    torch.manual_seed(0)
    layer = Shrinkage(8, shared=shared).train()
    x = (3 + torch.randn(16, 8, 50)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tau, y = layer.threshold(x), layer(x)
    assert (tau.dtype, y.dtype) == (torch.float32, torch.bfloat16)
    # Of the very same maps in FP32: equal to more digits than BF16 has.
    torch.testing.assert_close(tau, layer.threshold(x.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["shared", "wise", "squeeze"])
def test_the_gradient_of_maps_of_16_bits(kind: str) -> None:
    torch.manual_seed(0)
    layer = SqueezeExcite(4).train() if kind == "squeeze" else Shrinkage(4, shared=kind == "shared").train()
    base = torch.randn(8, 4, 30).bfloat16()
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        x = base.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            (layer(x).float() ** 2).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        gradients.append(x.grad.float())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.05)


def test_validation_is_fp32(make_windows: MakeWindows, make_network: MakeNetwork) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()
    network = make_network()
    network.register_forward_hook(lambda module, inputs, output: seen.add((module.training, output.dtype)))
    fit(
        network,
        make_windows(),
        make_windows(30, seed=1),
        options=dataclasses.replace(OPTIONS, epochs=1),
        compute=Compute(amp="bf16"),
    )
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}


def test_the_precision_belongs_to_a_run(make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path) -> None:
    windows, options = make_windows(), dataclasses.replace(OPTIONS, epochs=1)
    fit(make_network(), windows, windows, options=options, out=tmp_path / "run", compute=Compute(amp="bf16"))
    assert State.load(tmp_path / "run").identity["amp"] == "bf16"
    with pytest.raises(UsageError, match=r"(?s)begun with something else.*amp = None.*amp = bf16"):
        fit(make_network(), windows, windows, options=options, out=tmp_path / "run", resume=True)


def test_the_scale_of_fp16_is_kept_with_the_optimiser(make_network: MakeNetwork) -> None:
    def step() -> TrainStep:
        network = make_network()
        result = TrainStep(network, make_optimizer(network, OPTIONS))
        result.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        return result

    one, other = step(), step()
    x, y = torch.randn(6, 1, 64), torch.arange(6) % 3
    before = {name: value.clone() for name, value in one.network.named_parameters()}
    one(x * torch.inf, y, 6)  # an overflow: no step, and half the scale
    for name, value in one.network.named_parameters():
        assert torch.equal(value, before[name]), name
    assert one.scaler.get_scale() == 2.0
    other.load_state_dict(one.state_dict())
    assert other.scaler.get_scale() == 2.0
    assert "scaler" not in TrainStep(make_network(), one.optimizer).state_dict()


def test_a_scaled_step_is_the_same_step(make_network: MakeNetwork) -> None:
    x, y = torch.randn(6, 1, 64), torch.arange(6) % 3
    weights = []
    for scaled in (False, True):
        network = make_network()
        step = TrainStep(network, make_optimizer(network, OPTIONS))
        if scaled:
            step.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        loss, right = step(x, y, 6)
        assert 0 <= int(right) <= 6
        assert loss.shape == ()
        weights.append(list(network.parameters()))
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(UsageError, match=r"(?s)int8.*none, bf16, fp16"):
        Compute(amp="int8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"(?s)fp16 training needs a GPU.*fp16 on cpu.*--amp bf16"):
        Compute(amp="fp16").check(cpu)
    with pytest.raises(UsageError, match=r"(?s)compiled.*--compile in 2 processes.*leave --compile out"):
        Compute(compile=True).check(cpu, Processes(0, 2))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(MissingDevice, match=r"(?s)bf16.*Old GPU.*8\.0.*--amp fp16"):
        Compute(amp="bf16").check(cuda)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"(?s)no device.*tpu.*auto, cpu, cuda"):
        find_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(MissingDevice, match=r"(?s)finds no GPU.*--device cuda.*NVIDIA GPU.*doctor"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device("auto") == find_device("cuda") == chosen[0] == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(MissingDevice, match=r"(?s)more processes than GPUs.*process 3.*2 GPUs.*--nproc-per-node"):
        find_device("cuda")


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_compiler_that_fails(
    when: str, make_windows: MakeWindows, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InductorError

    assert issubclass(InductorError, BackendCompilerFailed)  # half a file in the cache, which a killed process left

    def fail(*arguments: object) -> Tensor:
        raise BackendCompilerFailed(SimpleNamespace(__name__="inductor"), RuntimeError("no g++"), None)

    def broken(network: Network, **options: object) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if when == "forward":
                fail()
            logits: Tensor = network(x)
            logits.register_hook(fail)  # type: ignore[no-untyped-call]
            return logits

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    words = r"(?s)cannot be compiled.*no g\+\+.*C\+\+ compiler.*delete the cache.*leave --compile"
    with pytest.raises(MissingDependency, match=words):
        fit(make_network(), make_windows(), make_windows(), options=OPTIONS, compute=Compute(compile=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, about what its compiler uses itself
@pytest.mark.parametrize("model", ["resnet", "drsn-cw"])
def test_a_compiled_network_learns_the_same(
    model: str, make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    networks = [make_network(model=model) for _ in range(2)]
    options = dataclasses.replace(OPTIONS, epochs=2)
    results = [
        fit(network, make_windows(), make_windows(30, seed=1), options=options, compute=compute)
        for network, compute in zip(networks, (Compute(), Compute(compile=True)), strict=True)
    ]
    curves = [torch.tensor([record.train_loss for record in result.records]) for result in results]
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-4)
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())

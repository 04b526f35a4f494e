"""Each format, from a file of its layout to equal logits; and what is refused about a network."""

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign_nets as nets
import numpy as np
import pytest
import torch
from foreign_nets import settled
from torch import nn

from benchmark.datasets import describe
from benchmark.errors import ContractError, ManifestError, UnknownName
from benchmark.foreign import FORMATS, Request, convert
from benchmark.foreign.masks import (
    density_in,
    from_composition,
    from_learned_rates,
    from_masks,
    from_scores,
)

ROOT = Path(__file__).parents[2]
CIFAR_MEAN = [0.4914, 0.4822, 0.4465]


def under(name: str) -> Callable[[dict], Any]:
    return lambda state: {name: state, "epoch": 3, "args": argparse.Namespace(k=0.1)}


def prefixed(prefix: str) -> Callable[[dict], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def mad_scale() -> nn.Module:
    return nets.Scale(CIFAR_MEAN, [0.2023, 0.1994, 0.2010], stored=False)


def rst_scale() -> nn.Module:
    return nets.Scale(CIFAR_MEAN, [0.2471, 0.2435, 0.2616], stored=False)


def bird_scale() -> nn.Module:
    return nets.Scale([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], stored=True)


def resnet(layer: Any, **options: Any) -> nn.Module:
    return nets.ResNet(layer, **options)


def vgg(layer: Any, bias: bool, pool: nn.Module, name: str = "features", scale: Any = None) -> Any:
    return nets.Vgg(layer, bias, pool, name, scale)


Case = tuple[str, Callable[[], nn.Module], Callable[[dict], Any], dict[str, Any], str]

# Name -> format, network, how its state is nested, what is said of it, what is recognised.
CASES: dict[str, Case] = {
    "hydra": (
        "auto",
        lambda: nets.small_cnn(nets.Popup),
        under("state_dict"),
        {"density": 0.1, "sparsity": 0.9},
        "hydra cnn-small",
    ),
    "harp": (
        "auto",
        lambda: resnet(nets.Rated),
        under("state_dict"),
        {"density": 0.1},
        "harp resnet18",
    ),
    "harp channels": (
        "harp",
        lambda: resnet(nets.RatedChannels),
        prefixed("module.basic_model."),
        {"density": 0.5, "structure": "channel"},
        "harp resnet18",
    ),
    "radmm": (
        "radmm",
        lambda: vgg(nets.Zeros, True, nn.MaxPool2d(2)),
        prefixed("module.basic_model."),
        {},
        "radmm vgg16-bn-512",
    ),
    "pwoa": ("pwoa", nets.PwoaVgg, prefixed("module.model."), {}, "pwoa vgg16-bn-pwoa"),
    "twinrep": ("auto", lambda: resnet(nets.Twin), dict, {}, "twinrep resnet18"),
    "twinrep channels": ("auto", lambda: resnet(nets.TwinChannels), dict, {}, "twinrep resnet18"),
    "mad": (
        "auto",
        lambda: vgg(nets.Soft, False, nn.AvgPool2d(2), "feature", mad_scale()),
        under("net"),
        {},
        "mad vgg16-bn-mad",
    ),
    "li20": ("li20", nets.TicketVgg, dict, {}, "li20 vgg16-bn-li20"),
    "rst": (
        "auto",
        lambda: nn.Sequential(rst_scale(), resnet(nets.Scored, norm=nets.plain_norm, last="fc")),
        lambda state: under("state_dict")({f"module.{k[2:]}": v for k, v in state.items()}),
        {"density": 0.1},
        "rst resnet18",
    ),
    "flyingbird": (
        "auto",
        lambda: resnet(nets.Zeros, pre=True, scale=bird_scale()),
        under("state_dict"),
        {},
        "flyingbird preact-resnet18",
    ),
    "atmc": ("auto", nets.CaffeLeNet, dict, {"dataset": "mnist"}, "atmc lenet5-caffe"),
    "plain": (
        "auto",
        lambda: nets.small_cnn(nets.Zeros),
        prefixed("model."),
        {"normalise": "none"},
        "plain cnn-small",
    ),
}


@pytest.fixture
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(3)
        yield


def request_of(path: Path, *, dataset: str = "cifar10", **said: Any) -> Request:
    return Request(path, describe(dataset, None), **said)


@pytest.mark.parametrize("name", CASES)
def test_equal_logits(name: str, tmp_path: Path, seeded: None) -> None:
    format_name, make, nest, said, recognised = CASES[name]
    net, path = settled(make()), tmp_path / "checkpoint.pth.tar"
    torch.save(nest(net.state_dict()), path)
    found = convert(request_of(path, format=format_name, **said))
    assert f"{found.format} {found.model.architecture}" == recognised
    inputs = torch.rand(3, *found.model.shape)
    with torch.no_grad():
        expected, logits = net(inputs), found.model(inputs)
    assert float((logits - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    assert float(expected.std()) > 1e-3  # a constant would be equal too easily
    counted = found.sparsity["unstructured"]
    effective = [module.effective() for module in net.modules() if hasattr(module, "effective")]
    if effective:
        unique = {id(layer): layer for layer in effective}.values()
        assert counted.zeros == sum(int((weight == 0).sum()) for weight in unique)


def test_every_format_is_covered() -> None:
    # RobustBench's file is HYDRA's WRN-28-10, too large for a quick test; BAP's needs h5py.
    assert {row[4].split()[0] for row in CASES.values()} == FORMATS.keys() - {"robustbench", "bap"}


def saved(tmp_path: Path, state: Any) -> Path:
    path = tmp_path / "checkpoint.pt"
    torch.save(state, path)
    return path


def cnn_state() -> dict[str, torch.Tensor]:
    return dict(settled(nets.small_cnn(nets.Zeros)).state_dict())


def refused(request: Request, kind: type[Exception] = ManifestError) -> str:
    with pytest.raises(kind) as caught:
        convert(request)
    message = str(caught.value)
    assert message.isprintable() and message.startswith("expected ") and len(message) < 600
    return message


def test_missing_and_left_over_tensors_are_named(tmp_path: Path) -> None:
    state = cnn_state()
    del state["5.bias"]
    message = refused(request_of(saved(tmp_path, state), normalise="none"))
    assert "closest is cnn-small" in message and "'5.bias' of shape (100,) is missing" in message
    more = cnn_state() | {"9.weight": torch.zeros(3)}
    message = refused(request_of(saved(tmp_path, more), normalise="none"))
    assert "closest is cnn-small" in message and "'9.weight' is left over" in message
    other = cnn_state() | {"7.bias": torch.zeros(11)}
    message = refused(request_of(saved(tmp_path, other), normalise="none"))
    assert "'7.bias' of shape (10,) is of shape (11,)" in message


def test_scores_that_are_left_over_are_a_refusal(tmp_path: Path) -> None:
    state = settled(nets.small_cnn(nets.Popup)).state_dict()
    message = refused(request_of(saved(tmp_path, state), format="plain", normalise="none"))
    assert "'0.popup_scores' is left over" in message


def test_several_networks_that_fit_are_a_refusal(tmp_path: Path, seeded: None) -> None:
    net = settled(vgg(nets.Zeros, False, nn.AvgPool2d(2)))
    path = saved(tmp_path, net.state_dict())
    message = refused(request_of(path, normalise="none"))
    assert "vgg16-bn-twinrep and vgg16-bn-mad" in message and "--architecture" in message
    found = convert(request_of(path, normalise="none", architecture="vgg16-bn-mad"))
    assert found.model.architecture == "vgg16-bn-mad"


def test_a_claim_that_the_weights_do_not_keep(tmp_path: Path) -> None:
    path = saved(tmp_path, cnn_state())
    message = refused(request_of(path, normalise="none", sparsity=0.95))
    assert re.search(r"95 % of the units .* got [\d,]+ of 214,760, 9\d\.\d{3} %", message)
    message = refused(request_of(path, normalise="none", sparsity=0.5, structure="filter"))
    assert "(filter)" in message


def test_how_inputs_are_scaled_must_be_said(tmp_path: Path) -> None:
    path = saved(tmp_path, cnn_state())
    assert "--normalise" in refused(request_of(path))
    assert convert(request_of(path, normalise="dataset")).model.normalise.mean[0] > 0
    told = convert(request_of(path, normalise="0.5,0.5,0.5/0.25,0.25,0.25")).model.normalise
    assert told.mean.flatten().tolist() == [0.5] * 3 and told.std.flatten().tolist() == [0.25] * 3
    for text in ("half", "0.5/0.25", "0.5,0.5,0.5/0.2,0.2"):
        assert "3 means/3 stds" in refused(request_of(path, normalise=text), ContractError)
    assert "positive std" in refused(request_of(path, normalise="0,0,0/0,0,0"), ContractError)


def test_our_own_state_dict_comes_back(tmp_path: Path) -> None:
    model = convert(request_of(saved(tmp_path, cnn_state()), normalise="dataset")).model
    again = convert(request_of(saved(tmp_path, model.state_dict()), format="plain"))
    assert again.scaled == "the file"
    states = zip(model.state_dict().items(), again.model.state_dict().items(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in states)
    twice = request_of(tmp_path / "checkpoint.pt", format="plain", normalise="none")
    assert "leave --normalise out" in refused(twice)


def test_numpy_and_safetensors_come_the_same_way(tmp_path: Path) -> None:
    state = cnn_state()
    path = tmp_path / "weights.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    assert convert(request_of(path, normalise="none")).container == "NumPy archive"


def test_unknown_names_and_data_sets(tmp_path: Path) -> None:
    path = saved(tmp_path, cnn_state())
    with pytest.raises(UnknownName, match="hydra"):
        convert(request_of(path, format="hidra"))
    assert "for inputs of shape (1, 8, 8)" in refused(
        request_of(path, format="hydra", architecture="vgg16-bn", dataset="digits")
    )
    assert "found none" in refused(request_of(tmp_path / "none.pt"))


# --- Masks, number by number ----------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.1, 0.05, 0.01, 0.9])
def test_scores_remove_as_many_as_the_public_code(density: float) -> None:
    state = {"a.weight": torch.ones(7, 13), "a.scores": torch.randn(7, 13)}
    weight = from_scores(state, "scores", density)["a.weight"]
    assert int((weight == 0).sum()) == int((1 - density) * 91)
    kept = state["a.scores"].abs()[weight != 0].min()
    assert kept >= state["a.scores"].abs()[weight == 0].max()


def test_hydra_at_nine_tenths_removes_none_of_ten() -> None:
    # int((1 - 0.9) * 10) is 0 in floating point, and so it is in the public code.
    state = {"weight": torch.ones(10), "scores": torch.arange(10.0)}
    assert int((from_scores(state, "scores", 0.9)["weight"] == 0).sum()) == 0


def test_rates_follow_their_formula() -> None:
    rate = torch.logit(torch.tensor((0.3 - 0.01) / 0.99))
    state = {
        "a.weight": torch.ones(100, 10),
        "a.popup_scores": torch.randn(100, 10),
        "a.k_score": rate,
    }
    weight = from_learned_rates(state, 0.1)["a.weight"]
    assert abs(int((weight != 0).sum()) - 300) <= 1
    assert torch.equal(from_learned_rates(state, 1.0)["a.weight"], state["a.weight"])
    del state["a.popup_scores"]
    with pytest.raises(ManifestError, match="dense export"):
        from_learned_rates(state, 0.1)


def test_masks_are_binary_and_of_the_weights_shape() -> None:
    state = {"a.weight_orig": torch.ones(2, 2), "a.weight_mask": torch.eye(2)}
    assert torch.equal(from_masks(state)["a.weight"], torch.eye(2))
    with pytest.raises(ManifestError, match="0 and 1"):
        from_masks({"a.weight": torch.ones(2), "a.mask": torch.tensor([0.5, 1.0])})
    with pytest.raises(ManifestError, match="shape"):
        from_masks({"a.weight": torch.ones(2), "a.mask": torch.ones(3)})
    with pytest.raises(ManifestError, match="beside"):
        from_masks({"a.mask": torch.ones(3)})


@pytest.mark.parametrize(
    ("path", "density"),
    [
        ("runs/vgg_k_0.05/checkpoint/model_best.pth.tar", 0.05),
        ("k0.1/a.pt", 0.1),
        ("a/k=0.01.pt", 0.01),
        ("a/k_0.1/k_0.2/b.pt", None),
        ("resnet18/model_best_dense.pth.tar", None),
        ("network0.1.pt", None),
    ],
)
def test_densities_in_paths(path: str, density: float | None) -> None:
    assert density_in(Path(path)) == density


def test_documentation_lists_every_format() -> None:
    text = (ROOT / "docs" / "importing.md").read_text()
    rows = [
        f"| `{one.name}` | {one.title} | {one.layout.replace('|', '/')} | {one.inputs} |"
        for one in FORMATS.values()
    ]
    assert "\n".join(rows) in text, "write the table anew from FORMATS"


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 5), (5, 3), (4, 4)])
def test_factors_compose_around_the_identity_of_their_rank(outputs: int, inputs: int) -> None:
    rank = min(outputs, inputs)
    a, b, c = torch.randn(rank, inputs), torch.randn(outputs, rank), torch.randn(outputs, inputs)
    state = {"f.weightA": a, "f.weightB": b, "f.weightC": c, "f.eye_const": torch.eye(rank)}
    # Which factor the identity belongs to is decided by the inputs: it is B's only below them.
    expected = b @ a + (b if inputs == rank else a) + c
    found = from_composition(state)
    assert found.keys() == {"f.weight"} and torch.allclose(found["f.weight"], expected, atol=1e-5)
    del state["f.weightB"]
    with pytest.raises(ManifestError, match="weightA, weightB and weightC"):
        from_composition(state)

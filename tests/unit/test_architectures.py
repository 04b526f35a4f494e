"""Oracles: key names and counts of the papers' public codes, forward passes written out by hand."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.architectures import (
    ARCHITECTURES,
    Architecture,
    Classifier,
    Normalise,
    Shapes,
    build,
    dead_parameters,
    initialise,
)
from benchmark.architectures.base import assemble
from benchmark.architectures.lenet import lenet_radmm
from benchmark.errors import ContractError, UnknownName

DIGITS, MNIST, CIFAR, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)

# name, shape, classes -> weights, biases and batch-norm parameters. For the networks of the papers
# these are the published counts; for cnn-tiny 16*9 + 32*16*9 + 10*512 by hand.
COUNTS = [
    ("cnn-tiny", DIGITS, 10, (9_872, 58, 0)),
    ("cnn-small", MNIST, 10, (166_248, 158, 0)),
    ("cnn-small", CIFAR, 10, (214_760, 158, 0)),
    ("cnn-large", MNIST, 10, (1_973_536, 1_226, 0)),
    ("cnn-large", CIFAR, 10, (2_465_632, 1_226, 0)),
    ("lenet5-caffe", MNIST, 10, (430_500, 580, 0)),
    ("lenet5", MNIST, 10, (316_264, 190, 0)),
    ("lenet3", MNIST, 10, (3_273_504, 1_130, 0)),
    ("vgg16-bn", CIFAR, 10, (15_302_848, 522, 8_448)),
    ("resnet18", CIFAR, 10, (11_164_352, 10, 9_600)),
    # The convolutions of vgg16-bn have 14_710_464 weights and 4_224 outputs.
    ("vgg16-bn-512", CIFAR, 10, (14_710_464 + 5_120, 4_224 + 10, 8_448)),
    ("vgg16-bn-twinrep", CIFAR, 10, (14_710_464 + 5_120, 10, 8_448)),
    ("vgg16-bn-mad", CIFAR, 10, (14_710_464 + 5_120, 10, 8_448)),
    ("vgg16-bn-li20", CIFAR, 10, (14_710_464 + 512 * 512 + 5_120, 522, 8_448 + 1_024)),
    ("vgg16-bn-pwoa", CIFAR, 10, (15_302_848, 4_224 + 522, 8_448)),
    (
        "vgg16-bn-4096",
        CIFAR,
        10,
        (14_710_464 + 4_096 * (512 + 4_096 + 10), 4_224 + 8_192 + 10, 8_448 + 16_384),
    ),
    ("preact-resnet18", CIFAR, 10, (11_164_352, 10, 7_808)),
    ("wrn-34-10", CIFAR, 10, (48_237_232, 10, 25_344)),
    ("wrn-28-4", CIFAR, 10, (6_110_128, 10, 8_128)),
    ("wrn-28-10", CIFAR, 10, (38_099_632, 10, 20_224)),
    ("resnet50", IMAGENET, 1000, (25_502_912, 1_000, 53_120)),
]

# Sums of weights and biases as the papers' code reports them.
TOTALS = {
    ("cnn-small", MNIST): 166_406,
    ("cnn-small", CIFAR): 214_918,
    ("cnn-large", MNIST): 1_974_762,
    ("cnn-large", CIFAR): 2_466_858,
    ("lenet5-caffe", MNIST): 431_080,
    ("lenet5", MNIST): 316_454,
    ("lenet3", MNIST): 3_274_634,
    ("wrn-28-10", CIFAR): 38_099_642,
}

# Small enough to run on a processor; the shapes keep even the residual networks quick.
RUNNABLE = [
    ("cnn-tiny", DIGITS),
    ("cnn-small", MNIST),
    ("cnn-large", MNIST),
    ("lenet5-caffe", MNIST),
    ("lenet5", (2, 12, 8)),
    ("lenet3", DIGITS),
    ("lenet-radmm", DIGITS),
    ("vgg16-bn", CIFAR),
    ("resnet18", (3, 8, 8)),
    ("wrn-28-4", (3, 8, 8)),
]


def make(name, shape, classes=10):
    """A network whose weights, biases and statistics are all random, in eval mode."""
    mean = [0.1 * (index + 1) for index in range(shape[0])]
    model = build(name, shape=shape, classes=classes, mean=mean, std=[0.5] * shape[0])
    generator = torch.Generator().manual_seed(7)
    initialise(model, generator)
    for key, tensor in model.body.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif key.endswith("running_var") or ("weight" in key and tensor.dim() == 1):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model.eval()


def on_meta(name, shape, classes=10):
    with torch.device("meta"):
        return build(name, shape=shape, classes=classes, mean=[0.5] * shape[0], std=[1] * shape[0])


def pixels(count, shape):
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(count))


# ---- parameters of the public checkpoints, written down without looking at our modules


def layer(name, *weight, bias=True):
    return {f"{name}.weight": weight} | ({f"{name}.bias": weight[:1]} if bias else {})


def norm(name, channels):
    fields = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{field}": (channels,) for field in fields} | {
        f"{name}.num_batches_tracked": ()
    }


def public_vgg16_bn():
    shapes, channels = {}, 3
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    for index, width in zip((0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40), widths, strict=True):
        shapes |= layer(f"features.{index}", width, channels, 3, 3, bias=False)
        shapes |= norm(f"features.{index + 1}", width)
        channels = width
    shapes |= layer("classifier.0", 256, 2048) | layer("classifier.2", 256, 256)
    return shapes | layer("classifier.4", 10, 256)


def public_resnet18():
    shapes = layer("conv1", 64, 3, 3, 3, bias=False) | norm("bn1", 64)
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            before = width // 2 if stage > 1 and block == 0 else width
            shapes |= layer(f"{name}.conv1", width, before, 3, 3, bias=False)
            shapes |= norm(f"{name}.bn1", width)
            shapes |= layer(f"{name}.conv2", width, width, 3, 3, bias=False)
            shapes |= norm(f"{name}.bn2", width)
            if before != width:
                shapes |= layer(f"{name}.shortcut.0", width, before, 1, 1, bias=False)
                shapes |= norm(f"{name}.shortcut.1", width)
    return shapes | layer("linear", 10, 512)


def public_wrn(widen):
    shapes = layer("conv1", 16, 3, 3, 3, bias=False)
    stages = (("block1", 1, 1), ("sub_block1", 1, 1), ("block2", 2, 1), ("block3", 4, 2))
    for stage, factor, previous in stages:
        width = 16 * widen * factor
        for block in range(4):
            name = f"{stage}.layer.{block}"
            first = 16 if factor == 1 else 16 * widen * previous
            before = first if block == 0 else width
            shapes |= norm(f"{name}.bn1", before) | norm(f"{name}.bn2", width)
            shapes |= layer(f"{name}.conv1", width, before, 3, 3, bias=False)
            shapes |= layer(f"{name}.conv2", width, width, 3, 3, bias=False)
            if block == 0:
                shapes |= layer(f"{name}.convShortcut", width, before, 1, 1, bias=False)
    return shapes | norm("bn1", 64 * widen) | layer("fc", 10, 64 * widen)


PUBLIC = [
    (
        "cnn-small",
        MNIST,
        layer("0", 16, 1, 4, 4)
        | layer("2", 32, 16, 4, 4)
        | layer("5", 100, 1568)
        | layer("7", 10, 100),
    ),
    (
        "cnn-small",
        CIFAR,
        layer("0", 16, 3, 4, 4)
        | layer("2", 32, 16, 4, 4)
        | layer("5", 100, 2048)
        | layer("7", 10, 100),
    ),
    (
        "cnn-large",
        CIFAR,
        layer("0", 32, 3, 3, 3)
        | layer("2", 32, 32, 4, 4)
        | layer("4", 64, 32, 3, 3)
        | layer("6", 64, 64, 4, 4)
        | layer("9", 512, 4096)
        | layer("11", 512, 512)
        | layer("13", 10, 512),
    ),
    (
        "lenet5-caffe",
        MNIST,
        layer("features.0", 20, 1, 5, 5)
        | layer("features.2", 50, 20, 5, 5)
        | layer("classifier.0", 500, 800)
        | layer("classifier.2", 10, 500),
    ),
    (
        "lenet3",
        MNIST,
        layer("conv1", 32, 1, 5, 5)
        | layer("conv2", 64, 32, 5, 5)
        | layer("fc1", 1024, 3136)
        | layer("fc2", 10, 1024),
    ),
    (
        "lenet-radmm",
        MNIST,
        layer("conv1", 8, 1, 5, 5)
        | layer("conv2", 16, 8, 5, 5)
        | layer("fc1", 256, 784)
        | layer("fc2", 10, 256),
    ),
    ("vgg16-bn", CIFAR, public_vgg16_bn()),
    ("resnet18", CIFAR, public_resnet18()),
    ("wrn-28-4", CIFAR, public_wrn(4)),
]


@pytest.mark.parametrize(("name", "shape", "expected"), PUBLIC)
def test_public_state_dict_loads_strictly(name, shape, expected):
    model = build(name, shape=shape, classes=10, mean=[0] * shape[0], std=[1] * shape[0])
    public = {
        key: torch.tensor(3) if key.endswith("tracked") else torch.full(size, float(index))
        for index, (key, size) in enumerate(expected.items())
    }
    model.body.load_state_dict(public, strict=True)
    loaded = model.body.state_dict()
    assert loaded.keys() == public.keys()
    assert all(torch.equal(loaded[key], public[key]) for key in public)


def test_wrn_28_10_has_the_public_keys_and_sizes():
    found = {
        key: tuple(value.shape)
        for key, value in on_meta("wrn-28-10", CIFAR).body.state_dict().items()
    }
    assert found == public_wrn(10)


def test_resnet50_has_the_torchvision_layout():
    found = on_meta("resnet50", IMAGENET, 1000).body.state_dict()
    assert tuple(found["conv1.weight"].shape) == (64, 3, 7, 7)
    assert tuple(found["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(found["layer4.2.conv3.weight"].shape) == (2048, 512, 1, 1)
    assert tuple(found["fc.weight"].shape) == (1000, 2048)


def count(model):
    weights = biases = norms = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights += module.weight.numel()
            biases += 0 if module.bias is None else module.bias.numel()
        elif isinstance(module, nn.BatchNorm2d):
            norms += sum(parameter.numel() for parameter in module.parameters())
    return weights, biases, norms


@pytest.mark.parametrize(("name", "shape", "classes", "expected"), COUNTS)
def test_counts_are_those_of_the_papers(name, shape, classes, expected):
    model = on_meta(name, shape, classes)
    assert count(model) == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(expected)
    assert TOTALS.get((name, shape), sum(expected[:2])) == sum(expected[:2])


@pytest.mark.parametrize("width", [1, 2, 8])
def test_lenet_of_radmm_has_the_width_asked_for(width):
    assert count(lenet_radmm(MNIST, 10, width=width))[0] == (
        2 * width * 25 + 8 * width**2 * 25 + 196 * width * 64 * width + 640 * width
    )


@pytest.mark.parametrize(
    ("name", "weights"), [("wrn-28-4", 268_288), ("wrn-28-10", 1_638_400), ("resnet18", 0)]
)
def test_dead_weights_of_the_papers_checkpoints(name, weights):
    model = on_meta(name, CIFAR)
    dead = dead_parameters(model)
    parameters = dict(model.named_parameters())
    assert sum(parameters[key].numel() for key in dead if parameters[key].dim() > 1) == weights
    assert all(key.startswith("body.sub_block1.") for key in dead)
    assert {key.removeprefix("body.") for key in dead} == dead_parameters(model.body)


@pytest.mark.parametrize(("name", "shape", "classes", "expected"), COUNTS)
def test_exactly_the_dead_parameters_get_no_gradient(name, shape, classes, expected):
    del expected
    model = on_meta(name, shape, classes)
    model(torch.empty(2, *shape, device="meta")).sum().backward()
    unused = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == dead_parameters(model)


def test_dead_stage_sees_no_batch():
    model = make("wrn-28-4", (3, 8, 8)).train()
    model(pixels(2, (3, 8, 8)))
    counters = {
        key: int(value) for key, value in model.body.named_buffers() if key.endswith("_tracked")
    }
    assert {value for key, value in counters.items() if key.startswith("sub_block1")} == {0}
    assert {value for key, value in counters.items() if not key.startswith("sub_block1")} == {1}


# ---- forward passes written out by hand


def conv(state, name, inputs, stride=1, padding=1):
    return F.conv2d(
        inputs, state[f"{name}.weight"], state.get(f"{name}.bias"), stride=stride, padding=padding
    )


def batch_norm(state, name, inputs):
    def field(key):
        return state[f"{name}.{key}"].view(-1, 1, 1)

    scaled = (inputs - field("running_mean")) / torch.sqrt(field("running_var") + 1e-5)
    return scaled * field("weight") + field("bias")


def linear(state, name, inputs):
    return inputs @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def forward_cnn_tiny(state, x):
    x = conv(state, "0", x).clamp_min(0)
    x = conv(state, "2", x, stride=2).clamp_min(0)
    return linear(state, "5", x.reshape(len(x), -1))


def forward_cnn_small(state, x):
    x = conv(state, "0", x, stride=2).clamp_min(0)
    x = conv(state, "2", x, stride=2).clamp_min(0)
    x = linear(state, "5", x.reshape(len(x), -1)).clamp_min(0)
    return linear(state, "7", x)


def forward_cnn_large(state, x):
    for name, stride in (("0", 1), ("2", 2), ("4", 1), ("6", 2)):
        x = conv(state, name, x, stride=stride).clamp_min(0)
    x = x.reshape(len(x), -1)
    for name in ("9", "11"):
        x = linear(state, name, x).clamp_min(0)
    return linear(state, "13", x)


def forward_caffe(state, x):
    # No ReLU behind the convolutions.
    x = F.max_pool2d(conv(state, "features.0", x, padding=0), 2)
    x = F.max_pool2d(conv(state, "features.2", x, padding=0), 2)
    x = linear(state, "classifier.0", x.reshape(len(x), -1)).clamp_min(0)
    return linear(state, "classifier.2", x)


def forward_lenet(state, x, convs, lines):
    for name in convs:
        x = F.max_pool2d(conv(state, name, x, padding=2).clamp_min(0), 2)
    x = linear(state, lines[0], x.reshape(len(x), -1)).clamp_min(0)
    return linear(state, lines[1], x)


def forward_lenet5(state, x):
    return forward_lenet(state, x, ("features.0", "features.3"), ("classifier.0", "classifier.2"))


def forward_lenet3(state, x):
    return forward_lenet(state, x, ("conv1", "conv2"), ("fc1", "fc2"))


def forward_vgg(state, x):
    for index in (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40):
        if index in (7, 14, 24, 34):
            x = F.max_pool2d(x, 2)
        x = conv(state, f"features.{index}", x)
        x = batch_norm(state, f"features.{index + 1}", x).clamp_min(0)
    x = F.adaptive_avg_pool2d(x, (2, 2)).reshape(len(x), -1)
    for name in ("classifier.0", "classifier.2"):
        x = linear(state, name, x).clamp_min(0)
    return linear(state, "classifier.4", x)


def forward_resnet18(state, x):
    x = batch_norm(state, "bn1", conv(state, "conv1", x)).clamp_min(0)
    for name in [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]:
        resized = f"{name}.shortcut.0.weight" in state
        stride = 2 if resized else 1
        out = conv(state, f"{name}.conv1", x, stride=stride)
        out = batch_norm(state, f"{name}.bn1", out).clamp_min(0)
        out = batch_norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", out))
        if resized:
            x = conv(state, f"{name}.shortcut.0", x, stride=stride, padding=0)
            x = batch_norm(state, f"{name}.shortcut.1", x)
        x = (x + out).clamp_min(0)
    return linear(state, "linear", x.mean(dim=(2, 3)))


def forward_wrn(state, x):
    x = conv(state, "conv1", x)
    for stage, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        for block in range(4):
            name, step = f"{stage}.layer.{block}", stride if block == 0 else 1
            active = batch_norm(state, f"{name}.bn1", x).clamp_min(0)
            out = conv(state, f"{name}.conv1", active, stride=step)
            out = conv(state, f"{name}.conv2", batch_norm(state, f"{name}.bn2", out).clamp_min(0))
            if block == 0:
                x = conv(state, f"{name}.convShortcut", active, stride=step, padding=0)
            x = x + out
    return linear(state, "fc", batch_norm(state, "bn1", x).clamp_min(0).mean(dim=(2, 3)))


FORWARDS = [
    ("cnn-tiny", DIGITS, forward_cnn_tiny),
    ("cnn-small", MNIST, forward_cnn_small),
    ("cnn-small", CIFAR, forward_cnn_small),
    ("cnn-large", CIFAR, forward_cnn_large),
    ("lenet5-caffe", MNIST, forward_caffe),
    ("lenet5", (2, 12, 8), forward_lenet5),
    ("lenet3", (3, 8, 12), forward_lenet3),
    ("lenet-radmm", MNIST, forward_lenet3),
    ("vgg16-bn", CIFAR, forward_vgg),
    ("resnet18", (3, 8, 16), forward_resnet18),
    ("wrn-28-4", (3, 8, 12), forward_wrn),
]


@pytest.mark.parametrize(("name", "shape", "forward"), FORWARDS)
def test_logits_equal_the_forward_pass_by_hand(name, shape, forward):
    # In float64 orders of summation differ far below 1e-9, and a wrong order of layers far above.
    model = make(name, shape).double()
    inputs = pixels(2, shape).double()
    with torch.no_grad():
        expected = forward(model.body.state_dict(), model.normalise(inputs))
        logits = model(inputs)
    assert logits.shape == (2, 10)
    assert expected.std() > 0
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "shape"), RUNNABLE)
def test_normalisation_comes_first_and_inputs_stay_as_they_were(name, shape):
    model, inputs = make(name, shape), pixels(2, shape)
    before = inputs.clone()
    mean = torch.tensor([0.1 * (index + 1) for index in range(shape[0])]).view(-1, 1, 1)
    with torch.no_grad():
        assert torch.equal(model(inputs), model.body((inputs - mean) / 0.5))
    assert torch.equal(inputs, before)


@pytest.mark.parametrize(("name", "shape"), RUNNABLE)
def test_answers_in_eval_mode_do_not_depend_on_the_batch(name, shape):
    model, inputs = make(name, shape), pixels(3, shape)
    with torch.no_grad():
        together, alone = model(inputs), model(inputs[1:2])
    # Kernels may sum in another order for another batch size; batch statistics would change more.
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [entry for entry in ARCHITECTURES])
def test_nothing_happens_in_place(name):
    shape = {"cnn-tiny": DIGITS, "resnet50": IMAGENET}.get(name, MNIST)
    model = on_meta(name, CIFAR if name.startswith("vgg16-bn") else shape)
    assert not [key for key, module in model.named_modules() if getattr(module, "inplace", False)]


@pytest.mark.parametrize(("name", "shape"), RUNNABLE)
def test_tracing_finds_no_branch_on_the_input(name, shape):
    model, inputs = make(name, shape), pixels(3, shape)
    with warnings.catch_warnings():
        # Some versions call tracing deprecated; the bound engine needs it all the same.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, pixels(1, shape), check_trace=False)
    with torch.no_grad():
        torch.testing.assert_close(traced(inputs), model(inputs), rtol=1e-4, atol=1e-4)


# ---- building and filling


@pytest.mark.parametrize(("name", "shape"), RUNNABLE)
def test_building_and_filling_leave_the_global_generator_alone(name, shape):
    before = torch.get_rng_state()
    model = build(name, shape=shape, classes=4, mean=[0.5] * shape[0], std=[0.5] * shape[0])
    initialise(model, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_building_from_torchvision_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    on_meta("resnet50", IMAGENET, 1000)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "shape"), RUNNABLE)
def test_a_built_network_is_fully_set(name, shape):
    model = build(name, shape=shape, classes=4, mean=[0.25] * shape[0], std=[0.5] * shape[0])
    for key, tensor in model.state_dict().items():
        assert tensor.device.type == "cpu"
        is_norm = isinstance(model.get_submodule(key.rpartition(".")[0]), nn.BatchNorm2d)
        value = {"normalise.mean": 0.25, "normalise.std": 0.5}.get(key, 0)
        if key.endswith("running_var") or (is_norm and key.endswith("weight")):
            value = 1
        assert torch.equal(tensor, torch.full_like(tensor, value)), key
    assert model.state_dict()["normalise.mean"].shape == (shape[0], 1, 1)
    assert (model.architecture, model.shape, model.classes) == (name, shape, 4)


@pytest.mark.parametrize(("name", "shape"), RUNNABLE)
def test_one_seed_gives_one_network(name, shape):
    def filled(seed):
        model = build(name, shape=shape, classes=10, mean=[0] * shape[0], std=[1] * shape[0])
        for tensor in model.body.state_dict().values():
            tensor.fill_(9)  # What was there before must not shine through.
        initialise(model, torch.Generator().manual_seed(seed))
        return model.state_dict()

    first, again, other = filled(3), filled(3), filled(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    weights = [key for key in first if key.endswith("weight") and first[key].dim() > 1]
    assert not any(torch.equal(first[key], other[key]) for key in weights)
    assert not any((first[key] == 9).any() for key in first)


def test_filled_weights_have_the_variance_of_the_paper_and_norms_are_identities():
    model = build("wrn-28-4", shape=CIFAR, classes=10, mean=[0] * 3, std=[1] * 3)
    initialise(model, torch.Generator().manual_seed(0))
    state = model.body.state_dict()
    # 9 * 128 inputs a unit, 147,456 draws: the estimate of the deviation scatters by 0.2 %.
    assert state["block2.layer.1.conv1.weight"].std().item() == pytest.approx(
        (2 / (9 * 128)) ** 0.5, rel=0.01
    )
    assert state["sub_block1.layer.1.conv1.weight"].std().item() == pytest.approx(
        (2 / (9 * 64)) ** 0.5, rel=0.02
    )
    assert not state["fc.bias"].any()
    assert (state["block1.layer.0.bn1.weight"] == 1).all()
    assert (state["block1.layer.0.bn1.running_var"] == 1).all()


def test_initialise_refuses_layers_it_does_not_know_and_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ContractError, match="got them in PReLU"):
        initialise(model, torch.Generator())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_meta_device_around_build_gives_a_network_without_storage():
    assert {tensor.device.type for tensor in on_meta("wrn-28-4", CIFAR).state_dict().values()} == {
        "meta"
    }


# ---- refusals


def test_unknown_name_gets_a_near_match():
    with pytest.raises(UnknownName, match="did you mean .*resnet18"):
        build("resnet-18", shape=CIFAR, classes=10, mean=[0] * 3, std=[1] * 3)


@pytest.mark.parametrize("name", ["cnn-small", "cnn-large"])
def test_networks_of_two_shapes_name_both(name):
    with pytest.raises(
        ContractError, match=r"\(1, 28, 28\) or \(3, 32, 32\) for .*, got \(1, 8, 8\)"
    ):
        build(name, shape=DIGITS, classes=10, mean=[0], std=[1])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("cnn-tiny", (1, 7, 8)),
        ("lenet5", (1, 30, 28)),
        ("lenet5-caffe", CIFAR),
        ("lenet3", (1, 28, 0)),
        ("vgg16-bn", MNIST),
        ("resnet50", (1, 224, 224)),
    ],
)
def test_shapes_that_a_network_is_not_defined_for(name, shape):
    with pytest.raises(ContractError, match="expected inputs of shape .*; choose another"):
        build(name, shape=shape, classes=10, mean=[0] * shape[0], std=[1] * shape[0])


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_too_few_classes(classes):
    with pytest.raises(ContractError, match=f"at least 2 classes for cnn-tiny, got {classes}"):
        build("cnn-tiny", shape=DIGITS, classes=classes, mean=[0], std=[1])


@pytest.mark.parametrize(
    ("mean", "std"), [([0], [1]), ([0] * 3, [1]), ([0] * 3, [1, 0, 1]), ([0] * 3, [1, 1, -1])]
)
def test_normalisation_that_does_not_fit(mean, std):
    with pytest.raises(ContractError, match="expected (a|one) mean"):
        build("resnet18", shape=CIFAR, classes=10, mean=mean, std=std)


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 3, 8, 8), (1, 8, 8), (2, 64)])
def test_inputs_of_another_shape(shape):
    model = make("cnn-tiny", DIGITS)
    with pytest.raises(ContractError, match=r"inputs of shape \(N, 1, 8, 8\) for cnn-tiny, got"):
        model(torch.zeros(shape))


def test_logits_of_another_width():
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
    model = Classifier(
        Normalise([0.5], [0.5]), body, architecture="other", shape=DIGITS, classes=10
    )
    with pytest.raises(ContractError, match=r"logits of shape \(N, 10\) for other, got \(2, 9\)"):
        model(torch.zeros(2, 1, 8, 8))


def test_a_third_party_network_is_assembled_like_ours():
    entry = Architecture(
        "mine",
        "Mine",
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes)),
        Shapes(channels=1),
        "nowhere",
    )
    model = assemble(entry, shape=(1, 2, 3), classes=2, mean=[0], std=[1])
    assert model(torch.ones(4, 1, 2, 3)).tolist() == [[0, 0]] * 4


def test_table_is_keyed_by_name_and_says_where_each_network_comes_from():
    assert set(ARCHITECTURES) == {
        "cnn-tiny",
        "cnn-small",
        "cnn-large",
        "lenet5-caffe",
        "lenet5",
        "lenet3",
        "lenet-radmm",
        "vgg16-bn",
        "vgg16-bn-512",
        "vgg16-bn-4096",
        "vgg16-bn-li20",
        "vgg16-bn-mad",
        "vgg16-bn-pwoa",
        "vgg16-bn-twinrep",
        "resnet18",
        "resnet34",
        "preact-resnet18",
        "wrn-16-8",
        "wrn-34-10",
        "wrn-28-4",
        "wrn-28-10",
        "resnet50",
    }
    for name, entry in ARCHITECTURES.items():
        assert entry.name == name
        assert entry.title and entry.source and str(entry.shapes)

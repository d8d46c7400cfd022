"""Weights as other trainers save them: under prefixes, in wrappings, beside other networks."""

import re

import pytest
import safetensors.torch
import torch
from package_models import package_model

from biggan import state_dicts
from biggan.biggan import Discriminator, DiscriminatorSpec, Generator, GeneratorSpec
from biggan.weights import load_generator
from experiment_utils.errors import SnapshotError

SPEC = GeneratorSpec(widths=(8, 8, 4), num_classes=3, dim_z=6, shared_dim=4, attention=(8,))


def make_generator(seed):
    torch.manual_seed(seed)
    return Generator(SPEC).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator():
    return make_generator(0)


@pytest.fixture(scope="module")
def other():
    """The same network, of another time in training."""
    return make_generator(1)


@pytest.fixture(scope="module")
def discriminator():
    return Discriminator(DiscriminatorSpec((8, 8), 16, 3)).state_dict()


def prefixed(prefix, module_or_state):
    state = module_or_state if isinstance(module_or_state, dict) else module_or_state.state_dict()
    return {prefix + name: tensor for name, tensor in state.items()}


def images(G):
    z, y = torch.randn(3, 6, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 2, 1])
    return G(z, y)


def assert_loads(tmp_path, content, generator, remark=None):
    path = str(tmp_path / "x.pth")
    torch.save(content, path)
    G = load_generator(path)
    assert torch.equal(images(G), images(generator))
    assert G.remarks == ([] if remark is None else [f"{path}: {remark}"])


def refusal(tmp_path, content):
    path = str(tmp_path / "x.pth")
    torch.save(content, path)
    with pytest.raises(SnapshotError) as error:
        load_generator(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    return str(error.value)[len(path) + 2 :]


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "G.", "netG."]
PREFIXES += ["generator.", "model.generator.", "_fsdp_wrapped_module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(tmp_path, generator, prefix):
    assert_loads(tmp_path, prefixed(prefix, generator), generator)
    path = str(tmp_path / "x.safetensors")
    safetensors.torch.save_file(prefixed(prefix, generator), path)
    assert torch.equal(images(load_generator(path)), images(generator))


@pytest.mark.parametrize("prefix", ["", "module.", "generator.", "_orig_mod.", "generator.generator."])
def test_prefixes_of_biggan_deep(tmp_path, prefix):
    """Its own names begin with "generator." already."""
    model = package_model({"z_dim": 4, "channel_width": 4, "num_classes": 5}).requires_grad_(False)
    path = str(tmp_path / "x.pth")
    torch.save(prefixed(prefix, model.state_dict()), path)
    z, y = torch.randn(2, 4), torch.tensor([1, 3])
    expected = model(z, torch.nn.functional.one_hot(y, 5).float(), 1.0)
    torch.testing.assert_close(load_generator(path)(z, y), expected, rtol=1e-4, atol=1e-4)


def test_what_pytorch_itself_puts_before_the_names(tmp_path, generator):
    """Names that PyTorch makes, not this test."""
    module = make_generator(0)
    wrapped = {
        "_orig_mod.": getattr(torch, "compile", lambda module: prefixed("_orig_mod.", module))(module),
        "module.": torch.optim.swa_utils.AveragedModel(module),
    }
    for start, each in wrapped.items():
        state = each if isinstance(each, dict) else each.state_dict()
        assert f"{start}linear.weight" in state
        assert_loads(tmp_path, state, generator)
        assert_loads(tmp_path, prefixed("G.", state), generator)


def test_blocks_that_were_compiled_one_by_one(tmp_path, generator):
    state = {re.sub(r"^(blocks\.\d+)\.", r"\1._orig_mod.", name): t for name, t in generator.state_dict().items()}
    assert any("_orig_mod" in name for name in state)
    assert_loads(tmp_path, state, generator)


@pytest.mark.parametrize(
    "key",
    "state_dict model g_ema G_ema generator_ema params_ema ema netG_state_dict generator params G netG weights".split(),
)
def test_wrappings(tmp_path, generator, key):
    assert_loads(tmp_path, {key: generator.state_dict(), "epoch": 3, "args": {"lr": 1e-4}}, generator)
    assert_loads(tmp_path, {key: prefixed("module.", generator)}, generator)
    assert_loads(tmp_path, {"state": {key: prefixed("G.", generator)}}, generator)


@pytest.mark.parametrize(
    ("plain", "averaged"),
    [
        ("g", "g_ema"),
        ("G", "G_ema"),
        ("generator", "generator_ema"),
        ("params", "params_ema"),
        ("netG_state_dict", "ema"),
        ("state_dict", "model_ema"),
        ("generator", "g_running"),
        ("model", "swa_model"),
        ("G", "EMA"),
        ("G", "Gs"),
    ],
)
def test_averaged_weights_come_first(tmp_path, generator, other, discriminator, plain, averaged):
    content = {plain: other.state_dict(), averaged: generator.state_dict(), "D": discriminator}
    assert_loads(tmp_path, content, generator, f"the generator is {averaged} (beside it: {plain}, D)")
    content = dict(reversed(list(content.items())))
    assert_loads(tmp_path, content, generator, f"the generator is {averaged} (beside it: D, {plain})")


def test_averaged_weights_in_one_dictionary(tmp_path, generator, other):
    flat = {**prefixed("online_model.", other), **prefixed("ema_model.", generator), "initted": torch.tensor(True)}
    remark = "the generator is ema_model (beside it: online_model, initted)"
    assert_loads(tmp_path, flat, generator, remark)
    average = torch.optim.swa_utils.AveragedModel(make_generator(0)).state_dict()
    flat = {**prefixed("average.", average), **prefixed("now.", other)}
    assert_loads(tmp_path, flat, generator, "the generator is average.module (beside it: now)")


def test_averages_as_libraries_write_them(tmp_path, generator, other):
    """Their own layouts: ema-pytorch, Lightning's EMAWeightAveraging, AveragedModel around other wrappers."""
    flat = {**prefixed("online_model.", other), **prefixed("ema_model.", generator)}
    content = {"model": other.state_dict(), "ema": flat}
    remark = "the generator is ema.ema_model (beside it: model, ema.online_model)"
    assert_loads(tmp_path, content, generator, remark)
    content = {"state_dict": prefixed("G.", generator), "current_model_state": prefixed("G.", other)}
    assert_loads(tmp_path, content, generator, "the generator is state_dict.G (beside it: current_model_state)")
    both = torch.nn.ModuleDict({"G": make_generator(0), "D": torch.nn.Linear(1, 1)})
    content = {"now": prefixed("G.", other), "second": torch.optim.swa_utils.AveragedModel(both).state_dict()}
    remark = "the generator is second.module.G (beside it: now, second.module.D)"
    assert_loads(tmp_path, content, generator, remark)
    parallel = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(make_generator(0)))
    content = {"now": other.state_dict(), "second": parallel.state_dict()}
    assert_loads(tmp_path, content, generator, "the generator is second.module.module (beside it: now)")
    assert_loads(
        tmp_path,
        {"G": other.state_dict(), "generatorEMA": generator.state_dict()},
        generator,
        "the generator is generatorEMA (beside it: G)",
    )


@pytest.mark.parametrize("key", ["optim", "optimizer_state", "adam"])
def test_moments_of_an_optimiser_are_no_average(tmp_path, generator, other, key):
    """Shaped and named as the weights are."""
    content = {"G": generator.state_dict(), key: {"exp_avg": other.state_dict(), "exp_avg_sq": other.state_dict()}}
    assert_loads(tmp_path, content, generator, f"the generator is G (beside it: {key})")


@pytest.mark.parametrize("key", ["long_running_job", "G_shadow", "gs1", "scheme", "remains"])
def test_words_that_only_look_like_an_average(tmp_path, generator, other, key):
    message = refusal(tmp_path, {"G": generator.state_dict(), key: other.state_dict()})
    assert message.startswith(f"holds several generators (G, {key})")


def test_an_average_without_names_is_mentioned(tmp_path, generator, other):
    content = {"model": generator.state_dict(), "ema": {"decay": 0.9, "shadow_params": list(other.parameters())}}
    assert_loads(tmp_path, content, generator, "the generator is model (beside it: ema)")


def test_the_same_weights_under_two_names(tmp_path, generator):
    content = {"G": generator.state_dict(), "generator": make_generator(0).state_dict()}
    assert_loads(tmp_path, content, generator, "the generator is G (beside it: generator)")


def test_an_average_of_the_parameters_alone_is_named(tmp_path, generator, other):
    content = {"G": other.state_dict(), "G_ema": {n: p.detach() for n, p in generator.named_parameters()}}
    assert refusal(tmp_path, content) == (
        "the generator is G_ema (beside it: G): looks like a biggan generator of 16 px, but has no tensor linear.u0"
    )


def test_a_lightning_checkpoint(tmp_path, generator, discriminator):
    content = {
        "state_dict": {**prefixed("generator.", generator), **prefixed("discriminator.", discriminator)},
        "optimizer_states": [torch.optim.Adam(make_generator(0).parameters()).state_dict()],
        "epoch": 7,
        "pytorch-lightning_version": "2.5",
    }
    remark = "the generator is state_dict.generator (beside it: state_dict.discriminator)"
    assert_loads(tmp_path, content, generator, remark)


def test_several_generators_are_listed(tmp_path, generator, other, discriminator):
    message = refusal(tmp_path, {"G_AB": generator.state_dict(), "G_BA": other.state_dict(), "D": discriminator})
    assert message.startswith("holds several generators (G_AB, G_BA); save the state_dict() of one")
    flat = {**prefixed("AB.", generator), **prefixed("BA.", other)}
    assert "several generators (AB, BA)" in refusal(tmp_path, flat)


def test_a_file_without_a_generator_lists_what_is_there(tmp_path, discriminator):
    content = {
        "D": discriminator,
        "encoder": {"conv.weight": torch.zeros(2, 3)},
        "optim": torch.optim.Adam(make_generator(0).parameters()).state_dict(),
        "iteration": 100,
    }
    assert refusal(tmp_path, content) == (
        "not the weights of a generator; it looks like a checkpoint of several things (D, a BigGAN discriminator; "
        "encoder, another network, whose first tensor is conv.weight [2, 3]; optim, an optimiser's state)"
    )
    flat = {**prefixed("module.", discriminator)}
    assert "it looks like a BigGAN discriminator" in refusal(tmp_path, flat)
    flat = {"encoder.weight": torch.zeros(2), "decoder.weight": torch.zeros(3)}
    assert "another network, of the parts encoder, decoder, whose first" in refusal(tmp_path, flat)


def test_a_part_that_does_not_fit_is_named_by_its_own_names(tmp_path, generator):
    state = prefixed("G.", generator)
    del state["G.linear.u0"]
    assert refusal(tmp_path, {"state_dict": state}).endswith("but has no tensor linear.u0")


def test_dictionaries_that_hold_themselves():
    content = {"weight": torch.zeros(2)}
    content["again"] = content
    assert "a checkpoint of several things" in state_dicts.looks_like(content)
    with pytest.raises(SnapshotError, match=r"^x: not the weights of a generator"):
        state_dicts.find_weights(content, "x")

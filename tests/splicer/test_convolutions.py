import subprocess
import sys

import pytest
import torch
from torch import nn

from mxsplicer.splicer.convolutions import Convolution3x3, GroupedConvolution, fold_batch_norm
from mxsplicer.splicer.encoders import ENCODERS, ResNet, make_encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_with_folded_batch_norm_computes_the_same_and_the_original_is_unchanged(name):
    torch.manual_seed(0)
    encoder = make_encoder(name, 3, 32, width=8)
    x = torch.randn(64, 3, 32, 32)
    encoder(3 * x + 1)  # so that the statistics of batch norm are not the initial ones
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.eval()

    short = fold_batch_norm(encoder)

    with torch.no_grad():
        torch.testing.assert_close(short(x), encoder(x), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(short(x), short(x), rtol=0, atol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in short.modules())
    assert before.keys() == encoder.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_the_matrix_for_maps_of_2_x_2_is_the_convolution():
    torch.manual_seed(0)
    stages = ResNet(4, 64, width=4).stages
    convolution = stages[-1].body[0]
    assert isinstance(convolution, Convolution3x3)
    x = torch.randn(5, 32, 2, 2, requires_grad=True)
    expected = nn.functional.conv2d(x, convolution.weight, padding=1)
    push = torch.randn_like(expected)

    found = convolution(x)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    leaves = (x, convolution.weight)
    for one, other in zip(
        torch.autograd.grad(found, leaves, push), torch.autograd.grad(expected, leaves, push), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [2, 4])
def test_merged_groups_are_the_grouped_convolution(groups):
    torch.manual_seed(0)
    convolution = GroupedConvolution(groups * 3, groups * 4, 3, 2, 1, groups=groups, bias=False)
    x = torch.randn(5, groups * 3, 8, 8)
    expected = nn.functional.conv2d(x, convolution.weight, stride=2, padding=1, groups=groups)

    torch.testing.assert_close(convolution(x), expected, rtol=1e-4, atol=1e-5)


def test_a_strided_1_x_1_convolution_is_the_convolution():
    torch.manual_seed(0)
    convolution = ResNet(4, 64, width=4, groups=2).stages[2].shortcut[0]
    x = torch.randn(5, 8, 7, 7)

    torch.testing.assert_close(convolution(x), nn.functional.conv2d(x, convolution.weight, stride=2, groups=2))


def test_a_small_network_learns_from_batches_of_any_size_on_several_threads():
    # In a process of its own: where a kernel writes beyond its memory, the process is aborted.
    script = """
import torch
from mxsplicer.splicer.encoders import ResNet
torch.set_num_threads(2)
network = ResNet(3, 32, width=8).to(memory_format=torch.channels_last)
for cells in (3, 5, 7, 21) * 5:
    network(torch.randn(cells, 3, 32, 32).contiguous(memory_format=torch.channels_last)).sum().backward()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)

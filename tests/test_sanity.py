"""Rows, parameters without a gradient, and weights that an optimiser will not see: each is named, and nothing else."""
from collections import OrderedDict
from types import MappingProxyType

import pytest
import torch
from backprop_course.toolbox.sanity import hidden_parameters, left_out, rows_that_reach, trainable_tensors
from torch import nn


class Net(nn.Module):
    "Three layers, the first two in a container of the given kind."
    def __init__(self, container):
        super().__init__()
        self.hidden = container([nn.Linear(4, 3), nn.Linear(3, 3)])
        self.last = nn.Linear(3, 2)


IN_A_SEQUENCE = ['hidden[0].weight', 'hidden[0].bias', 'hidden[1].weight', 'hidden[1].bias']
IN_A_DICT = ["hidden['a'].weight", "hidden['a'].bias", "hidden['b'].weight", "hidden['b'].bias"]


@pytest.mark.parametrize('container, places', [
    (list, IN_A_SEQUENCE), (tuple, IN_A_SEQUENCE), (nn.ModuleList, []), (lambda layers: nn.Sequential(*layers), []),
    (lambda layers: dict(zip('ab', layers)), IN_A_DICT), (lambda layers: OrderedDict(zip('ab', layers)), IN_A_DICT),
    (lambda layers: MappingProxyType(dict(zip('ab', layers))), IN_A_DICT), (lambda layers: nn.ModuleDict(zip('ab', layers)), []),
    (lambda layers: [[layers]], [f'hidden[0][0]{place[6:]}' for place in IN_A_SEQUENCE]),
    (lambda layers: {'deep': tuple(layers)}, [f"hidden['deep']{place[6:]}" for place in IN_A_SEQUENCE]),
    (lambda layers: [nn.Sequential(*layers)], ['hidden[0].0.weight', 'hidden[0].0.bias', 'hidden[0].1.weight', 'hidden[0].1.bias'])])
def test_containers(container, places):
    net = Net(container)
    assert list(hidden_parameters(net)) == places
    known = {id(parameter) for parameter in net.parameters()}
    assert len(known) + len(places) == 6 and not known & {id(tensor) for tensor in hidden_parameters(net).values()}


def test_the_tensors_are_those_of_the_module():
    net = Net(list)
    found = hidden_parameters(net)
    assert found['hidden[1].weight'] is net.hidden[1].weight
    torch.optim.SGD([*net.parameters(), *found.values()], lr=0.1)  # no tensor twice


def test_sets_have_no_order():
    found = hidden_parameters(Net(set))
    assert len(found) == 4 and all(place.startswith('hidden[') for place in found)


def test_tensors_without_a_module():
    net = nn.Module()
    net.a = torch.zeros(2, requires_grad=True)
    net.b = [nn.Parameter(torch.zeros(2)), torch.zeros(2), torch.zeros(2, requires_grad=True) * 2, 3, 'text', None]
    net.register_parameter('c', nn.Parameter(torch.zeros(2)))
    net.frozen = [nn.Parameter(torch.zeros(2), requires_grad=False)]
    assert list(hidden_parameters(net)) == ['a', 'b[0]']


def test_buffers():
    "An optimiser is not given a buffer, so one that wants a gradient never moves."
    net = nn.BatchNorm1d(3)
    assert not hidden_parameters(net)
    net.register_buffer('scale', torch.ones(3, requires_grad=True))
    assert list(hidden_parameters(net)) == ['scale']


def test_what_is_registered_elsewhere_is_not_hidden():
    net = Net(nn.ModuleList)
    net.by_name = {'again': net.last, 'weight': net.last.weight, 'extra': [torch.zeros(2, requires_grad=True)], 'note': 'text'}
    assert list(hidden_parameters(net)) == ["by_name['extra'][0]"]


def test_hidden_below_a_registered_module():
    net = nn.Sequential(nn.Linear(2, 2), Net(list))
    assert list(hidden_parameters(net)) == [f'1.{place}' for place in IN_A_SEQUENCE]


def test_hidden_in_what_is_hidden():
    net = nn.Module()
    net.inner = [Net(list)]
    assert {place for place in hidden_parameters(net)} == {
        'inner[0].last.weight', 'inner[0].last.bias', *(f'inner[0].{place}' for place in IN_A_SEQUENCE)}


def test_what_holds_itself():
    net = Net(nn.ModuleList)
    net.more = [nn.Linear(2, 2)]
    net.more.append(net.more)
    net.more[0].parent = [net]
    net.last.parent = (net,)
    assert list(hidden_parameters(net)) == ['more[0].weight', 'more[0].bias']


def test_what_cannot_be_seen():
    "The result of an operation, and what an object of another kind holds: nothing is claimed about them."
    net, box = nn.Linear(2, 2), type('Box', (), {})()
    net.scaled, net.box = nn.Parameter(torch.ones(2)) * 0.1, box
    box.weight = nn.Parameter(torch.ones(2))
    assert hidden_parameters(net) == {}


@pytest.mark.parametrize('value', [[nn.Linear(2, 2)], nn.Linear, torch.zeros(2), None])
def test_only_modules(value):
    with pytest.raises(TypeError, match='hidden_parameters expects a torch.nn.Module, got'):
        hidden_parameters(value)


def test_walk_by_itself():
    w = torch.zeros(2, requires_grad=True)
    assert [place for place, _ in trainable_tensors({'a': [w, nn.Linear(1, 1)]})] == ["['a'][0]", "['a'][1].weight", "['a'][1].bias"]
    assert list(trainable_tensors(w, 'w')) == [('w', w)]
    assert list(trainable_tensors(3)) == []


def test_rows():
    inp = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert rows_that_reach(lambda inp: inp * 2, inp) == [0]
    assert rows_that_reach(lambda inp: inp.flip(0) * 2, inp) == [4]
    assert rows_that_reach(lambda inp: inp + inp.roll(-2, 0), inp) == [0, 2]
    assert rows_that_reach(lambda inp: inp * 0, inp) == [] and inp.grad is None


def test_left_out():
    net = Net(nn.ModuleList)
    assert left_out(net) == [name for name, _ in net.named_parameters()]
    net.last(net.hidden[0](torch.ones(2, 4))).sum().backward()
    assert left_out(net) == ['hidden.1.weight', 'hidden.1.bias']

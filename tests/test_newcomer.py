"""A newcomer's rule, said once in one cell, is found by everything."""
import backprop_course
import pytest
import torch
from backprop_course import Variable, apply, check_gradient, compare_editions, derivation, find_rule, prove_gradient, prove_rules, rule_for
from backprop_course.modules import LayerFunction
from backprop_course.toolbox.operations import sum_over
from backprop_course.toolbox.rules import RULES


@pytest.fixture
def cell():
    def softplus(x):
        return (1 + x.exp()).log()

    @rule_for(softplus, examples=lambda normal: [(normal(2, 3),)], indices='grad_x[i, j] += grad_out[i, j] / (1 + exp(-x[i, j]))',
              without={'einsum': 'a curve is no sum of products'})
    def softplus_backward(grad_out, x):
        return grad_out * x.sigmoid()

    yield softplus, softplus_backward
    del RULES[softplus]


X = torch.tensor([[0.5, -2.0, 1.0]], dtype=torch.float64)


def test_one_cell_is_enough(cell):
    softplus, softplus_backward = cell
    check_gradient(softplus, softplus_backward, X)
    assert prove_gradient(softplus, softplus_backward, X)
    rules = {softplus: find_rule(softplus)}
    assert prove_rules(rules) and 'missing' not in str(prove_rules(rules))

    x = Variable(X)
    sum_over_x = apply(sum_over, apply(softplus, x))
    sum_over_x.backward()
    torch.testing.assert_close(x.grad, X.sigmoid())

    class Softplus(LayerFunction):
        function = staticmethod(cell[0])

    layer, inp = Softplus(), X.clone()
    layer(inp).g = torch.ones_like(X)
    layer.backward()
    torch.testing.assert_close(inp.g, X.sigmoid())

    assert compare_editions(softplus)
    assert [code for code, _ in derivation(softplus_backward).steps] == ['x.sigmoid()', 'grad_out * x.sigmoid()']


def test_a_wrong_rule_fails_everywhere(cell):
    "The same cell with a wrong line: what proves says no."
    softplus, _ = cell
    wrong = rule_for(softplus, examples=lambda normal: [(normal(2, 3),)], indices='grad_x[i, j] += grad_out[i, j] / (1 + exp(x[i, j]))',
                     without={'einsum': 'a curve is no sum of products'})(lambda grad_out, x: grad_out * (-x).sigmoid())
    with pytest.raises(AssertionError):
        check_gradient(softplus, wrong, X)
    assert not prove_gradient(softplus, wrong, X) and not prove_rules({softplus: find_rule(softplus)})


def test_the_face_knows_what_a_newcomer_needs():
    assert {'rule_for', 'prove_rules', 'check_gradient', 'apply', 'derivation', 'letters', 'compare_editions'} <= set(dir(backprop_course))

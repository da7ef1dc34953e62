"""Slopes by nudging, and the check: right rules pass, wrong ones are refused with the words for their mistake, and a case that can't be judged is no verdict."""
import subprocess
import sys

import pytest
import torch
from backprop_course.backward import lin, lin_backward, mse, mse_backward, relu, relu_backward
from backprop_course.toolbox.cases import CannotJudge, Case, Finding, check_contract
from backprop_course.toolbox.gradcheck import by_autograd, by_nudging, check_gradient
from backprop_course.toolbox.proofs import prove_gradient

GENERATOR = torch.Generator().manual_seed(6)


def draw(*shape):
    return torch.randn(shape, generator=GENERATOR)


# ---- Right rules pass: where the curve is steep, the gradient tiny, or an input not made of floats.

def pick(table, rows): return table[rows]
def pick_backward(grad_out, table, rows): return torch.zeros_like(table).index_add(0, rows, grad_out), None


STEEP = torch.tensor([1e-3, 1e-2, 0.5, 30.0])


@pytest.mark.parametrize('f, rule, inputs', [
    (torch.log, lambda g, x: g / x, (STEEP,)),
    (lambda x: (300 * x).sin(), lambda g, x: 300 * g * (300 * x).cos(), (STEEP,)),
    (lambda x: x ** 3, lambda g, x: 3 * x ** 2 * g, (1e-3 * draw(8, 8),)),
    (mse, mse_backward, (torch.ones(5, 1), torch.ones(5))),
    (pick, pick_backward, (draw(8, 8), torch.tensor([0, 2, 2]))),
    (lin, lin_backward, (draw(1, 4), draw(4, 3), draw(3))),
    (lin, lin_backward, (draw(4, 5).T, draw(3, 4).T, draw(3))),
    (mse, mse_backward, (draw(1, 1), draw(1))),
    (lambda x: torch.from_numpy(x.numpy() ** 2), lambda g, x: 2 * g * x, (draw(3),)),
])
def test_right_rules(f, rule, inputs):
    errors = check_gradient(f, rule, *inputs)
    assert len(errors) == len(inputs) and all(error is None or error < 1e-5 for error in errors.values())


def test_options_and_generator():
    def f(x, power): return x ** power
    def f_backward(grad_out, x, power): return grad_out * power * x ** (power - 1)
    check_gradient(f, f_backward, draw(3).abs() + 1, power=3)
    one, other = (Case(torch.exp, relu, (torch.ones(3),), generator=generator).grad_out
                  for generator in (None, torch.Generator().manual_seed(1)))
    assert not torch.equal(one, other)


def test_inside_inference_mode():
    with torch.inference_mode():
        check_gradient(relu, relu_backward, torch.ones(3))


# ---- What is no case at all.

@pytest.mark.parametrize('f, rule, inputs, error, words', [
    (3, relu_backward, (draw(3),), TypeError, 'expected a function, got int'),
    (relu, relu_backward, (draw(3).to_sparse(),), TypeError, r'inp is stored as torch.sparse_coo; give inp.to_dense\(\)'),
    (relu, relu_backward, ([1.0, 2.0],), TypeError, 'expected tensors of floats as inputs, got list'),
    (relu, relu_backward, (torch.tensor([1, 2]),), TypeError, 'expected tensors of floats as inputs, got torch.int64'),
    (lambda x: x.mul_(2), lambda g, x: 2 * g, (draw(3),), ValueError, 'f changed its argument x'),
    (lambda x: x * torch.rand(3), lambda g, x: g, (draw(3),), ValueError, 'the same result for the same inputs'),
    (lambda x: x.float().relu(), relu_backward, (draw(3),), TypeError, 'is expected to give float64 back, got torch.float32'),
    (lambda x: x.tolist(), relu_backward, (draw(3),), TypeError, 'is expected to give float64 back, got no tensor of floats'),
    (torch.log, lambda g, x: g / x, (torch.zeros(2),), ValueError, 'finite numbers, got inf or nan'),
    (lambda x: x @ torch.ones(7).double(), relu_backward, (draw(3),), ValueError, 'f cannot be run on these inputs in float64'),
    (lambda x, w: x @ w, lambda g, x, w: (g @ w.T, x.T @ g), (draw(0, 3), draw(3, 2)), ValueError, 'there is nothing to check'),
])
def test_no_case(f, rule, inputs, error, words):
    with pytest.raises(error, match=words):
        check_gradient(f, rule, *inputs)


def test_kink_is_no_verdict():
    "Nudging up and down from 0 gives half of the slope on the right; a right rule is not called wrong for it."
    with pytest.raises(ValueError, match=r'inp cannot be checked at \(1,\), where f has a kink: its slopes left and right are 0 and'):
        check_gradient(relu, relu_backward, torch.tensor([-1.0, 0.0, 2.0]))
    with pytest.raises(CannotJudge):
        by_nudging(Case(relu, relu_backward, (torch.zeros(1),)))
    with pytest.raises(AssertionError, match='differs from nudging'):  # a wrong entry beside the kink is wrong all the same
        check_gradient(relu, lambda g, x: -g * (x > 0), torch.tensor([-1.0, 0.0, 2.0]))


def test_autograd_that_does_not_follow():
    case = Case(lambda x: torch.from_numpy(x.numpy() ** 2), lambda g, x: 2 * g * x, (draw(3),))
    with pytest.raises(CannotJudge, match='autograd does not follow f'):
        by_autograd(case)


def test_a_finding_has_the_largest_error():
    assert Finding('').error is None and Finding('', {'x': 1.0, 'w': 2.0}).error == 2.0
    assert check_contract(Case(relu, relu_backward, (draw(3),))).errors == {}


@pytest.mark.parametrize('f, names', [
    (lambda x, w: x * w, ['x', 'w']), (lambda *operands: operands[0] * operands[1], ['operands_1', 'operands_2']),
    (torch.mul, ['input_1', 'input_2']), (lambda out, grad_out: out * grad_out, ['out_', 'grad_out_']),
    (lambda input_1, *input: input_1 * input[0], ['input_1', 'input_1_'])])
def test_names(f, names):
    assert Case(f, lambda g, a, b: (g * b, g * a), (draw(3), draw(3))).names == names


# ---- Wrong on purpose: mistakes that people make, each refused with the words for it.

x, w, b, column, t = draw(5, 4), draw(4, 3), draw(3), draw(5, 1), draw(5)
layer, same = (x, w, b), (draw(3, 3), draw(3, 3), b)  # sizes that all differ, and sizes that are alike
assert not ((x > 0) & (x <= 0.01)).any()


def last_row(g, x, w, b):  # = where += belongs, in a loop over the rows
    for i in range(len(x)):
        grad_w = x[i][:, None] * g[i]
    return g @ w.T, grad_w, g.sum(0)


def one_row(g, x, w, b): return g @ w.T, x[:1].T @ g[:1], g.sum(0)
def square_w(g, x, w, b): return g @ w.T, x.T @ g * (w.shape[0] / w.shape[1]), g.sum(0)
def shifted(inp): return inp.clamp_min(0) - 0.5
def softmax(x): return x.softmax(-1)


seen = {}
STALE = relu_backward(torch.ones_like(x).double(), x.double())


def remembers(inp):
    seen['inp'] = inp.clone()
    return inp * inp


def stores(g, x):
    x.g = g * (x > 0)
    return x.g.clone()


def one_wrong(g, x):
    grad = relu_backward(g, x)
    grad.view(-1)[x.argmax()] = 0
    return grad


CATALOGUE = {  # mistake: function, wrong rule, inputs, words
    # transposes, and * for @
    'w not transposed': (lin, lambda g, x, w, b: (g @ w, x.T @ g, g.sum(0)), layer, 'cannot be mult'),
    'the same, on square matrices': (lin, lambda g, x, w, b: (g @ w, x.T @ g, g.sum(0)), same, 'w is transposed'),
    'inp not transposed': (lin, lambda g, x, w, b: (g @ w.T, x @ g, g.sum(0)), same, 'inp is transposed'),
    'grad_w the wrong way round': (lin, lambda g, x, w, b: (g @ w.T, g.T @ x, g.sum(0)), layer, 'is it transposed?'),
    'grad_w so, on square matrices': (lin, lambda g, x, w, b: (g @ w.T, g.T @ x, g.sum(0)), same, 'it is transposed'),
    'grad_out transposed too': (lin, lambda g, x, w, b: (g.T @ w.T, x.T @ g, g.sum(0)), same, 'grad_out is transposed'),
    '* for @': (lin, lambda g, x, w, b: (g * w.T, x.T @ g, g.sum(0)), same, 'differs from'),
    '@ for *': (relu, lambda g, x: g @ (x > 0).to(g.dtype), same[:1], 'differs from'),
    'gradients in the wrong order': (lin, lambda g, x, w, b: (x.T @ g, g @ w.T, g.sum(0)), layer, 'should have the form of inp'),
    # sums
    'the mean for the bias': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g, g.mean(0)), layer, 'each 5 times too small: a mean for a sum'),
    'the mean for the weights': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g / 5, g.sum(0)), layer, 'each 5 times too small: a mean for a sum'),
    'no sum for the bias': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g, g.clone()), layer, 'is summed over it'),
    'the sum over the wrong axis': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g, g.sum(1)), layer, 'got (5,), torch.float64; is the sum over the wrong axis?'),
    'the same, on square matrices ': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g, g.sum(1)), same, 'a sum is over the wrong axis'),
    'no sum for a single number': (lambda x, s: x * s, lambda g, x, s: (g * s, g * x), (x, draw()), 'over axes 0 and 1 forward is summed over them'),
    'the sum for the mean of everything': (lambda x: x.mean(), lambda g, x: g * torch.ones_like(x), (x,), 'each 20 times too large: a sum for a mean over 20 numbers?'),
    'an axis left over': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g, g.sum(0, keepdim=True)), layer, 'only axes of size 1'),
    'the first row alone': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g, g[0].clone()), layer, 'only entry 0 along axis 0'),
    '= for +=': (lin, last_row, layer, 'only entry 4 along axis 0'),
    'right for one row only': (lin, one_row, (), 'only entry 0'),
    'right for square w only': (lin, square_w, (), 'each 1.333 times too large'),
    # the upstream gradient
    'ignored': (relu, lambda g, x: (x > 0).to(x.dtype), (x,), 'is grad_out ignored'),
    'ignored in the loss': (mse, lambda g, x, t: (2 / 5 * (x - t[:, None]), None), (column, t), 'is grad_out ignored'),
    'its sign lost': (relu, lambda g, x: g.abs() * (x > 0), (x,), 'is the sign of grad_out lost'),
    'its mean': (relu, lambda g, x: g.mean() * (x > 0), (x,), 'replaced by its mean'),
    'its mean over the batch': (lin, lambda g, x, w, b: (g.mean(0).expand(5, 3) @ w.T, x.T @ g, g.sum(0)), layer, 'averaged over axis 0'),
    'the batch reversed': (relu, lambda g, x: g.flip(0) * (x > 0), (x,), 'reversed along axis 0'),
    'squared': (relu, lambda g, x: g * g * (x > 0), (x,), 'not proportional'),
    'added': (relu, lambda g, x: g + (x > 0), (x,), 'not proportional'),
    'taken for the input': (relu, lambda g, x: g * (g > 0), (x,), 'not proportional'),
    'None the second time': (relu, lambda g, x: g * (x > 0) if g.flatten()[0] > 0 else None, (x.abs() + 1,), 'not'),
    # signs and factors
    'the sign': (mse, lambda g, x, t: (g * 2 / 5 * (t[:, None] - x), None), (column, t), 'a wrong sign'),
    'the sign and a factor': (mse, lambda g, x, t: (g * 3 * (t[:, None] - x), None), (column, t), 'its sign is wrong, too'),
    'no factor at all': (torch.abs, lambda g, x: g.clone(), (x,), 'it is grad_out as it came; is a factor missing?'),
    'no 2': (mse, lambda g, x, t: (g / 5 * (x - t[:, None]), None), (column, t), 'a factor of 2 is missing'),
    'the sum for the mean': (mse, lambda g, x, t: (g * 2 * (x - t[:, None]), None), (column, t), 'each 5 times too large: a sum for a mean'),
    'a column minus a row': (mse, lambda g, x, t: ((g * 2 / 5 * (x - t)).mean(1, keepdim=True), None), (column, t), 'differs from'),
    'a vector for a column': (mse, lambda g, x, t: (g * 2 / 5 * (x[:, 0] - t), None), (column, t), 'only axes of size 1'),
    'one number for all': (mse, lambda g, x, t: ((g * 2 / 5 * (x - t[:, None])).mean().view(1, 1), None), (column, t), 'it would be stretched'),
    'a factor on one of three': (lin, lambda g, x, w, b: (2 * g @ w.T, x.T @ g, g.sum(0)), layer, 'a factor of 2 too many'),
    'a factor on small gradients': (lin, lambda g, x, w, b: (2 * g @ w.T, x.T @ g, g.sum(0)), (x, 1e-9 * w, b), 'differs from'),
    'used twice, added once': (lambda x: x * x, lambda g, x: g * x, (x,), 'a factor of 2 is missing'),
    'a gradient 0 where it is not': (lin, lambda g, x, w, b: (g @ w.T, 0 * w, g.sum(0)), layer, '0 everywhere'),
    # masks, and functions that are not products
    'the mask inverted': (relu, lambda g, x: g * (x <= 0), (x,), 'is a mask inverted?'),
    'no mask': (relu, lambda g, x: g.clone(), (x,), 'should be 0 are not'),
    'a leak': (relu, lambda g, x: torch.where(x > 0, g, 0.01 * g), (x,), 'should be 0 are not'),
    'a mask that starts late': (relu, lambda g, x: g * (x > 1), (x,), 'are 0 that should not be'),
    'one that starts a little late': (relu, lambda g, x: g * (x > 0.01), (x,), 'differs from the deriv'),
    'the mask itself': (relu, lambda g, x: x > 0, (x,), 'got (5, 4), torch.bool'),
    # a ReLU that a fastai lesson of 2019 used, moved down: a mask from its output stops the inputs between 0 and 0.5 too
    'the mask of the output': (shifted, lambda g, x: g * (shifted(x) > 0), (x,), 'is the output used'),
    'the slope at the output': (torch.exp, lambda g, x: g * x.exp().exp(), (x,), 'is the output used'),
    'softmax entry by entry': (softmax, lambda g, x: g * x.softmax(-1) * (1 - x.softmax(-1)), (x[:3],), 'differs from'),
    'softmax along the wrong axis': (softmax, lambda g, x: x.softmax(-1) * (g - (g * x.softmax(-1)).sum(0, keepdim=True)), (x[:3],), 'differs from'),
    'one entry of many': (relu, one_wrong, (draw(8, 8),), 'does a mask stop too much'),
    # the contract
    'grad_out changed in place': (relu, lambda g, x: g.mul_(x > 0).clone(), (x,), 'changed its argument grad_out'),
    'the input changed in place': (relu, lambda g, x: g * x.clamp_(0).sign(), (x,), 'changed its argument inp'),
    'a result that is an input': (lambda x: x * x.detach().sign(), lambda g, x: x, (x.abs() + 1,), 'shares its memory with x'),
    'stored on the argument': (relu, stores, (x,), 'stored .g on its argument inp'),
    'read from .g': (relu, lambda g, x: x.g, (x,), 'not a .g from an earlier run'),
    'a stale .g': (relu, lambda g, x: STALE.clone(), (x,), 'a result from an earlier run'),
    'what f remembers': (remembers, lambda g, x: 2 * g * seen['inp'], (x,), 'what f stored'),
    'nothing returned': (relu, lambda g, x: None, (x,), 'None for every input'),
    'a list': (relu, lambda g, x: [g * (x > 0)], (x,), 'expected a tuple of gradients, got a list'),
    'a generator': (relu, lambda g, x: (one for one in [g * (x > 0)]), (x,), 'expected a tuple of gradients, got a generator'),
    'one gradient short': (lin, lambda g, x, w, b: (g @ w.T, x.T @ g), layer, 'a gradient for each of inp, w, b'),
    'None for the weights': (lin, lambda g, x, w, b: (g @ w.T, None, g.sum(0)), layer, 'gives None for w'),
    'a gradient for row numbers': (pick, lambda g, table, rows: (torch.zeros_like(table).index_add(0, rows, g), rows.clone()),
                                   (x, torch.tensor([0, 2])), 'rows holds no'),
    'a Python number': (relu, lambda g, x: 1.0, (x,), 'got float'),
    'inf': (relu, lambda g, x: g / 0, (x,), 'holds inf or nan'),
    'computed in float32': (torch.exp, lambda g, x: (g.float() * x.float().exp()).double(), (x,), 'in float32?'),
    'wrong in the sixth digit': (torch.exp, lambda g, x: g * x.exp() * (1 + 1e-6), (x,), 'right with 1 in place of 1.000001'),
}


@pytest.mark.parametrize('mistake', CATALOGUE)
def test_wrong_rules(mistake):
    f, rule, inputs, words = CATALOGUE[mistake]
    proof = prove_gradient(f, rule, *inputs)
    assert not proof
    assert any(one.state == 'wrong' and words in one.text for one in proof.statements), proof


ONLY_PROVED = {'one that starts a little late', 'None for the weights'}  # by letters, and by a stated sum


@pytest.mark.parametrize('mistake', [mistake for mistake, (*_, inputs, _) in CATALOGUE.items() if inputs and mistake not in ONLY_PROVED])
def test_wrong_rules_by_the_short_check(mistake):
    f, rule, inputs, words = CATALOGUE[mistake]
    with pytest.raises(AssertionError) as wrong:
        check_gradient(f, rule, *inputs)
    assert words in str(wrong.value)


@pytest.mark.parametrize('rule, one, enough', [(one_row, (x[:1], w, b), 'a batch of one'), (square_w, same, 'a square matrix')])
def test_wrong_rules_that_one_example_lets_pass(rule, one, enough):
    assert prove_gradient(lin, rule, *one) and not prove_gradient(lin, rule), enough


OUTSIDE = draw(3).double()


@pytest.mark.parametrize('rule', [lambda g, x: 2 * g * seen['inp'], lambda g, x: g * seen['inp'] + g * x, lambda g, x: 2 * g * OUTSIDE])
def test_right_for_these_inputs_only(rule):
    with pytest.raises(AssertionError, match='not for others'):
        check_gradient(remembers, rule, OUTSIDE)


def test_no_cause_is_made_up():
    "A factor of 3 on a gradient that has an axis of size 3 itself: no sum over it comes into question."
    for rule in (lambda g, x, w, b: (g @ w.T, 3 * x.T @ g, g.sum(0)), lambda g, x, w, b: (g @ w.T, x.T @ g, 3 * g.sum(0))):
        with pytest.raises(AssertionError, match='each 3 times too large: 3 is a size here\n'):
            check_gradient(lin, rule, *layer)
    with pytest.raises(AssertionError, match='in 20 of 20 entries\n'):
        check_gradient(torch.exp, lambda g, x: g * torch.atan(2 * x.exp() + x), x)  # no usual mistake is that


@pytest.mark.parametrize('f, rule, inputs, remark', [
    (lambda x: x + 0, lambda g, x: g, (x,), 'the gradient of x is a view of grad_out'),
    (lambda x: x.flatten(), lambda g, x: g.view(5, 4), (x,), 'the gradient of x is a view of grad_out'),
    (lambda x: x.T, lambda g, x: g.T, (x,), 'the gradient of x is a view of grad_out'),
    (lambda x: x.sum(0), lambda g, x: (1 * g).expand(5, 4), (x,), 'entries of the gradient of x share their memory'),
    (lambda x, y: x + y, lambda g, x, y: (g.clone(),) * 2, (x, x + 1), 'the gradient of y is a view of the gradient of x'),
])
def test_memory_that_is_shared_is_a_remark(f, rule, inputs, remark):
    checked = check_gradient(f, rule, *inputs)
    assert any(remark in one for one in checked.remarks) and remark in repr(checked)
    assert prove_gradient(f, rule, *inputs)


@pytest.mark.parametrize('f, rule, inputs', [
    (lambda a, b: torch.cat([a, b], 1), lambda g, a, b: g.clone().split([2, 3], 1), (draw(4, 2), draw(4, 3))),
    (lambda a, b: torch.stack([a, b]), lambda g, a, b: (2 * g / 2).unbind(0), (draw(4), draw(4))),
    (lambda x: x.permute(2, 0, 1), lambda g, x: (1 * g).permute(1, 2, 0), (draw(2, 3, 4),)),
])
def test_parts_of_one_memory_that_do_not_overlap(f, rule, inputs):
    assert check_gradient(f, rule, *inputs).remarks == []


def test_entries_in_the_message():
    with pytest.raises(AssertionError) as wrong:
        check_gradient(torch.exp, lambda g, x: g * x.exp() * torch.tensor([[1.0, 1, 3]]), torch.zeros(2, 3))
    first, *entries = str(wrong.value).splitlines()
    assert 'differs from nudging in 2 of 6 entries' in first
    assert sorted(line.split(':')[0] for line in entries) == ['  at (0, 2)', '  at (1, 2)']


# ---- In pytest one sees one's own lines, and none of ours.

FAILING = '''
import torch
from backprop_course.toolbox.gradcheck import check_gradient
from backprop_course.toolbox.proofs import prove_gradient, prove_rules

X = torch.ones(2, 3)

def two_of_three(grad_out, x):
    return grad_out @ x  # MY LINE IN THE RULE

def test_wrong(): check_gradient(torch.exp, lambda g, x: 2 * g * x.exp(), X)
def test_raises(): check_gradient(torch.exp, two_of_three, X)
def test_form(): check_gradient(torch.exp, lambda g, x: g[0].clone(), X)
def test_no_function(): check_gradient(3, 4, X)
def test_f_fails(): check_gradient(lambda x: x @ x, two_of_three, X)
def test_kink(): check_gradient(torch.relu, lambda g, x: g * (x > 0), 0 * X)
def test_proof(): assert prove_gradient(torch.exp, lambda g, x: 2 * g * x.exp(), X)
def test_proof_raises(): prove_gradient(torch.exp, lambda g, x: 2 * g * x.exp(), X, raise_exception=True)
def test_line(): prove_gradient(torch.exp, lambda g, x: g * x.exp(), X, indices='grad_input_1[i, j] = 1')
def test_bad_index(): prove_gradient(torch.exp, lambda g, x: g * x.exp(), X, indices='grad_input_1[i, j] += grad_out[i, j + 1]')
'''


def test_tracebacks(tmp_path):
    (tmp_path / 'test_failing.py').write_text(FAILING, encoding='utf-8')
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(tmp_path)], capture_output=True, text=True, encoding='utf-8')
    assert '10 failed' in done.stdout, done.stdout
    for inside in ('gradcheck.py', 'proofs.py', 'checks.py', '_contextlib'):
        assert inside not in done.stdout, done.stdout
    assert 'MY LINE IN THE RULE' in done.stdout and 'too many' in done.stdout

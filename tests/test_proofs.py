"""Proofs: right rules in many forms pass, wrong ones and bad lines don't, and each silence is counted. (The words for mistakes: test_gradcheck.)"""
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from backprop_course.backward import relu, relu_backward
from backprop_course.toolbox import operations, proofs
from backprop_course.toolbox.einsums import einsum, einsum_backward
from backprop_course.toolbox.cases import CannotJudge, Case
from backprop_course.toolbox.proofs import Proof, ProofTable, Statement, by_sympy, index_sums, prove_gradient, prove_rules
from backprop_course.toolbox.rules import RULES, Rule
from checkout import insist
from package import import_all


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape) + sum(shape)))


def gelu(x): return 0.5 * x * (1 + (x / 2 ** 0.5).erf())


def gelu_backward(g, x):
    return g * (0.5 * (1 + (x / 2 ** 0.5).erf()) + x * (-x * x / 2).exp() / math.sqrt(2 * math.pi))


def unfolded(x, w): return w.reshape(len(w), -1) @ F.unfold(x, 3)


def unfolded_backward(g, x, w):
    spread = F.fold(w.reshape(len(w), -1).T @ g, x.shape[-2:], 3)
    return spread, (g @ F.unfold(x, 3).transpose(1, 2)).sum(0).reshape(w.shape)


def huber(x): return torch.where(x.abs() < 1, x * x / 2, x.abs() - .5)


def doubled_in_place(x):
    y = x.exp()
    y.mul_(2)
    return y


def through_a_view(a, b):
    y = a.clone()
    y.T.add_(b.T)
    return y


def attention(q, k, v): return ((q @ k.T) / q.shape[1] ** 0.5).softmax(-1) @ v


def attention_backward(g, q, k, v):
    root = q.shape[1] ** 0.5
    shares, back = ((q @ k.T) / root).softmax(-1), g @ v.T
    scores = shares * (back - (back * shares).sum(-1, keepdim=True)) / root
    return scores @ k, scores.T @ q, shares.T @ g


def silent(proof, witness):
    return proof.state_of(witness) == 'silent'


@pytest.mark.parametrize('f, rule, inputs, sympy', [
    (gelu, gelu_backward, (draw(3),), True),
    (lambda x: x / math.pi, lambda g, x: g * (1 / math.pi), (draw(3),), True),
    (attention, attention_backward, (draw(2, 2), draw(3, 2), draw(3, 2, seed=1)), True),
    (lambda x: x.split(1)[0] * x.split(1)[1], lambda g, x: torch.cat([g * x[1:], g * x[:1]]), (draw(2, 3),), True),
    (lambda x, y: x * x, lambda g, x, y: (2 * g * x, torch.zeros_like(y)), (draw(3), draw(3, seed=1)), True),
    (doubled_in_place, lambda g, x: 2 * g * x.exp(), (draw(3),), True),
    (relu, relu_backward, (draw(2, 2, 3),), True),
    (einsum, einsum_backward, ('...ik, kj -> ...ij', draw(2, 2, 3), draw(3, 2)), True),
    (lambda input_1, *input: input_1 * input[0], lambda g, a, b: (g * b, g * a), (draw(3), draw(3, seed=1)), True),
    (lambda name, case: name * case, lambda g, a, b: (g * b, g * a), (draw(3), draw(3, seed=1)), True),
    (lambda out, grad_out: out * grad_out, lambda g, a, b: (g * b, g * a), (draw(3), draw(3, seed=1)), True),
    (lambda x: x.clamp(-.5, .5), lambda g, x: g * ((x > -.5) & (x < .5)), (draw(3),), True),
    (F.hardtanh, lambda g, x: g * (x.abs() < 1), (draw(3),), True),
    (lambda x: F.leaky_relu(x, .2), lambda g, x: g * torch.where(x > 0, torch.ones_like(x), .2 * torch.ones_like(x)), (draw(3),), True),
    (huber, lambda g, x: g * torch.where(x.abs() < 1, x, x.sign()), (draw(3),), True),
    (lambda x: torch.where(x > 0, x.sqrt(), (-x).sqrt()), lambda g, x: g * x.sign() / (2 * x.abs().sqrt()), (draw(3),), True),
    (torch.cumsum, lambda g, x, dim: (g.flip(0).cumsum(0).flip(0), None), (draw(3), 0), True),
    (lambda x: x.std(0), lambda g, x: g * (x - x.mean(0)) / (x.std(0) * (len(x) - 1)), (draw(3, 2),), True),
    (unfolded, unfolded_backward, (draw(1, 1, 4, 4), draw(2, 1, 3, 3)), True),
    (torch.lgamma, lambda g, x: g * x.digamma(), (draw(3).abs() + 1,), False),
    (lambda x: torch.from_numpy(x.numpy() ** 2), lambda g, x: 2 * g * x, (draw(3),), False),
    (through_a_view, lambda g, a, b: (g.clone(), g.clone()), (draw(2, 3), draw(2, 3, seed=1)), True),
    (lambda x, b: x + b, lambda g, x, b: (g.clone(), g.clone()), (draw(1, 3), draw(1, 3, seed=1)), True),
])
def test_right_rules(f, rule, inputs, sympy):
    proof = prove_gradient(f, rule, *inputs)
    assert proof, proof
    assert silent(proof, 'SymPy') is not sympy, proof


def test_einsum_lines():
    "Signs, divisors, and tensors without axes."
    inputs = draw(3), draw(3, seed=1), draw()
    proof = prove_gradient(lambda x, y, s: -x * y / 2 * s, lambda g, x, y, s: (-g * y / 2 * s, -g * x / 2 * s, (-g * x * y / 2).sum()),
                           *inputs, einsum='out[i] += -x[i] * y[i] / 2 * s')
    assert proof and not silent(proof, 'einsum'), proof


def test_whole_numbers_in_einsum_lines():
    "They are factors like others, and get no gradient."
    lines = {'einsum': 'out[i] += x[i] * n[i]', 'indices': 'grad_x[i] += grad_out[i] * n[i]'}
    for factor in (1, 2):
        proof = prove_gradient(lambda x, n: x * n, lambda g, x, n: (factor * g * n, None), draw(3), torch.tensor([1, 2, 3]), **lines)
        assert {proof.state_of(witness) for witness in proofs.WITNESSES} == {'proved' if factor == 1 else 'wrong'}, proof


@pytest.mark.parametrize('f, rule, inputs', [
    (lambda x: x ** 3, lambda g, x: g * x ** 2, (draw(3, 2),)),
    (lambda x: x * x, lambda g, x: g * x / 0, (draw(3),)),
    (relu, lambda g, x: [g * (x > 0)], (draw(3),)),
])
def test_wrong_rules(f, rule, inputs):
    assert not prove_gradient(f, rule, *inputs)


@pytest.mark.parametrize('f, rule, x', [
    (lambda x: x.clamp(-.5, .5), lambda g, x: g * (x > -.5), torch.tensor([-.7, -.2, .2])),
    (lambda x: x.clamp(-.5, .5), lambda g, x: g * ((x > -.5) & (x < .6)), torch.tensor([-.7, -.2, .2])),
    (huber, lambda g, x: g * torch.where(x.abs() < 1.1, x, x.sign()), torch.tensor([-2., .5, 3.])),
    (lambda x: x.abs(), lambda g, x: g.clone(), torch.tensor([.5, 3.])),
])
def test_wrong_where_no_number_was(f, rule, x):
    "These numbers show nothing; the regions in which letters may lie do."
    proof = prove_gradient(f, rule, x)
    assert proof.state_of('SymPy') == 'wrong' and proof.state_of('nudging') == proof.state_of('autograd') == 'proved'


@pytest.mark.parametrize('f, rule, inputs, error, words', [
    (lambda x: x.mul_(2), lambda g, x: 2 * g, (draw(3),), ValueError, 'f changed its argument'),
    (lambda x: x * torch.rand(3), lambda g, x: g, (draw(3),), ValueError, 'the same result for the same inputs'),
    (lambda x, w: x @ w, lambda g, x, w: (g @ w.T, x.T @ g), (draw(0, 3), draw(3, 2)), ValueError, 'nothing to prove'),
    (3, None, (draw(3),), TypeError, 'expected a function'),
    (relu, relu_backward, ([1.0, 2.0],), TypeError, 'expected tensors of floats'),
])
def test_bad_input(f, rule, inputs, error, words):
    with pytest.raises(error, match=words):
        prove_gradient(f, rule, *inputs)


@pytest.mark.parametrize('line, words', [
    ('x[i] += x[i]', 'is given'), ('grad_x[t] += x[i]', 'is a tensor'), ('', 'expected a line'), ('p[0] += x[i]', 'expected a line'),
    ('p[k] += x[i]', 'k walks along no axis'), ('p[i] += y[i] * x[i]', "name 'y' is not defined"), ('grad_x[i] += x[i + 1]', 'fails at'),
    ('q += i', 'fails at'), ('p[i] += x[i]; q[i] += x[i]', 'expected a line'), ('grad_x[i, j] += x[i]', 'has 1 axes')])
def test_bad_lines(line, words):
    with pytest.raises(ValueError, match=words):
        index_sums(line, x=draw(3), t=torch.tensor([0, 1, 1]))


@pytest.mark.parametrize('line', ['out[i] += x.sum() * x[i]', 'out[i] += x[i] + x[i]', 'out[i] += x[i] ** 2'])
def test_lines_that_are_no_products(line):
    with pytest.raises(ValueError, match='expected a product'):
        prove_gradient(lambda x: x * x.sum(), lambda g, x: g * x.sum() + (g * x).sum(), draw(3), einsum=line)


def test_right_and_wrong_lines():
    def f(x, w): return x @ w
    def f_backward(g, x, w): return g @ w.T, x.T @ g
    inputs, right = (draw(4, 3), draw(3, 2)), ['grad_x[i, k] += grad_out[i, j] * w[k, j]', 'grad_w[k, j] += x[i, k] * grad_out[i, j]']
    assert prove_gradient(f, f_backward, *inputs, indices=right).state_of('indices') == 'proved'
    assert prove_gradient(f, f_backward, *inputs, indices=right[:1]).by('indices')[0].text == 'no sum is stated for the gradient of w'
    assert prove_gradient(f, f_backward, *inputs, indices=[right[0].replace('+= ', '+= 2 * '), right[1]]).state_of('indices') == 'wrong'
    wrong = prove_gradient(f, f_backward, *inputs, einsum='out[i, j] += 2 * x[i, k] * w[k, j]')
    assert wrong.by('einsum')[0].text.startswith('these lines do not give what f gives')
    assert not wrong


def test_lines_of_a_registered_function_may_be_replaced():
    assert prove_gradient(relu, relu_backward, draw(3)).by('einsum')[0].text == 'a ReLU is no sum of products'
    proof = prove_gradient(relu, relu_backward, draw(3), indices='grad_inp[i] += 2 * grad_out[i] * (inp[i] > 0)')
    assert not proof and proof.state_of('indices') == 'wrong'


def test_options():
    def f(x, power): return x ** power
    def f_backward(g, x, power): return g * power * x ** (power - 1)
    assert prove_gradient(f, f_backward, draw(3), power=3)
    assert not prove_gradient(f, lambda g, x, power: f_backward(g, x, power + 1), draw(3), power=3)


# ---- A result that failed is false.

def wrong_relu(g, x): return 2 * g * (x > 0)


def test_results_are_false_when_they_failed():
    rule = Rule(relu, wrong_relu, lambda normal: [(normal(3),)])
    proof, table = prove_gradient(relu, wrong_relu, draw(3)), prove_rules({relu: rule})
    for result in (proof, proof.by('nudging')[0], table):
        assert not result and not result.ok
    assert all((prove_gradient(relu, relu_backward), prove_gradient(relu, relu_backward).by('nudging')[0], prove_rules({scale: replace(RULE, without={'SymPy': 'NumPy'})})))
    with pytest.raises(AssertionError):
        assert prove_gradient(relu, wrong_relu, draw(3))
    with pytest.raises(AssertionError, match='a factor of 2 too many'):
        prove_gradient(relu, wrong_relu, draw(3), raise_exception=True)
    assert not ProofTable([]) and not prove_rules({})


def test_nothing_said_is_no_proof():
    "A rule that no witness has anything to say about is not proved."
    kept = Statement('contract', 'x (3,)', 'proved', '', None, 0.0)
    silences = [Statement(witness, 'x (3,)', 'silent', 'no idea', None, 0.0) for witness in proofs.WITNESSES]
    assert not Proof(RULE, [kept, *silences]) and not Proof(RULE, [kept])


def test_broken_contract():
    proof = prove_gradient(relu, lambda g, x: (x > 0).to(x.dtype), draw(3))
    assert not proof and proof.state_of('contract') == 'wrong'
    assert {one.text for one in proof.statements[1:]} == {'not asked, since the contract is broken'}


# ---- Each silence is counted, on each set of inputs.

def scale(x, s): return x * s


def scale_backward(g, x, s):
    "Right; on two rows it goes through NumPy, where no letter can follow."
    return g * s, torch.from_numpy((g * x).numpy().sum(0)) if len(x) == 2 else (g * x).sum(0)


RULE = Rule(scale, scale_backward, lambda normal: [(normal(rows, 3), normal(3)) for rows in (1, 2, 3)],
            indices=['grad_x[i, j] += grad_out[i, j] * s[j]', 'grad_s[j] += grad_out[i, j] * x[i, j]'], einsum='out[i, j] += x[i, j] * s[j]')


def test_silence_on_one_of_the_examples_is_missing():
    table = prove_rules({scale: RULE})
    assert all(table.proofs) and not table
    text, = table.missing
    assert text.startswith('scale_backward by SymPy, on x (2, 3), s (3,): the code does not run on letters')
    assert f'MISSING {text}' in str(table) and '0 on 2 of 3' in str(table) and 'MISSING' in table._repr_html_()


def test_stated_reason_is_shown_for_the_silent_inputs():
    table = prove_rules({scale: replace(RULE, without={'SymPy': 'NumPy knows no letters'})})
    assert table and not table.missing
    assert 'scale_backward by SymPy, on x (2, 3), s (3,): NumPy knows no letters' in str(table) and '0 on 2 of 3' in str(table)
    rows = [line for line in str(table.proofs[0]).splitlines() if line.startswith('SymPy')]
    assert 'ok on 2 of 3' in rows[0] and '- on 1 of 3' in rows[1] and 'on x (2, 3), s (3,): NumPy knows no letters' in rows[1]


def test_lines_for_some_examples_only():
    def lines(x, s): return RULE.einsum if len(x) > 1 else ()
    table = prove_rules({scale: replace(RULE, einsum=lines, without={'SymPy': 'NumPy knows no letters'})})
    assert table.missing == ['scale_backward by einsum, on x (1, 3), s (3,): nothing is stated; give einsum=[...]'] and not table


def test_wrong_on_one_of_the_examples():
    def one_row(g, x, s): return g * s, (g * x)[0].clone()
    table = prove_rules({scale: replace(RULE, f_backward=one_row)})
    assert not table and 'WRONG' in str(table) and 'only entry 0 along axis 0' in str(table)
    assert 'WRONG on 2 of 3' in str(table.proofs[0])


def test_rules_that_cannot_be_proved_say_which():
    with pytest.raises(ValueError, match='^scale_backward: .* has no examples'):
        prove_rules({scale: replace(RULE, examples=None)})
    with pytest.raises(ValueError, match='^scale_backward: expected a line such as'):
        prove_rules({scale: replace(RULE, indices='grad_x = 3')})


def test_no_inputs():
    assert len(prove_gradient(relu, relu_backward).by('contract')) == 3
    with pytest.raises(LookupError, match='has no rule; write one as @rule_for'):
        prove_gradient(huber, relu_backward)


# ---- The rules of the package.

import_all()  # which registers them
each_rule = pytest.mark.parametrize('rule', RULES.values(), ids=lambda rule: rule.name)


@pytest.fixture(scope='module')
def all_rules():
    return prove_rules()


def test_all_rules_are_proved(all_rules):
    insist(all_rules.ok, str(all_rules))
    assert [proof.rule for proof in all_rules.proofs] == [*RULES.values()]


def test_each_silence_needs_its_reason(all_rules):
    "Take the reasons away: exactly what was silent is missing."
    silences = Counter(proof.rule.name for proof in all_rules.proofs for one in proof.statements if one.state == 'silent')
    bare = ProofTable([replace(proof, rule=replace(proof.rule, without={})) for proof in all_rules.proofs])
    assert not bare and Counter(text.partition(' by ')[0] for text in bare.missing) == silences
    assert all(f'MISSING {text}' in str(bare) for text in bare.missing)


def test_each_reason_is_needed(all_rules):
    "A witness that has learnt to speak needs no excuse any more."
    idle = [(proof.rule.name, witness) for proof in all_rules.proofs for witness in proof.rule.without if proof.state_of(witness) != 'silent']
    assert not idle


def test_a_reason_taken_away_before_the_proof():
    rule = RULES[operations.power]
    table = prove_rules({rule.f: replace(rule, without={'einsum': rule.without['einsum']})})
    text, = table.missing
    assert not table and text.startswith('power_backward by SymPy, on a 2.0, b (3,): SymPy did not bring')


@each_rule
def test_a_factor_of_2_is_never_proved(rule):
    def twice(grad_out, *inputs):
        return rule.f_backward(2 * grad_out, *inputs)
    assert not prove_rules({rule.f: replace(rule, f_backward=twice)})


# ---- One witness that fails doesn't silence the others.

def test_a_witness_that_fails_is_silent():
    large = torch.tensor([[1000.0, -1000.0]])
    def f(x): return x.logsumexp(-1)
    def f_backward(g, x): return g[:, None] * x.softmax(-1)
    proof = prove_gradient(f, f_backward, large, indices='grad_x[i, j] += grad_out[i] * exp(x[i, j]) / sum(map(exp, list(x)[i]))')
    assert 'math range error' in proof.by('indices')[0].text and proof.state_of('indices') == 'silent'
    assert proof.state_of('autograd') == 'proved' and proof


def test_an_error_that_nobody_foresaw_is_a_silence(monkeypatch):
    def fails(case): raise KeyError('why')
    monkeypatch.setattr(proofs, 'by_autograd', fails)
    proof = prove_gradient(relu, relu_backward, draw(3))
    assert proof.by('autograd')[0].text == "KeyError: 'why'" and proof


def test_kink_is_a_silence():
    proof = prove_gradient(relu, relu_backward, torch.tensor([0.0, 1.0]))
    assert proof.state_of('nudging') == 'silent' and 'where f has a kink' in proof.by('nudging')[0].text


# ---- SymPy's work is counted, not timed.

def test_too_many_letters():
    with pytest.raises(CannotJudge, match='110 letters are too many'):
        by_sympy(Case(relu, relu_backward, (draw(11, 10),)))


def test_work_has_a_limit(monkeypatch):
    case = Case(huber, lambda g, x: g * x.clamp(-1, 1), (draw(3),))
    assert by_sympy(case).error == 0
    monkeypatch.setattr(proofs, 'MOST_WORK', 50)
    with pytest.raises(CannotJudge, match='more than 50 parts of expressions, at entry'):
        by_sympy(case)


def test_expressions_without_end():
    "Forty doublings: an expression that is read in the time of 2 ** 40 steps, if nobody counts."
    def f(x):
        for _ in range(40):
            x = x * x + x.tanh()
        return x
    small = torch.full((1,), 1e-3)
    case = Case(f, lambda g, x: g * torch.autograd.functional.jacobian(lambda x: f(x).sum(), x.detach()), (small,))
    with pytest.raises(CannotJudge, match='grows beyond 20,000 operations'):
        by_sympy(case)


def step(x, h, w, u): return torch.tanh(x @ w + h @ u)


@pytest.mark.parametrize('factor', [1, 2])
def test_recurrent_step_from_zero(factor):
    "A step from an initial state of zeros: whatever multiplies the state can't be seen in numbers, and in letters it is."
    def step_backward(g, x, h, w, u):
        d = g * (1 - step(x, h, w, u) ** 2)
        return d @ w.T, d @ u.T, x.T @ d, factor * (h.T @ d)
    proof = prove_gradient(step, step_backward, draw(2, 3), torch.zeros(2, 2), draw(3, 2), draw(2, 2))
    assert proof.state_of('SymPy') == ('proved' if factor == 1 else 'wrong'), proof

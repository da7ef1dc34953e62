"""What must hold for every equation, on examples that Hypothesis writes: a few hundred here, more by `make fuzz`."""
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import event, example, given
from hypothesis import strategies as st
from strategies import SEEDS, SIZES, members, tensors, usually
from torch.testing import assert_close

from backprop_course.toolbox.einsums import einsum, einsum_backward, einsum_loops, explain_einsum

DOTS = '...'


# ---- Equations.

@dataclass
class Pieces:
    "An equation in pieces, and a shape for each operand."
    terms: list[list[str]]          # letters and '...', an item a letter
    output: list[str] | None        # None: no arrow
    shapes: list[tuple[int, ...]]
    comma: str = ','
    arrow: str = '->'

    @property
    def text(self):
        left = self.comma.join(map(''.join, self.terms))
        return left if self.output is None else left + self.arrow + ''.join(self.output)

    @property
    def letters(self):
        "The letters of the operands, each once."
        return sorted({name for names in self.terms for name in names} - {DOTS})

    def behind_dots(self, operand):
        "Which axes of an operand stand behind its dots, as a slice."
        names, shape = self.terms[operand], self.shapes[operand]
        first = names.index(DOTS)
        return slice(first, first + 1 + len(shape) - len(names))

    def places(self, letter):
        "Where a letter stands: (operand, axis), as often as it does."
        for operand, (names, shape) in enumerate(zip(self.terms, self.shapes)):
            for place, name in enumerate(names):
                if name == letter:
                    yield operand, place + (len(shape) - len(names) if DOTS in names[:place] else 0)


@st.composite
def terms(draw, size, batch):
    "A term and a shape that fits: letters twice among them, and axes to stretch behind the dots."
    names = draw(st.lists(st.sampled_from(sorted(size)), min_size=draw(st.sampled_from([0, 1, 2])), max_size=3))
    shape = [size[name] for name in names]
    if batch is not None:
        place, first = draw(st.integers(0, len(names))), draw(st.integers(0, len(batch)))
        shape[place:place] = [1 if usually(draw, 50) else size for size in batch[first:]]
        names.insert(place, DOTS)
    return names, tuple(shape)


@st.composite
def equations(draw):
    "An equation that `einsum` accepts."
    size = {letter: draw(SIZES) for letter in draw(st.sampled_from(['ijka', 'IjJi', 'aBk', 'ab', 'i']))}
    batch = draw(st.lists(SIZES, max_size=2)) if usually(draw, 65) else None
    parts = [draw(terms(size, batch if usually(draw, 90) else None)) for _ in range(draw(st.sampled_from([1, 2, 2, 3, 3, 4, 5])))]
    pieces = Pieces([names for names, _ in parts], None, [shape for _, shape in parts],
                      comma=draw(st.sampled_from([',', ', ', ' , '])), arrow=draw(st.sampled_from(['->', ' -> '])))
    if usually(draw, 95):
        pieces.output = draw(st.permutations(pieces.letters))[:draw(st.integers(0, len(pieces.letters)))]
        if any(DOTS in names for names in pieces.terms):
            pieces.output.insert(draw(st.integers(0, len(pieces.output))), DOTS)
    return pieces


def labels(pieces):
    "What is special about an equation; `make fuzz` prints how often each occurs."
    places = {letter: list(pieces.places(letter)) for letter in pieces.letters}
    summed = [letter for letter in places if len(places[letter]) > 1] if pieces.output is None else {*places} - {*pieces.output}
    behind = [pieces.shapes[operand][pieces.behind_dots(operand)]
              for operand, names in enumerate(pieces.terms) if DOTS in names]
    return {f'operands: {len(pieces.terms)}': True,
            'a letter twice in one operand': any(names.count(letter) > 1 for names in pieces.terms for letter in places),
            'a letter summed from one operand alone': any(len({*dict(places[letter])}) == 1 for letter in summed),
            'an ellipsis': bool(behind),
            'an ellipsis that stretches': bool(behind) and any(shape != np.broadcast_shapes(*behind) for shape in behind),
            'no arrow': pieces.output is None,
            'a size of 0': any(0 in shape for shape in pieces.shapes)}


@st.composite
def problems(draw):
    "An equation, tensors that fit it, and a seed for more numbers."
    pieces, seed = draw(equations()), draw(SEEDS)
    for label, holds in labels(pieces).items():
        if holds:
            event(label)
    return pieces.text, tensors(pieces.shapes, seed), seed + 1


def as_tuple(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


def memory(tensors):
    "Which memory each tensor lies in, of those that need any."
    return [x.untyped_storage().data_ptr() for x in tensors if x.numel()]


def assert_own_memory(made, *others):
    "Each of `made` shares its memory with nothing, and has a place for each of its entries."
    assert len({*memory(made), *memory(others)}) == len(memory(made)) + len({*memory(others)})
    for x in made:
        assert not x.numel() or all(step > 0 for step, size in zip(x.stride(), x.shape) if size > 1)


@given(problems())
def test_einsum(problem):
    equation, operands, _ = problem
    before = [x.clone() for x in operands]
    expected = torch.einsum(equation, *operands)
    out = einsum(equation, *operands)
    assert_close(out, expected)
    assert_own_memory([out], *operands)
    assert all(map(torch.equal, operands, before))
    assert str(explain_einsum(equation, *operands)).splitlines()[0].endswith(f' -> {tuple(expected.shape)}')


@given(problems())
def test_einsum_loops(problem):
    equation, operands, _ = problem
    operands = [x[(slice(2),) * x.ndim] for x in operands]  # three rounds a letter take too long
    assert_close(einsum_loops(equation, *operands), torch.einsum(equation, *operands))


@given(problems())
def test_einsum_backward(problem):
    "The gradients that autograd finds for torch's einsum, from a random gradient upstream."
    equation, operands, seed = problem
    leaves = [x.detach().requires_grad_() for x in operands]
    out = torch.einsum(equation, *leaves)
    grad_out, = tensors([tuple(out.shape)], seed)
    expected = torch.autograd.grad(out, leaves, grad_out, allow_unused=True, materialize_grads=True)
    before = [x.clone() for x in (grad_out, *operands)]
    gradients = einsum_backward(grad_out, equation, *operands)
    assert isinstance(gradients, tuple) == (len(operands) > 1)
    assert len(as_tuple(gradients)) == len(operands)
    for gradient, wanted in zip(as_tuple(gradients), expected):
        assert_close(gradient, wanted)  # shape and dtype, too
    assert_own_memory(as_tuple(gradients), grad_out, *operands)
    assert all(map(torch.equal, (grad_out, *operands), before))


@given(problems(), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_einsum_backward_of_other_dtypes(problem, dtype):
    "On signs, whose products are exact in each dtype. Operands that require gradients get none stored."
    equation, operands, seed = problem
    operands = [x.sign() for x in operands]
    grad_out = tensors([tuple(einsum(equation, *operands).shape)], seed)[0].sign()
    expected = as_tuple(einsum_backward(grad_out, equation, *operands))
    leaves = [x.to(dtype).requires_grad_() for x in operands]
    gradients = as_tuple(einsum_backward(grad_out.to(dtype), equation, *leaves))
    for gradient, wanted in zip(gradients, expected):
        assert_close(gradient.detach(), wanted.to(dtype))
    assert all(leaf.grad is None for leaf in leaves)
    whole = einsum_backward(grad_out.long(), equation, *[x.long() for x in operands])
    assert as_tuple(whole) == (None,) * len(operands)


# ---- Equations that make no sense: a good one, spoilt in one place. Each function says what the message must name, or returns
# None where there is nothing to spoil in its way.

def second_size(draw, pieces):
    "A letter has another size in one of its places. 1 is no exception."
    candidates = [letter for letter in pieces.letters if len(list(pieces.places(letter))) > 1]
    if candidates:
        letter = draw(st.sampled_from(candidates))
        operand, axis = draw(st.sampled_from(list(pieces.places(letter))))
        shape = pieces.shapes[operand]
        size = draw(st.sampled_from([size for size in (2, 3, 1, 0) if size != shape[axis]]))
        pieces.shapes[operand] = (*shape[:axis], size, *shape[axis + 1:])
        return f'one size for {letter!r}', f'{shape[axis]} in operand', f'{size} in operand'


def second_size_behind_dots(draw, pieces):
    "One more axis behind all dots: 4 in one operand, 5 in another, else 1."
    dotted = draw(st.permutations([operand for operand, names in enumerate(pieces.terms) if DOTS in names]))
    if len(dotted) > 1:
        for operand, size in zip(dotted, [4, 5, 1, 1, 1]):
            shape, end = pieces.shapes[operand], pieces.behind_dots(operand).stop
            pieces.shapes[operand] = (*shape[:end], size, *shape[end:])
        return 'one size behind ...', '4 in operand', '5 in operand'


def unknown_letter(draw, pieces):
    if pieces.output is not None:
        pieces.output.insert(draw(st.integers(0, len(pieces.output))), 'Z')
        return "got 'Z' only in the output",


def repeated_output_letter(draw, pieces):
    kept = sorted({*(pieces.output or [])} - {DOTS})
    if kept:
        letter = draw(st.sampled_from(kept))
        pieces.output.insert(draw(st.integers(0, len(pieces.output))), letter)
        return f'got {letter!r} 2 times in the output',


def dots_on_one_side(draw, pieces):
    if pieces.output is not None:
        if DOTS in pieces.output:
            pieces.output.remove(DOTS)
            return 'only on the left',
        pieces.output.append(DOTS)
        return 'only on the right',


def number_of_operands(draw, pieces):
    terms = len(pieces.terms)
    if draw(st.booleans()):
        pieces.shapes.pop()
    else:
        pieces.shapes.append(draw(st.sampled_from([(), (2,)])))
    return f'one operand a term, {terms} for', f'got {len(pieces.shapes)}'


def axis_without_letter(draw, pieces):
    plain = [operand for operand, names in enumerate(pieces.terms) if DOTS not in names]
    if plain:
        operand = draw(st.sampled_from(plain))
        pieces.shapes[operand] += (draw(SIZES),)
        return f'operand {operand + 1} of', f'{len(pieces.terms[operand])} axes', f'got shape {pieces.shapes[operand]}'


def letter_without_axis(draw, pieces):
    letters = [len([name for name in names if name != DOTS]) for names in pieces.terms]
    if any(letters):
        operand = draw(st.sampled_from([operand for operand, count in enumerate(letters) if count]))
        pieces.shapes[operand] = pieces.shapes[operand][:letters[operand] - 1]
        return f'operand {operand + 1} of', f'{letters[operand]} axes', f'got shape {pieces.shapes[operand]}'


def no_letter(draw, pieces):
    names = draw(st.sampled_from(pieces.terms))
    bad = draw(st.sampled_from(['1', '_', ';', 'é', '.'] + [DOTS] * (DOTS in names)))
    names.insert(draw(st.integers(0, len(names))), bad)
    return f'got {bad[0]!r} in {"".join(names)!r}',


SPOILERS = [second_size_behind_dots, second_size, repeated_output_letter, unknown_letter, dots_on_one_side, axis_without_letter,
            letter_without_axis, number_of_operands, no_letter]


@given(st.data())
def test_refused_equations(data):
    pieces = data.draw(equations(), 'good')
    first = data.draw(st.integers(0, len(SPOILERS) - 1), 'first way to try')
    for spoil in SPOILERS[first:] + SPOILERS[:first]:
        words = spoil(data.draw, pieces)
        if words:
            break
    event(spoil.__name__)
    operands = [torch.ones(shape) for shape in pieces.shapes]
    for function in (einsum, einsum_loops, explain_einsum):
        with pytest.raises(ValueError) as refused:
            function(pieces.text, *operands)
        assert all(word in str(refused.value) for word in words)
    with pytest.raises(ValueError) as refused:
        einsum_backward(torch.ones(()), pieces.text, *operands)
    assert all(word in str(refused.value) for word in words)
    stretched = spoil is second_size and '1 in operand' in str(refused.value)
    if not stretched and spoil is not dots_on_one_side:  # the two points in which torch takes more
        with pytest.raises((RuntimeError, ValueError)):
            torch.einsum(pieces.text, *operands)


@given(problems(), st.data())
def test_refused_grad_out(problem, data):
    equation, operands, _ = problem
    shape = tuple(torch.einsum(equation, *operands).shape)
    other = data.draw(members(shape), 'shape of grad_out')
    other = other if other != shape else (1, *shape)
    with pytest.raises(ValueError) as refused:
        einsum_backward(torch.ones(other, dtype=torch.float64), equation, *operands)
    assert f'of shape {shape},' in str(refused.value) and f'got {other}' in str(refused.value)
    with pytest.raises(TypeError, match='torch.float64.*got torch.float32.*try'):
        einsum_backward(torch.ones(shape), equation, *operands)


def test_equations_that_are_often_taught_to_be_wrong():
    "A letter may appear any number of times on the left, and an output need not be summed."
    x, y = torch.randn(3), torch.randn(2, 3)
    assert_close(einsum('i,i,i->', x, x, x), (x ** 3).sum())
    assert torch.equal(einsum('ij->ij', y), y) and einsum('ij->ij', y).data_ptr() != y.data_ptr()


def test_fates():
    text = explain_einsum('...ii,...j->...j', torch.ones(1, 3, 3), torch.ones(5, 2))
    assert 'e1' in text and 'kept, stretched' in text and 'summed, diagonal' in text


def test_meta_tensors_will_do_for_an_explanation():
    assert '1,000,000,000,000 multiplications' in explain_einsum('ik,kj->ij', *torch.empty(2, 10_000, 10_000, device='meta'))


def test_whole_numbers_have_no_gradient():
    whole = torch.arange(3)
    assert einsum_backward(whole, 'i->i', whole) is None
    assert einsum_backward(whole, 'i,i->i', whole, whole) == (None, None)

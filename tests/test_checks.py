"""Arguments that don't fit are refused, with words that are right; arguments that fit are not."""
import pytest
import torch
from backprop_course.toolbox.checks import check_floats, check_labels, check_same_shape, check_shapes, expect_error


def ones(*shape, **options):
    return torch.ones(shape, **options)


@pytest.mark.parametrize('arguments, sizes', [
    (dict(inp=(ones(64, 784), 'batch n_in'), w=(ones(784, 50), 'n_in n_out'), b=(ones(50), 'n_out')), dict(batch=64, n_in=784, n_out=50)),
    (dict(a=(ones(0, 3), 'batch n'), b=(ones(3, 0), 'n m')), dict(batch=0, n=3, m=0)),
    (dict(a=(ones(), '')), {}), (dict(a=(ones(5, 1), 'batch 1')), dict(batch=5)), (dict(a=(ones(3, 3), 'n n')), dict(n=3))])
def test_what_fits(arguments, sizes):
    assert check_shapes('f', **arguments) == sizes


@pytest.mark.parametrize('arguments, message', [
    (dict(inp=(ones(64, 784), 'batch n_in'), w=(ones(50, 784), 'n_in n_out')),
     'f expects w of shape (n_in, n_out), got (50, 784), but n_in is 784 in inp; try w.t()'),
    (dict(inp=(ones(2, 3), 'batch n_in'), w=(ones(4, 5), 'n_in n_out')), 'f expects w of shape (n_in, n_out), got (4, 5), but n_in is 3 in inp'),
    (dict(inp=(ones(64, 1), 'batch 1'), targ=(ones(64, 1), 'batch')), 'f expects targ of shape (batch,), got (64, 1); try targ.squeeze(-1)'),
    (dict(inp=(ones(64), 'batch 1'),), 'f expects inp of shape (batch, 1), got (64,); try inp.unsqueeze(-1)'),
    (dict(inp=(ones(784), 'batch n_in')), 'f expects inp of shape (batch, n_in), got (784,); try inp[None]'),
    (dict(a=(ones(3, 4), 'n n')), 'f expects a of shape (n, n), got (3, 4), but n is 3 in a'),
    (dict(a=(ones(5, 2), 'batch 1')), 'f expects a of shape (batch, 1), got (5, 2)'),
    (dict(grad_out=(ones(2), '')), 'f expects grad_out of shape (), got (2,)'),
    (dict(a=(ones(2), 'n'), b=(ones(3), 'n'), c=(ones(2), 'n')), 'f expects b of shape (n,), got (3,), but n is 2 in a'),
    (dict(a=(ones(2), 'n'), b=(ones(2, device='meta'), 'n')), 'f expects one device, got cpu for a and meta for b; try b.to(a.device)')])
def test_shapes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError) as refused:
        check_shapes('f', **arguments)
    assert str(refused.value) == message


@pytest.mark.parametrize('value, message', [
    ([1.0], 'f expects a torch tensor for b, got list; try torch.tensor(b)'), (None, 'f expects a torch tensor for b, got NoneType'),
    (torch.tensor([1]), 'f expects floating-point numbers in b, got torch.int64; try b.float()'),
    (torch.tensor([1j]), 'f expects floating-point numbers in b, got torch.complex64; try b.real'),
    (ones(1).double(), 'f expects one dtype, got torch.float32 in a and torch.float64 in b; try b.to(a.dtype)')])
def test_numbers_that_do_not_fit(value, message):
    for call in (lambda: check_shapes('f', a=(ones(1), 'n'), b=(value, 'n')), lambda: check_same_shape('f', a=ones(1), b=value),
                 lambda: check_floats('f', a=ones(1), b=value)):
        with pytest.raises(TypeError) as refused:
            call()
        assert str(refused.value) == message


def test_same_shape():
    check_same_shape('f', a=ones(0, 3), b=ones(0, 3))
    with pytest.raises(ValueError, match=r'f expects a and c of one shape, got \(2,\) and \(1, 2\)'):
        check_same_shape('f', a=ones(2), b=ones(2), c=ones(1, 2))


LOGITS = ones(4, 10)
WRONG_LABELS = [
    (torch.tensor([1., 2., 3., 4.]), TypeError, 'whole numbers, the classes, in targ, got torch.float32; try targ.long()'),
    ([1, 2, 3, 4], TypeError, 'got list; try torch.tensor(targ)'),
    (torch.tensor([True] * 4), TypeError, 'got torch.bool'),
    (torch.tensor([[1], [2], [3], [4]]), ValueError, 'targ of shape (4,), a class for each row, got (4, 1); try targ.squeeze(-1)'),
    (torch.eye(10, dtype=torch.int64)[:4], ValueError, 'got (4, 10); try targ.argmax(1)'),
    (torch.tensor([1, 2, 3]), ValueError, 'got (3,)'),
    (torch.tensor([1, 2, 3, 10]), ValueError, 'classes from 0 to 9, got 1 to 10'),
    (torch.tensor([-1, 2, 3, 4]), ValueError, 'got -1 to 4'),
]


@pytest.mark.parametrize('targ, error, words', WRONG_LABELS)
def test_labels_that_are_refused(targ, error, words):
    with pytest.raises(error) as refused:
        check_labels('f', LOGITS, targ)
    assert str(refused.value).startswith('f expects') and words in str(refused.value)


def test_labels_that_fit():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        check_labels('f', LOGITS, torch.tensor([0, 9, 3, 3], dtype=dtype))
    check_labels('f', LOGITS[:0], torch.tensor([], dtype=torch.int64))


def test_the_caller_sees_its_own_line(pytester_run):
    "pytest shows no frame of ours between the user's line and the message."
    said = pytester_run('from backprop_course import check_shapes\nimport torch\n'
                        'def test():\n    check_shapes("f", a=(torch.ones(2), "n m"))\n')
    assert 'check_shapes("f"' in said and 'expects a of shape' in said and 'toolbox' not in said, said


def test_expected_errors(capsys):
    with expect_error(ValueError, TypeError):
        raise TypeError('this')
    assert capsys.readouterr().out == 'TypeError: this\n'
    with pytest.raises(AssertionError, match='expected ValueError, but the block ran through'):
        with expect_error(ValueError):
            pass
    with pytest.raises(KeyError):  # another error is passed on
        with expect_error(ValueError):
            raise KeyError('that')

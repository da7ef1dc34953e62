"""Measure the speed ladder, a training step of the two-layer model against autograd, and what tracing it costs.

    python bench/speed.py                            all sizes (about two minutes)
    python bench/speed.py --sizes 64,784,50 --repeats 101
"""
import argparse
import sys
from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter

import torch
from backprop_course.backward import forward_and_backward
from backprop_course.broadcasting import matmul_broadcast
from backprop_course.einsum import matmul_einsum
from backprop_course.forward import lin, mse
from backprop_course.matmul import matmul_elementwise, matmul_loops
from backprop_course.modules import Lin, Model, Relu
from backprop_course.toolbox.engine import Variable, apply
from backprop_course.toolbox.timing import time_ladder
from backprop_course.toolbox.tracing import trace_backward
from torch import Tensor, nn
from torch.testing import assert_close

SIZES = [(50, 64, 50), (200, 100, 50), (64, 784, 50), (1024, 784, 256), (50000, 784, 50)]
NAMES = ['autograd', 'functions', 'layers', 'engine']
TRACED = ['layers', 'traced', 'read']


def training_steps(batch: int, n_in: int, n_hidden: int, needs_inp_grad: bool) -> dict[str, Callable[[], list[Tensor]]]:
    "One training step by each means, on the same numbers. Each returns the gradients, in one order and with our shapes."
    generator = torch.Generator().manual_seed(0)
    inp, targ = torch.randn(batch, n_in, generator=generator), torch.randn(batch, generator=generator)
    w1 = torch.randn(n_in, n_hidden, generator=generator) * (2 / n_in) ** .5
    w2 = torch.randn(n_hidden, 1, generator=generator) * (2 / n_hidden) ** .5
    b1, b2 = torch.zeros(n_hidden), torch.zeros(1)
    ours = [w1, b1, w2, b2, *([inp] if needs_inp_grad else [])]

    def functions():
        forward_and_backward(inp, targ, w1, b1, w2, b2, needs_inp_grad=needs_inp_grad)
        return [tensor.g for tensor in ours]

    model = Model([Lin(w1, b1, needs_inp_grad=needs_inp_grad), Relu(), Lin(w2, b2)])

    def layers():
        model(inp, targ)
        model.backward()
        return [tensor.g for tensor in ours]

    variables = [Variable(tensor) for tensor in (w1, b1, w2, b2)]
    engine_inp = Variable(inp) if needs_inp_grad else inp

    def engine():
        leaves = [*variables, engine_inp] if needs_inp_grad else variables
        for leaf in leaves:
            leaf.zero_grad()
        first_w, first_b, last_w, last_b = variables
        hidden = apply(lin, engine_inp, first_w, first_b).relu()
        apply(mse, apply(lin, hidden, last_w, last_b), targ).backward()
        return [leaf.grad for leaf in leaves]

    peer = nn.Sequential(nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 1))
    peer.load_state_dict({'0.weight': w1.T, '0.bias': b1, '2.weight': w2.T, '2.bias': b2})
    peer_inp = inp.clone().requires_grad_(needs_inp_grad)

    def autograd():
        peer.zero_grad(set_to_none=True)
        peer_inp.grad = None
        nn.functional.mse_loss(peer(peer_inp).squeeze(-1), targ).backward()
        first, last = peer[0], peer[2]
        grads = [first.weight.grad.T, first.bias.grad, last.weight.grad.T, last.bias.grad]
        return [*grads, peer_inp.grad] if needs_inp_grad else grads

    return dict(zip(NAMES, [autograd, functions, layers, engine]))


def traced_steps(batch: int, n_in: int, n_hidden: int) -> dict[str, Callable]:
    "A training step by the layers, the same step traced, and traced and read: the steps with their words and digests."
    generator = torch.Generator().manual_seed(0)
    inp, targ = torch.randn(batch, n_in, generator=generator), torch.randn(batch, generator=generator)
    w1, w2 = torch.randn(n_in, n_hidden, generator=generator), torch.randn(n_hidden, 1, generator=generator)
    model = Model([Lin(w1, torch.zeros(n_hidden)), Relu(), Lin(w2, torch.zeros(1))])

    def layers():
        model(inp, targ)
        model.backward()
        return [tensor.g for tensor in (inp, *model.parameters())]

    def traced():
        trace_backward(model, inp, targ)
        return [tensor.g for tensor in (inp, *model.parameters())]

    for own, watched in zip(layers(), traced(), strict=True):
        assert_close(watched, own, rtol=0, atol=0)  # to the last bit
    return dict(zip(TRACED, [layers, traced, lambda: trace_backward(model, inp, targ).steps]))


def check_agreement(steps: dict[str, Callable[[], list[Tensor]]]) -> None:
    "Raise `AssertionError` unless all steps give the same gradients; run twice, so that nothing may add up."
    for name, step in steps.items():
        step()
        for grad, expected in zip(step(), steps['autograd'](), strict=True):
            assert_close(grad, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item(), msg=lambda text: f'{name}: {text}')


def measure(steps: dict[str, Callable], repeats: int, seconds: float = .02) -> dict[str, list[float]]:
    "Seconds a call, `repeats` times. The steps take turns, so that a machine that slows down slows all of them."
    first = next(iter(steps.values()))
    calls = max(1, round(seconds / min(seconds_of(first, 1) for _ in range(5))))
    times = {name: [] for name in steps}
    for repeat in range(repeats):
        turn = list(steps.items())
        for name, step in turn[repeat % len(turn):] + turn[:repeat % len(turn)]:
            times[name].append(seconds_of(step, calls))
    return times


def seconds_of(step: Callable, calls: int) -> float:
    "Seconds a call of `step`, over `calls` calls."
    started = perf_counter()
    for _ in range(calls):
        step()
    return (perf_counter() - started) / calls


def row(size: tuple[int, int, int], times: dict[str, list[float]]) -> str:
    "A line of a table: median times, and the ratios to the first, turn by turn, with their quartiles."
    cells = ['{:>6} {:>5} {:>6}'.format(*size), *(f'{median(values) * 1e6:>10,.0f}' for values in times.values())]
    first, *others = times.values()
    for values in others:
        low, middle, high = quantiles([own / peer for own, peer in zip(values, first)], n=4)
        cells.append(f'{middle:>6.2f} ({low:.2f} to {high:.2f})')
    return ' '.join(cells)


def show_training_steps(sizes: list[tuple[int, int, int]], repeats: int) -> None:
    print(f'\nA training step of lin, relu, lin, mse with one number as output: the loss, and the gradients by\n'
          f'  autograd   torch.nn (Linear, ReLU, Linear, mse_loss, zero_grad, backward)\n'
          f'  functions  forward_and_backward of chapter 06\n'
          f'  layers     Model([Lin, Relu, Lin]) of chapter 07\n'
          f'  engine     Variables of the lesson on autograd; it computes the gradient of the input in either case\n'
          f'Microseconds a step, the median of {repeats} turns; then the ratio to autograd, its median and quartiles.\n'
          f'Below 1 is faster than autograd. torch {torch.__version__}, float32, CPU threads: {torch.get_num_threads()}.')
    for needs_inp_grad in (False, True):
        print(f'\nGradients of the parameters{" and of the input" if needs_inp_grad else " only"}:\n'
              f'{"batch":>6} {"in":>5} {"hidden":>6} {"autograd":>10} {"functions":>10} {"layers":>10}'
              f' {"engine":>10} {"functions/autograd":>21} {"layers/autograd":>21} {"engine/autograd":>21}')
        for size in sizes:
            steps = training_steps(*size, needs_inp_grad)
            check_agreement(steps)
            print(row(size, measure(steps, repeats)), flush=True)


def show_tracing(sizes: list[tuple[int, int, int]], repeats: int) -> None:
    print(f'\nThe same training step under trace_backward of chapter 08:\n'
          f'  layers  Model([Lin, Relu, Lin]), not traced\n'
          f'  traced  trace_backward\n'
          f'  read    trace_backward, and the steps of the trace: digests, samples, words\n'
          f'Tracing costs a fixed time for each operation and each .g, and a copy of each tensor. So it weighs most\n'
          f'where the model is smallest.\n'
          f'Microseconds a step, the median of {repeats} turns; then the ratio to layers, its median and quartiles.\n\n'
          f'{"batch":>6} {"in":>5} {"hidden":>6} {"layers":>10} {"traced":>10} {"read":>10} {"traced/layers":>21} {"read/layers":>21}')
    for size in sizes:
        print(row(size, measure(traced_steps(*size), repeats)), flush=True)


def show_ladder() -> None:
    "Five images of digits times the weights of ten neurons, as in chapter 03."
    generator = torch.Generator().manual_seed(0)
    rungs = {'loops': matmul_loops, 'elementwise': matmul_elementwise, 'broadcasting': matmul_broadcast,
             'einsum': matmul_einsum, '@': torch.matmul}
    print('The product of two matrices, by each chapter; the median time of a call.')
    print(time_ladder(rungs, torch.randn(5, 784, generator=generator), torch.randn(784, 10, generator=generator)))


def sizes_of(text: str) -> tuple[int, int, int]:
    batch, n_in, n_hidden = map(int, text.split(','))
    return batch, n_in, n_hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', nargs='+', type=sizes_of, default=SIZES, metavar='BATCH,IN,HIDDEN', help='the sizes of the model')
    parser.add_argument('--repeats', type=int, default=31, help='how often each is measured, at least 2 (31)')
    parser.add_argument('--no-ladder', action='store_true', help='only the training step')
    options = parser.parse_args()
    if options.repeats < 2:
        parser.error(f'quartiles need at least 2 repeats, got {options.repeats}')
    if not options.no_ladder:
        show_ladder()
    show_training_steps(options.sizes, options.repeats)
    show_tracing(options.sizes, options.repeats)


if __name__ == '__main__':
    sys.exit(main())

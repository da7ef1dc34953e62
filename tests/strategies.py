"What Hypothesis draws for more than one file of tests: sizes, shapes, tensors."
import torch
from hypothesis import strategies as st

SIZES = st.sampled_from([2, 3, 2, 3, 1, 0])  # what fails is made smaller, towards what stands first
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


def usually(draw, percent):
    "True in at most `percent` of the examples (Hypothesis likes what is small); False in those made as small as they can be."
    return draw(st.integers(0, 99)) >= 100 - percent


def tensors(shapes, seed, dtype=torch.float64):
    "A random tensor of each shape, its axes in the other order in memory."
    generator = torch.Generator().manual_seed(seed)
    turned = [torch.randn(shape[::-1], generator=generator, dtype=dtype) for shape in shapes]
    return [x.permute([*range(x.ndim)][::-1]) for x in turned]


@st.composite
def members(draw, whole):
    "A shape that is stretched to `whole`, or nearly so: now and then an axis has a size of its own."
    shape = whole[draw(st.integers(0, len(whole))):] if usually(draw, 60) else whole
    return tuple(draw(SIZES) if usually(draw, 15) else 1 if usually(draw, 45) else size for size in shape)

from .toolbox.checks import check_same_shape as check_same_shape, check_shapes as check_shapes
from .toolbox.derivations import derivation as derivation
from .toolbox.einsums import einsum_backward as einsum_backward, explain_einsum as explain_einsum
from .toolbox.engine import Variable as Variable, apply as apply, plot_graph as plot_graph
from .toolbox.gradcheck import check_gradient as check_gradient
from .toolbox.nudging import numerical_gradient as numerical_gradient
from .toolbox.numpy_edition import compare_editions as compare_editions, numpy_source as numpy_source, on_numpy as on_numpy
from .toolbox.proofs import index_sums as index_sums, prove_gradient as prove_gradient, prove_rules as prove_rules
from .toolbox.rules import find_rule as find_rule, rule_for as rule_for
from .toolbox.sanity import hidden_parameters as hidden_parameters
from .toolbox.shapes import explain_broadcast as explain_broadcast, plot_broadcast as plot_broadcast
from .toolbox.symbols import letters as letters
from .toolbox.timing import time_ladder as time_ladder
from .toolbox.tracing import trace_backward as trace_backward

__version__: str

"""Gradients that are proved on the code that runs, and a backward pass that can be watched.

What a user comes for is imported from here, and loaded when it is first used: `dir(backprop_course)` lists it,
and `__init__.pyi` says where each name comes from.
"""
import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

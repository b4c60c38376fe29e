"""What is being done with the operators besides running them."""

import torch
from torch.autograd import forward_ad

# Older torch has neither (seen: 2.1).
_is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)
_is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)


def is_compiling() -> bool:
    """Whether ``torch.compile`` or ``torch.export`` traces the call."""
    return _is_compiling()


def is_exporting() -> bool:
    """Whether the call becomes part of a file: ``torch.export``, ONNX."""
    return _is_exporting() or torch.onnx.is_in_onnx_export()


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work.

    Compilers take the answer of the time when they trace, and trace anew
    where it is another.
    """
    stack = torch._C._functorch.peek_interpreter_stack()
    return stack is not None or forward_ad._current_level >= 0


# What torch.compiler.assume_constant_result does, without importing all of
# the compiler for it.
is_transformed._dynamo_marked_constant = True

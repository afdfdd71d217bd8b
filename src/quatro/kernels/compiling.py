"""Choices that torch.compile takes as constants, without importing the compiler for those who never compile."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from wrapt import register_post_import_hook

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_when_compiled(function: Function) -> Function:
    """torch.compiler.assume_constant_result, applied the moment torch's compiler is imported (which takes over a second)."""

    def mark(compiler: object) -> None:
        torch.compiler.assume_constant_result(function)  # type: ignore[no-untyped-call]

    register_post_import_hook(mark, "torch._dynamo")
    return function

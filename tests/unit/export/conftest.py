"""Fixtures of the tests that export."""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def exporters_without_coverage() -> Iterator[None]:
    """Coverage would look at every line of torch's exporters, none of them ours, and double the time that they take."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (torch.export, torch.onnx):
            patch.setattr(module, "export", _untraced(module.export))
        yield


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return call

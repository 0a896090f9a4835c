"""An augmentation of the user's own, `augment.extra: module:function`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grcn.errors import ConfigError, DataError

Sample = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Extra:
    """A function of image [3, H, W] uint8, boxes [N, 4] float32, labels [N] int64 and a numpy Generator.

    Args:
        name: its name in the configuration, for errors.
        function: returns the first three. It gets copies, and its result is checked.
    """

    name: str
    function: Callable[..., Any]

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor, rng: np.random.Generator) -> Sample:
        """Applies the function to a sample.

        Raises:
            DataError: if the function fails, or does not return a sample.
        """
        try:
            made = self.function(image.clone(), boxes.clone(), labels.clone(), rng)
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"augment.extra '{self.name}': {type(error).__name__}: {error}") from error
        if not _is_sample(made):
            raise DataError(
                f"augment.extra '{self.name}': needs to return image [3, H, W] uint8, boxes [N, 4] float32 within it "
                "and labels [N] int64"
            )
        return made  # type: ignore[no-any-return]


def load_extra(name: str) -> Extra | None:
    """The augmentation that a configuration names; None if it names none.

    The module is searched in the folder in which the command was started, then where Python searches. Only a command
    line or a configuration file can name it; a checkpoint cannot cause an import.

    Raises:
        ConfigError: if there is no such module or function.
    """
    if not name:
        return None
    module, function = name.split(":")
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # importing the user's module may raise anything
        raise ConfigError(f"augment.extra '{name}': {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before
    if not callable(found):
        raise ConfigError(f"augment.extra '{name}': module '{module}' has no function '{function}'")
    return Extra(name, found)


def _is_sample(made: Any) -> bool:
    if not (isinstance(made, tuple) and len(made) == 3 and all(isinstance(part, Tensor) for part in made)):
        return False
    image, boxes, labels = made
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or min(image.shape) < 1:
        return False
    if labels.dtype != torch.int64 or labels.ndim != 1 or boxes.dtype != torch.float32:
        return False
    if boxes.shape != (len(labels), 4):
        return False
    low, high = boxes[:, :2], boxes[:, 2:]
    limits = boxes.new_tensor([image.shape[2], image.shape[1]])
    return bool((low >= 0).all() and (high > low).all() and (high <= limits).all())

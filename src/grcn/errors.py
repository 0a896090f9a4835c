"""Errors that a user can act on. Each has one line that says what, where and what to do, and an exit code by kind.

The command line prints `str(error)` and exits with `exit_code`; a traceback appears only with `--debug`.
"""

import errno
import os


class GrcnError(Exception):
    """Base of every error that grcn raises on purpose."""

    exit_code = 1


class ConfigError(GrcnError):
    """A configuration or command line that cannot be carried out."""

    exit_code = 2


class DataError(GrcnError):
    """A data set that cannot be found, recognized or used."""

    exit_code = 3


class ImageError(DataError):
    """An image file that cannot be decoded, or is refused."""

    exit_code = 4


class AnnotationError(DataError):
    """An annotation file that cannot be parsed, or breaks its format's rules."""

    exit_code = 5


class CheckpointError(GrcnError):
    """Weights or training state that cannot be loaded, saved or resumed."""

    exit_code = 6


class DivergedError(GrcnError):
    """Training produced a loss that is not finite."""

    exit_code = 7


class Interrupted(GrcnError):  # noqa: N818 - a stop that was asked for is not an error
    """The work was stopped by a signal, and its results so far are saved.

    Args:
        number: the number of the signal; the exit code is 128 more, as shells report it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)  # both, so that the error can be pickled
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return str(self.args[0])


def first_line(error: Exception) -> str:
    """The first line of an error of another library, short enough for one of our messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


EXTRAS = {
    "train": ("torch", "torchvision", "timm", "lightning_fabric", "safetensors"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "export": ("onnx", "onnxscript", "nncf"),
    "video": ("av",),
    "track": ("trackers", "cv2"),
    "heic": ("pillow_heif",),
    "parquet": ("pyarrow",),
    "study": ("ray", "scipy"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "starlette", "pydantic"),
    "demo": ("gradio",),
    "hub": ("huggingface_hub",),
    "supervision": ("supervision",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""The extras of the package, and the modules that come with each."""


def missing_part(error: ModuleNotFoundError) -> ConfigError | None:
    """The error for a module that is not installed, naming the extra to install; None if no extra has the module."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    return ConfigError(f"needs {module}, which is not installed: pip install 'grcn[{extra}]'")


def met_open_files_limit(error: BaseException | None) -> bool:
    """Whether an error comes from too many open files, in this process or in a process that it reports on."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        if os.strerror(errno.EMFILE) in str(error) or f"exit code {errno.EMFILE}." in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False

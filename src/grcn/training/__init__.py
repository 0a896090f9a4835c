"""Training: from a configuration to a run folder."""

from grcn.training.finetune import TransferReport, transfer_weights
from grcn.training.run import train

__all__ = ["TransferReport", "train", "transfer_weights"]

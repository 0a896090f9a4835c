"""Measures how good detections are: AP by the COCO and VOC rules, confusions, and what each task costs."""

from grcn.evaluation.coco import CocoResult, coco_ap
from grcn.evaluation.confusion import confusion_matrix
from grcn.evaluation.metrics import evaluate
from grcn.evaluation.voc import VocResult, voc_ap

__all__ = ["CocoResult", "VocResult", "coco_ap", "confusion_matrix", "evaluate", "voc_ap"]

"""How good detections are: AP by the COCO and VOC rules, curves, confusions, and the report of them."""

from grcn.evaluation.coco import CocoResult, coco_ap
from grcn.evaluation.confusion import confusion_matrix
from grcn.evaluation.metrics import evaluate
from grcn.evaluation.report import print_metrics, write_report
from grcn.evaluation.results import load_results
from grcn.evaluation.run import evaluate_detector
from grcn.evaluation.voc import VocResult, voc_ap

__all__ = [
    "CocoResult",
    "VocResult",
    "coco_ap",
    "confusion_matrix",
    "evaluate",
    "evaluate_detector",
    "load_results",
    "print_metrics",
    "voc_ap",
    "write_report",
]

"""Studies: a question put to several detectors, data sets and seeds; one YAML file each, results that can be kept."""

from grcn.study.plan import Study, Trial, read_study
from grcn.study.run import run_study
from grcn.study.table import verdicts, write_tables

__all__ = ["Study", "Trial", "read_study", "run_study", "verdicts", "write_tables"]

"""Studies compare several detectors on several data sets with several seeds. Each study is one YAML file."""

from grcn.study.plan import Study, Trial, read_study
from grcn.study.run import run_study
from grcn.study.table import verdicts, write_tables

__all__ = ["Study", "Trial", "read_study", "run_study", "verdicts", "write_tables"]

"""Detectors outside torch: exported to one graph (`export.py`), and run from its file (`runtimes.py`)."""

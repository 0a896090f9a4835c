"""Exports detectors to one graph, which other runtimes run (`grcn.predict.runtimes`)."""

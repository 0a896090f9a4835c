"""The table of formats. A format that is not here is neither recognized nor written.

A new format is a module with the functions of `protocol.Format`, a row here, and its name in `TrainConfig.format`,
which a test compares with the table.
"""

from grcn.data.formats import coco, cvat, fiftyone, imagefolder, labelstudio, tables, voc, yolo
from grcn.data.formats.protocol import Format, Layout, Writer

FORMATS: dict[str, Format] = {
    "voc": voc.FORMAT,
    "coco": coco.FORMAT,
    "yolo": yolo.FORMAT,
    "labelstudio": labelstudio.FORMAT,
    "cvat": cvat.FORMAT,
    "imagefolder": imagefolder.FORMAT,
    "csv": tables.FORMAT,
}
"""The formats that are read, by name."""

WRITERS: dict[str, Writer] = {
    **{name: row.writer for name, row in FORMATS.items() if row.writer},
    "fiftyone": fiftyone.WRITER,
}
"""The formats that are written, by name."""

__all__ = ["FORMATS", "WRITERS", "Format", "Layout", "Writer"]

"""The log of a run: metrics.jsonl, one record a line, and the same as TensorBoard events."""

from __future__ import annotations

import io
import json
import struct
import time
from pathlib import Path
from typing import Any

from fastgan.checks import MOST

NOT_PLOTTED = ("step", "time", "seconds", "seconds_left")  # of a record, in TensorBoard


def read_records(path: Path) -> tuple[list[dict], int]:
    """The records in a metrics.jsonl, and the number of lines that are no records. A last line that is cut short,
    because the process ended while it wrote, is not counted. No file: no records."""
    if not path.exists():
        return [], 0
    *lines, last = path.read_bytes().split(b"\n")
    parsed = [_record(line) for line in lines]
    if (whole := _record(last)) is not None:
        parsed.append(whole)
    records = [record for record in parsed if record is not None]
    return records, len(parsed) - len(records)


def _record(line: bytes) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or not 0 <= record["step"] <= MOST:
        return None
    numbers = dict(record)
    if "quality" in record:
        quality = numbers.pop("quality")
        if not _all_numbers(quality) or not {"coverage", "samples"} <= quality.keys():
            return None
        if "modes" in quality and "high_quality" not in quality:
            return None
    elif "loss_g" not in record:
        return None
    return record if _all_numbers({"time": 0.0, **numbers}) and "time" in record else None


def _all_numbers(record: Any) -> bool:
    """Whether `record` maps names to numbers. A score may be NaN or infinite."""
    return isinstance(record, dict) and all(
        name.isascii()
        and name.isidentifier()
        and (type(value) is float or (type(value) is int and -MOST <= value <= MOST))
        for name, value in record.items()
    )


def line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


def is_png(content: bytes) -> bool:
    return content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR" and len(content) > 32


def event(record: dict | None, png: bytes | None = None) -> bytes:
    """A record as a TensorBoard event; the file's header if `record` is None; a picture of samples if `png` is given.

    torch's SummaryWriter is not used: it writes in a thread, where an error such as a full disk would be lost."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    if record is None:
        event = Event(wall_time=time.time(), file_version="brain.Event:2")
    elif png is not None:
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag="samples", image=image)])
        event = Event(wall_time=record["time"], step=record["step"], summary=summary)
    else:
        values = record.get("quality", {k: v for k, v in record.items() if k not in NOT_PLOTTED})
        prefix = "quality" if "quality" in record else "train"
        scalars = [Summary.Value(tag=f"{prefix}/{name}", simple_value=value) for name, value in values.items()]
        event = Event(wall_time=record["time"], step=record["step"], summary=Summary(value=scalars))
    out = io.BytesIO()
    RecordWriter(out).write(event.SerializeToString())
    return out.getvalue()

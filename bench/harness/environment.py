"""Where a measurement was made: device, driver, versions, commit. No host name, no path."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"


def capture(*command: str, timeout: float = 20) -> str | None:
    """Standard output of a command run in the repository; None if it is missing or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_name() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return names[0].strip() if names else platform.machine()


def threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def describe(device: str, commit: str | None = None) -> dict:
    """The header of every results file. `commit` is recorded if the checkout has no git history."""
    import torch

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    header = {
        "device": f"CPU {cpu_name()}, {threads(torch.get_num_threads())}",
        "driver": None,
        "torch": torch.__version__,
        "triton": triton_version,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "system": f"{platform.system()} {platform.machine()}",
        "commit": commit or capture("git", "rev-parse", "HEAD"),
        "dirty": None,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shown_command(sys.argv[1:]),
        "load": round(os.getloadavg()[0], 2),  # processes that wanted a core in the minute before; 0 on an idle machine
        "cores": os.cpu_count(),
    }
    if commit is None and header["commit"] is not None:
        header["dirty"] = bool(capture("git", "status", "--porcelain", "--untracked-files=no"))
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        header["device"] = properties.name
        header["driver"] = capture("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0")
        header["compute_capability"] = f"{properties.major}.{properties.minor}"
        header["multiprocessors"] = properties.multi_processor_count
        header["l2_bytes"] = getattr(properties, "L2_cache_size", 0)
    return header


class OtherPrograms:
    """The share of the cores' time that other programs have used since this object was made."""

    def __init__(self):
        self.begin = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        try:
            line = Path("/proc/stat").read_text().splitlines()[0].split()
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, line[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy, sum(os.times()[:4])

    def share(self) -> float | None:
        """0 on a machine that is otherwise idle; None if /proc/stat cannot be read."""
        end = self._now()
        if self.begin is None or end is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self.begin, end))
        return round(min(1.0, max(0.0, busy - own) / (max(wall, 1e-3) * (os.cpu_count() or 1))), 3)


def shown_command(arguments: list[str]) -> str:
    """The command that made a file, with absolute paths cut to their last part."""
    return " ".join(["python -m bench", *(Path(a).name if os.path.isabs(a) else a for a in arguments)])


def slug(device: str) -> str:
    """The results folder of this device: 'nvidia-h200', 'cpu-amd-epyc-2-threads'."""
    import torch

    name = torch.cuda.get_device_name(0) if device == "cuda" else f"cpu {cpu_name()} {threads(torch.get_num_threads())}"
    return slug_of(name)


def slug_of(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def folder(device: str, quick: bool) -> Path:
    """Where results of this device are kept; a quick run does not replace a full one."""
    return RESULTS / (slug(device) + "-quick" * quick)


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: dict) -> None:
    """Write JSON, with null for NaN and infinity, which JSON does not have."""
    write_atomically(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

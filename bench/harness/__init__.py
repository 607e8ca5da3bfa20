"""Clocks, statistics, processes, environments and parts of reports. No module here imports fastgan."""

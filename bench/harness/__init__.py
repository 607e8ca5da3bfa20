"""Clocks, statistics, processes, environments and parts of reports. Nothing here knows fastgan."""

"""Ours beside plain Keras and bare OpenVINO, measured in turn in one run; docs/performance.md tells
what came out.
"""

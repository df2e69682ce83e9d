"""Benchmarks of the SageMaker backend, against an emulator of the service that keeps its documented rates.

``__main__.py`` calls ``tables`` of each module. ``service.py`` has what the modules share.
"""

"""Benchmarks of the Modal backend, against an emulator of the service.

``__main__.py`` calls ``tables`` of each module. ``service.py`` has what the modules share.
"""

"""Every field in ``schema.json`` is a field of the official client."""

from __future__ import annotations

import importlib.util

import pytest

from airflow_stepop.hooks.kubernetes.objects import MERGE_KEYS, merged, schema, snake_case
from tests.support.paths import SCRIPTS

SCRIPT = SCRIPTS / "pod_schema.py"


def test_every_field_is_one_of_the_client():
    pytest.importorskip("kubernetes")
    spec = importlib.util.spec_from_file_location("pod_schema", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = module.schema()
    unknown = {kind: sorted(set(schema()[kind]) - set(written.get(kind, ()))) for kind in schema()}
    assert {kind: fields for kind, fields in unknown.items() if fields} == {}, "run scripts/pod_schema.py"


def test_fields_are_spelt_as_in_the_client():
    models = pytest.importorskip("kubernetes.client.models")
    for kind in ("PodSpec", "Container", "Volume", "PodSecurityContext", "ISCSIVolumeSource"):
        names = getattr(models, f"V1{kind}").attribute_map
        assert {snake_case(field) for field in names.values()} >= set(names)


def test_lists_are_merged_by_their_key():
    under = {"volumes": [{"name": "a", "x": 1}, {"name": "b"}], "tolerations": [1], "x": {"y": 1}}
    over = {"volumes": [{"name": "b", "z": 2}, {"name": "c"}], "tolerations": [2], "x": {"z": 2}}
    assert merged(under, over) == {
        "volumes": [{"name": "a", "x": 1}, {"name": "b", "z": 2}, {"name": "c"}],
        "tolerations": [2],
        "x": {"y": 1, "z": 2},
    }
    assert all(any(field in fields for fields in schema().values()) for field in MERGE_KEYS)

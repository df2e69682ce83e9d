"""A backend with a default connection, and a secrets backend that counts who looks for connections."""

from __future__ import annotations

import os
from dataclasses import replace

from airflow.sdk.bases.secrets_backend import BaseSecretsBackend

from airflow_stepop.hooks.local import LocalStepHook


class CountedHook(LocalStepHook):
    """Runs steps on this host. Like a service, it uses the connection, and names it in its handles."""

    backend = "counted"
    default_conn_id = "counted_default"

    def submit(self, spec, payload):
        assert self.connection.password == "a-password"
        return replace(super().submit(spec, payload), conn_id=self.used_conn_id)

    def outcome(self, handle):
        assert self.connection.password == "a-password"
        return super().outcome(handle)


class CountedSecrets(BaseSecretsBackend):
    """Appends the id of each connection that somebody looks up to the file ``STEPOP_TEST_LOOKUPS``."""

    def get_conn_value(self, conn_id, team_name=None):
        if not conn_id.startswith("counted_"):
            return None
        with open(os.environ["STEPOP_TEST_LOOKUPS"], "a") as file:
            file.write(f"{conn_id}\n")
        return f"generic://user:a-password@{conn_id}"

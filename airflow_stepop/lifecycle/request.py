"""From an operator and its context to a job request: which backend, which call, which payload.

Each part of the request is computed when it is first needed: a resumed task needs the hook and no payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf

from airflow_stepop.arguments import check_arguments
from airflow_stepop.connections.defaults import ConnectionDefaults
from airflow_stepop.connections.extra import backend_of
from airflow_stepop.core.units import seconds
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.settings import BackendSettings
from airflow_stepop.job import OutcomeReport, Payload, StepSpec
from airflow_stepop.lifecycle.options import (
    StepOptions,
    defaults_for,
    find_connection,
    max_resubmissions,
    thread_grace_s,
)
from airflow_stepop.lifecycle.override import warn_of_override
from airflow_stepop.lifecycle.rendered_names import render_names
from airflow_stepop.lifecycle.resubmitting import NEXT_ALTERNATIVE_S
from airflow_stepop.lifecycle.setting_files import settings_of_step
from airflow_stepop.oom import MoreMemory, check_on_oom, parse_on_oom
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import Call, CommandCall, FunctionCall, Setup, arguments_key, call_key
from airflow_stepop.payload.callables import context_arguments, dag_module, import_reference, plain_function
from airflow_stepop.payload.code_archive import Project, build_archive, bundle_root, step_files
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.payload.requirements import read_requirements
from airflow_stepop.payload.secrets import check_services, render_secrets
from airflow_stepop.payload.spill import make_reachable, spill
from airflow_stepop.record import CallIdentity, StepRecord
from airflow_stepop.registry import create_hook, hook_class
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.runner.leftovers import GRACE_S
from airflow_stepop.runner.protocol import ENV_DEBUG, ENV_THREAD_GRACE
from airflow_stepop.stores.paths import checkpoint_path, result_path
from airflow_stepop.waiting.observer import Observer, trace_environment
from airflow_stepop.waiting.task_log import configured_limit

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Connection, Context

    from airflow_stepop.core.documents import CollectedData
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.lifecycle.interfaces import Task
    from airflow_stepop.stores.base import Store


class StepRequest:
    """One task instance's request; implements :class:`airflow_stepop.lifecycle.interfaces.Request`."""

    def __init__(self, operator: Task, context: Context) -> None:
        render_names(operator, context)
        self.operator = operator
        self.context = context
        self.ti = context["ti"]
        self._hooks: dict[tuple[str, str | None], StepHook] = {}
        self._last_hook: StepHook | None = None

    @cached_property
    def log_limit(self) -> int:
        """Bytes of the task log that the step may take."""
        return configured_limit()

    # -- location

    @cached_property
    def override(self) -> str:
        """``[stepop] backend_override``: the backend that every step runs on, whatever backend it names."""
        return str(conf.get("stepop", "backend_override", fallback=""))

    @cached_property
    def is_overridden(self) -> bool:
        """Whether the override replaces the backend or the connection that the task names."""
        if not self.override:
            return False
        # The task's connection need not exist here. So it is not looked up, and counts as replaced.
        return self.operator.conn_id is not None or self.operator.backend not in (None, "", self.override)

    @cached_property
    def backend(self) -> str:
        """The first that is given: the override, the task's argument, the connection's, the default."""
        chosen = self.override or self.operator.backend or self._backend_of_connection()
        return str(chosen or conf.get("stepop", "default_backend", fallback="local"))

    def _backend_of_connection(self) -> str | None:
        if self.operator.conn_id is None:
            return None
        return backend_of(self._named_connection)

    @cached_property
    def _named_connection(self) -> Connection | None:
        return find_connection(self.operator.conn_id, "") if self.operator.conn_id is not None else None

    @cached_property
    def options(self) -> StepOptions:
        """The options of a new job: the task's arguments, and else the defaults of its connection.

        The options of a submitted job are in the record. So an edit of the connection cannot end a running
        job.
        """
        if self.is_overridden:
            return StepOptions(self.operator, ConnectionDefaults())
        # The hook keeps its connection: a look-up may cost a request
        connection = self._cached_hook(self.backend, self.conn_id).connection
        return StepOptions(self.operator, defaults_for(connection, self.backend))

    @cached_property
    def conn_id(self) -> str | None:
        return None if self.is_overridden else self.operator.conn_id

    def hook(self, backend: str, conn_id: str | None) -> StepHook:
        self._last_hook = self._cached_hook(backend, conn_id)
        return self._last_hook

    def _cached_hook(self, backend: str, conn_id: str | None) -> StepHook:
        key = (backend, conn_id)
        if key not in self._hooks:
            self._hooks[key] = create_hook(backend, conn_id, self._known_connection(backend, conn_id))
        return self._hooks[key]

    def _known_connection(self, backend: str, conn_id: str | None) -> Connection | None:
        """Return the connection if this task has looked it up already; else ``None``, without a look-up."""
        if conn_id == self.operator.conn_id:
            return vars(self).get("_named_connection")  # where cached_property keeps a value once it is read
        # a step without a named connection uses the default one, and its handle names that one
        unnamed = self._hooks.get((backend, None))
        return unnamed.connection if unnamed is not None and unnamed.default_conn_id == conn_id else None

    @property
    def own_hook(self) -> StepHook:
        return self.hook(self.backend, self.conn_id)

    @cached_property
    def store(self) -> Store:
        found = self.options.store(hook_class(self.backend).store_scheme)
        if place := self.options.store_place:
            self.operator.log.info("Store: %s, from %s", found, place)
        return found

    # -- the call

    @cached_property
    def labels(self) -> dict[str, str]:
        return {
            "deployment": conf.get("stepop", "deployment", fallback=""),
            "dag_id": self.ti.dag_id,
            "run_id": self.ti.run_id,
            "task_id": self.ti.task_id,
            "map_index": str(-1 if self.ti.map_index is None else self.ti.map_index),
        }

    @cached_property
    def call(self) -> CallIdentity:
        """The identity of the call: if it is equal to an earlier try's, this try may use that try's job."""
        operator = self.operator
        names = sorted(operator.secrets or ())
        # Only the task's own arguments: an edit of its connection must not end a running job
        extra = [operator.backend, operator.conn_id, operator.image, names, self._requirements, self.override]
        return CallIdentity(
            key=call_key(self._call, self._archive, extra),
            max_tries=self.ti.max_tries,
            clear_number=getattr(self.context["dag_run"], "clear_number", 0) or 0,
        )

    @cached_property
    def project(self) -> Project:
        dag, bundle = self.operator.dag, getattr(self.ti, "bundle_instance", None)
        root = bundle.path if bundle is not None else bundle_root(dag.fileloc, dag.relative_fileloc)
        return Project.of(dag.fileloc, root)

    @cached_property
    def _call(self) -> Call:
        operator = self.operator
        if operator.command is not None:
            return CommandCall(
                argv=[str(word) for word in operator.command],
                inputs=dict(operator.inputs or {}),
                outputs=list(operator.outputs or ()),
                workdir=operator.workdir,
            )
        function = plain_function(operator.python_callable)
        found = context_arguments(function, operator, self.context)
        return FunctionCall(
            function=function,
            args=tuple(operator.op_args or ()),
            kwargs={**found, **dict(operator.op_kwargs or {})},
            moments=[name for name, value in found.items() if isinstance(value, datetime)],
            main_module=dag_module(self.project, function),
            reference=import_reference(function, self.project),
        )

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files that are shipped: path in the code archive -> file."""
        operator, include = self.operator, self.operator.include or ()
        if operator.command is not None:
            return step_files(self.project, include, argv=[str(word) for word in operator.command])
        return step_files(self.project, include, module=plain_function(operator.python_callable).__module__)

    @cached_property
    def _archive(self) -> bytes | None:
        return build_archive(self.files)

    @property
    def poll_interval_s(self) -> float:
        """The task's argument, else the configured interval, else the default of the hook used last."""
        configured = conf.get("stepop", "poll_interval", fallback="")
        return (
            seconds(self.operator.poll_interval, "poll_interval")
            or float(configured or 0)
            or (self._last_hook or self.own_hook).poll_interval_s
        )

    @cached_property
    def _requirements(self) -> list[str]:
        return read_requirements(self.operator.requirements, self.project)

    @cached_property
    def timeout_s(self) -> float:
        return self.options.timeout_with(self._settings)

    @cached_property
    def resources(self) -> ResourceSettings:
        return self.options.resources

    @cached_property
    def start_timeout_s(self) -> float | None:
        given = self.options.start_timeout_s
        return NEXT_ALTERNATIVE_S if given is None and len(self.alternatives) > 1 else given

    @property
    def alternatives(self) -> Sequence[str]:
        return self._settings.alternatives

    @property
    def keep(self) -> str:
        return self.options.keep

    @property
    def deferrable(self) -> bool | None:
        return self.options.deferrable

    @property
    def capacity_pause_s(self) -> float:
        return float(conf.getfloat("stepop", "capacity_pause", fallback=30.0))

    @property
    def max_resubmissions(self) -> int:
        return max_resubmissions(self.operator.max_resubmissions)

    @cached_property
    def on_oom(self) -> MoreMemory | None:
        return parse_on_oom(self.operator.on_oom)

    def _check_options(self, spec: StepSpec) -> None:
        """Check the options to which both the task and its connection may contribute.

        :raises StepConfigError: names the options that come from the connection
        """
        if not self.is_overridden:
            check_on_oom(self.operator.on_oom, self.resources, self.operator.retries)
        if not (given := self.options.from_connection()):
            return
        try:
            self.own_hook.render(spec)
        except StepConfigError as error:
            raise type(error)(
                f"{error}. The connection {self.options.defaults.conn_id!r} gives {', '.join(given)}; "
                'correct "stepop" in its extra, or set another value in the task'
            ) from error

    def build(self, record: StepRecord) -> tuple[StepSpec, Payload]:
        check_arguments(self.operator)
        spec = replace(self.spec(record.name, record.nonce, record.labels), alternative=record.alternative)
        self._check_options(spec)
        payload = build_payload(
            self._call,
            job=record.name,
            nonce=record.nonce,
            setup=Setup(
                archive=self._archive,
                **self._secrets(),
                requirements=self._requirements,
                checkpoint=self.operator.checkpoint,
            ),
            split=self._split(),
            is_result_wanted=bool(self.operator.do_xcom_push),
        )
        self.observer.built(payload)
        payload = spill(payload, lambda: self.store, self.own_hook.inline_limit)
        if not self.own_hook.is_host_bound:
            payload = make_reachable(payload, self.store, self.own_hook.inline_limit)
        self.observer.stored(payload)
        spec = replace(spec, digest=payload.digest, resources=spec.resources.at_least(record.memory_bytes))
        if self.operator.checkpoint:
            uri = self.checkpoint_uri(record.labels, arguments_key(self._call))
            spec = replace(spec, checkpoint_uri=uri)
        return spec, payload

    def _secrets(self) -> dict[str, dict[str, str]]:
        """Return the fields of :class:`Setup` for the task's secrets."""
        if not self.operator.secrets:
            return {}
        # A secret is a text, even if the DAG renders its templates as native objects
        environment = self.operator.dag.get_template_env(force_sandboxed=True)
        values, references = render_secrets(self.operator.secrets, environment, self.context)
        check_services(references, self.backend, self.own_hook.secret_services)
        return {"secrets": values, "secret_references": references}

    def spec(self, name: str, nonce: str, labels: Mapping[str, str]) -> StepSpec:
        return StepSpec(
            name=name,
            nonce=nonce,
            labels=labels,
            resources=self.resources,
            settings=self._settings,
            image=self.options.image,
            env=self._env(),
            timeout_s=self.timeout_s,
            start_timeout_s=self.start_timeout_s,
            result_uri=self.store.uri(result_path(labels, name)),
            is_overridden=self.is_overridden,
        )

    def _env(self) -> dict[str, str]:
        """Return the step's environment. The user's variables replace this package's."""
        own_env = trace_environment(getattr(self.ti, "context_carrier", None))
        if self.is_debugged:
            own_env[ENV_DEBUG] = "1"
        if (grace_s := thread_grace_s()) != GRACE_S:
            own_env[ENV_THREAD_GRACE] = f"{grace_s:g}"
        return {**own_env, **self.options.env}

    @cached_property
    def observer(self) -> Observer:
        log = self.operator.log
        return Observer(self.labels, log if self.is_debugged else None, log)

    @cached_property
    def is_debugged(self) -> bool:
        if self.operator.debug is not None:
            return bool(self.operator.debug)
        return bool(conf.getboolean("stepop", "debug", fallback=False))

    def checkpoint_uri(self, labels: Mapping[str, str], arguments: str) -> str:
        """Return the folder for checkpoints. Every try with the same arguments gets the same folder.

        :param arguments: digest of the arguments
        """
        return self.store.uri(f"{checkpoint_path(labels)}/{arguments[:32]}")

    def forget_checkpoints(self) -> None:
        """Delete the checkpoints that this task's tries have left for a next try; called after a result."""
        if self.operator.checkpoint:
            self.store.delete_folder(checkpoint_path(self.labels))

    @cached_property
    def _settings(self) -> BackendSettings:
        if not self.is_overridden:
            return settings_of_step(self.options, self.backend, self.project)
        warn_of_override(self.operator, self.backend)
        return hook_class(self.backend).settings_model()

    @property
    def location(self) -> Mapping[str, object]:
        """The settings that say where the job runs; the record keeps them before the job is submitted."""
        settings = self._settings
        given = {name: getattr(settings, name) for name in settings.location_fields}
        return {name: value for name, value in given.items() if value is not None}

    def _split(self) -> str:
        """Return how the step's result is split into XComs (see :func:`build_payload`)."""
        if self.operator.command is None and self.operator.multiple_outputs:
            return "dict"
        return "auto" if self.mapped_over else "no"

    @cached_property
    def mapped_over(self) -> list[str]:
        """The ids of the tasks and task groups that are mapped over this step's result."""
        if int(self.labels["map_index"]) >= 0 or not self.operator.do_xcom_push:
            return []  # tasks downstream map over the instances, and not over the result of one instance
        return sorted(str(one.node_id) for one in self.operator.iter_mapped_dependants())

    def read(self, report: OutcomeReport, job: str, nonce: str) -> CollectedData:
        return read_outcome(report, job, nonce, self.ti.task_id)

"""Requests to Modal about the sandboxes of one App, and what this process knows of them. Called by the hook.

Every call has a deadline: see ``calls.py``. Where a door of ``private.py`` is closed, the public way is here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.common.api_errors import Trouble, or_none
from airflow_stepop.hooks.modal import private, states
from airflow_stepop.hooks.modal.calls import api_error, bounded
from airflow_stepop.hooks.modal.names import CHECKPOINT_VOLUME
from airflow_stepop.hooks.modal.objects import create_arguments
from airflow_stepop.hooks.modal.private import Result, Seen
from airflow_stepop.hooks.modal.starting import start_by_child
from airflow_stepop.hooks.modal.tags import JOB, selector, tag_key
from airflow_stepop.hooks.modal.volume import JOB_PARTS, VolumeFiles, folders_below
from airflow_stepop.stores.paths import JOBS

if TYPE_CHECKING:
    from airflow_stepop.connections.modal import ModalAccount

CREATE_S = 1800.0  # the first use of an image builds or pulls it, within the request
PAGE = 100  # sandboxes in a page of a list, as far as anybody knows
PAGE_S = 1.7  # a list of several pages is used again for so long, for each request that it took
LIST_S = 120.0  # a list of many pages
APP_S = 300.0  # somebody may stop the App, and another process make a new one of its name
KEPT_JOBS = 20_000
# exit codes that the client makes of a status
_TIMED_OUT, _ENDED = 124, 137


class Service:
    """The sandboxes of one App.

    :param account: of the connection
    :param environment: name of Modal's environment; empty: the workspace's default one
    :param app_name: name of the App
    """

    def __init__(self, account: ModalAccount, environment: str, app_name: str) -> None:
        self.account = account
        self.environment = environment
        self.app_name = app_name
        self._opened: tuple[Any, VolumeFiles] | None = None  # the client, and what belongs to it
        self._app: tuple[Any, float] = None, 0.0  # and until when it is used again
        self._running: tuple[dict[str, Seen], float] = {}, 0.0  # and until when it is used again
        self._tasks: dict[str, str] = {}  # id of a sandbox -> that of its container
        self.created: dict[str, float] = {}  # id -> when it was created, by the service's own clock

    @property
    def client(self) -> Any:
        """The open client of this process."""
        return self._open()[0]

    @property
    def files(self) -> VolumeFiles:
        """The files of the jobs."""
        return self._open()[1]

    @property
    def checkpoints(self) -> VolumeFiles:
        """The checkpoints of steps."""
        return VolumeFiles(self.client, self.environment or None, CHECKPOINT_VOLUME)

    def _open(self) -> tuple[Any, VolumeFiles]:
        from airflow_stepop.connections.modal import client_of

        client = bounded(lambda: client_of(self.account))
        if self._opened is None or self._opened[0] is not client:  # after a fork, or when it was closed
            self._opened = client, VolumeFiles(client, self.environment or None)
            self._app = None, 0.0
        return self._opened

    @cached_property
    def workspace(self) -> str:
        """Name of the workspace that the tokens belong to."""
        from modal import Workspace

        workspace: Any = Workspace.from_context(client=self.client)
        bounded(workspace.hydrate)
        return str(workspace.name or "")

    def app(self, *, create: bool = False) -> Any:
        """Return the App; ``None`` if the environment has none of this name.

        :param create: make it then
        """
        client = self.client
        app, until_s = self._app
        if app is None or time.monotonic() >= until_s:
            from modal import App

            def lookup() -> Any:
                return App.lookup(
                    self.app_name,
                    client=client,
                    environment_name=self.environment or None,
                    create_if_missing=create,
                )

            kinds = () if create else (Trouble.NOT_FOUND,)
            app = or_none(api_error, lambda: bounded(lookup), *kinds)
            self._app = app, time.monotonic() + APP_S
        return app

    @property
    def app_id(self) -> str | None:
        app = self.app()
        return str(app.app_id) if app is not None else None

    # -- one sandbox

    def find(self, name: str, nonce: str, *, is_new: bool = False) -> Seen | None:
        """Return the sandbox of a job, running or ended; ``None``: neither its name nor a list shows one.

        :param is_new: most likely there is none. A running one with a GPU may be missed; the creation of
            another one under its name then fails
        :raises StepConfigError: the sandbox of this name belongs to somebody else
        """
        listed = {one.id: one for one in self.ended(nonce) if one.name in (name, "")}
        found = self._by_name(name, has_ended=True)
        if found is None and listed:
            return self.with_tags(next(iter(listed.values())))
        if found is None and not is_new:
            found = self._by_name(name, has_ended=False)  # the only way that shows one with a GPU
        if found is None:
            return None
        sandbox_id = str(found.object_id)
        if sandbox_id in listed:
            return self.with_tags(listed[sandbox_id])
        tags: dict[str, str] = bounded(found.get_tags)
        seen = self.look(sandbox_id)
        result = seen.result if seen is not None else None
        if tags.get(tag_key("nonce")) == nonce:
            return Seen(sandbox_id, name, tags, result=result)
        if result is not None:  # it has ended, and the name is free again
            return None
        raise StepConfigError(
            f"a sandbox {name} exists already in the App {self.app_name}, and it is not of this step: it has "
            "another nonce. Clear the task to submit under another name"
        )

    def with_tags(self, seen: Seen) -> Seen:
        """Return a sandbox of a list with its tags: a list may leave them out."""
        if seen.tags:
            return seen
        sandbox = self._by_id(seen.id)
        return replace(seen, tags=bounded(sandbox.get_tags)) if sandbox is not None else seen

    def _by_name(self, name: str, *, has_ended: bool) -> Any:
        """Return a sandbox by its name.

        :param has_ended: also if it has ended; ``False``: only while it runs, and also one with a GPU
        """
        from modal import Sandbox

        client = self.client

        def lookup() -> Any:
            return Sandbox.from_name(
                self.app_name,
                name,
                environment_name=self.environment or None,
                include_terminated=has_ended,
                client=client,
            )

        return or_none(api_error, lambda: bounded(lookup), Trouble.NOT_FOUND)

    def create(self, request: Mapping[str, Any], own_secret: Mapping[str, str]) -> Seen:
        """Create the sandbox of a request. Does not wait for a machine.

        :param own_secret: see :func:`.objects.create_arguments`
        """
        client, app = self.client, self.app(create=True)
        words, options = create_arguments(request, client, app, own_secret)
        if not self._is_waited_for(options):
            from modal import Sandbox

            found = str(bounded(lambda: Sandbox.create(*words, **options), CREATE_S).object_id)
        elif private.is_open(private.STARTING):
            found = bounded(lambda: private.start(words, options), CREATE_S)
        else:
            given = {"request": dict(request), "own_secret": dict(own_secret)}
            found = start_by_child(given, self.account, lambda: self._id_of(request["name"]))
        return Seen(found, request["name"], request["tags"])

    def _is_waited_for(self, options: Mapping[str, Any]) -> bool:
        """Return whether ``Sandbox.create`` waits for a machine: it does for the older kind of sandbox.

        Every sandbox with a GPU is of this kind, and with MODAL_SANDBOX_V2=0 every other one.
        """
        from modal.config import config

        return bool(options.get("gpu")) or not config["sandbox_v2"]

    def _id_of(self, name: str) -> str | None:
        found = self._by_name(name, has_ended=False)
        return str(found.object_id) if found is not None else None

    def terminate(self, sandbox_id: str) -> None:
        """Ask the service to end a sandbox. One that has ended or does not exist is no error."""
        sandbox = self._by_id(sandbox_id)
        if sandbox is not None:
            or_none(api_error, lambda: bounded(sandbox.terminate), Trouble.NOT_FOUND)

    def _by_id(self, sandbox_id: str) -> Any:
        from modal import Sandbox

        client = self.client
        return or_none(
            api_error,
            lambda: bounded(lambda: Sandbox.from_id(sandbox_id, client=client)),
            Trouble.NOT_FOUND,
            Trouble.INVALID,  # an id that no sandbox can have
        )

    def look(self, sandbox_id: str) -> Seen | None:
        """Return a sandbox as it is now; ``None``: the service does not know it. One request.

        The id of a container stands for an ended sandbox whose id nobody knows: see ``is_container``.
        """
        if is_container(sandbox_id):
            return Seen(sandbox_id, result=Result(states.UNKNOWN, 0))
        if not private.is_open(private.RESULTS):
            sandbox = self._by_id(sandbox_id)
            return Seen(sandbox_id, result=_by_code(sandbox.returncode)) if sandbox is not None else None
        client = self.client

        def look() -> Seen:
            return Seen(sandbox_id, result=bounded(lambda: private.result_of(client, sandbox_id)))

        return or_none(api_error, look, Trouble.NOT_FOUND, Trouble.INVALID)

    def task_of(self, sandbox_id: str) -> str:
        """Return the id of a sandbox's container; empty while it waits for a machine. Asks until it is known.

        Where nobody can tell, the sandbox has one.
        """
        if is_container(sandbox_id) or not private.is_open(private.TASKS):
            return sandbox_id
        if sandbox_id not in self._tasks:
            client, kinds = self.client, (Trouble.NOT_FOUND, Trouble.INVALID)
            task = or_none(api_error, lambda: bounded(lambda: private.task_of(client, sandbox_id)), *kinds)
            if task:
                self._tasks[sandbox_id] = task
        return self._tasks.get(sandbox_id, "")

    # -- many sandboxes

    def running(self) -> dict[str, Seen]:
        """Return the sandboxes of the App that have not ended: id -> sandbox.

        A list of several pages is used again for a while, so that lists and logs together stay below one
        request a second.
        """
        found, until_s = self._running
        if time.monotonic() >= until_s:
            found, requests = self._list_running()
            self._running = found, time.monotonic() + (requests * PAGE_S if requests > 2 else 0.0)
        return found

    def _list_running(self) -> tuple[dict[str, Seen], int]:
        """Return the sandboxes that run, and how many requests that took."""
        app_id = self.app_id
        if app_id is None:
            return {}, 0
        client = self.client
        if private.is_open(private.LISTING):
            found, requests = bounded(lambda: private.listed(client, app_id, {}, is_running=True), LIST_S)
            self._note_times(found)
            for seen in found:
                if seen.task_id:
                    self._tasks[seen.id] = seen.task_id
            return {seen.id: seen for seen in found if seen.result is None}, requests
        from modal import Sandbox

        sandboxes = bounded(lambda: list(Sandbox.list(app_id=app_id, client=client)), LIST_S)
        running = {one.object_id: Seen(one.object_id) for one in sandboxes if one.returncode is None}
        return running, len(running) // PAGE + 2

    def _note_times(self, found: Iterable[Seen]) -> None:
        self.created |= {one.id: one.created_at for one in found if one.created_at}
        while len(self.created) > KEPT_JOBS:
            del self.created[next(iter(self.created))]

    def ended(self, nonce: str) -> list[Seen]:
        """Return the sandboxes of one job that a list shows, with their times; empty if nobody can tell."""
        return self.all_with(selector({"nonce": nonce})) if private.is_open(private.LISTING) else []

    def all_with(self, tags: Mapping[str, str], since: float = 0.0) -> list[Seen]:
        """Return the sandboxes of the App with all of ``tags``, also those that have ended where possible."""
        app_id = self.app_id
        if app_id is None:
            return []
        client = self.client
        if private.is_open(private.LISTING):
            found, _ = bounded(
                lambda: private.listed(client, app_id, tags, is_running=False, since=since), CREATE_S
            )
            self._note_times(found)
            return found
        return self._public_with(app_id, tags)

    def _public_with(self, app_id: str, tags: Mapping[str, str]) -> list[Seen]:
        """Return what :meth:`all_with` returns, by the public interface.

        Its list has only sandboxes that run. Those that have ended are found by the names of the folders in
        the Volume, which costs some requests for each.
        """
        from modal import Sandbox

        client = self.client

        def running() -> list[tuple[str, dict[str, str]]]:
            found = Sandbox.list(app_id=app_id, tags=dict(tags), client=client)
            return [(one.object_id, one.get_tags()) for one in found]

        found: dict[str, Seen] = {}
        for sandbox_id, own in bounded(running, LIST_S):
            name = own.get(tag_key(JOB), "")
            found[name] = Seen(sandbox_id, name, own)
        nonce = tags.get(tag_key("nonce"), "")
        end = nonce_hash(nonce) if nonce else ""  # of a job's name
        for folder, files in folders_below(self.files, JOBS, JOB_PARTS).items():
            name = folder.rpartition("/")[2]
            one = self._by_name(name, has_ended=True) if name.endswith(end) and name not in found else None
            own = bounded(one.get_tags) if one is not None else {}
            if one is not None and tags.items() <= own.items():
                found[name] = Seen(one.object_id, name, own, result=_by_code(one.returncode))
            if name in found:  # the first file was written just before the sandbox was created
                found[name] = replace(found[name], created_at=min(file.modified_at for file in files))
        return list(found.values())


def is_container(sandbox_id: str) -> bool:
    """Return whether an id is that of a container. The runner's marker has it, as a sandbox knows no more."""
    return sandbox_id.startswith("ta-")


def _by_code(code: int | None) -> Result | None:
    """Return what an exit code tells of an end, where the status is not known."""
    if code is None:
        return None
    status = {0: states.SUCCESS, _TIMED_OUT: states.TIMEOUT, _ENDED: states.TERMINATED}.get(
        code, states.FAILURE
    )
    return Result(status, code)

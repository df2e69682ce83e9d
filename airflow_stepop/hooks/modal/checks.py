"""The checks of ``airflow stepop check`` for Modal: token, App, Volume, image, client.

They start no sandbox.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_stepop.hooks.common.api_errors import Trouble, or_none
from airflow_stepop.hooks.common.checks import Check
from airflow_stepop.hooks.modal import private
from airflow_stepop.hooks.modal.calls import api_error, bounded
from airflow_stepop.hooks.modal.images import image_of
from airflow_stepop.hooks.modal.objects import Objects
from airflow_stepop.hooks.modal.settings import ModalSettings
from airflow_stepop.hooks.modal.starting import BUILD_S
from airflow_stepop.job import Finding

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.service import Service

_LOGIN = "see Connection in the documentation of the backend; `modal token new` makes a token"
_BUILDS = "the token needs the right to build images; the App's page in Modal has the log of the build"
_PIN = "install modal>=1.6,<1.7, or a newer version of airflow-stepop"


def checks(service: Service) -> Iterator[Check]:
    """Yield the checks, in order. The token comes first: without one, nothing else can be asked."""
    yield Check("token", lambda: _token(service), _LOGIN, is_needed=True)
    place = f"the environment {service.environment}" if service.environment else "the default environment"
    advice = f"the token needs the right to create %s in {place}"
    if service.environment:
        advice += f"; if there is none of this name: modal environment create {service.environment}"
    yield Check("app", lambda: _app(service), advice % "Apps")
    yield Check("volume", lambda: _volume(service), advice % "Volumes")
    yield Check("image", lambda: _image(service), _BUILDS)
    yield Check("client", _client, _PIN)


def _token(service: Service) -> Iterator[Finding]:
    bounded(service.client.hello)
    place = service.environment or "the default environment"
    yield Finding(True, "token", f"{service.account.source}, for the workspace {service.workspace}, {place}")


def _app(service: Service) -> Iterator[Finding]:
    app = service.app(create=True)
    yield Finding(True, "app", f"{service.app_name}: {bounded(app.get_dashboard_url)}")


def _volume(service: Service) -> Iterator[Finding]:
    service.files.open()
    yield Finding(True, "volume", f"{service.files.name}: the input and the results of steps pass through it")


def _image(service: Service) -> Iterator[Finding]:
    """Build the image of a step without ``image=``. The first time may take a minute."""
    app = or_none(api_error, lambda: service.app(create=True), *Trouble)
    if app is None:  # the finding "app" says why
        return
    given = image_of(None, ModalSettings())
    image = Objects(service.client, service.environment).image(given)
    bounded(lambda: image.build(app), BUILD_S)
    yield Finding(
        True, "image", f"Modal builds images: {image.object_id}, with Python {given['python_version']}"
    )


def _client() -> Iterator[Finding]:
    from modal import __version__

    closed = {door: private.missing(door) for door in private.DOORS if private.missing(door)}
    for door, names in closed.items():
        said = f"modal {__version__} lacks {', '.join(names)}, so {private.WITHOUT[door]}"
        yield Finding(False, "client", said, _PIN)
    if not closed:
        yield Finding(True, "client", f"modal {__version__} has all that this backend needs")

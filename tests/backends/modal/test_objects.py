"""What ``Sandbox.create`` makes of a request: with the real SDK, and a server that has the SDK's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from airflow_stepop.connections.modal import ModalAccount, client_of
from airflow_stepop.hooks.modal import ModalSettings
from airflow_stepop.hooks.modal.objects import Objects, create_arguments
from airflow_stepop.hooks.modal.request import Submitted, sandbox_request
from tests.support.modal import Modal
from tests.support.modal_steps import CASES, a_spec


def request_of(own_secret: Mapping[str, str], **options: Any) -> dict[str, Any]:
    settings = ModalSettings(**options.pop("settings", {}))
    known = Submitted("1" * 64, "2" * 64, secret_names=list(own_secret))
    return sandbox_request(a_spec(**options), settings, known)


def create(account: ModalAccount, own_secret: Mapping[str, str] | None = None, **options: Any) -> Any:
    """Create a sandbox, without a process in it: ``plan`` says so."""
    import modal

    client, request = client_of(account), request_of(own_secret or {}, **options)
    app = Objects(client, request["environment"]).app(request["app_name"])
    args, named = create_arguments(request, client, app, own_secret)
    return modal.Sandbox.create(*args, **named)


@pytest.fixture
def service(modal_server: Modal) -> Modal:
    modal_server.do("plan", sandbox="*", run=False, hold=["end"])
    return modal_server


@pytest.mark.parametrize("name", ["small", "seed", "resources"])
def test_the_server_takes_the_golden_requests(service: Modal, account: ModalAccount, name: str) -> None:
    """The definition of the sandbox says what the request says."""
    service.do("publish", tag="my-image:v1", entrypoint=["/opt/entrypoint.sh"])
    create(account, **CASES[name])
    request = request_of({}, **CASES[name])
    found = service.sandbox(request["name"])
    assert (found["app"], found["environment"]) == ("airflow-stepop", "main")
    assert found["argv"] == request["args"]
    assert found["tags"] == request["tags"]
    assert found["timeout_s"] == request["timeout"]
    assert found["memory_mb"] == request.get("memory", [0, 0])
    assert found["milli_cpu"] == [1000 * request.get("cpu", 0), 0]
    assert found["gpu"] == ([request["gpu"], 1] if "gpu" in request else ["", 0])
    assert found["mounts"] == {"/stepop": request["volumes"]["/stepop"]["sub_path"]}
    assert set(found["env"]) >= set(request["env"])
    assert found["version"] == (1 if "gpu" in request else 2)
    assert not service.report()["images"][found["image"]]["entrypoint"], "it would run instead of the step"
    (volume,) = service.report()["volumes"].values()
    assert volume["name"] == "airflow-stepop"


def test_everything_at_once(service: Modal, account: ModalAccount) -> None:
    """Named objects are those of the step's environment; secret values reach the sandbox alone."""
    import modal

    client = client_of(account)
    service.do("environment", name="dev")
    service.do("settings", proxies=["office"])
    for name in ("ghcr", "hugging-face", "aws"):
        service.do("secret", name=name, values={f"K_{name[0]}": "v"}, environment="dev")
    service.do(
        "secret", name="ghcr", values={"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"}, environment="dev"
    )
    modal.Volume.objects.create("my-data", environment_name="dev", client=client)
    create(account, {"TOKEN": "hush-hush"}, **CASES["everything"])
    request = request_of({"TOKEN": "hush-hush"}, **CASES["everything"])
    assert "hush" not in repr(request)
    found = service.sandbox(request["name"])
    assert (found["app"], found["environment"]) == ("training", "dev")
    assert found["memory_mb"] == [512, 2048]
    assert found["milli_cpu"] == [500, 4000]
    assert found["gpu"] == ["H100", 1]
    assert {"TOKEN", "K_h", "SEED", "STEPOP_JOB"} <= set(found["env"])
    assert "REGISTRY_PASSWORD" not in found["env"]
    own = {path: one.get("sub_path", "") for path, one in request["volumes"].items()}
    assert found["mounts"] == own
    image = service.report()["images"][found["image"]]
    assert image["commands"][-1] == "ENTRYPOINT []"


@pytest.mark.parametrize(
    ("image", "keys"),
    [
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com/a:1", ["AWS_ROLE_ARN", "AWS_REGION"]),
        ("us-east1-docker.pkg.dev/project/repository/image:1", ["SERVICE_ACCOUNT_JSON"]),
        ("registry.example.com/team/image:1", ["REGISTRY_USERNAME", "REGISTRY_PASSWORD"]),
    ],
)
def test_private_registries(service: Modal, account: ModalAccount, image: str, keys: list[str]) -> None:
    """Each is pulled with the credentials of its Secret."""
    service.do("image", tag=image, private=True, entrypoint=["/opt/entrypoint.sh"])
    service.do("secret", name="registry", values=dict.fromkeys(keys, "x"))
    create(account, image=image, settings={"registry_secret": "registry"})
    found = service.sandbox(a_spec().name)
    assert not service.report()["images"][found["image"]]["entrypoint"]


@pytest.mark.parametrize(
    ("image", "environment", "tag"),
    [
        ("modal:a", None, "a:latest"),
        ("modal:a:v1", "dev", "dev/a:v1"),
        ("modal:prod/a", "dev", "prod/a:latest"),
    ],
)
def test_published_images(
    service: Modal, account: ModalAccount, image: str, environment: str | None, tag: str
) -> None:
    """Those of the step's environment, unless the name has another in front."""
    service.do("environment", name="dev")
    service.do("publish", tag=tag, entrypoint=["/opt/entrypoint.sh"])
    create(account, image=image, settings={"environment": environment})
    found = service.sandbox(a_spec().name)
    assert not service.report()["images"][found["image"]]["entrypoint"]


def test_a_volume_of_the_user_must_exist(service: Modal, account: ModalAccount) -> None:
    """A misspelt name makes no new, empty Volume."""
    import modal

    with pytest.raises(modal.exception.NotFoundError):
        create(account, settings={"volumes": {"/data": "my-data"}})
    assert "my-data" not in [one["name"] for one in service.report()["volumes"].values()]


def test_only_the_variables_of_the_request(account: ModalAccount) -> None:
    with pytest.raises(ValueError, match="has the secret variables \\['A'\\], and not \\['B'\\]"):
        create_arguments(request_of({"A": "x"}), client_of(account), None, {"B": "x"})  # type: ignore[arg-type]

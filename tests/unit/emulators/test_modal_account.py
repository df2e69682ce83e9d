"""Tokens, environments, images, secrets and costs of the Modal emulator, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.modal import modal_connection


def test_tokens(workspace):
    """A wrong token is refused by the first request, and a revoked one by the next."""
    import modal

    workspace.client.hello()
    for pair in (("ak-test", "as-wrong"), ("ak-unknown", "as-test")):
        with pytest.raises(modal.exception.AuthError):
            workspace.service.client(*pair).hello()
    workspace.service.do("token", token_id="ak-test", secret=None)
    with pytest.raises(modal.exception.AuthError):
        workspace.app()
    workspace.service.do("token", token_id="ak-more", secret="as-more")
    workspace.service.client("ak-more", "as-more").hello()


def test_the_workspace_and_its_environments(workspace):
    import modal

    assert modal.Workspace.from_context(client=workspace.client).hydrate().name == "test-workspace"
    made = modal.Environment.from_name("made", create_if_missing=True, client=workspace.client).hydrate()
    assert modal.Environment.from_name("made", client=workspace.client).hydrate().object_id == made.object_id
    assert workspace.app(environment_name="made").app_id != workspace.app().app_id
    modal.Environment.objects.create("more", client=workspace.client)
    listed = modal.Environment.objects.list(client=workspace.client)
    assert sorted(one.name for one in listed) == ["made", "main", "more"]
    with pytest.raises(modal.exception.AlreadyExistsError):
        modal.Environment.objects.create("more", client=workspace.client)
    with pytest.raises(modal.exception.NotFoundError, match="Environment 'missing'"):
        workspace.app(environment_name="missing")


def test_the_hook_of_the_official_provider(modal_server, monkeypatch):
    """Its connection leads here: by its token, in its environment."""
    from airflow.providers.modal.hooks.modal import ModalHook

    modal_server.do("environment", name="other")
    monkeypatch.setenv("AIRFLOW_CONN_MODAL_DEFAULT", modal_connection(environment="other"))
    hook = ModalHook()
    assert hook.test_connection() == (True, "Connection established!")
    app = hook.lookup_app("steps", create_if_missing=True)
    assert modal_server.report()["apps"][app.app_id] == {"name": "steps", "environment": "other"}
    hook.client.close()
    monkeypatch.setenv("AIRFLOW_CONN_WRONG", modal_connection(password="as-wrong"))
    assert ModalHook("wrong").test_connection()[0] is False


def test_an_image_is_built_once(workspace):
    image = workspace.image("built:1")
    image.build(workspace.app())
    again = workspace.image("built:1")
    again.build(workspace.app())
    assert image.object_id == again.object_id
    assert workspace.service.calls("ImageJoinStreaming") == 1
    commands = workspace.service.report()["images"][image.object_id]["commands"]
    assert commands == ["FROM built:1"]


def test_images_that_cannot_be_pulled(workspace):
    import modal

    workspace.service.do("image", tag="missing:*", missing=True)
    workspace.service.do("image", tag="private:*", private=True)
    for tag, text in (("missing:1", "manifest unknown"), ("private:1", "unauthorized")):
        with pytest.raises(modal.exception.ImageBuildError, match=text):
            workspace.image(tag).build(workspace.app())
    login = modal.Secret.from_dict({"REGISTRY_USERNAME": "u", "REGISTRY_PASSWORD": "p"})
    modal.Image.from_registry("private:1", secret=login).build(workspace.app())


@pytest.mark.parametrize("status", ["FAILURE", "TERMINATED", "TIMEOUT", "MEMORY_MANAGER_EVICTION"])
def test_a_build_that_fails_is_tried_again(workspace, status):
    import modal

    workspace.service.do("image", tag="broken:*", failure="no space left", status=status)
    for _ in range(2):
        with pytest.raises(modal.exception.ImageBuildError):
            workspace.image("broken:1").build(workspace.app())
    workspace.service.do("image", tag="broken:*")
    workspace.image("broken:1").build(workspace.app())


def test_a_published_image(workspace):
    import modal

    workspace.service.do("publish", tag="main/mine:latest")
    image = modal.Image.from_name("main/mine", client=workspace.client)
    workspace.simulated("*")
    assert workspace.ended("true", image=image).returncode == 0
    with pytest.raises(modal.exception.NotFoundError):
        workspace.ended("true", image=modal.Image.from_name("main/other", client=workspace.client))
    with pytest.raises(modal.exception.ConflictError, match="Could not find image with ID"):
        workspace.ended("true", image=modal.Image.from_id("im-unknown", client=workspace.client))


def test_an_image_with_a_python_added(workspace):
    import modal

    modal.Image.from_registry("ubuntu:24.04", add_python="3.12").build(workspace.app())
    assert workspace.service.calls("MountGetOrCreate") == 1


def test_named_secrets(workspace):
    """Made once, listed, updated; a key that is required and missing is an error."""
    import modal

    modal.Secret.objects.create("mine", {"A": "1"}, client=workspace.client)
    with pytest.raises(modal.exception.AlreadyExistsError):
        modal.Secret.objects.create("mine", {"A": "2"}, client=workspace.client)
    assert [one.name for one in modal.Secret.objects.list(client=workspace.client)] == ["mine"]
    secret = modal.Secret.from_name("mine", required_keys=["A"], client=workspace.client)
    secret.hydrate()
    secret.update({"B": "2"})
    assert [one["keys"] for one in workspace.service.report()["secrets"].values()] == [["A", "B"]]
    with pytest.raises(modal.exception.ConflictError, match=r"Secret is missing key\(s\): C"):
        modal.Secret.from_name("mine", required_keys=["C"], client=workspace.client).hydrate()
    for name, options in (("none", {}), ("mine", {"environment_name": "missing"})):
        with pytest.raises(modal.exception.NotFoundError):
            modal.Secret.from_name(name, client=workspace.client, **options).hydrate()


REFUSED = {
    "timeout above a day": {"timeout": 86_401},
    "no timeout": {"timeout": 0},
    "reserved name": {"env": {"MODAL_TASK_ID": "x"}},
    "environment above 64 KiB": {"env": {"A": "x" * 65_536}},
    "name of another shape": {"secrets": {"A-B": "x"}},
    "unknown GPU": {"gpu": "NVIDIA_TESLA_A100"},
    "any GPU": {"gpu": "any"},
    "nine GPUs": {"gpu": "H100:9"},
    "unknown region": {"region": "moon-1"},
    "unknown cloud": {"cloud": "azure"},
    "CIDR": {"outbound_cidr_allowlist": ["not-an-ip/8"]},
    "domain": {"outbound_domain_allowlist": ["not a valid domain!"]},
    "limit below the request": {"memory": (512, 256)},
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(workspace, case):
    """The client lets these pass; the service does not, and makes nothing."""
    import modal

    options = dict(REFUSED[case])
    if "secrets" in options:
        options["secrets"] = [modal.Secret.from_dict(options["secrets"])]
    with pytest.raises(modal.exception.InvalidError):
        workspace.create("true", **options)
    assert workspace.service.report()["sandboxes"] == {}


def test_what_the_client_refuses(workspace):
    import modal

    for options in ({"name": "a/b"}, {"name": "x" * 65}, {"env": {"A-B": "x"}}, {"workdir": "relative"}):
        with pytest.raises(modal.exception.InvalidError):
            workspace.create("true", **options)
    with pytest.raises(modal.exception.InvalidError):
        workspace.create("x" * 65_537)


def test_what_reaches_the_service(workspace):
    """Whole MiB and thousandths of a core. A fraction of a MiB is dropped without a word."""
    workspace.simulated("*")
    workspace.create("true", name="a", cpu=(0.5, 2.0), memory=(512, 1024), timeout=86_400)
    workspace.create("true", name="b", memory=512.5, outbound_cidr_allowlist=["10.0.0.0/8"])
    workspace.create("true", name="c", outbound_domain_allowlist=["example.com", "*.github.com", "*"])
    known = workspace.service.sandbox("a")
    assert (known["milli_cpu"], known["memory_mb"], known["timeout_s"]) == ([500, 2000], [512, 1024], 86_400)
    assert workspace.service.sandbox("b")["memory_mb"] == [0, 0]


def test_costs_by_tag(workspace):
    """Groups by the values of tags, in whole UTC hours; a page at a time."""
    import modal

    workspace.service.do("settings", stats_page=1, prices={"CPU": 1.0, "Memory": 0.0, "T4": 10.0})
    workspace.simulated("*", run_s=0.05)
    workspace.ended("true", cpu=1.0, tags={"step": "a"})
    workspace.ended("true", cpu=1.0, gpu="T4", tags={"step": "b"})
    workspace.ended("true", cpu=1.0)
    since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    stats = workspace.app().sandboxes.stats
    found = {group.tags["step"]: group for group in stats(since=since, group_by_tags=["step"])}
    assert set(found) == {"a", "b", None}
    assert found["a"].cost > 0
    costs = found["b"].cost_by_resource
    assert set(costs) == {"CPU", "Memory", "T4"}
    assert float(costs["T4"]) == pytest.approx(10 * float(costs["CPU"]))
    assert [group.cost for group in stats(since=since, tags={"step": "a"})] == [found["a"].cost]
    for wrong in (since - timedelta(minutes=1), since - timedelta(days=8)):
        with pytest.raises(modal.exception.InvalidError):
            list(stats(since=wrong))
    workspace.service.do("settings", stats_lag_s=1000.0)
    assert list(stats(since=since)) == []


def test_the_cost_of_one_sandbox(workspace):
    workspace.simulated("*", run_s=0.05)
    sandbox = workspace.ended("true", cpu=1.0)
    stats = sandbox._experimental_stats()
    assert stats.cost == sum(stats.cost_by_resource.values()) > 0
    assert stats.duration.total_seconds() > 0


def test_the_dashboard(workspace):
    from modal_proto import api_pb2

    request = api_pb2.WorkspaceDashboardUrlRequest(environment_name="main")
    assert workspace.raw("WorkspaceDashboardUrlGet", request).url.endswith("/test-workspace/main")


def test_rates(workspace):
    import modal

    rates = modal.Workspace.from_context(client=workspace.client).billing.rates()
    assert float(rates["CPU"]) == pytest.approx(0.00003942)


def test_proxies(workspace):
    import modal

    workspace.service.do("settings", proxies=["mine"])
    workspace.simulated("*")
    proxy = modal.Proxy.from_name("mine")
    assert workspace.ended("true", proxy=proxy).returncode == 0
    with pytest.raises(modal.exception.NotFoundError):
        workspace.create("true", proxy=modal.Proxy.from_name("missing"))

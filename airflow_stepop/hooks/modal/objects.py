"""Makes the arguments of ``modal.Sandbox.create`` from the JSON of ``request.py``, for ``submit`` of a hook.

Every object belongs to the client and the environment of the step. Without them, the ``modal`` package would
take the credentials of the process. The objects are lazy: the package looks them up in ``create``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import modal

Json = Mapping[str, Any]

# Arguments that the JSON has as the SDK wants them
_AS_THEY_ARE = (
    "name",
    "tags",
    "env",
    "timeout",
    "workdir",
    "gpu",
    "cloud",
    "region",
    "block_network",
    "outbound_cidr_allowlist",
    "outbound_domain_allowlist",
    "verbose",
)


class Objects:
    """Makes objects of one environment, with one client.

    :param environment: name of the environment; ``None`` or empty: the workspace's default
    """

    def __init__(self, client: modal.Client, environment: str | None) -> None:
        self._client = client
        self._environment = environment or None

    def app(self, name: str) -> modal.App:
        """Return the App with this name, and create it if there is none; sends a request."""
        import modal

        return modal.App.lookup(
            name, client=self._client, environment_name=self._environment, create_if_missing=True
        )

    def secret(self, name: str) -> modal.Secret:
        import modal

        return modal.Secret.from_name(name, environment_name=self._environment, client=self._client)

    def own_volume(self, name: str, version: int) -> modal.Volume:
        """Return a Volume of ours, which is created when it is first used."""
        import modal

        return modal.Volume.from_name(
            name,
            environment_name=self._environment,
            create_if_missing=True,
            version=version,
            client=self._client,
        )

    def volume(self, name: str) -> modal.Volume:
        """Return a Volume of the user, which must exist."""
        import modal

        return modal.Volume.from_name(name, environment_name=self._environment, client=self._client)

    def image(self, given: Json) -> modal.Image:
        """Return the image of ``images.image_of``."""
        import modal

        own = ("constructor", "entrypoint")
        arguments = {name: value for name, value in given.items() if name not in own}
        if "secret" in arguments:
            arguments["secret"] = self.secret(arguments["secret"])
        if given["constructor"] == "from_name":
            # a name may have its environment in front, and then takes no other
            if "/" not in given["name"]:
                arguments["environment_name"] = self._environment
            arguments["client"] = self._client
        image: modal.Image = getattr(modal.Image, given["constructor"])(**arguments)
        return image.entrypoint(given["entrypoint"]) if "entrypoint" in given else image

    def mounts(self, request: Json) -> dict[str, modal.Volume | modal.CloudBucketMount]:
        """Return mount path -> Volume or bucket."""
        import modal

        found: dict[str, modal.Volume | modal.CloudBucketMount] = {}
        for path, one in request["volumes"].items():
            if "sub_path" in one:
                volume = self.own_volume(one["volume"], one["version"])
                found[path] = volume.with_mount_options(sub_path=one["sub_path"])
            else:
                found[path] = self.volume(one["volume"])
        for path, one in request.get("cloud_bucket_mounts", {}).items():
            secret = {"secret": self.secret(one["secret"])} if "secret" in one else {}
            found[path] = modal.CloudBucketMount(**{**one, **secret})
        return found

    def proxy(self, name: str) -> modal.Proxy:
        import modal

        return modal.Proxy.from_name(name, environment_name=self._environment, client=self._client)


def create_arguments(
    request: Json, client: modal.Client, app: modal.App, own_secret: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the positional and the named arguments of ``modal.Sandbox.create``.

    :param request: of :func:`~airflow_stepop.hooks.modal.request.sandbox_request`
    :param app: of :meth:`Objects.app`; the sandbox belongs to its environment
    :param own_secret: the values of the variables that ``own_secret`` of the request names. They go into a
        Secret without a name, which only this sandbox has
    :raises ValueError: the values are not those of the request
    """
    import modal

    objects, values = Objects(client, request["environment"]), own_secret or {}
    if sorted(values) != request.get("own_secret", []):
        raise ValueError(
            f"the request has the secret variables {request.get('own_secret', [])}, and not {sorted(values)}"
        )
    secrets = [objects.secret(name) for name in request.get("secrets", [])]
    if values:
        secrets.append(modal.Secret.from_dict(dict(values)))
    named = {name: request[name] for name in _AS_THEY_ARE if name in request}
    for name in ("cpu", "memory"):
        if name in request:
            named[name] = tuple(request[name]) if isinstance(request[name], list) else request[name]
    if "proxy" in request:
        named["proxy"] = objects.proxy(request["proxy"])
    named |= {
        "app": app,
        "client": client,
        "image": objects.image(request["image"]),
        "secrets": secrets,
        "volumes": objects.mounts(request),
    }
    return tuple(request["args"]), named

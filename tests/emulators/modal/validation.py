"""What the service refuses. Each rule names its source; texts are not those of the service."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from tests.emulators.modal.errors import invalid, not_found
from tests.emulators.modal.settings import Settings

NAME = re.compile(r"[a-zA-Z0-9\-_.]{1,64}")  # [src] name_utils of the client
APP_ID = re.compile(r"ap-[a-zA-Z0-9]{22}")
ENV_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")  # [src] of V2
DOMAIN = re.compile(r"(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?\.)+[a-zA-Z]{2,}")
RESERVED = ("MODAL_TASK_ID", "MODAL_IMAGE_ID", "MODAL_REGION", "MODAL_CLOUD_PROVIDER")  # [doc]
ARGV_BYTES = 65_536  # [src] a limit of the server, says the client
ENV_BYTES = 65_536  # first-hand reports: assume 64 KiB
MOST_TIMEOUT_S = 86_400  # [doc] 24 hours
MOST_GPUS = {"A10": 4, "A10G": 4}  # [doc]; all others 8


def check_name(name: str, kind: str) -> None:
    if not NAME.fullmatch(name) or APP_ID.fullmatch(name):
        raise invalid(f"Invalid {kind} name: '{name}'")


def check_env(values: dict[str, str], *, strict: bool = False) -> None:
    """Refuse names that the service sets itself, more than 64 KiB, and with ``strict`` names like ``A-B``."""
    for name in values:
        if name in RESERVED:
            raise invalid(f"Environment variable {name} is reserved")
        if not name or "=" in name or (strict and not ENV_NAME.fullmatch(name)):
            raise invalid(f"Secret key name '{name}' is invalid for environment variables")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in values.items())
    if size > ENV_BYTES:
        raise invalid(f"Environment variables have {size} bytes in total; at most {ENV_BYTES} are allowed")


def check_definition(definition: Any, settings: Settings) -> None:
    """Refuse a sandbox that the service could not run."""
    size = sum(len(one.encode()) for one in definition.entrypoint_args)
    if size > ARGV_BYTES:
        raise invalid(f"Total length of CMD arguments cannot exceed {ARGV_BYTES} bytes. Got {size} bytes.")
    if not 1 <= definition.timeout_secs <= MOST_TIMEOUT_S:
        raise invalid(
            f"timeout must be between 1 and {MOST_TIMEOUT_S} seconds, got {definition.timeout_secs}"
        )
    if definition.HasField("name") and definition.name:
        check_name(definition.name, "Sandbox")
    if definition.workdir and not definition.workdir.startswith("/"):
        raise invalid(f"workdir must be an absolute path, got: {definition.workdir}")
    _check_gpu(definition.resources.gpu_config, settings)
    _check_placement(definition, settings)
    _check_network(definition.network_access)
    _check_mounts(definition)
    resources = definition.resources
    for request, limit in (
        (resources.memory_mb, resources.memory_mb_max),
        (resources.milli_cpu, resources.milli_cpu_max),
    ):
        if limit and limit < request:
            raise invalid(f"the limit {limit} is below the request {request}")


def _check_gpu(gpu: Any, settings: Settings) -> None:
    if not gpu.gpu_type and not gpu.count:
        return
    if gpu.gpu_type not in settings.gpus:
        raise invalid(f"Unknown GPU type '{gpu.gpu_type}'; valid are {', '.join(settings.gpus)}")
    most = MOST_GPUS.get(gpu.gpu_type, 8)
    if not 1 <= gpu.count <= most:
        raise invalid(f"A container has at most {most} GPUs of the type {gpu.gpu_type}, got {gpu.count}")


def _check_placement(definition: Any, settings: Settings) -> None:
    for region in definition.scheduler_placement.regions:
        if region not in settings.regions:
            raise invalid(f"Unknown region '{region}'")
    cloud = definition.cloud_provider_str.lower()
    if cloud and cloud not in settings.clouds:
        raise invalid(f"Unknown cloud provider '{cloud}'; valid are {', '.join(settings.clouds)}")


def _check_network(network: Any) -> None:
    """[src] Texts and rules of the vendor's tests, which run against the service."""
    for cidr in network.allowed_cidrs:
        try:
            ipaddress.ip_network(cidr, strict=False)
        except ValueError:
            raise invalid(f"Invalid CIDR: {cidr}") from None
    for domain in network.allowed_domains:
        if domain != "*" and not DOMAIN.fullmatch(domain):
            raise invalid(f"Invalid domain: {domain}")


def _check_mounts(definition: Any) -> None:
    paths = [one.mount_path for one in definition.volume_mounts]
    paths += [one.mount_path for one in definition.cloud_bucket_mounts]
    for path in paths:
        if not path.startswith("/") or path == "/":
            raise invalid(f"cannot mount at '{path}'")
    if len(set(paths)) != len(paths):
        raise invalid("two mounts have the same path")
    volumes = [one.volume_id for one in definition.volume_mounts]
    if len(set(volumes)) != len(volumes):
        raise invalid("The same Volume cannot be mounted in multiple locations")  # [run]


def check_proxy(definition: Any, settings: Settings) -> None:
    if definition.proxy_id and definition.proxy_id not in {f"pr-{name}" for name in settings.proxies}:
        raise not_found(f"Proxy {definition.proxy_id} not found")

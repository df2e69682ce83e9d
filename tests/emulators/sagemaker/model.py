"""The vendor's models of the services, as botocore ships them."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def service(name: str) -> Any:
    """Return the ``botocore.model.ServiceModel`` of a service, for example ``sagemaker``."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(name, "service-2"), name)


def input_shape(service_name: str, operation: str) -> Any:
    return service(service_name).operation_model(operation).input_shape


def output_shape(service_name: str, operation: str) -> Any:
    return service(service_name).operation_model(operation).output_shape


def has_operation(service_name: str, operation: str) -> bool:
    return operation in service(service_name).operation_names


def knows_member(shape: str, member: str) -> bool:
    """Return whether the installed model has a member, such as ``InstancePreferences``."""
    return member in service("sagemaker").shape_for(shape).members

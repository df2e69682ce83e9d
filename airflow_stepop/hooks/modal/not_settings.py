"""Names that users know from Modal or other backends, and why they are no settings of a step.

The error about such a name has the text: the reason, and what works instead.
"""

from __future__ import annotations

from collections.abc import Mapping

_FUNCTION = "Modal has it for Functions, and a step runs in a sandbox"
_PORTS = "a step serves nothing, so nobody could connect to it; leave it out"
_NETWORK = "use outbound_cidr_allowlist and outbound_domain_allowlist"

NOT_SETTINGS: Mapping[str, str] = {
    "idle_timeout": (
        "Modal counts a step that computes as idle, because nothing is sent to it, and would end it in the "
        "middle; use timeout"
    ),
    "ephemeral_disk": f"{_FUNCTION}, which always has a disk of 512 GiB; leave it out, or mount volumes",
    "retries": f"{_FUNCTION}; use retries= of the task, which find a job that is still running",
    "nonpreemptible": (
        f"{_FUNCTION}: one without GPU is never preempted, and one with a GPU cannot be protected. The step "
        "is submitted again after a preemption; see max_resubmissions= of the task, and checkpoint=True"
    ),
    "image": "it is an argument of the task; write image= beside settings=",
    "env": "it is an argument of the task; write env= beside settings=",
    "environment_variables": "use env= of the task",
    "environment_name": "write environment",
    "name": "the name of a sandbox is that of the job, by which a step is found again; use tags",
    "app": "write app_name",
    "client": "the connection of the task gives it: conn_id=",
    "secret": "write secrets=['NAME'], or registry_secret for the registry of the image",
    "volume": "write volumes={'/data': 'NAME'}",
    "network_file_systems": "Modal has replaced them by Volumes; write volumes={'/data': 'NAME'}",
    "mounts": "the task sends its code by itself (see include=); for data write volumes={'/data': 'NAME'}",
    "gpu_count": "write gpu='T4:2', or resource_settings=ResourceSettings(gpu_count=2)",
    "gpu_type": "write gpu='T4', or resource_settings=ResourceSettings(gpu_count=1, gpu_type='T4')",
    "cpu_count": "write cpu, or resource_settings=ResourceSettings(cpu_count=2)",
    "disk": "a sandbox has a disk of 512 GiB and cannot ask for more; mount volumes",
    "regions": "write region, which may be a list",
    "python_version": "without image= the step has Airflow's version; for an image write add_python",
    "dockerfile": "Modal would build it at each submit; publish the image and write image='modal:NAME'",
    "pip_install": "use requirements= of the task, or an image that has the packages",
    "cidr_allowlist": f"Modal has renamed it; {_NETWORK}",
    "inbound_cidr_allowlist": _PORTS,
    "encrypted_ports": _PORTS,
    "unencrypted_ports": _PORTS,
    "h2_ports": _PORTS,
    "custom_domain": _PORTS,
    "readiness_probe": _PORTS,
    "pty": "a step has no terminal, and stdout and stderr would be mixed; leave it out",
    "min_containers": f"{_FUNCTION}, which starts for one step and ends with it; leave it out",
    "max_containers": f"{_FUNCTION}; limit the tasks with a pool or max_active_tis_per_dag of Airflow",
    "scaledown_window": f"{_FUNCTION}, which ends with the step; leave it out",
    "schedule": "use schedule= of the DAG",
}

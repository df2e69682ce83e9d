from datetime import timedelta

from airflow.sdk import dag, task

from airflow_stepop import ResourceSettings


@dag(schedule=None)
def training():
    @task  # runs in Airflow
    def preprocess() -> list[float]:
        return [1.0, 2.0, 4.0]

    @task.remote_step(  # runs outside Airflow
        resource_settings=ResourceSettings(cpu_count=1, memory="1GiB"),
        timeout=timedelta(minutes=10),
    )
    def train(data: list[float]) -> dict[str, float]:
        print(f"training with {len(data)} numbers")
        return {"mean": sum(data) / len(data)}

    @task
    def report(model: dict[str, float]) -> None:
        print(model["mean"])

    report(train(preprocess()))


training()

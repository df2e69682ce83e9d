"""A value leaves a real Airflow and comes back."""


def test_a_value_goes_out_and_comes_back(airflow):
    run = airflow.trigger("first")
    assert airflow.wait_run("first", run) == dict.fromkeys(["load", "here", "deferred", "report"], "success")
    assert airflow.xcom("first", run, "here") == 6
    assert airflow.xcom("first", run, "deferred") == {"sum": 6}
    assert "REPORT 6 {'sum': 6}" in airflow.log("first", run, "report")
    assert "hello from the deferred step" in airflow.log("first", run, "deferred")

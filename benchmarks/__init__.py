"""What airflow-stepop costs, beside its peers and what is physically needed, measured in one run."""

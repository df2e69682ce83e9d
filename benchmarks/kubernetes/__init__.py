"""Steps on the cluster of ``KUBECONFIG``, beside Airflow's own KubernetesPodOperator there."""

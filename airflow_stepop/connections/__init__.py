"""What an Airflow connection says, for stores and hooks alike."""

"""The stores that Airflow and the steps can both reach: what they are, and where things lie in them."""

"""Runs kept in MLflow."""

"""Searches for better settings of an experiment: many trainings with other values, chosen by Optuna."""

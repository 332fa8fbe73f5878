"""Runs side by side, and grids of runs that answer a question.

records, mlflow_runs        finished runs, from their folders and from MLflow: the place to begin reading
statistics                  what several seeds say about a difference, and what they do not
comparison                  runs grouped, means and differences
tables, charts, page        the same to read: text, CSV, LaTeX, plots, HTML
grids                       the studies: which recipes
execute, report             a study's runs, and what came out
detections                  how their models find unknown objects
"""

"""One run or many, on machines.

launch     a recipe placed on this machine's processes or on Ray
study      grids of runs that answer a question
sweep      runs that a searcher proposes
tracking   the record in MLflow
"""

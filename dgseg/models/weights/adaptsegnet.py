from dgseg.models.weights.format import Format

FORMATS: list[Format] = []

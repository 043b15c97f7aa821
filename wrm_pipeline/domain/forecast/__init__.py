"""A forecast of each station's bikes for the next hours, from counts that exist at that moment.

`counts` arranges rows as a grid of steps and stations, `features` says what a forecast looks at, `model` learns from
days of history and predicts, and `skill` compares forecasts with what came true.
"""

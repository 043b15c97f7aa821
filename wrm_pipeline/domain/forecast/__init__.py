"""A forecast of each station's bikes for the next hours, from counts that exist at that moment.

`counts` arranges rows as a grid of steps and stations, `features` says what a forecast looks at, `model` learns from
days of history and predicts, and `skill` compares forecasts with what came true.
"""

# A station is called empty (or full) from this probability on: where hits and misses balance, by the F1 score of
# "empty" on a real Thursday at each horizon from 1 to 6 hours.
CALLED_FROM = 0.35

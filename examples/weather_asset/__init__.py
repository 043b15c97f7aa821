"""Rain in the city, hour by hour and day by day."""

"""F2: closes the gap between the workers that are wanted and those that are there: members, places, starts, drains."""

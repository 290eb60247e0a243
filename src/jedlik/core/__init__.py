"""F0: the vocabulary every other floor speaks. No behaviour, no I/O, no clock."""

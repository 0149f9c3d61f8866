"""PS3.5 data structures and encoding: character sets, data sets, and the data dictionary of PS3.6."""

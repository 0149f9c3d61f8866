"""Coverage-guided fuzzing: everything that reads what a peer sends. README.rst says how to run it.

`targets` is the table; the functions are in `parsers`, `queries` and `associations`. Each takes any bytes,
raises nothing but what is a bug, and asks more than that nothing crashes. They need neither the fuzzer
nor a socket, so that the tests replay the corpus with them.
"""

"""Bulk pricing of files of messages: `copilot-usage price`.

Input is divided into units, which depend on the input only. Workers price the units,
and then write the output, day by day. Engines decide where the workers run. The output
has the same bytes with any engine, any number of workers, and after any interruption.
"""

"""The table of the book: ``python -m benchmarks``; the modules have more, one by one."""

from benchmarks.table import main

main()

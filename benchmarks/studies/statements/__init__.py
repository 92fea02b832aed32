"""What the README says of results, tied to the committed records: ``docs/statements.yaml``.

``python -m benchmarks.studies.statements`` prints every statement with the numbers that the records
give.
"""

"""All SQL. Nothing outside this package knows which database it is."""

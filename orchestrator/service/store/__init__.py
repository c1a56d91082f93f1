"""The service's database: tables, rows, tokens, migrations."""

"""Numbers that are printed in tables, and the pages and pictures that show them."""

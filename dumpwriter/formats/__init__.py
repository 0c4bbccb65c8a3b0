"""Declarations of what ghostdump writes, one format a module, without logic. docs/FORMAT.md is held against them."""

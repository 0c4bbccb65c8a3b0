"""Readers and writers of formats that share no code with the product, so that they cannot share its mistakes."""

"""The tests, by subject. What several of them share is imported as tests.NAME."""

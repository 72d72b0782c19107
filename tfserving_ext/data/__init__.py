"""Behaviours of users: reading them, converting them to sequences, drawing training batches and test cases."""

"""The paper's experiment on Complete Journey."""

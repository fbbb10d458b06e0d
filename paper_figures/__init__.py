"""The paper's figures and ours beside them: one module per figure, drawn from records."""

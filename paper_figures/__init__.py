"""The paper's figures and ours beside them: one module for each figure, drawn from records."""

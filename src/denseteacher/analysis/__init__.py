"""The paper's figures, and what a teacher's labels are worth, measured on images whose labels are known after all."""

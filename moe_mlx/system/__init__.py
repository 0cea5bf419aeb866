"""What the machine and its user give: memory, folders, the terminal, what was measured here, sizes in words."""

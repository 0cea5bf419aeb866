"""What is typed into the prompt: commands, names of files, completions, the user's editor, the clipboard."""

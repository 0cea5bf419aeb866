"""From numbers to cells: colours, Braille, sparklines, the sections of an answer."""

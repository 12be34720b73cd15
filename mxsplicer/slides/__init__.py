"""Files become a slide, a mask and a table of cells."""

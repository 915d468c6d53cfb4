"""`tmrc report`: what runs have learnt, cost and suffered, as a page, a picture, a table for programs, or text."""

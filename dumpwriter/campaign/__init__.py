"""A campaign of the laboratory, carried out: by which sources, in how many processes, and what is kept in files."""

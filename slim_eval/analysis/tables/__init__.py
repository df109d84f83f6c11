"""Result tables: CSV, Markdown, LaTeX and the terminal."""

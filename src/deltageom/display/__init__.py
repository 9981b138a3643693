"""How numbers are shown: columns and files of tables, Markdown, the drawing kit, the runs' colours."""

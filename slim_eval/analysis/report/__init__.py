"""`report.html`: Python decides every number and word, the template places them, DataTables and Plotly show them."""

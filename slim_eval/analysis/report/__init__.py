"""`report.html`: Python decides every number and finding, the template places them, DataTables and Plotly show them."""

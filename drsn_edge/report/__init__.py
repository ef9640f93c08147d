"""One self-contained HTML file from a result: nothing is loaded from a network, and it prints."""

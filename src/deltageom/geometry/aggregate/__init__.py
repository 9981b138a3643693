"""One module's numbers put together: per layer, globally, beside what chance and other seeds give."""

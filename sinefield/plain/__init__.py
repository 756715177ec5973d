"""Shape fields in NumPy alone: for small questions, where importing torch would take longer than the answer."""

//! Files in NumPy's format.

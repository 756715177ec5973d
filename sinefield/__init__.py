"""sinefield: 3D scenes and shapes as small, fast neural fields with sine-activated low-rank weights."""

__version__ = "0.1.0"

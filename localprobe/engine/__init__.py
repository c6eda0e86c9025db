"""How a prompt x intervention x layer is computed."""

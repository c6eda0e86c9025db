"""What a user sees: tables, the live view, JSON documents."""

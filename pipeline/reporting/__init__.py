"""What people read: tables, pages, files."""

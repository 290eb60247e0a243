"""Discovery: processes of a server announce themselves, find each other, and are fenced."""

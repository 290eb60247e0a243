"""The processes of a server: settings, supervisor, gateway process, worker process, and how they are wired."""

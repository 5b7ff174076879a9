"""What the engine tells about its own work: profiles, and the forms they are shown in."""

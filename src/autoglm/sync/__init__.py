"""Records that several devices write, offline too, and a hub that carries them between devices."""

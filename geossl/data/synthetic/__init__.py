"""Real and synthetic images: ``build`` makes a set, ``generators`` the fakes, ``images`` reads ImagiNet's lists."""
